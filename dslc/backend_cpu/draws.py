"""Philox draws as integer vector ops: the same words as `core.philox`, which lays down the counter."""

from __future__ import annotations

from typing import Any

from dslc.core.dtypes import FLOAT32, INT32

from .scalars import Val

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10


def draw(s: Any, kind: str, key: tuple[Any, Any, Any], stream: int, position: Any, limits: tuple[int, int]) -> Any:
    """One draw a lane; `position` is the integer value of the point's row-major number, int32 or int64."""
    seed, counter, turn = key
    b = s.b

    def word(x: Any, shift: int = 0) -> Any:
        """32 bits of an integer value."""
        ssa = x.ssa
        if x.dtype.bits == 64:
            if shift:
                ssa = b.same("arith.shrui", ssa, b.const("i64", shift, x.lanes))
            ssa = b.to("arith.trunci", ssa, "i32", x.lanes)
        elif shift:
            ssa = b.const("i32", 0, x.lanes)
        return Val(ssa, INT32, x.lanes)

    low, high = word(position), s.add(word(position, 32), turn)
    stream_word = Val(b.const("i32", stream & 0xFFFFFFFF), INT32)
    words = philox(s, [low, high, stream_word, counter], (word(seed), word(seed, 32)))
    if kind == "integer":
        return _integer(s, words[0], limits)
    u1 = _fraction(s, words[0])
    return u1 if kind == "uniform" else _normal(s, u1, _fraction(s, words[1]))


def philox(s: Any, counter: list[Any], key: tuple[Any, Any]) -> list[Any]:
    """Ten rounds on four words of 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(_ROUNDS):
        if turn:
            k0, k1 = (s.add(k, Val(s.b.const("i32", w), INT32)) for k, w in ((k0, _W0), (k1, _W1)))
        (h0, l0), (h1, l1) = _product(s, c0, _M0), _product(s, c2, _M1)
        c0, c1, c2, c3 = s.logical_xor(s.logical_xor(h1, c1), k0), l1, s.logical_xor(s.logical_xor(h0, c3), k1), l0
    return [c0, c1, c2, c3]


def _product(s: Any, x: Any, factor: int) -> tuple[Any, Any]:
    """Upper and lower half of a 64-bit product."""
    b, lanes = s.b, x.lanes
    wide = b.same("arith.muli", b.to("arith.extui", x.ssa, "i64", lanes), b.const("i64", factor, lanes))
    upper = b.to("arith.trunci", b.same("arith.shrui", wide, b.const("i64", 32, lanes)), "i32", lanes)
    return Val(upper, INT32, lanes), Val(b.to("arith.trunci", wide, "i32", lanes), INT32, lanes)


def _fraction(s: Any, w: Any) -> Any:
    """(w >> 8) * 2**-24, exact."""
    top = s.b.same("arith.shrui", w.ssa, s.b.const("i32", 8, w.lanes))
    x = s.b.to("arith.sitofp", top, "f32", w.lanes)
    return Val(s.b.same("arith.mulf", x, s.b.const("f32", 2.0**-24, w.lanes)), FLOAT32, w.lanes)


def _integer(s: Any, w: Any, limits: tuple[int, int]) -> Any:
    low, high = limits
    upper, _ = _product(s, w, high - low)
    return s.add(upper, Val(s.b.const("i32", low), INT32))


def _normal(s: Any, u1: Any, u2: Any) -> Any:
    """sqrt(-2 ln(u1 + 2**-24)) * cos(2 pi u2): Box and Muller; both arguments are exact in float32."""
    ln = s.log(s.add(u1, s.const(2.0**-24, FLOAT32)))
    return s.mul(s.sqrt(s.mul(s.const(-2.0, FLOAT32), ln)), cos_turns(s, u2))


# sin(2 pi r) / r and cos(2 pi r) as polynomials of r*r, least squares on Chebyshev points of |r| <= 1/8, highest power first
_SIN = (41.468894958496094, -76.69774627685547, 81.6052017211914, -41.34170150756836, 6.2831854820251465)
_COS = (59.20098876953125, -85.44224548339844, 64.9393081665039, -19.739208221435547, 1.0)


def cos_turns(s: Any, u: Any) -> Any:
    """cos(2 pi u) for u in [0, 1): the nearest quarter is taken off exactly, which keeps the result within 2 ulp also at its zeros."""
    b, lanes = s.b, u.lanes

    def k(v: float) -> Any:
        return Val(b.const("f32", v, lanes), FLOAT32, lanes)

    quarter = s.round(s.mul(u, k(4.0)))
    r = s.sub(u, s.mul(quarter, k(0.25)))
    z = s.mul(r, r)

    def horner(c: tuple[float, ...]) -> Any:
        y = k(c[0])
        for v in c[1:]:
            y = s.fma(y, z, k(v))
        return y

    sine, cosine = s.mul(r, horner(_SIN)), horner(_COS)
    q = Val(b.to("arith.fptosi", quarter.ssa, "i32", lanes), INT32, lanes)
    odd = s.compare("ne", s.logical_and(q, Val(b.const("i32", 1, lanes), INT32, lanes)), Val(b.const("i32", 0, lanes), INT32, lanes))
    y = s.select(odd, sine, cosine)
    upper = s.logical_and(s.add(q, Val(b.const("i32", 1, lanes), INT32, lanes)), Val(b.const("i32", 2, lanes), INT32, lanes))
    # quarters 0..4: cos, -sin, -cos, sin, cos
    return s.select(s.compare("ne", upper, Val(b.const("i32", 0, lanes), INT32, lanes)), s.neg(y), y)
