"""The types of values in registers and in memory, and constants of them."""

from __future__ import annotations

from typing import Any

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.ir.mlir import arith, ir

Value = Any  # ir.Value


def index_type() -> ir.Type:
    return ir.IndexType.get()


def i1() -> ir.Type:
    return ir.IntegerType.get_signless(1)


def i32() -> ir.Type:
    return ir.IntegerType.get_signless(32)


def i64() -> ir.Type:
    return ir.IntegerType.get_signless(64)


def f32() -> ir.Type:
    return ir.F32Type.get()


def f64() -> ir.Type:
    return ir.F64Type.get()


def vec(lanes: int, element: ir.Type) -> ir.Type:
    """A vector of `lanes` elements; with one lane the element itself."""
    return element if lanes == 1 else ir.VectorType.get([lanes], element)


def is_vector(x: Value) -> bool:
    return isinstance(x.type, ir.VectorType)


def lanes_of(x: Value) -> int:
    return x.type.shape[0] if is_vector(x) else 1


def element_of(x: Value) -> ir.Type:
    return x.type.element_type if is_vector(x) else x.type


def like(x: Value, element: ir.Type) -> ir.Type:
    """The type of x with another element."""
    return vec(lanes_of(x), element)


def register_type(dtype: DType) -> ir.Type:
    """What a value of this type is in registers: bool is i1, floats narrower than 32 bits are widened to f32, integers keep their bits."""
    if dtype.is_float:
        return f64() if dtype.bits == 64 else f32()
    return ir.IntegerType.get_signless(dtype.bits if dtype.bits >= 8 or dtype.is_bool else 8)


def memory_type(dtype: DType) -> ir.Type:
    """What a value of this type is in memory; bool and int4 take a byte, narrow floats are their bits."""
    if dtype in (dtypes.FLOAT64, dtypes.FLOAT32):
        return register_type(dtype)
    return ir.IntegerType.get_signless(max(8, dtype.bits))


def const(value: float | int | bool, type: ir.Type) -> Value:
    """A constant of a scalar or vector type."""
    element = type.element_type if isinstance(type, ir.VectorType) else type
    scalar = ir.FloatAttr.get(element, float(value)) if isinstance(element, ir.FloatType) else ir.IntegerAttr.get(element, int(value))
    return arith.constant(type, ir.DenseElementsAttr.get_splat(type, scalar) if isinstance(type, ir.VectorType) else scalar)
