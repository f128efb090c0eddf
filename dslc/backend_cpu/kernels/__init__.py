"""The kernel kinds, one generator a file."""

from ..stage import Generator
from . import contract, fft, map, reduce, scan, scatter, sort

GENERATORS: dict[str, Generator] = {
    "contract": contract.generate,
    "fft": fft.generate,
    "map": map.generate,
    "reduce": reduce.generate,
    "scan": scan.generate,
    "scatter": scatter.generate,
    "sort": sort.generate,
}
