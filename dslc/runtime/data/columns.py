"""Columns of a dataset: rows by number, from an array or as windows of one long sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


class Column(Protocol):
    """Rows of one shape and type. `values` is the array behind them, for checks of the range; `place` names an element of it."""

    @property
    def values(self) -> np.ndarray: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    @property
    def loose(self) -> bool:
        """Whether rows may be regrouped to another shape, and whole floats become integers: they came from text or a flat table."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows int64[n] as an array [n, *shape] that belongs to the caller."""
        ...

    def place(self, index: int) -> str:
        """Where element `index` of the flat `values` is, in words."""
        ...

    def with_values(self, values: np.ndarray, shape: tuple[int, ...]) -> Column:
        """The same column with converted values and rows of another shape of the same size."""
        ...


@dataclass(frozen=True)
class ArrayColumn:
    """An array [rows, ...]."""

    values: np.ndarray
    loose: bool = False
    row_name: Callable[[int], str] = lambda row: f"row {row}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.values[rows]

    def place(self, index: int) -> str:
        where = np.unravel_index(index, self.values.shape)
        inside = f", element [{', '.join(map(str, where[1:]))}]" if len(where) > 1 else ""
        return f"in {self.row_name(int(where[0]))}{inside}"

    def with_values(self, values: np.ndarray, shape: tuple[int, ...]) -> ArrayColumn:
        return replace(self, values=values.reshape(len(values), *shape))


@dataclass(frozen=True)
class WindowColumn:
    """Windows of a sequence: row r is `values[r * stride + shift :][:length]`; there are `rows` of them."""

    values: np.ndarray
    length: int
    stride: int
    shift: int
    rows: int
    element_name: Callable[[int], str] = lambda index: f"position {index}"
    loose: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)

    def __len__(self) -> int:
        return self.rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.values[(rows * self.stride + self.shift)[:, None] + np.arange(self.length)]

    def place(self, index: int) -> str:
        return f"at {self.element_name(index)}"

    def with_values(self, values: np.ndarray, shape: tuple[int, ...]) -> WindowColumn:
        return replace(self, values=values)
