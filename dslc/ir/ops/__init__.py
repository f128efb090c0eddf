"""The op table, by group. Importing this module fills `dslc.ir.op.TABLE`."""

from .constant import Constant, Iota, Random, constant, full, full_like
from .contraction import Contract, Conv, contract
from .control import FFT, KERNEL_KINDS, Cond, Grad, Kernel, Scan, Yield
from .elementwise import (
    Abs,
    Add,
    And,
    Cast,
    Ceil,
    Compare,
    Div,
    Floor,
    FloorDiv,
    Max,
    Min,
    Mod,
    Mul,
    Neg,
    Not,
    Or,
    Round,
    Select,
    ShiftLeft,
    ShiftRight,
    Sign,
    StopGradient,
    Sub,
    Xor,
    cast,
)  # fmt: skip
from .indexing import Gather, Put, Scatter, Sort, as_int32, sort
from .movement import (
    Concat,
    Fold,
    Reshape,
    View,
    broadcast,
    expand_axes,
    pick,
    reshape,
    reverse,
    slice_axis,
    spread,
    transpose,
    view,
    zeros,
)  # fmt: skip
from .reduction import ArgReduce, Cumulative, LogSoftmax, Reduce, Softmax, identity, logsumexp
from .transcendental import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atan2,
    Atanh,
    Cos,
    Cosh,
    Erf,
    Exp,
    Expm1,
    Log,
    Log1p,
    Pow,
    Rsqrt,
    Sigmoid,
    Sin,
    Sinh,
    Sqrt,
    Tan,
    Tanh,
)  # fmt: skip

__all__ = [name for name in dir() if not name.startswith("_")]
