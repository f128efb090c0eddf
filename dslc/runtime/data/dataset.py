"""Datasets: named columns of equal length, deterministic batches, a held-out part, and a feed that can stop and go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...core import philox
from ...core.errors import DataError
from .columns import ArrayColumn, Column
from .vocabulary import Vocabulary

_SHUFFLE = philox.stream_hash("data.shuffle")
_SPLIT = philox.stream_hash("data.split")


@dataclass(frozen=True)
class Dataset:
    """Columns by name. `name` says in errors where the data came from; `rows` chooses a part (None: all rows in order)."""

    columns: Mapping[str, Column]
    name: str = "the data"
    rows: np.ndarray | None = field(default=None, repr=False)
    vocabulary: Vocabulary | None = field(default=None, repr=False)
    classes: tuple[str, ...] = ()
    ordered: bool = False  # neighbours overlap: a held-out part must be cut from the end

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise DataError(f"the columns of {self.name} have different numbers of rows: {listed}")

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Some rows int64[n] of this part, each column as [n, *row shape]."""
        chosen = rows if self.rows is None else self.rows[rows]
        return {name: column.take(chosen) for name, column in self.columns.items()}

    def order(self, seed: int, epoch: int, shuffle: bool = True) -> np.ndarray:
        """The order int64[len] of the rows in an epoch."""
        return philox.permutation(len(self), seed, _SHUFFLE, epoch) if shuffle else np.arange(len(self))

    def batches(
        self, batch: int, seed: int = 0, epoch: int = 0, start: int = 0, *, shuffle: bool = True, short: bool = False
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """One epoch from row `start` of its order on: pairs of (rows used so far, batch). `short` keeps a last batch that is not full."""
        order = self.order(seed, epoch, shuffle)
        stop = len(order) if short else len(order) - batch + 1
        for at in range(start, stop, batch):
            part = order[at : at + batch]
            yield at + len(part), self.take(part)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """(training, held-out): the last `fraction` of the rows in an order shuffled by the seed, or of the rows as they come
        where neighbours overlap. DataError unless both parts have a row."""
        held = round(len(self) * fraction)
        if not 0 < held < len(self):
            raise DataError(f"split={fraction:g} of {len(self)} rows of {self.name} leaves a part empty")
        order = np.arange(len(self)) if self.ordered else philox.permutation(len(self), seed, _SPLIT)
        base = order if self.rows is None else self.rows[order]
        return replace(self, rows=base[:-held]), replace(self, rows=base[-held:])

    def renamed(self, names: Mapping[str, str]) -> Dataset:
        """Columns under new names: {new: old}. The old name stays where nothing else takes it."""
        return replace(self, columns=dict(self.columns) | {new: self.columns[old] for new, old in names.items()})


def arrays(columns: Mapping[str, Any] | None = None, /, **more: Any) -> Dataset:
    """A dataset from Python: `arrays(x=..., y=...)`, each value an array [rows, ...] or nested lists. DataError for ragged lists."""
    built: dict[str, Column] = {}
    for name, value in {**(columns or {}), **more}.items():
        try:
            array = np.asarray(value)
        except ValueError:
            raise DataError(f"column '{name}': its rows have different shapes") from None
        if array.ndim == 0 or array.dtype.kind in "OUSMmc":
            raise DataError(f"column '{name}' must be numbers with an axis for the rows, this is {_described(array)}")
        built[name] = ArrayColumn(array, loose=not isinstance(value, np.ndarray))
    return Dataset(built, "arrays()")


def _described(array: np.ndarray) -> str:
    return "a single value" if array.ndim == 0 else f"{array.dtype}[{', '.join(map(str, array.shape))}]"


class Feed:
    """Endless training batches that know where they stand: (`epoch`, `position`). The short rest of an epoch is dropped."""

    def __init__(self, dataset: Dataset, batch: int, seed: int = 0, *, shuffle: bool = True, epoch: int = 0, position: int = 0):
        if len(dataset) < batch:
            raise DataError(
                f"{dataset.name} has {len(dataset)} rows for training, a batch takes {batch}", help="make the batch smaller: --set batch=..."
            )
        self.dataset, self.batch, self.seed, self.shuffle = dataset, batch, seed, shuffle
        self.epoch, self.position = epoch, position
        self._order: np.ndarray | None = None
        self._order_epoch = -1

    def seek(self, seed: int, epoch: int, position: int) -> None:
        """Stands where another feed stood."""
        self.seed, self.epoch, self.position, self._order_epoch = seed, epoch, position, -1

    @property
    def batches_per_epoch(self) -> int:
        return len(self.dataset) // self.batch

    def next(self) -> dict[str, np.ndarray]:
        """The next batch; `epoch` and `position` then say what has been used."""
        if self.position + self.batch > len(self.dataset):
            self.epoch, self.position = self.epoch + 1, 0
        if self._order is None or self._order_epoch != self.epoch:
            self._order, self._order_epoch = self.dataset.order(self.seed, self.epoch, self.shuffle), self.epoch
        part = self._order[self.position : self.position + self.batch]
        self.position += self.batch
        return self.dataset.take(part)
