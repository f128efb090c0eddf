"""The op table, by group. Importing this module fills `dslc.ir.op.TABLE`."""

from .constant import Constant, Iota, Random, constant, full, full_like
from .contraction import Contract, Conv, contract
from .control import FFT, KERNEL_KINDS, Cond, Grad, Kernel, Scan, Yield
from .elementwise import (
    Abs, Acos, Acosh, Add, And, Asin, Asinh, Atan, Atan2, Atanh, Cast, Ceil, Compare, Cos, Cosh, Div, Erf, Exp, Expm1, Floor, FloorDiv, Log, Log1p,
    Max, Min, Mod, Mul, Neg, Not, Or, Pow, Round, Rsqrt, Select, ShiftLeft, ShiftRight, Sigmoid, Sign, Sin, Sinh, Sqrt, StopGradient, Sub, Tan,
    Tanh, Xor, cast,
)  # fmt: skip
from .indexing import Gather, Scatter, Sort
from .movement import (
    Concat, Fold, Reshape, View, broadcast, expand_axes, pick, reshape, reverse, slice_axis, spread, transpose, view, zeros,
)  # fmt: skip
from .reduction import ArgReduce, Cumulative, LogSoftmax, Reduce, Softmax, identity, logsumexp

__all__ = [name for name in dir() if not name.startswith("_")]
