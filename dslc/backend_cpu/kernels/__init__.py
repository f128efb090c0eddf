"""The kernel kinds, one generator a file."""

from ..stage import Generator
from . import contract, map, reduce, scatter

GENERATORS: dict[str, Generator] = {
    "contract": contract.generate,
    "map": map.generate,
    "reduce": reduce.generate,
    "scatter": scatter.generate,
}
