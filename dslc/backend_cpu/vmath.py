"""Elementary functions on vectors and scalars of f32, as polynomials; f64, and the rarer functions, call the C library lane by lane.

Every function takes and gives a value in register form. Denormal operands count as zero, denormal results may be zero. `BOUNDS` holds the error in
units of the last place against the exact value, over all finite operands; tests measure it.

Sources of the polynomials: log and tanh below 0.625 from Cephes (Moshier, single precision); the reduction of sin and cos in three parts after
Cody and Waite; erf, sin and cos fitted by Remez exchange, exp for the least relative error with coefficients of single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, nan, pi
from typing import Any

from dslc.ir.mlir import arith, ir, math, vector

from .emit import call_libm, choose, fcmp, fma, icmp, instruction
from .machine import host
from .types import const, element_of, f32, f64, i1, i32, i64, is_vector, lanes_of, like

Value = Any

BOUNDS = {
    "exp": 2, "expm1": 2, "log": 1, "log1p": 2, "tanh": 2, "sigmoid": 3, "erf": 2, "sin": 2, "cos": 2, "pow": 1, "sqrt": 0.5, "rsqrt": 1.5,
    "tan": 4, "asin": 4, "acos": 4, "atan": 4, "sinh": 4, "cosh": 4, "asinh": 4, "acosh": 4, "atanh": 4,
}  # fmt: skip

_MAGIC = 12582912.0  # 1.5 * 2**23: added to a small float, it leaves the nearest integer in the low bits


def _k(value: float, x: Value) -> Value:
    return const(value, x.type)


def horner(x: Value, coefficients: Sequence[float]) -> Value:
    """The polynomial with these coefficients, highest power first."""
    value = _k(coefficients[0], x)
    for c in coefficients[1:]:
        value = fma(value, x, _k(c, x))
    return value


def clamp(x: Value, low: float, high: float) -> Value:
    """x within [low, high]; NaN stays NaN. Each side is one instruction."""
    x = arith.select(fcmp("lt", _k(high, x), x), _k(high, x), x)
    return arith.select(fcmp("gt", _k(low, x), x), _k(low, x), x)


def absolute(x: Value) -> Value:
    return math.absf(x)


def copysign(size: Value, sign: Value) -> Value:
    return math.copysign(size, sign)


def _ints(x: Value) -> ir.Type:
    return like(x, i32() if element_of(x) == f32() else i64())


def _bits(x: Value) -> Value:
    return arith.bitcast(_ints(x), x)


def _floats(bits: Value, x: Value) -> Value:
    return arith.bitcast(x.type, bits)


def _times_power_of_two(x: Value, t: Value) -> Value:
    """x * 2^n where t = n + _MAGIC, while the result is normal."""
    return _floats(arith.addi(_bits(x), arith.shli(_bits(t), const(23, _ints(x)))), x)


def _reduced(x: Value) -> tuple[Value, Value]:
    """(t, r): x = n ln 2 + r with |r| <= ln 2 / 2 and t = n + _MAGIC."""
    t = fma(x, _k(1.4426950408889634, x), _k(_MAGIC, x))
    n = arith.subf(t, _k(_MAGIC, x))
    r = fma(n, _k(-0.693359375, x), x)
    return t, fma(n, _k(2.12194440e-4, x), r)


_EXP = [1.3820665190e-3, 8.3686755970e-3, 4.1668266058e-2, 1.6666521132e-1, 4.9999994040e-1]  # e^r = 1 + r + r^2 P(r) to a twentieth of an ulp
_EXP_HIGH, _EXP_LOW = 88.72284, -87.33655  # beyond: infinity, zero


def _exp32(x: Value) -> Value:
    if is_vector(x) and lanes_of(x) == host().lanes == 16:
        return _exp_scaled(x)
    t, r = _reduced(x)
    p = fma(fma(horner(r, _EXP), r, _k(1.0, x)), r, _k(1.0, x))
    value = _times_power_of_two(p, t)
    value = arith.select(fcmp("lt", x, _k(_EXP_LOW, x)), _k(0.0, x), value)
    return arith.select(fcmp("ugt", x, _k(_EXP_HIGH, x)), arith.addf(x, _k(inf, x)), value)


def _exp_scaled(x: Value) -> Value:
    """exp by AVX-512's product with a power of two, which knows both ends of the range and NaN: six instructions fewer than by bits."""
    t, r = _reduced(clamp(x, -150.0, 150.0))  # e^-150 is zero, e^150 infinity
    p = fma(fma(horner(r, _EXP), r, _k(1.0, x)), r, _k(1.0, x))
    n = arith.subf(t, _k(_MAGIC, x))
    every, rounding = const(-1, ir.IntegerType.get_signless(16)), const(4, i32())  # all lanes; as the processor is set
    return instruction("llvm.x86.avx512.mask.scalef.ps.512", p, n, x, every, rounding)


def exp_nonpositive(x: Value) -> Value:
    """exp of f32 operands that are never above 0 nor NaN (softmax after its maximum was taken away): two instructions fewer."""
    t, r = _reduced(x)
    p = fma(fma(horner(r, _EXP), r, _k(1.0, x)), r, _k(1.0, x))
    return arith.select(fcmp("lt", x, _k(_EXP_LOW, x)), _k(0.0, x), _times_power_of_two(p, t))


def _expm1_32(x: Value) -> Value:
    """2^n (e^r - 1) + (2^n - 1), doubled at the end so that 2^n never overflows."""
    t, r = _reduced(arith.select(fcmp("gt", _k(-25.0, x), x), _k(-25.0, x), x))
    q = fma(arith.mulf(r, r), horner(r, _EXP), r)
    half = _times_power_of_two(_k(0.5, x), t)
    value = fma(half, q, arith.subf(half, _k(0.5, x)))
    value = arith.addf(value, value)
    value = arith.select(fcmp("lt", absolute(x), _k(1e-8, x)), x, value)
    return arith.select(fcmp("ugt", x, _k(_EXP_HIGH, x)), arith.addf(x, _k(inf, x)), value)


_LOG = [
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
    3.3333331174e-1,
]  # fmt: skip
_ROOT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)


def _log32(x: Value) -> Value:
    integers = _ints(x)
    shifted = arith.subi(_bits(x), const(_ROOT_HALF, integers))
    n = arith.sitofp(x.type, arith.shrsi(shifted, const(23, integers)))
    m = _floats(arith.addi(arith.andi(shifted, const(0x7FFFFF, integers)), const(_ROOT_HALF, integers)), x)
    f = arith.subf(m, _k(1.0, x))
    z = arith.mulf(f, f)
    y = arith.mulf(arith.mulf(f, z), horner(f, _LOG))
    y = fma(n, _k(-2.12194440e-4, x), y)
    y = fma(z, _k(-0.5, x), y)
    value = fma(n, _k(0.693359375, x), arith.addf(f, y))
    value = arith.select(fcmp("lt", x, _k(1.17549435e-38, x)), _k(-inf, x), value)
    value = arith.select(fcmp("ult", x, _k(0.0, x)), _k(nan, x), value)
    return arith.select(fcmp("eq", x, _k(inf, x)), x, value)


def _log1p32(x: Value) -> Value:
    """log(u) with u = 1 + x rounded, and the rounding error over u."""
    finite = arith.select(fcmp("gt", x, _k(3.4028234e38, x)), _k(3.4028234e38, x), x)
    u = arith.addf(finite, _k(1.0, x))
    lost = arith.subf(finite, arith.subf(u, _k(1.0, x)))
    tiny = _k(1e-30, x)
    value = arith.addf(_log32(u), arith.divf(lost, arith.select(fcmp("gt", u, tiny), u, tiny)))
    value = arith.select(fcmp("lt", absolute(x), _k(1e-8, x)), x, value)
    return arith.select(fcmp("eq", x, _k(inf, x)), x, value)


_TANH = [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1]


def _tanh32(x: Value) -> Value:
    """x + x^3 P(x^2) below 0.625, else 1 - 2 / (e^(2|x|) + 1)."""
    size = absolute(x)
    z = arith.mulf(x, x)
    small = fma(arith.mulf(horner(z, _TANH), z), x, x)
    e = _exp_bounded(arith.addf(size, size), 0.0, 40.0)
    large = arith.subf(_k(1.0, x), arith.divf(_k(2.0, x), arith.addf(e, _k(1.0, x))))
    return arith.select(fcmp("lt", size, _k(0.625, x)), small, copysign(large, x))


def _exp_bounded(x: Value, low: float, high: float) -> Value:
    """exp of x clamped to a range in which it is normal."""
    t, r = _reduced(clamp(x, low, high))
    return _times_power_of_two_nan(fma(fma(horner(r, _EXP), r, _k(1.0, x)), r, _k(1.0, x)), t)


def _times_power_of_two_nan(x: Value, t: Value) -> Value:
    """As `_times_power_of_two`, by a product: NaN stays NaN; |n| <= 126."""
    integers = _ints(x)
    return arith.mulf(x, _floats(arith.addi(arith.shli(_bits(t), const(23, integers)), const(0x3F800000, integers)), x))


def _sigmoid32(x: Value) -> Value:
    one = _k(1.0, x)
    return arith.divf(one, arith.addf(one, _exp32(arith.negf(x))))


def _quadrant(x: Value) -> tuple[Value, Value]:
    """(q, r): x = q pi/2 + r with |r| <= pi/4; exact enough for |x| <= 3e4."""
    t = fma(x, _k(2 / pi, x), _k(_MAGIC, x))
    n = arith.subf(t, _k(_MAGIC, x))
    r = x
    for part in (1.57079637050628662109375, -4.371139000186241e-8, -1.7151245100058819e-15):
        r = fma(n, _k(-part, x), r)
    return _bits(t), r


_SIN = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]
_COS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]
_FAR = 3e4  # beyond, the C library reduces the angle


def _sine(turn: int, name: str) -> Callable[[Value], Value]:
    def near(x: Value) -> Value:
        integers = _ints(x)
        q, r = _quadrant(x)
        q = arith.addi(q, const(turn, integers))
        z = arith.mulf(r, r)
        sine = fma(arith.mulf(horner(z, _SIN), z), r, r)
        cosine = fma(arith.mulf(z, z), horner(z, _COS), fma(z, _k(-0.5, x), _k(1.0, x)))
        odd = icmp("ne", arith.andi(q, const(1, integers)), const(0, integers))
        sign = arith.shli(arith.andi(q, const(2, integers)), const(30, integers))
        return _floats(arith.xori(_bits(arith.select(odd, cosine, sine)), sign), x)

    def build(x: Value) -> Value:
        far = fcmp("ugt", absolute(x), _k(_FAR, x))
        any_far = vector.reduction(i1(), "or", far) if is_vector(x) else far
        value = near(x)  # a lane's result does not depend on its neighbours
        return choose(any_far, [x.type], lambda: [arith.select(far, call_libm(name + "f", x), value)], lambda: [value])[0]

    return build


_ERF = [-0.0005999403953, 0.00499482989, -0.02676771958, 0.1128184594, -0.3761249646, 0.12837915]
_LOG_ERFC = [0.0001982206756, -0.003065499537, 0.022315247, -0.1041137436, -0.6369760152, -1.12779728, -0.0001664393291]


def _erf32(x: Value) -> Value:
    """x + x P(x^2) below 0.92, else 1 - e^Q(|x|)."""
    size = absolute(x)
    small = fma(x, horner(arith.mulf(x, x), _ERF), x)
    bounded = arith.select(fcmp("lt", _k(4.0, x), size), _k(4.0, x), size)
    large = arith.subf(_k(1.0, x), _exp_bounded(horner(bounded, _LOG_ERFC), -40.0, 0.0))
    return arith.select(fcmp("lt", size, _k(0.92, x)), small, copysign(large, x))


_LOG2_64 = [2 / (2 * k + 1) / 0.6931471805599453 for k in range(8, -1, -1)]  # log2((1 + s) / (1 - s)) = s * sum of 2 / (2k + 1) / ln 2 * s^2k
_EXP2_64 = [0.6931471805599453**k / _f for k, _f in zip(range(10, -1, -1), (3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1))]


def _pow32(a: Value, b: Value) -> Value:
    """2^(b log2 |a|) in f64, which rounds once; then the sign and the special cases of C's pow."""
    doubles = like(a, f64())
    x, y = arith.extf(doubles, absolute(a)), arith.extf(doubles, b)
    power = clamp(arith.mulf(y, _log2_64(x)), -1000.0, 1000.0)
    value = arith.truncf(a.type, _exp2_64(power))
    one, zero = _k(1.0, a), _k(0.0, a)
    whole = fcmp("eq", math.floor(b), b)
    half = arith.mulf(b, _k(0.5, a))
    odd = arith.andi(whole, fcmp("ne", math.floor(half), half))
    odd = arith.andi(odd, fcmp("lt", absolute(b), _k(16777216.0, a)))
    negative = icmp("lt", _bits(a), const(0, _ints(a)))
    value = arith.select(arith.andi(negative, odd), arith.negf(value), value)
    finite_negative = arith.andi(fcmp("lt", a, zero), fcmp("ne", a, _k(-inf, a)))
    value = arith.select(arith.andi(finite_negative, arith.xori(whole, const(1, whole.type))), _k(nan, a), value)
    value = arith.select(arith.ori(fcmp("ne", a, a), fcmp("ne", b, b)), _k(nan, a), value)
    plain = arith.ori(fcmp("eq", a, one), fcmp("eq", b, zero))
    plain = arith.ori(plain, arith.andi(fcmp("eq", a, _k(-1.0, a)), fcmp("eq", absolute(b), _k(inf, a))))
    return arith.select(plain, one, value)


def _log2_64(x: Value) -> Value:
    """log2 of f64 values that came from non-negative f32, to about 1e-12 relative; 0 gives -inf, infinity itself."""
    integers = like(x, i64())
    root_half = 0x3FE6A09E667F3BCD
    shifted = arith.subi(arith.bitcast(integers, x), const(root_half, integers))
    n = arith.sitofp(x.type, arith.trunci(like(x, i32()), arith.shrsi(shifted, const(52, integers))))
    m = arith.bitcast(x.type, arith.addi(arith.andi(shifted, const((1 << 52) - 1, integers)), const(root_half, integers)))
    s = arith.divf(arith.subf(m, _k(1.0, x)), arith.addf(m, _k(1.0, x)))
    value = fma(s, horner(arith.mulf(s, s), _LOG2_64), n)
    value = arith.select(fcmp("eq", x, _k(0.0, x)), _k(-inf, x), value)
    return arith.select(fcmp("eq", x, _k(inf, x)), x, value)


def _exp2_64(x: Value) -> Value:
    """2^x of f64 for |x| <= 1000, to about 1e-11 relative."""
    integers, magic = like(x, i64()), 6755399441055744.0  # 1.5 * 2**52
    t = arith.addf(x, _k(magic, x))
    p = horner(arith.subf(x, arith.subf(t, _k(magic, x))), _EXP2_64)
    return arith.bitcast(x.type, arith.addi(arith.bitcast(integers, p), arith.shli(arith.bitcast(integers, t), const(52, integers))))


_NEAR = {
    "exp": _exp32, "expm1": _expm1_32, "log": _log32, "log1p": _log1p32, "tanh": _tanh32, "sigmoid": _sigmoid32, "erf": _erf32,
    "sin": _sine(0, "sin"), "cos": _sine(1, "cos"), "pow": _pow32,
}  # fmt: skip

_PLAIN: dict[str, Callable[..., Value]] = {"sqrt": math.sqrt, "floor": math.floor, "ceil": math.ceil, "round": math.roundeven, "abs": math.absf}


def _sigmoid64(x: Value) -> Value:
    one = _k(1.0, x)
    return arith.divf(one, arith.addf(one, call_libm("exp", arith.negf(x))))


def apply(name: str, *operands: Value) -> Value:
    """The function `name` of f32 or f64 operands: a key of `BOUNDS`, or "atan2", "floor", "ceil", "round" (ties to even), "abs"."""
    single = element_of(operands[0]) == f32()
    if name in _PLAIN:
        return _PLAIN[name](*operands)
    if name == "rsqrt":
        return arith.divf(_k(1.0, operands[0]), math.sqrt(operands[0]))
    if single and name in _NEAR:
        return _NEAR[name](*operands)  # type: ignore[operator]
    return _sigmoid64(*operands) if name == "sigmoid" else call_libm(name + ("f" if single else ""), *operands)


def _named(name: str) -> Callable[..., Value]:
    def function(*operands: Value) -> Value:
        return apply(name, *operands)

    function.__name__ = name
    return function


exp, expm1, log, log1p, tanh, sigmoid = (_named(n) for n in ("exp", "expm1", "log", "log1p", "tanh", "sigmoid"))
erf, sin, cos, pow, sqrt, rsqrt = (_named(n) for n in ("erf", "sin", "cos", "pow", "sqrt", "rsqrt"))
