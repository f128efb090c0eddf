"""A program with what it prepares from its parameters: a second program that runs when they have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .program import Program
from .store import ParameterStore


class PreparedProgram:
    """A Program (`runtime.program`). What is prepared lies beside the store that it is bound to."""

    def __init__(self, main: Program, prepare: Program):
        self.executable = main.executable
        self._main, self._prepare = main, prepare
        self.pads = getattr(main, "pads", False)
        self._beside = ParameterStore()
        self._values: list[Any] = []
        self._seen = -1

    def times(self, turns: int = 20) -> list[float]:
        """Seconds of each launch of the program itself (`DeviceProgram.times`)."""
        times: list[float] = self._main.times(turns)  # type: ignore[attr-defined]
        return times

    def bind(self, store: ParameterStore) -> None:
        """Param and state ports use the store's arrays from now on."""
        beside = store.beside()
        beside.extend(self._prepare.executable.ports)
        self._prepare.bind(beside)
        self._main.bind(beside)
        made = {p.name for p in self.executable.ports_of("prepared")}
        self._values = [beside.value(p.name) for p in self._prepare.executable.ports_of("param", "state") if p.name not in made]
        self._beside, self._seen = beside, -1

    def prepared(self) -> dict[str, np.ndarray]:
        """What is prepared from the parameters as they are now, by port; the program's own memory."""
        self._renew()
        return self._memory()

    def fill(self, read: Callable[[str, np.ndarray], None]) -> None:
        """Takes what was prepared from the parameters as they are now: `read(port, array)` fills the memory of each port."""
        for name, array in self._memory().items():
            read(name, array)
            self._beside.touch(name)
        self._seen = self._version()

    def _memory(self) -> dict[str, np.ndarray]:
        return {p.name: self._beside.array(p.name) for p in self.executable.ports_of("prepared")}

    def __call__(
        self, inputs: Mapping[str, Any], *, seed: int = 0, step: int = 0, microbatch: int = 0, out: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs once, after the second program where a parameter was written since."""
        self._renew()
        return self._main(inputs, seed=seed, step=step, microbatch=microbatch, out=out)

    def again(self, inputs: Mapping[str, Any], turns: int, **how: Any) -> dict[str, np.ndarray]:
        """As `DeviceProgram.again`."""
        self._renew()
        found: dict[str, np.ndarray] = self._main.again(inputs, turns, **how)  # type: ignore[attr-defined]
        return found

    def _renew(self) -> None:
        now = self._version()
        if now != self._seen and self._values:
            self._prepare({})
            self._seen = now

    def _version(self) -> int:
        return sum(value.version for value in self._values)  # versions only grow
