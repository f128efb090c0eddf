"""An ONNX graph as plain data: nodes with decoded attributes and a line each of a listing, which errors quote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dslc.core.errors import Span
from dslc.core.heldfile import HeldFile

from .types import Elem


@dataclass(frozen=True, eq=False)
class Stored:
    """Where the data of a tensor lies in a file; `name` is for errors."""

    file: HeldFile
    begin: int
    dtype: np.dtype
    shape: tuple[int, ...]
    name: str

    def read_into(self, array: np.ndarray) -> None:
        self.file.read_into(self.begin, array, self.name)


@dataclass(eq=False)
class Literal:
    """A tensor that the file holds, in memory or still there. Strings are an object array."""

    values: np.ndarray | Stored
    elem: Elem

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def array(self) -> np.ndarray:
        """The values; read anew where they are still in the file. DataError where that has changed."""
        if not isinstance(self.values, Stored):
            return self.values
        array = np.empty(self.values.shape, self.values.dtype)
        self.values.read_into(array)
        return array

    def read_into(self, array: np.ndarray) -> None:
        """Writes the values to C-contiguous memory of their shape, in its type."""
        if isinstance(self.values, Stored) and self.values.dtype == array.dtype:
            self.values.read_into(array)
        else:
            array[...] = self.array

    def keep(self) -> None:
        """Has the values in memory from now on."""
        self.values = self.array


@dataclass(frozen=True, eq=False)
class Node:
    """One node. `attributes`: ints, floats, texts, Literals, Graphs, and tuples of them; `proto` is the node as the file has it."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    span: Span
    proto: Any = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.domain, self.op

    @property
    def title(self) -> str:
        """`Conv 'block.0/conv'`"""
        qualified = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{qualified} '{self.name}'" if self.name else f"{qualified} (its output is '{next(iter(self.outputs), '')}')"


@dataclass(frozen=True)
class Port:
    """An input or output of a graph. `kind`: "tensor", "sequence" or "optional"; axes are sizes, names of dims, or None where nothing is said;
    `axes` is None where not even the rank is known."""

    name: str
    kind: str
    elem: Elem | None
    axes: tuple[int | str | None, ...] | None
    span: Span


@dataclass(frozen=True, eq=False)
class Graph:
    """`constants`: the initializers. `opsets`: version by domain, "" is ai.onnx. `functions`: the model's own FunctionProtos, by
    (domain, name)."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    constants: Mapping[str, Literal]
    nodes: tuple[Node, ...]
    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    file: str = ""
