"""The one place that imports MLIR, so that its prefix can change: `torch_mlir` carries the whole of upstream MLIR and its Python bindings."""

from torch_mlir import execution_engine, ir, passmanager, rewrite
from torch_mlir.dialects import arith, cf, func, llvm, math, memref, scf, vector
from torch_mlir.dialects._ods_common import _cext

register_operation = _cext.register_operation

__all__ = ["arith", "cf", "execution_engine", "func", "ir", "llvm", "math", "memref", "passmanager", "register_operation", "rewrite", "scf", "vector"]
