"""What the runtime asks of a compiled program, whatever the target that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..core.errors import DataError
from ..core.executable import Executable, Port
from .binding import described

if TYPE_CHECKING:
    from .store import ParameterStore

Array = Any  # a numpy array, or anything with DLPack or __cuda_array_interface__


@runtime_checkable
class Program(Protocol):
    """A program that a driver has loaded. Its ports, by name, are `executable.ports`."""

    @property
    def executable(self) -> Executable: ...

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
    return {p.name: _mean(results[p.name]) for p in ports if p.name in results and p.name != "loss"}


def _mean(value: np.ndarray) -> float:
    return float(np.mean(value, dtype=np.float64)) if value.ndim else float(value)


def written_ports(executable: Executable) -> list[str]:
    """The params and states that the program writes: `notes["writes"]`, one a line; without it all that it has."""
    if "writes" in executable.notes:
        return [name for name in executable.notes["writes"].split("\n") if name]
    return [p.name for p in executable.ports_of("param", "state")]


def check_out(results: Sequence[Port], out: Mapping[str, Any]) -> None:
    """DataError unless every array of `out` is C-contiguous memory that can be written, for a result of its name, type and shape."""
    known = {p.name: p for p in results}
    for name, array in out.items():
        if name not in known:
            raise DataError(f"the program has no result '{name}'", notes=[f"its results are: {', '.join(known)}"])
        port = known[name]
        if not isinstance(array, np.ndarray) or array.dtype != port.dtype.numpy or array.shape != port.shape:
            found = described(array.dtype, array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"out['{name}'] is {found}, the result is {described(port.dtype.numpy, port.shape)}")
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            raise DataError(f"out['{name}'] must be a C-contiguous array that can be written")


def check_kept(ports: Sequence[Port], store: ParameterStore) -> None:
    """DataError where a parameter or state of the store is not what the program was compiled for."""
    for port in ports:
        entry = store.entry(port.name)
        if entry.shape != port.shape or entry.dtype != port.dtype:
            found, declared = described(entry.dtype, entry.shape), described(port.dtype, port.shape)
            raise DataError(f"the {port.role} '{port.name}' is {found} in the store, {declared} in the program")
