"""The one place that imports MLIR, so that its prefix can change: `torch_mlir` carries the whole of upstream MLIR and its Python bindings."""

from torch_mlir import execution_engine, ir, passmanager, rewrite
from torch_mlir.dialects import arith, cf, ext, func, llvm, math, memref, scf, vector

__all__ = ["arith", "cf", "execution_engine", "ext", "func", "ir", "llvm", "math", "memref", "passmanager", "rewrite", "scf", "vector"]
