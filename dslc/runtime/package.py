"""Packages: a folder with a compiled program and its weights, which runs without the compiler.

    program.dslx           the executable (`core.executable`)
    weights.safetensors    its parameters, and its states as `state/PATH`

A machine that runs packages needs numpy; for GPUs cuda-bindings and NVIDIA's driver; for narrow floats ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError
from ..core.executable import Executable, Port, from_bytes
from .bounded import of_any_length
from .drivers.choice import program_for
from .program import Program
from .store import ParameterStore
from .tensorfile import open_tensors, write_safetensors

if TYPE_CHECKING:
    from .drivers.device import Driver

PROGRAM, WEIGHTS = "program.dslx", "weights.safetensors"


def write_weights(folder: Path, executable: Executable, store: ParameterStore) -> Path:
    """Writes the values of the program's parameters and states beside it."""
    tensors = {_stored(p): store.array(p.name) for p in executable.ports_of("param", "state")}
    write_safetensors(folder / WEIGHTS, tensors, {"model": executable.model, "signature": executable.signature})
    return folder / WEIGHTS


def load(folder: str | Path, driver: Driver | None = None) -> Packaged:
    """The program of a package, with its weights: call it with inputs by name.

    `driver`: the device to run it on, that of the program's target by default. DataError for a torn file or one of another version, weights that are
    not the program's; TargetError for a program that was compiled for another device.
    """
    place = Path(folder)
    try:
        data = (place / PROGRAM).read_bytes()
    except OSError as error:
        help = "write one by: dslc compile SPEC -o FOLDER --weights FILE"
        raise DataError(f"{place} is no package: {PROGRAM} cannot be read ({error.strerror})", help=help) from None
    try:
        executable = from_bytes(data)
    except DataError as error:
        raise DataError(f"{place / PROGRAM}: {error.message}", help=error.help) from None
    store = ParameterStore(executable.ports)
    if len(store):
        store.assign(_weights(place / WEIGHTS, executable))
    program = of_any_length(program_for(executable, driver))
    program.bind(store)
    return Packaged(program, store)


def _weights(file: Path, executable: Executable) -> dict[str, np.ndarray]:
    if not file.exists():
        raise DataError(f"the package has no {WEIGHTS}", help="compile it with --weights FILE")
    tensors = open_tensors(file)
    if tensors.metadata.get("signature") != executable.signature:
        raise DataError(f"{file} holds weights of another model than {PROGRAM}", help="write both by one dslc compile")
    ports = executable.ports_of("param", "state")
    missing = [p.name for p in ports if _stored(p) not in tensors.entries]
    if missing:
        raise DataError(f"{file} lacks '{missing[0]}'")
    return {p.name: tensors.read(_stored(p)) for p in ports}


def _stored(port: Port) -> str:
    return port.name if port.role == "param" else f"state/{port.name}"


class Packaged:
    """A program with its weights: `packaged(x=x)["y"]`. `params` maps paths to parameters and states."""

    def __init__(self, program: Program, store: ParameterStore):
        self.program, self.params = program, store

    @property
    def executable(self) -> Executable:
        return self.program.executable

    def __call__(self, *, out: Mapping[str, Any] | None = None, seed: int = 0, step: int = 0, **inputs: Any) -> dict[str, np.ndarray]:
        """Runs once; the results by name, which belong to the caller."""
        return self.program(inputs, seed=seed, step=step, out=out)
