"""The reference target as a Program: the module's text as code, run op by op by `ir.reference`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .core.executable import Executable, Port
from .ir.mlir import ir
from .ir.op import context
from .ir.program import arguments_of, name_of, program_of, results_of
from .ir.reference import Watch, run
from .runtime.binding import fit_inputs
from .runtime.store import ParameterStore

_HOST = ("seed", "step", "microbatch")  # scalars that every call is given


def compile_reference(module: ir.Module) -> Executable:
    """An executable whose code is the module's text, locations included."""
    program = program_of(module)
    slots = arguments_of(program)
    results = [s for s, _ in results_of(program) if s.role not in ("param", "state")]
    ports = tuple(Port(s.name, s.role, s.type.dtype, s.type.shape, i, s.bounds, s.line) for i, s in enumerate([*slots, *results]))
    text = module.operation.get_asm(enable_debug_info=True)
    return Executable("reference", name_of(program), "", "", ports, (), (), 0, 0, b"", text.encode())


class ReferenceProgram:
    """Runs a reference executable; results are rounded to the ports' types."""

    def __init__(self, executable: Executable):
        self.executable = executable
        self._context = context()
        with self._context:
            self._module = ir.Module.parse(executable.code.decode())
        self._store: ParameterStore | None = None

    def bind(self, store: ParameterStore) -> None:
        self._store = store

    def __call__(
        self,
        inputs: Mapping[str, Any],
        *,
        seed: int = 0,
        step: int = 0,
        microbatch: int = 0,
        out: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> dict[str, np.ndarray]:
        """As `runtime.program.Program`; `watch(op, values)` sees the results of every op."""
        ports = self.executable.ports
        host = dict(zip(_HOST, (seed, step, microbatch)))
        fed = [p for p in ports if p.role == "input" or (p.role == "scalar" and p.name not in _HOST)]
        given: dict[str, Any] = {**fit_inputs(fed, inputs), **{p.name: host[p.name] for p in ports if p.role == "scalar" and p.name in _HOST}}
        kept = [p for p in ports if p.role in ("param", "state")]
        if kept:
            assert self._store is not None, "bind a ParameterStore first"
            given |= {p.name: self._store[p.name] for p in kept}
        with self._context:
            found = run(self._module, given, watch)
        for name, value in found.items():
            if name.startswith("next."):
                assert self._store is not None
                self._store[name.removeprefix("next.")] = value
        return {p.name: _deliver(p, found[p.name], out) for p in ports if p.role in ("output", "loss", "metric")}


def _deliver(port: Port, value: np.ndarray, out: Mapping[str, Any] | None) -> np.ndarray:
    rounded = np.asarray(value).astype(port.dtype.numpy).reshape(port.shape)
    if out is not None and port.name in out:
        out[port.name][...] = rounded
        return out[port.name]
    return rounded
