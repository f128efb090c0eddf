"""Elementwise functions on points of an equation or on whole tensors: arguments, types, alignment."""

from __future__ import annotations

from typing import Any

from dslc.core import dtypes
from dslc.core.errors import TypeError_
from dslc.ir import ops
from dslc.ir.mlir import ir

from . import functions as fn
from . import syntax as s
from .values import Point, Tensor, common_dtype, described


def elementwise(context: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    """An elementwise function, its arguments bound to its signature; `context.combine` aligns them (points of an equation, or whole tensors)."""
    if keywords:
        raise TypeError_(f"{name} of {len(arguments)} arguments takes no '{next(iter(keywords))}'", node.span)
    if name in dtypes.BY_NAME:
        return context.combine(arguments, lambda x: ops.cast(x, dtypes.BY_NAME[name]))
    if name in fn.UNARY:
        build, _, floats = fn.UNARY[name]
        return context.combine(arguments, build, numbers=name != "stop_gradient", floats=floats)
    if name in fn.BINARY:
        return context.combine(arguments, fn.BINARY[name][0], numbers=True, floats=name == "logaddexp")
    if name == "leaky_relu":
        return context.combine(arguments if len(arguments) == 2 else [*arguments, fn.SLOPE], fn.leaky_relu, numbers=True, floats=True)
    if name == "clip":
        return context.combine(arguments, clip, numbers=True)
    condition, a, b = arguments
    if not isinstance(condition, (Point, Tensor)):
        kept = a if condition else b
        if isinstance(kept, (Point, Tensor)) or not isinstance(a if not condition else b, (Point, Tensor)):
            return kept
        other = b if condition else a
        return context.combine([kept, other], lambda x, y: x)
    return _where(context, condition, a, b)


def _where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    """where: the condition does not take part in the type."""
    for v in (a, b):
        if not isinstance(v, (Point, Tensor, int, float)):
            raise TypeError_(f"where takes numbers and tensors, this is {described(v)}")
    tensors = [v.type for v in (a, b) if isinstance(v, (Point, Tensor))]
    dtype = common_dtype(tensors, [v for v in (a, b) if not isinstance(v, (Point, Tensor))])
    wide = context.combine([condition], lambda c: ops.cast(c, dtypes.BOOL))
    return context.choose(wide, a, b, dtype)


def clip(x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """x between the limits, where the gradient is 1, at them too."""
    below, above = ops.Compare.of(x, low, predicate="lt"), ops.Compare.of(x, high, predicate="gt")
    return ops.Select.of(below, low, ops.Select.of(above, high, x))
