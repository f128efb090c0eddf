"""widen_channels: pictures of three channels are made with four.

Three values of 16 bits are no chunk that a thread can copy from memory to shared memory by itself (4, 8 or 16 bytes), so each value goes through
registers alone, with its own test of the padding; four are one copy of 8 bytes with one test. What is multiplied grows by a third, with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import blocks_of, functions_of, stored_of
from dslc.ir.types import type_of

from . import channels_last
from .channels_last import Axes, Axis, kept_axes, unit_rows
from .prune import remove_dead
from .simplify import maker

CHUNK = 8  # bytes that are copied at once
MOST = 1.5  # times as many products


@dataclass(frozen=True)
class WidenChannels:
    """Convolutions of 16-bit floats whose pictures have no whole chunks of channels read pictures, and filters, with zeros behind them; the gradient
    of such filters is made for all channels and cut. Done where the copies spared weigh more than a copy of the pictures, as casts to 16 bits make.

    before: %y = conv (cast %x), (cast %w)      after: %y = conv (cast (view %x, a channel more)), (cast (view %w, a channel more))
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):  # bodies of loops and branches are each on their own
                _block(block, stored_of(program))


def _block(block: ir.Block, parameters: Sequence[ir.Value]) -> None:
    convs = [op for op in block.operations if isinstance(op, ops.Conv) and op.type.dtype.bits == 16]
    if not convs:
        return
    of_filters = Axes.of(block, parameters).of_filters
    wider: dict[Axis, ir.Value] = {}  # of the channels of a cast: the cast with more of them
    for op in convs:
        if op.results[0] not in of_filters and _pays(op):
            _forward(op, wider)
    for op in convs:
        if op.results[0] in of_filters and _cast_under(op.x, 0) in wider:
            _of_filters(op, wider)
    if wider:
        remove_dead(block)


def _pays(conv: ops.Conv) -> bool:
    """Whether both operands are casts with few channels that a chunk holds better, and there are products enough."""
    channels, extent = type_of(conv.x).shape[2], _extent(conv.x, 2)
    pictures, filters = _cast_under(conv.x, 2), _cast_under(conv.w, 2)
    if pictures is None or filters is None or not channels < extent <= MOST * channels:
        return False
    products = conv.type.size * extent * prod(type_of(conv.w).shape[3:])
    copied = type_of(_cast(pictures[0]).x).bytes
    return channels_last.SAVED * products / 2 > channels_last.PER_BYTE * copied


def _extent(value: ir.Value, axis: int) -> int:
    """Of an axis, as whole chunks."""
    t = type_of(value)
    step = max(1, CHUNK // t.dtype.bytes)
    return -(-t.shape[axis] // step) * step


def _forward(conv: ops.Conv, wider: dict[Axis, ir.Value]) -> None:
    with ir.InsertionPoint(conv), conv.location:
        new = ops.Conv.of(*(_widened(v, 2, _extent(conv.x, 2), wider) for v in (conv.x, conv.w)), **conv.values())
    channels_last.keep_precision(conv, new)
    conv.results[0].replace_all_uses_with(new)


def _of_filters(conv: ops.Conv, wider: dict[Axis, ir.Value]) -> None:
    with ir.InsertionPoint(conv), conv.location:
        new = ops.Conv.of(_widened(conv.x, 0, _extent(conv.x, 0), wider), conv.w, **conv.values())
        cut = ops.slice_axis(new, 0, 0, conv.type.shape[0])
    channels_last.keep_precision(conv, new)
    conv.results[0].replace_all_uses_with(cut)


def _widened(value: ir.Value, axis: int, extent: int, wider: dict[Axis, ir.Value]) -> ir.Value:
    """The value with more places along an axis, which `_cast_under` has followed; the cast is made wider once."""
    op = maker(value)
    shape = [extent if k == axis else n for k, n in enumerate(type_of(value).shape)]
    if not isinstance(op, ops.Cast):
        assert op is not None
        before = _widened(op.operands[0], _before(value, axis), extent, wider)  # type: ignore[arg-type]
        return type(op).of(before, **{**op.values(), "shape": shape})
    if (value, axis) not in wider:
        with ir.InsertionPoint(op), op.location:
            every = [[int(a == k) for k in range(len(shape))] for a in range(len(shape))]
            wider[value, axis] = ops.Cast.of(ops.view(op.x, every, [0] * len(shape), shape), **op.values())
        channels_last.keep_precision(op, wider[value, axis])
    return wider[value, axis]


def _cast_under(value: ir.Value, axis: int) -> Axis | None:
    """The cast that a value is a view of, and which of its axes this one is; None where it is none."""
    while (a := _before(value, axis)) is not None:
        value, axis = value.owner.opview.operands[0], a
    return (value, axis) if isinstance(maker(value), ops.Cast) else None


def _cast(value: ir.Value) -> ops.Cast:
    op = maker(value)
    assert isinstance(op, ops.Cast)
    return op


def _before(value: ir.Value, axis: int) -> int | None:
    """Which axis of a view's operand this one shows whole, from its first place on; None where there is none, and for what is no view."""
    op, shape = maker(value), type_of(value).shape
    if isinstance(op, ops.View) and not op.outside:
        pairs = [(a, k) for a, k in unit_rows(op.matrix, type_of(op.x).shape, shape) if op.matrix[a][k] == 1 and not op.offsets[a]]
    elif isinstance(op, ops.Reshape):
        pairs = kept_axes(type_of(op.x).shape, shape)
    else:
        return None
    return next((a for a, k in pairs if k == axis), None)
