"""Modules to object code, several at once: while one is compiled, Python goes on to emit the next.

MLIR's passes and LLVM run without Python's lock (`dslc.ir.mlir.library`), so each module that is compiled has a context of its own.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

from dslc.core.errors import Error
from dslc.ir.mlir import Text, handle, ir, library, passmanager

MOST_THREADS = 8  # LLVM takes memory in each

_one_listens = threading.Lock()
_made: dict[tuple[str, str, int], Future[bytes]] = {}  # what is compiled once in a process


class Codegen:
    """Compiles modules on all cores, each as soon as it is given; `with` it, for its threads end with that."""

    def __init__(self, passes: str, opt_level: int) -> None:
        self.passes, self.opt_level = passes, opt_level
        self.threads = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        self._pool = ThreadPoolExecutor(self.threads)
        self._objects: list[Future[bytes]] = []

    def __enter__(self) -> Codegen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, module: ir.Module, entry: str, elsewhere: Iterable[str] = ()) -> None:
        """Compiles a module that nobody touches from now on; its context is the one in force, and no other module's. `entry`: one of its functions;
        `elsewhere`: those that it calls in other modules."""
        manager = passmanager.PassManager.parse(self.passes)
        manager.enable_verifier(False)  # after every pass it would take half of the time
        self._objects.append(self._pool.submit(_compiled, module, manager, entry, tuple(elsewhere), self.opt_level))

    def add_text(self, text: str, entry: str, elsewhere: Iterable[str] = ()) -> None:
        """As `add`, of a module's text."""
        with ir.Context(load_on_create_dialects=[]), ir.Location.unknown():
            self.add(ir.Module.parse(text), entry, elsewhere)

    def add_once(self, text: str, entry: str) -> None:
        """As `add_text`, of what every program has: it is compiled once in a process."""
        key = (text, self.passes, self.opt_level)
        if key in _made:
            self._objects.append(_made[key])
        else:
            self.add_text(text, entry)
            self._objects[-1].add_done_callback(partial(_keep, key))

    def objects(self) -> list[bytes]:
        """The ELF objects, in the order in which the modules were given."""
        return [made.result() for made in self._objects]


def _keep(key: tuple[str, str, int], made: Future[bytes]) -> None:
    if not made.cancelled() and made.exception() is None:
        _made[key] = made


def _compiled(module: ir.Module, manager: passmanager.PassManager, entry: str, elsewhere: Iterable[str], opt_level: int) -> bytes:
    mlir = library()
    with _diagnostics(module.context) as said:
        if not mlir.mlirPassManagerRunOnOp(handle(manager), handle(module.operation)):
            raise _failure("the passes of MLIR failed", module, said)
        engine = _engine(module, elsewhere, opt_level)
        if not engine:
            raise _failure("LLVM does not take what the passes made", module, said)
    try:
        if not mlir.mlirExecutionEngineLookup(engine, Text.of(entry)):  # code is generated at the first look-up; before it the object would be empty
            raise _failure("code generation gave no object", module, _said_again(module, entry, elsewhere, opt_level))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "program.o"
            mlir.mlirExecutionEngineDumpToObjectFile(engine, Text.of(str(file)))
            return file.read_bytes()
    finally:
        mlir.mlirExecutionEngineDestroy(engine)


def _engine(module: ir.Module, elsewhere: Iterable[str], opt_level: int) -> int | None:
    """What compiles a module, or None. It links what it compiles, though nobody will run it there."""
    engine: int | None = library().mlirExecutionEngineCreate(handle(module), opt_level, 0, None, True, False)
    for name in elsewhere if engine else ():
        library().mlirExecutionEngineRegisterSymbol(engine, Text.of(name), engine)
    return engine


@contextmanager
def _diagnostics(context: ir.Context) -> Iterator[list[str]]:
    """The errors that MLIR tells meanwhile, each with its place; they are printed nowhere."""
    said: list[str] = []

    def hear(diagnostic: ir.Diagnostic) -> bool:
        error = diagnostic.severity == ir.DiagnosticSeverity.ERROR
        if error:
            said.append(f"{diagnostic.message} ({diagnostic.location})")
        return error

    handler = context.attach_diagnostic_handler(hear)
    try:
        yield said
    finally:
        handler.detach()


def _said_again(module: ir.Module, entry: str, elsewhere: Iterable[str], opt_level: int) -> list[str]:
    """What LLVM says of a module that it fails on: it can only print, so it fails once more while this process's standard error is a file."""
    with _one_listens, tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            engine = _engine(module, elsewhere, opt_level)
            if engine:
                library().mlirExecutionEngineLookup(engine, Text.of(entry))
                library().mlirExecutionEngineDestroy(engine)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return [line for line in file.read().decode(errors="replace").splitlines() if line]


def _failure(what: str, module: ir.Module, said: list[str]) -> Error:
    """The error, of the functions that the words are about: those whose name stands in them, or that call what is not found; else of all."""
    words = "; ".join(dict.fromkeys(said)) or "no reason is given"
    lacking = [name for found in re.findall(r"Symbols not found: \[ (.*?) \]", words) for name in found.split(", ")]
    functions = {_label(op): str(op) for op in module.body.operations if "sym_name" in op.attributes and op.regions[0].blocks}
    about = [name for name, text in functions.items() if f'"{name}"' in words or any(f"@{x}(" in text for x in lacking)]
    named = ", ".join(f"'{name}'" for name in about or functions)
    return Error(f"{what} for {named}: {words}")


def _label(function: ir.OpView) -> str:
    """The name that its place has (`native` names kernels with their lines), or its own."""
    named = re.fullmatch(r'loc\("([^"]*)"\)', str(function.location))
    return named[1] if named else ir.StringAttr(function.attributes["sym_name"]).value
