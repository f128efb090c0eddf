"""The one place that imports MLIR, so that its prefix can change: `torch_mlir` carries the whole of upstream MLIR and its Python bindings."""

import sys
from types import ModuleType

from torch_mlir import execution_engine, ir, passmanager, rewrite
from torch_mlir.dialects import arith, cf, func, llvm, math, memref, scf, vector
from torch_mlir.dialects._ods_common import _cext

# Whenever the bindings meet an op they look for a Python module of its dialect, and remember only success: an empty one saves most of a compile.
sys.modules.setdefault("torch_mlir.dialects.nn", ModuleType("torch_mlir.dialects.nn"))

register_operation = _cext.register_operation

__all__ = ["arith", "cf", "execution_engine", "func", "ir", "llvm", "math", "memref", "passmanager", "register_operation", "rewrite", "scf", "vector"]
