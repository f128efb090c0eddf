"""Packages: a folder with a compiled program and its weights, which runs without the compiler.

    program.dslx           the executable (`core.executable`)
    weights.safetensors    its parameters, its states as `state/PATH`, and what it prepares from them as `prepared/PORT`

A machine that runs packages needs numpy; for GPUs cuda-bindings and NVIDIA's driver; for narrow floats ml_dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import DataError
from ..core.executable import READS, Executable, Port, from_bytes
from .bounded import of_any_length
from .drivers.choice import program_for
from .prepared import PreparedProgram
from .program import Program
from .store import ParameterStore
from .tensorfile import TensorFile, open_tensors, words_of, write_safetensors

if TYPE_CHECKING:
    from .drivers.device import Driver

PROGRAM, WEIGHTS = "program.dslx", "weights.safetensors"
PREPARED = "prepared/"
PREPARED_OF = "prepared_of"  # in the metadata: the fingerprint of the weights


def write_weights(folder: Path, executable: Executable, store: ParameterStore) -> Path:
    """Writes the values of the program's parameters and states beside it, and where it runs on the CPU what it prepares from them."""
    ports = executable.ports_of("param", "state")
    tensors = {_stored(p): store.array(p.name) for p in ports}
    metadata = {"model": executable.model, "signature": executable.signature}
    if executable.target == "cpu" and isinstance(program := program_for(executable), PreparedProgram):
        program.bind(store)
        tensors |= {_stored(p): array for p, array in zip(executable.ports_of("prepared"), program.prepared().values())}
        metadata[PREPARED_OF] = _fingerprint({p.name: words_of(store.array(p.name)) for p in ports})
    write_safetensors(folder / WEIGHTS, tensors, metadata)
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
    program = of_any_length(program_for(executable, driver))
    if len(store):
        _bring_in(store, program, executable, _opened(place / WEIGHTS, executable))
    else:
        program.bind(store)
    return Packaged(program, store)


def _opened(file: Path, executable: Executable) -> TensorFile:
    """The weights' file, whose parameters and states are those of the program."""
    if not file.exists():
        raise DataError(f"the package has no {WEIGHTS}", help="compile it with --weights FILE")
    tensors = open_tensors(file)
    if tensors.metadata.get("signature") != executable.signature:
        raise DataError(f"{file} holds weights of another model than {PROGRAM}", help="write both by one dslc compile")
    missing = [p for p in executable.ports_of("param", "state") if _stored(p) not in tensors.entries]
    if missing:
        raise DataError(f"{file} lacks '{_stored(missing[0])}'")
    return tensors


def _bring_in(store: ParameterStore, program: Program, executable: Executable, tensors: TensorFile) -> None:
    """Reads what the program reads, once. What it only reads in a form prepared from it stays in the file until somebody asks for it, as long as the
    prepared values are those of these weights."""
    ports, prepared = executable.ports_of("param", "state"), executable.ports_of("prepared")
    known = PREPARED_OF in tensors.metadata and all(_as_stored(p, tensors) for p in prepared)
    read = set(executable.notes[READS].split("\n")) if known else {p.name for p in ports}
    words = {p.name: _bring(store, p, tensors, p.name in read) for p in ports}
    program.bind(store)
    if known and isinstance(program, PreparedProgram) and _fingerprint(words) == tensors.metadata[PREPARED_OF]:
        program.fill(lambda name, array: tensors.read_into(PREPARED + name, array))


def _bring(store: ParameterStore, port: Port, tensors: TensorFile, read: bool) -> int:
    """Brings one value to the store, in memory of its own where it will be `read`; the sum of its words."""
    name = _stored(port)
    if not _as_stored(port, tensors):  # four bits are stored in eight
        store[port.name] = tensors.read(name)
    elif not read and (mapped := tensors.mapped(name)) is not None:
        store.lie_in(port.name, mapped)
        return tensors.words(name)
    else:
        tensors.read_into(name, store.array(port.name))
        store.touch(port.name)
    return words_of(store.array(port.name))


def _as_stored(port: Port, tensors: TensorFile) -> bool:
    """Whether the file holds the port's values as memory does."""
    entry = tensors.entries.get(_stored(port))
    return entry is not None and (entry.dtype, entry.shape) == (port.dtype, port.shape)


def _fingerprint(words: Mapping[str, int]) -> str:
    """Of weights, by the sums of their words."""
    return sha256("".join(f"{name} {n}\n" for name, n in sorted(words.items())).encode()).hexdigest()


def _stored(port: Port) -> str:
    return {"param": "", "state": "state/", "prepared": PREPARED}[port.role] + port.name


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
