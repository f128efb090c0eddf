"""A program with what it prepares from its parameters: a second program that runs when they have changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.executable import PIECES, READS
from .program import Program
from .store import ParameterStore, Value


@dataclass
class _Piece:
    """A part of what is prepared: what it is made from, and the versions that it was made of, added up."""

    values: dict[str, Value]
    inputs: dict[str, np.ndarray]
    seen: int = -1

    def version(self) -> int:
        return sum(value.version for value in self.values.values())  # versions only grow


class PreparedProgram:
    """A Program (`runtime.program`). What is prepared lies beside the store that it is bound to. On the CPU it is made piece by piece, of each only
    when its parameters were written, and parameters that the program itself does not read, and whose values can be had again, leave the memory."""

    def __init__(self, main: Program, prepare: Program):
        self.executable = main.executable
        self._main, self._prepare = main, prepare
        self.pads = getattr(main, "pads", False)
        self._beside = ParameterStore()
        self._on_host = main.executable.target == "cpu"
        self._values: list[Value] = []
        self._pieces: list[_Piece] = []
        self._seen = -1

    def times(self, turns: int = 20) -> list[float]:
        """Seconds of each launch of the program itself (`DeviceProgram.times`)."""
        times: list[float] = self._main.times(turns)  # type: ignore[attr-defined]
        return times

    def bind(self, store: ParameterStore) -> None:
        """Param and state ports use the store's arrays from now on."""
        beside = store.beside()
        beside.extend(self._prepare.executable.ports)
        made = {p.name for p in self.executable.ports_of("prepared")}
        if self._on_host:
            self._prepare.bind(beside, made)  # type: ignore[call-arg]
            self._main.bind(beside, {*made, *self.executable.notes[READS].split("\n")})  # type: ignore[call-arg]
        else:
            self._prepare.bind(beside)
            self._main.bind(beside)
        sources = [p.name for p in self._prepare.executable.ports_of("param", "state") if p.name not in made]
        self._values = [beside.value(name) for name in sources]
        self._pieces = _pieces(beside, sources, self._prepare.executable.notes.get(PIECES))
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
        for piece in self._pieces:
            piece.seen = piece.version()
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
        if now == self._seen or not self._values:
            return
        stale = [piece for piece in self._pieces if piece.version() != piece.seen]
        for k, piece in enumerate(stale):
            made = piece.version()
            held = [self._beside.array(name) for name in piece.values]  # in memory while they are read
            self._prepare(piece.inputs)
            held.clear()
            piece.seen = made
            later = {name for other in stale[k + 1 :] for name in other.values}
            for name, value in piece.values.items():
                if self._on_host and name not in later:
                    value.drop()
        self._seen = now

    def _version(self) -> int:
        return sum(value.version for value in self._values)


def _pieces(store: ParameterStore, sources: list[str], note: str | None) -> list[_Piece]:
    """The pieces that a note tells; one of all where there is none."""
    if note is None:
        return [_Piece({name: store.value(name) for name in sources}, {})]
    parts = json.loads(note)
    return [_Piece({name: store.value(name) for name in part}, {PIECES: row}) for part, row in zip(parts, np.eye(len(parts), dtype=bool))]
