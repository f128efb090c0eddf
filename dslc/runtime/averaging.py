"""A moving average of the parameters: often better on held-out data than the parameters themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..core.errors import TrainingError
from .store import ParameterStore


@dataclass(frozen=True)
class Ema:
    """`average ema(0.999)`: after step t (from 0) a = d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)), so that the starting
    values are soon forgotten (the warm-up of TensorFlow's ExponentialMovingAverage)."""

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise TrainingError(f"average ema({self.decay:g}): the decay must be at least 0 and below 1")


class Average:
    """The average of a store's float parameters, by path, in their own types (float32 for narrower ones). Allocates only when made."""

    def __init__(self, store: ParameterStore, rule: Ema):
        self._store, self._rule = store, rule
        floats = [e for e in store.entries("param") if e.dtype.is_float]
        self.values = {e.path: store.array(e.path).astype(np.promote_types(np.float32, _plain(e.dtype.numpy))) for e in floats}
        self._scratch = {a.dtype: np.empty(max(b.size for b in self.values.values() if b.dtype == a.dtype), a.dtype) for a in self.values.values()}

    def update(self, step: int) -> None:
        """Takes in the parameters after step `step` (from 0)."""
        decay = min(self._rule.decay, (1 + step) / (10 + step))
        for path, average in self.values.items():
            scratch = self._scratch[average.dtype][: average.size].reshape(average.shape)
            np.copyto(scratch, self._store.array(path), casting="unsafe")
            scratch -= average
            scratch *= average.dtype.type(1 - decay)
            average += scratch

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Takes up the average of a checkpoint; paths that it lacks keep their value."""
        for path, average in self.values.items():
            if path in values and values[path].shape == average.shape:
                np.copyto(average, values[path])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within, the store holds the average; afterwards the parameters again, to the bit."""
        kept = {path: self._store.array(path).copy() for path in self.values}
        try:
            self._write(self.values)
            yield
        finally:
            self._write(kept)

    def _write(self, values: Mapping[str, np.ndarray]) -> None:
        for path, value in values.items():
            np.copyto(self._store.array(path), value, casting="unsafe")
        self._store.touch(*values)


def _plain(dtype: np.dtype) -> np.dtype:
    """The numpy type that an extension type (bfloat16, float8) fits into."""
    return dtype if dtype.kind == "f" else np.dtype(np.float32)
