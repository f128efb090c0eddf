"""The kernel kinds, one generator a file."""

from ..stage import Generator
from . import map

GENERATORS: dict[str, Generator] = {"map": map.generate}
