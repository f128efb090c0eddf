"""The one place that imports MLIR, so that its prefix can change: `torch_mlir` carries the whole of upstream MLIR and its Python bindings."""

import ctypes
import functools
import mmap
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch_mlir import _mlir_libs, ir, passmanager, rewrite
from torch_mlir.dialects import arith, cf, func, math, memref, scf, vector
from torch_mlir.dialects._ods_common import _cext

# Whenever the bindings meet an op they look for a Python module of its dialect, and remember only success: an empty one saves most of a compile.
sys.modules.setdefault("torch_mlir.dialects.nn", ModuleType("torch_mlir.dialects.nn"))

LIBRARY = "libTorchMLIRAggregateCAPI.so"

register_operation = _cext.register_operation


class Text(ctypes.Structure):
    """A piece of text as MLIR's C interface takes it."""

    _fields_ = (("data", ctypes.c_char_p), ("length", ctypes.c_size_t))

    @staticmethod
    def of(text: str) -> "Text":
        data = text.encode()
        return Text(data, len(data))


@functools.cache
def library() -> ctypes.CDLL:
    """MLIR's C interface. While one of these functions runs other Python threads run too, which those of the bindings do not allow."""
    found = ctypes.CDLL(str(Path(_mlir_libs.__file__).parent / LIBRARY))
    pointer, flag = ctypes.c_void_p, ctypes.c_bool
    for name, result, arguments in (
        ("mlirPassManagerRunOnOp", ctypes.c_int8, (pointer, pointer)),
        ("mlirExecutionEngineCreate", pointer, (pointer, ctypes.c_int, ctypes.c_int, pointer, flag, flag)),
        ("mlirExecutionEngineRegisterSymbol", None, (pointer, Text, pointer)),
        ("mlirExecutionEngineLookup", pointer, (pointer, Text)),
        ("mlirExecutionEngineDumpToObjectFile", None, (pointer, Text)),
        ("mlirExecutionEngineDestroy", None, (pointer,)),
        ("mlirContextGetOrLoadDialect", pointer, (pointer, Text)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def handle(thing: Any) -> int:
    """The C interface's pointer to an object of the bindings, which must live as long as that is used."""
    api, capsule = ctypes.pythonapi, ctypes.py_object(thing._CAPIPtr)
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))(capsule)
    return ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))(capsule, name)


def rest() -> None:
    """Gives back to the system what compiling has touched and nobody needs before the next one: free memory, and the pages of MLIR's code, which are
    mapped again when they are next run."""
    system = ctypes.CDLL(None)
    if hasattr(system, "malloc_trim"):
        system.malloc_trim(0)
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for line in mapped:
        place, rights, *_, file = line.split(maxsplit=5)
        if rights.startswith("r-x") and Path(file).name == LIBRARY:
            first, last = (int(end, 16) for end in place.split("-"))
            system.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def load_dialects(context: ir.Context, names: Iterable[str]) -> None:
    """Lets a context know dialects. Asking the bindings would import the classes of all their ops, which for LLVM's take a twentieth of a compile."""
    for name in names:
        if not library().mlirContextGetOrLoadDialect(handle(context), Text.of(name)):
            raise ImportError(f"MLIR has no dialect '{name}'")


__all__ = [
    "Text",
    "arith",
    "cf",
    "func",
    "ir",
    "load_dialects",
    "math",
    "memref",
    "passmanager",
    "register_operation",
    "rest",
    "rewrite",
    "scf",
    "vector",
]
