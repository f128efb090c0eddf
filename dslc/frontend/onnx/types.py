"""ONNX's element types: how each is carried by a dtype of the dialect, and how results are brought back.

Types that the dialect lacks are carried by a wider one that holds every value: uint16 by int32, 4-bit integers by 8-bit ones, small floats by
float32. uint64 is carried by int64, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslc.core import dtypes
from dslc.core.dtypes import DType


@dataclass(frozen=True)
class SmallFloat:
    """The values of a float format: `mantissa` bits, the least normal exponent, the greatest value, what lies beyond."""

    mantissa: int
    least: int  # exponent of the smallest normal number
    most: float
    infinite: bool  # has infinities: what overflows without saturation becomes one, else NaN
    nan: bool = True


@dataclass(frozen=True)
class Elem:
    """`bits`, `signed`: of an integer that is narrower than its carrier. `small`: of a float that is narrower than its carrier, or overflows
    in a way of its own."""

    code: int
    name: str
    carrier: DType
    bits: int = 0
    signed: bool = True
    small: SmallFloat | None = None

    @property
    def is_float(self) -> bool:
        return self.carrier.is_float

    @property
    def is_integer(self) -> bool:
        return self.carrier.is_integer

    @property
    def is_bool(self) -> bool:
        return self.carrier.is_bool

    @property
    def is_unsigned(self) -> bool:
        return self.carrier.kind == "uint" or not self.signed

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest value of an integer type."""
        bits = self.bits or self.carrier.bits
        return (0, (1 << bits) - 1) if self.is_unsigned else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    def carry(self, array: np.ndarray) -> np.ndarray:
        """An array of numpy's (or ml_dtypes') type as its carrier's."""
        if self is UINT64:
            return array.astype(np.uint64).view(np.int64)
        return array.astype(self.carrier.numpy)

    def release(self, array: np.ndarray) -> np.ndarray:
        """The array in ONNX's own type, from its carrier's."""
        import onnx

        native = onnx.helper.tensor_dtype_to_np_dtype(self.code)
        if self is UINT64:
            return np.ascontiguousarray(array).view(np.uint64).reshape(array.shape)
        return array.astype(native)


FLOAT = Elem(1, "float", dtypes.FLOAT32)
UINT8 = Elem(2, "uint8", dtypes.UINT8)
INT8 = Elem(3, "int8", dtypes.INT8)
UINT16 = Elem(4, "uint16", dtypes.INT32, 16, False)
INT16 = Elem(5, "int16", dtypes.INT16)
INT32 = Elem(6, "int32", dtypes.INT32)
INT64 = Elem(7, "int64", dtypes.INT64)
BOOL = Elem(9, "bool", dtypes.BOOL)
FLOAT16 = Elem(10, "float16", dtypes.FLOAT16)
DOUBLE = Elem(11, "double", dtypes.FLOAT64)
UINT32 = Elem(12, "uint32", dtypes.INT64, 32, False)
UINT64 = Elem(13, "uint64", dtypes.INT64, 64, False)
BFLOAT16 = Elem(16, "bfloat16", dtypes.BFLOAT16)

ALL = (
    FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL, FLOAT16, DOUBLE, UINT32, UINT64, BFLOAT16,
    Elem(17, "float8e4m3fn", dtypes.FLOAT8_E4M3, small=SmallFloat(3, -6, 448.0, False)),
    Elem(18, "float8e4m3fnuz", dtypes.FLOAT32, small=SmallFloat(3, -7, 240.0, False)),
    Elem(19, "float8e5m2", dtypes.FLOAT8_E5M2, small=SmallFloat(2, -14, 57344.0, True)),
    Elem(20, "float8e5m2fnuz", dtypes.FLOAT32, small=SmallFloat(2, -15, 57344.0, False)),
    Elem(21, "uint4", dtypes.UINT8, 4, False),
    Elem(22, "int4", dtypes.INT8, 4),
    Elem(23, "float4e2m1", dtypes.FLOAT32, small=SmallFloat(1, 0, 6.0, False, nan=False)),
    Elem(24, "float8e8m0", dtypes.FLOAT64, small=SmallFloat(0, -127, 2.0**127, False)),
    Elem(25, "uint2", dtypes.UINT8, 2, False),
    Elem(26, "int2", dtypes.INT8, 2),
    Elem(27, "float6e2m3", dtypes.FLOAT32, small=SmallFloat(3, 0, 7.5, False, nan=False)),
    Elem(28, "float6e3m2", dtypes.FLOAT32, small=SmallFloat(2, -2, 28.0, False, nan=False)),
)  # fmt: skip
STRING = Elem(8, "string", dtypes.UINT8)  # has no carrier: only where a graph is folded
BY_CODE = {e.code: e for e in (*ALL, STRING)}
_BY_CARRIER = {e.carrier: e for e in reversed(ALL) if not e.bits and (not e.small or e.carrier.bits == 8)}


def of_dtype(dtype: DType) -> Elem:
    """The type of which a dtype is the own carrier."""
    return _BY_CARRIER[dtype]
