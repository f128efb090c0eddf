"""What the runtime asks of a compiled program, whatever the target that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..core.executable import Executable, Port

if TYPE_CHECKING:
    from .store import ParameterStore

Array = Any  # a numpy array, or anything with DLPack or __cuda_array_interface__


@runtime_checkable
class Program(Protocol):
    """A program that a driver has loaded. Its ports, by name, are `executable.ports`."""

    executable: Executable

    def bind(self, store: ParameterStore) -> None:
        """Param and state ports use the store's arrays from now on, in place; a call touches the paths that it wrote."""

    def __call__(
        self, inputs: Mapping[str, Array], *, seed: int = 0, step: int = 0, microbatch: int = 0, out: Mapping[str, Array] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs once; returns output, loss and metric ports by name. Results belong to the caller; `out` gives memory for some of them."""


def total_loss(program: Program, results: Mapping[str, np.ndarray]) -> float:
    """The total loss: the loss port named `loss` where there is one, else the sum of all loss ports."""
    names = [p.name for p in program.executable.ports_of("loss")]
    if "loss" in names:
        return float(results["loss"])
    return float(sum(float(results[n]) for n in names))


def data_ports(program: Program) -> list[Port]:
    """The input ports that a batch of data fills: those with axes. Rank-0 inputs come from the host."""
    return [p for p in program.executable.ports_of("input") if p.shape]


def metric_values(program: Program, results: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics, and losses that have names of their own, as numbers; a metric with axes is averaged."""
    ports = program.executable.ports_of("metric", "loss")
    return {p.name: float(np.mean(results[p.name], dtype=np.float64)) for p in ports if p.name in results and p.name != "loss"}
