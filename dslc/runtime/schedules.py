"""Schedules that the host drives: values that depend on how training goes enter the program as rank-0 inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class HostSchedule(Protocol):
    """Feeds rank-0 inputs. Its state is plain JSON and is kept in the checkpoint."""

    def values(self) -> Mapping[str, np.ndarray]:
        """The inputs for the next step, by port name."""
        ...

    def observe(self, value: float) -> None:
        """A validation value, or the training loss where there is no validation."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...


@dataclass
class Plateau:
    """`plateau(lr, factor, patience)`: the rate is multiplied by `factor` when the value has not fallen by the relative `threshold` for
    more than `patience` observations in a row (the rule of torch's ReduceLROnPlateau)."""

    port: str
    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    least: float = 0.0
    best: float | None = None
    waited: int = 0

    def values(self) -> dict[str, np.ndarray]:
        return {self.port: np.array(self.lr, np.float32)}

    def observe(self, value: float) -> None:
        if self.best is None or value < self.best * (1 - self.threshold):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.lr, self.waited = max(self.lr * self.factor, self.least), 0

    def state(self) -> dict[str, Any]:
        return {"lr": self.lr, "best": self.best, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        self.lr, self.best, self.waited = state["lr"], state["best"], state["waited"]
