"""How element types are spelled in CUDA C++: in memory, and in registers where values are computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslc.core import dtypes
from dslc.core.dtypes import DType


@dataclass(frozen=True)
class Spelling:
    """`memory`: the type of an element in memory; `computed`: of a value in a register. Narrow floats are computed in float32."""

    memory: str
    computed: str


_SPELLINGS = {
    dtypes.FLOAT64: Spelling("double", "double"),
    dtypes.FLOAT32: Spelling("float", "float"),
    dtypes.FLOAT16: Spelling("__half", "float"),
    dtypes.BFLOAT16: Spelling("__nv_bfloat16", "float"),
    dtypes.FLOAT8_E4M3: Spelling("__nv_fp8_e4m3", "float"),
    dtypes.FLOAT8_E5M2: Spelling("__nv_fp8_e5m2", "float"),
    dtypes.INT64: Spelling("long long", "long long"),
    dtypes.INT32: Spelling("int", "int"),
    dtypes.INT16: Spelling("short", "short"),
    dtypes.INT8: Spelling("signed char", "signed char"),
    dtypes.UINT8: Spelling("unsigned char", "unsigned char"),
    dtypes.INT4: Spelling("signed char", "signed char"),
    dtypes.BOOL: Spelling("bool", "bool"),
}


def memory_type(dtype: DType) -> str:
    """The type of an element in memory."""
    return _SPELLINGS[dtype].memory


def computed_type(dtype: DType) -> str:
    """The type of a value in a register."""
    return _SPELLINGS[dtype].computed


def accumulator(dtype: DType) -> DType:
    """The type in which values of a dtype are summed and kept between kernels: float32 for narrow floats."""
    return dtypes.FLOAT32 if dtype.is_float and dtype.bits < 32 else dtype


def literal(value: float | int | bool, dtype: DType) -> str:
    """A constant of a dtype: the shortest decimal that reads back as the same number."""
    if dtype.is_bool:
        return "true" if value else "false"
    if dtype.is_integer:
        return _integer(int(value), dtype)
    if dtype.bits < 32:
        with np.errstate(over="ignore"):
            value = float(np.asarray(value, np.float32).astype(dtype.numpy))
    with np.errstate(over="ignore"):
        number: np.floating = np.float64(value) if dtype.bits == 64 else np.float32(value)
    wide = "f64" if dtype.bits == 64 else "f32"
    if np.isnan(number):
        return f"nan_{wide}()"
    if np.isinf(number):
        return f"{'-' if number < 0 else ''}infinity_{wide}()"
    text = np.format_float_positional(number, unique=True, trim="0") if 1e-4 <= abs(float(number)) < 1e7 or number == 0 else f"{number!s}"
    if "e" not in text and "." not in text:
        text += ".0"
    return text if dtype.bits == 64 else text + "f"


def _integer(value: int, dtype: DType) -> str:
    if value == -(1 << 63):
        return "(-9223372036854775807LL - 1)"
    if value == -(1 << 31) and dtype.bits == 32:
        return "(-2147483647 - 1)"
    return f"{value}LL" if dtype.bits == 64 else str(value)
