"""The kernel kinds, one generator a file."""

from ..stage import Generator
from . import map, reduce

GENERATORS: dict[str, Generator] = {"map": map.generate, "reduce": reduce.generate}
