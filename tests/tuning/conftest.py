"""Tuning tests have a cache of their own, and a clock that moves only when something is run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass
class Clock:
    """Seconds that were spent."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeTrial:
    """A kernel whose runs take the given times in turn, over and over."""

    clock: Clock
    times: list[float]
    results: list[np.ndarray] = field(default_factory=lambda: [np.arange(4, dtype=np.float32)])
    runs: int = 0

    def run(self) -> float:
        taken = self.times[self.runs % len(self.times)]
        self.runs += 1
        self.clock.now += taken
        return taken
