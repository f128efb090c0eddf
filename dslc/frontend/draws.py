"""Random draws that are made of uniform and normal ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from dslc.ir import ops
from dslc.ir.mlir import ir

Draw = Callable[[str, str], ir.Value]  # (kind, name of the stream) to float32 draws

_ROUNDS = 8  # each accepts with a probability above 0.95, so that all fail in less than one of 10 ** 10 draws


def beta(draw: Draw, a: float, b: float) -> ir.Value:
    """Draws of the beta distribution: x / (x + y) of gamma draws x and y, by their logarithms, as small shapes underflow."""
    return ops.Sigmoid.of(ops.Sub.of(_log_gamma(draw, "a", a), _log_gamma(draw, "b", b)))


def _log_gamma(draw: Draw, name: str, shape: float) -> ir.Value:
    """Logarithms of gamma draws (Marsaglia and Tsang 2000): d v of the first round that is accepted; below 1 the draw of shape + 1 is scaled."""
    grown = shape if shape >= 1 else shape + 1
    d = grown - 1 / 3
    c = (9 * d) ** -0.5
    result: ir.Value | None = None
    for k in reversed(range(_ROUNDS)):
        x, u = draw("normal", f"{name}{k}x"), draw("uniform", f"{name}{k}u")

        def number(value: float, x: ir.Value = x) -> ir.Value:
            return ops.full_like(x, value)

        base = ops.Add.of(number(1), ops.Mul.of(number(c), x))
        positive = ops.Compare.of(base, number(0), predicate="gt")
        log_v = ops.Mul.of(number(3), ops.Log.of(ops.Select.of(positive, base, number(1))))
        if result is None:
            result = number(math.log(d))  # where every round fails: the distribution's middle
        limit = ops.Add.of(ops.Mul.of(number(0.5), ops.Mul.of(x, x)), ops.Mul.of(number(d), _one_minus_v_plus_log(log_v)))
        accepted = ops.And.of(positive, ops.Compare.of(_log_of(u), limit, predicate="lt"))
        result = ops.Select.of(accepted, ops.Add.of(number(math.log(d)), log_v), result)
    assert result is not None
    if shape < 1:
        result = ops.Add.of(result, ops.Mul.of(_log_of(draw("uniform", f"{name}s")), ops.full_like(result, 1 / shape)))
    return result


def _one_minus_v_plus_log(log_v: ir.Value) -> ir.Value:
    return ops.Sub.of(log_v, ops.Expm1.of(log_v))


def _log_of(u: ir.Value) -> ir.Value:
    """log of a uniform draw, finite where the draw is exactly 0."""
    return ops.Log.of(ops.Add.of(u, ops.full_like(u, 2.0**-25)))


__all__ = ["Draw", "beta"]
