"""Modules to object code, several at once: while one is compiled, Python goes on to emit the next.

MLIR's passes and LLVM run without Python's lock (`dslc.ir.mlir.library`), so each module that is compiled has a context of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from dslc.core.errors import Error
from dslc.ir.mlir import Text, handle, ir, library, passmanager

MOST_THREADS = 8  # LLVM takes memory in each

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
    if not mlir.mlirPassManagerRunOnOp(handle(manager), handle(module.operation)):
        raise Error(f"the passes of MLIR failed on '{entry}'")
    engine = mlir.mlirExecutionEngineCreate(handle(module), opt_level, 0, None, True, False)
    if not engine:
        raise Error(f"LLVM does not take '{entry}'")
    try:
        for name in elsewhere:  # the engine links what it compiles, though nobody will run it there
            mlir.mlirExecutionEngineRegisterSymbol(engine, Text.of(name), engine)
        if not mlir.mlirExecutionEngineLookup(engine, Text.of(entry)):  # code is generated at the first look-up; before it the object would be empty
            raise Error("code generation gave no object")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "program.o"
            mlir.mlirExecutionEngineDumpToObjectFile(engine, Text.of(str(file)))
            return file.read_bytes()
    finally:
        mlir.mlirExecutionEngineDestroy(engine)
