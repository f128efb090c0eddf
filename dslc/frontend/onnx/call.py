"""What a builder sees of a node: its attributes, the version in force, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dslc.core.errors import DataError, Error, ShapeError, UnsupportedOp

from . import types
from .graph import Graph, Literal, Node, Port
from .types import Elem
from .values import Value, constant

if TYPE_CHECKING:
    from .run import Run, Scope


class NeedsValue(UnsupportedOp):
    """A node needs at compile time what depends on the graph's input `input`."""

    def __init__(self, message: str, span: Any, input: str, **rest: Any):
        super().__init__(message, span, **rest)
        self.input = input


@dataclass(frozen=True, eq=False)
class Call:
    """One node while it is built. `version`: of the operator's domain."""

    node: Node
    run: Run
    version: int
    scope: Scope

    @property
    def training(self) -> bool:
        """The program is made for training: batch statistics, dropout."""
        return self.run.builder.training

    # --- attributes

    def _attribute(self, name: str, default: Any, kinds: tuple[type, ...], what: str) -> Any:
        value = self.node.attributes.get(name, default)
        if value is default:
            return value
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.mistake(f"attribute '{name}' must be {what}")
        return value

    def has(self, name: str) -> bool:
        return name in self.node.attributes

    def integer(self, name: str, default: Any = 0) -> Any:
        return self._attribute(name, default, (int,), "an integer")

    def number(self, name: str, default: Any = 0.0) -> Any:
        value = self._attribute(name, default, (float, int), "a number")
        return value if value is None else float(value)

    def text(self, name: str, default: Any = "") -> Any:
        return self._attribute(name, default, (str,), "a text")

    def ints(self, name: str, default: Any = None) -> Any:
        value = self._attribute(name, default, (tuple,), "a list of integers")
        return list(value) if value is not None else None

    def floats(self, name: str, default: Any = None) -> Any:
        return self.ints(name, default)

    def texts(self, name: str, default: Any = None) -> Any:
        return self.ints(name, default)

    def literal(self, name: str) -> Literal | None:
        return self._attribute(name, None, (Literal,), "a tensor")

    def graph(self, name: str) -> Graph:
        value = self._attribute(name, None, (Graph,), "a graph")
        if value is None:
            raise self.mistake(f"attribute '{name}' is needed")
        return value

    def port(self, name: str) -> Port | None:
        return self._attribute(name, None, (Port,), "a type")

    def elem(self, name: str, default: Elem) -> Elem:
        code = self.integer(name, None)
        if code is None or code == 0:
            return default
        if code not in types.BY_CODE:
            raise self.gap(f"element type {code} is not supported")
        return types.BY_CODE[code]

    # --- inputs and outputs

    def wants(self, place: int) -> bool:
        """An output of that place is used."""
        return place < len(self.node.outputs) and bool(self.node.outputs[place])

    @property
    def count(self) -> int:
        """How many outputs the node has."""
        return len(self.node.outputs)

    def known(self, x: Value | Literal | None) -> np.ndarray | None:
        """The value of a tensor where it is known at compile time, in numpy's type of its carrier."""
        if isinstance(x, Literal):
            return x.array
        return None if x is None else self.run.known.of(x.value)

    def static(self, x: Value | Literal, what: str) -> np.ndarray:
        """The value of a tensor that must be known at compile time."""
        found = self.known(x)
        if found is not None:
            return found
        assert isinstance(x, Value)
        source = self.run.known.first_argument(x.value)
        name = self.run.input_name(source) if source is not None else None
        message = f"{self.node.title} needs the value of its {what} at compile time"
        if name is None:
            raise self.gap(f"{message}, and it is computed at run time")
        raise NeedsValue(f"{message}, and it depends on the input '{name}'", self.node.span, name, help=f"give the input's value: --set {name}=...")

    def data(self, x: Value | Literal) -> np.ndarray:
        """The value of a tensor that decides the shape of the result; never taken from an input that is fed."""
        found = self.known(x)
        if found is None:
            raise self.gap(f"{self.node.title} has a result whose shape depends on data that is known only at run time")
        return found

    def static_ints(self, x: Value, what: str) -> list[int]:
        return [int(v) for v in self.static(x, what).reshape(-1)]

    def either(self, name: str, x: Value | None, default: Any = None) -> Any:
        """Integers that older versions have as an attribute, newer ones as an input."""
        return self.static_ints(x, name) if x is not None else self.ints(name, default)

    def constant(self, array: Any, elem: Elem | None = None) -> Value:
        return constant(array, elem)

    # --- mistakes

    def mistake(self, message: str) -> Error:
        return DataError(f"{self.node.title}: {message}", self.node.span)

    def gap(self, message: str) -> Error:
        text = message if self.node.title in message else f"{self.node.title}: {message}"
        return UnsupportedOp(text, self.node.span)

    def misfit(self, message: str) -> Error:
        return ShapeError(f"{self.node.title}: {message}", self.node.span)


Builder = Callable[..., Any]
__all__ = ["Builder", "Call", "NeedsValue"]
