"""Conversions between the types of tensors, in registers and at the border to memory.

In registers a float narrower than 32 bits is an f32 that holds a value of the narrow type; in memory it is its bits. Rounding is to nearest, ties to
even, done with integer operations, so that it does not depend on the processor's instructions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.ir.mlir import arith, ir

from .types import const, f32, like, register_type

Value = Any


@dataclass(frozen=True)
class Format:
    """A float format of `1 + exponent + mantissa` bits; `infinite`: whether its largest exponent is for infinity (else only for one NaN)."""

    exponent: int
    mantissa: int
    infinite: bool = True

    @property
    def bias(self) -> int:
        return (1 << self.exponent - 1) - 1

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa


FORMATS = {
    dtypes.FLOAT16: Format(5, 10),
    dtypes.BFLOAT16: Format(8, 7),
    dtypes.FLOAT8_E4M3: Format(4, 3, infinite=False),
    dtypes.FLOAT8_E5M2: Format(5, 2),
}


def _int(x: Value, bits: int) -> ir.Type:
    return like(x, ir.IntegerType.get_signless(bits))


def decode(raw: Value, form: Format) -> Value:
    """The bits of a narrow float as f32, exactly."""
    wide, f = _int(raw, 32), like(raw, f32())
    bits = arith.extui(wide, raw)
    if form.exponent == 8:
        return arith.bitcast(f, arith.shli(bits, const(16, wide)))
    sign = arith.shli(arith.shrui(bits, const(form.bits - 1, wide)), const(31, wide))
    size = arith.andi(bits, const((1 << form.bits - 1) - 1, wide))
    # as an f32 pattern the exponent is too small by 127 - bias; multiplying mends normal numbers, an addition subnormal ones
    shifted = arith.shli(size, const(23 - form.mantissa, wide))
    normal = arith.addi(shifted, const(127 - form.bias << 23, wide))
    base = const(2.0 ** (1 - form.bias), f)
    small = arith.subf(arith.bitcast(f, arith.ori(shifted, arith.bitcast(wide, base))), base)
    is_small = arith.cmpi(arith.CmpIPredicate.ult, size, const(1 << form.mantissa, wide))
    bits = arith.select(is_small, arith.bitcast(wide, small), normal)
    top = ((1 << form.exponent) - 1) << form.mantissa if form.infinite else (1 << form.bits - 1) - 1
    special = arith.ori(const(0xFF << 23, wide), arith.shli(arith.andi(size, const((1 << form.mantissa) - 1, wide)), const(23 - form.mantissa, wide)))
    bits = arith.select(arith.cmpi(arith.CmpIPredicate.uge, size, const(top, wide)), special, bits)
    return arith.bitcast(f, arith.ori(bits, sign))


def encode(x: Value, form: Format) -> Value:
    """An f32 rounded to a narrow float, as its bits. Too large a value is infinity, or NaN where the format has none."""
    wide, narrow = _int(x, 32), _int(x, max(8, form.bits))
    bits = arith.bitcast(wide, x)
    size = arith.andi(bits, const(0x7FFFFFFF, wide))
    cut = 23 - form.mantissa
    odd = arith.andi(arith.shrui(size, const(cut, wide)), const(1, wide))
    rounded = arith.shrui(arith.addi(size, arith.addi(odd, const((1 << cut - 1) - 1, wide))), const(cut, wide))
    result = arith.subi(rounded, const(127 - form.bias << form.mantissa, wide))
    if form.exponent < 8:  # subnormal results: let an addition do the rounding
        base = const(2.0 ** (1 - form.bias - form.mantissa + 23), x.type)
        small = arith.subi(arith.bitcast(wide, arith.addf(arith.bitcast(x.type, size), base)), arith.bitcast(wide, base))
        is_small = arith.cmpi(arith.CmpIPredicate.ult, size, const(128 - form.bias << 23, wide))
        result = arith.select(is_small, small, result)
    top = ((1 << form.exponent) - 1) << form.mantissa if form.infinite else (1 << form.bits - 1) - 1
    result = arith.minsi(result, const(top, wide))
    nan = top if not form.infinite else top | 1 << form.mantissa - 1
    result = arith.select(arith.cmpi(arith.CmpIPredicate.ugt, size, const(0xFF << 23, wide)), const(nan, wide), result)
    sign = arith.shli(arith.shrui(bits, const(31, wide)), const(form.bits - 1, wide))
    return arith.trunci(narrow, arith.ori(result, sign))


def round_to(x: Value, dtype: DType) -> Value:
    """An f32 rounded to a narrower type and widened again; other types pass."""
    form = FORMATS.get(dtype)
    return decode(encode(x, form), form) if form else x


def rounded_to_tf32(x: Value) -> Value:
    """An f32 as `core.dtypes.rounded_to_tf32` rounds it."""
    wide = _int(x, 32)
    bits = arith.andi(arith.addi(arith.bitcast(wide, x), const(1 << 12, wide)), const(-1 << 13, wide))
    return arith.select(arith.cmpf(arith.CmpFPredicate.UNO, x, x), x, arith.bitcast(x.type, bits))


def from_memory(raw: Value, dtype: DType) -> Value:
    """What a load gives, in register form."""
    if dtype.is_bool:
        return arith.cmpi(arith.CmpIPredicate.ne, raw, const(0, raw.type))
    if dtype == dtypes.INT4:  # numpy keeps four bits without their sign
        return _wrap_int4(raw)
    return decode(raw, FORMATS[dtype]) if dtype in FORMATS else raw


def to_memory(x: Value, dtype: DType) -> Value:
    """A value in register form as what is stored."""
    if dtype.is_bool:
        return arith.extui(_int(x, 8), x)
    return encode(x, FORMATS[dtype]) if dtype in FORMATS else x


def cast(x: Value, source: DType, target: DType) -> Value:
    """A value of one type in registers as another: float to integer truncates, anything to bool is `!= 0`, narrow floats are rounded to even.
    Floats outside an integer's range, and NaN, give an unspecified integer."""
    if source == target:
        return x
    to = like(x, register_type(target))
    if target.is_bool:
        zero = const(0, x.type)
        return arith.cmpf(arith.CmpFPredicate.UNE, x, zero) if source.is_float else arith.cmpi(arith.CmpIPredicate.ne, x, zero)
    if source.is_float:
        return _from_float(x, source, target, to)
    unsigned = source.is_bool or source.kind == "uint"
    if target.is_float:
        return round_to((arith.uitofp if unsigned else arith.sitofp)(to, x), target)
    if x.type == to:
        value = x
    elif register_type(target).width < register_type(source).width:
        value = arith.trunci(to, x)
    else:
        value = (arith.extui if unsigned else arith.extsi)(to, x)
    return _wrap_int4(value) if target == dtypes.INT4 else value


def _from_float(x: Value, source: DType, target: DType, to: ir.Type) -> Value:
    if not target.is_float:
        if target.bits >= 32:
            return arith.fptosi(to, x)
        value = arith.trunci(to, arith.fptosi(_int(x, 32), x))  # narrow integers wrap, as numpy's do
        return _wrap_int4(value) if target == dtypes.INT4 else value
    if x.type == to:
        return round_to(x, target)
    return arith.extf(to, x) if target.bits == 64 else round_to(arith.truncf(to, x), target)


def _wrap_int4(x: Value) -> Value:
    four = const(4, x.type)
    return arith.shrsi(arith.shli(x, four), four)
