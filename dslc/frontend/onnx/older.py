"""Opset 6 of ai.onnx: operands that are broadcast along named axes. Everything else is as in opset 7."""

from __future__ import annotations

from typing import Any

from .call import Call
from .values import Value, reshape

BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Greater", "Less", "Equal"}
BROADCAST_SINCE = 7  # as numpy does


def aligned(call: Call, items: list[Any]) -> list[Any]:
    """The inputs with the second brought to where the attribute `axis`, or an operator's own rule, puts it."""
    if call.version >= BROADCAST_SINCE or call.node.domain or len(items) != 2 or not all(isinstance(x, Value) for x in items):
        return items
    a, b = items
    if call.node.op == "PRelu" and b.rank == 1 and b.size > 1:
        return [a, _at(call, a, b, 1)]
    if call.node.op not in BROADCAST or a.shape == b.shape:
        return items
    if not call.integer("broadcast"):
        raise call.misfit(f"{a} and {b} differ, and opset {call.version} broadcasts only where the attribute says so")
    return [a, _at(call, a, b, call.integer("axis", a.rank - b.rank))]


def _at(call: Call, a: Value, b: Value, axis: int) -> Value:
    axis += a.rank if axis < 0 else 0
    if not 0 <= axis <= a.rank - b.rank:
        raise call.misfit(f"{b} along axis {axis} of {a}")
    return reshape(b, (*b.shape, *[1] * (a.rank - axis - b.rank)))
