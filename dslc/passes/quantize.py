"""Weights of matrix products in 8 bits: symmetric, rounded to nearest, one scale for each output channel (Jacob et al. 2018; as in LLM.int8's and
torchao's weight-only forms)."""

from __future__ import annotations

from dslc.core.dtypes import FLOAT32, INT8
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, type_of

from .prepare import Behind, is_small

LARGEST = 127  # of an 8-bit weight, on both sides of 0


def weights_of(op: ops.Contract, behind: Behind) -> int | None:
    """Which operand of a product of float32 is weights: it alone follows from parameters, and its 8-bit form is no larger than they are."""
    if type_of(op.results[0]).dtype != FLOAT32 or any(t.dtype != FLOAT32 or t.size == 0 for t in op.types()):
        return None
    fixed = [k for k, v in enumerate(op.operands) if behind.get(v)]
    if len(fixed) != 1 or not is_small(TensorType(INT8, op.types()[fixed[0]].shape), behind[op.operands[fixed[0]]]):
        return None
    return fixed[0]


def quantized_product(op: ops.Contract, operands: list[ir.Value], side: int) -> ir.Value:
    """The product of `operands` with the one at `side` in 8 bits: w = scale * q, q = round(w / scale), scale being the channel's largest |w| / 127.

    The sums are of float32 times q, which is exact as float32; the scale is multiplied behind them.
    """
    w, t = operands[side], type_of(operands[side])
    axes = (op.lhs, op.rhs)[side]
    summed = [k for k, i in enumerate(axes) if i not in op.out]
    channels = [k for k, i in enumerate(axes) if i in op.out]
    largest = ops.Reduce.of(ops.Abs.of(w), kind="max", axes=summed) if summed else ops.Abs.of(w)
    zero = ops.Compare.of(largest, ops.full_like(largest, 0), predicate="eq")
    scale = ops.Select.of(zero, ops.full_like(largest, 1), ops.Div.of(largest, ops.full_like(largest, LARGEST)))
    q = ops.cast(ops.Round.of(ops.Div.of(w, ops.broadcast(scale, t.shape, channels))), INT8)
    sides = [*operands]
    sides[side] = ops.cast(q, FLOAT32)
    made = ops.Contract.of(*sides, **op.values())
    place = {i: k for k, i in enumerate(op.out)}
    return ops.Mul.of(made, ops.broadcast(scale, type_of(made).shape, [place[axes[k]] for k in channels]))
