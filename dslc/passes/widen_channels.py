"""widen_channels: pictures of three channels are made with four, and where a filter takes steps of two, of pairs of columns with eight.

Three values of 16 bits are no chunk that a thread can copy from memory to shared memory by itself (4, 8 or 16 bytes), so each value goes through
registers alone, with its own test of the padding; four are one copy of 8 bytes with one test. What is multiplied grows by a third, with zeros. With
steps of two along the last axis the columns 2 j and 2 j + 1 go together through all places of a filter: as one column of twice the channels they
are one copy of 16 bytes, and a filter of k columns is one of k / 2 pairs, with a column of zeros where it begins or ends within a pair.
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
MOST_PAIRED = 1.34  # times as many again

Form = tuple[ir.Value, int, "int | None", int]
"""A cast, the axis of its channels, that of its columns where these go in pairs, and the columns that a pair has before the first."""


@dataclass(frozen=True)
class WidenChannels:
    """Convolutions of 16-bit floats whose pictures have no whole chunks of channels read pictures, and filters, with zeros behind them, in pairs of
    columns where that makes few products more; the gradient of such filters is made for all channels and cut. Done where the copies spared weigh
    more than a copy of the pictures, as casts to 16 bits make.

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
    readers: dict[ir.Value, list[ops.Conv]] = {}  # of casts of pictures
    for op in convs:
        if (picture := _cast_under(op.x, 0 if op.results[0] in of_filters else 2)) is not None:
            readers.setdefault(picture[0], []).append(op)
    made: dict[Form, ir.Value] = {}  # casts with more channels
    paired: dict[ir.Value, bool] = {}  # casts of pictures: whether their columns go in pairs
    for op in convs:
        if op.results[0] not in of_filters and _pays(op):
            picture = _cast_under(op.x, 2)
            assert picture is not None
            paired.setdefault(picture[0], all(_pairs(c, c.results[0] in of_filters) is not None for c in readers[picture[0]]))
            _forward(op, paired[picture[0]], made)
    for op in convs:
        if op.results[0] in of_filters and (picture := _cast_under(op.x, 0)) is not None and picture[0] in paired:
            _of_filters(op, paired[picture[0]], made)
    if made:
        remove_dead(block)


@dataclass(frozen=True)
class Pairs:
    """A convolution over pairs of columns: its padding in pairs, the columns of zeros before its filter, and the filter's pairs."""

    low: int
    before: int
    taps: int


def _pairs(conv: ops.Conv, of_filter: bool) -> Pairs | None:
    """How a convolution, or the gradient of one's filter, goes over pairs of columns; None where it does not, or makes many more products."""
    columns, steps = type_of(conv.x).shape[-1], (conv.dilation if of_filter else conv.stride)[-1]
    taps = conv.size[-1] if of_filter else type_of(conv.w).shape[-1]
    others = (conv.stride if of_filter else conv.dilation)[-1]
    whole = _cast_under(conv.x, len(type_of(conv.x).shape) - 1) is not None and (of_filter or _cast_under(conv.w, _columns(conv)) is not None)
    if steps != 2 or others != 1 or conv.spacing[-1] != 1 or columns % 2 or conv.low[-1] < 0 or not whole:
        return None
    low = -(-conv.low[-1] // 2)
    before = 2 * low - conv.low[-1]
    pairs = -(-(taps + before) // 2)
    return Pairs(low, before, pairs) if 2 * pairs <= MOST_PAIRED * taps else None


def _columns(conv: ops.Conv) -> int:
    """The last axis of the filters."""
    return len(type_of(conv.w).shape) - 1


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


def _forward(conv: ops.Conv, paired: bool, made: dict[Form, ir.Value]) -> None:
    extent, values = _extent(conv.x, 2), conv.values()
    with ir.InsertionPoint(conv), conv.location:
        if paired:
            found = _pairs(conv, of_filter=False)
            assert found is not None
            last, columns = _columns(conv), type_of(conv.x).shape[-1]
            x = _widened(conv.x, {2: 2 * extent, last: columns // 2}, 0, made)
            w = _widened(conv.w, {2: 2 * extent, last: found.taps}, found.before, made)
            values |= {"stride": [*conv.stride[:-1], 1], "low": [*conv.low[:-1], found.low]}
        else:
            x, w = (_widened(v, {2: extent}, 0, made) for v in (conv.x, conv.w))
        new = ops.Conv.of(x, w, **values)
    channels_last.keep_precision(conv, new)
    conv.results[0].replace_all_uses_with(new)


def _of_filters(conv: ops.Conv, paired: bool, made: dict[Form, ir.Value]) -> None:
    extent, values = _extent(conv.x, 0), conv.values()
    with ir.InsertionPoint(conv), conv.location:
        if paired:
            found = _pairs(conv, of_filter=True)
            assert found is not None
            x = _widened(conv.x, {0: 2 * extent, len(conv.size) + 2: type_of(conv.x).shape[-1] // 2}, 0, made)
            values |= {"dilation": [*conv.dilation[:-1], 1], "low": [*conv.low[:-1], found.low], "size": [*conv.size[:-1], found.taps]}
            new = ops.Conv.of(x, conv.w, **values)
            whole = _unpaired(new, extent, conv.size[-1], found.before)
        else:
            whole = new = ops.Conv.of(_widened(conv.x, {0: extent}, 0, made), conv.w, **values)
        cut = ops.slice_axis(whole, 0, 0, conv.type.shape[0])
    channels_last.keep_precision(conv, new)
    conv.results[0].replace_all_uses_with(cut)


def _unpaired(gradient: ir.Value, channels: int, taps: int, before: int) -> ir.Value:
    """[2 channels, ..., pairs] as [channels, ..., taps]."""
    shape = type_of(gradient).shape
    apart = ops.reshape(gradient, (2, channels, *shape[1:]))
    turned = ops.transpose(apart, [*range(1, len(shape) + 1), 0])
    return ops.slice_axis(ops.reshape(turned, (channels, *shape[1:-1], 2 * shape[-1])), len(shape) - 1, before, taps)


def _widened(value: ir.Value, extents: dict[int, int], before: int, made: dict[Form, ir.Value]) -> ir.Value:
    """The value with other extents along axes which `_cast_under` has followed: the channels first, then the columns that go in pairs; the cast is
    made wider once."""
    op = maker(value)
    if not isinstance(op, ops.Cast):
        assert op is not None
        shape = [extents.get(k, n) for k, n in enumerate(type_of(value).shape)]
        below = {a: extents[k] for k in extents if (a := _before(value, k)) is not None}
        return type(op).of(_widened(op.operands[0], below, before, made), **{**op.values(), "shape": shape})  # type: ignore[arg-type]
    channel, *others = extents
    column = others[0] if others else None
    form = value, channel, column, before
    if form not in made:
        with ir.InsertionPoint(op), op.location:
            wider = _more_channels(op.x, channel, extents[channel]) if column is None else _in_pairs(op.x, channel, column, extents, before)
            made[form] = ops.Cast.of(wider, **op.values())
        channels_last.keep_precision(op, made[form])
    return made[form]


def _more_channels(x: ir.Value, channel: int, extent: int) -> ir.Value:
    """With zeros behind the channels."""
    shape = [extent if k == channel else n for k, n in enumerate(type_of(x).shape)]
    return ops.view(x, [[int(a == k) for k in range(len(shape))] for a in range(len(shape))], [0] * len(shape), shape)


def _in_pairs(x: ir.Value, channel: int, column: int, extents: dict[int, int], before: int) -> ir.Value:
    """Pairs of columns as channels: of one column those of the first half, of the other those of the second."""
    shape = [extents[column] if k == column else n for k, n in enumerate(type_of(x).shape)]
    apart = [*shape[:channel], 2, extents[channel] // 2, *shape[channel + 1 :]]
    places = [k if k < channel else k + 1 for k in range(len(shape))]  # of axes, behind the one that tells a pair's columns apart
    rows = [[(2 if k == column else 1) * (places[k] == p) + (k == column and p == channel) for p in range(len(apart))] for k in range(len(shape))]
    offsets = [-before if k == column else 0 for k in range(len(shape))]
    return ops.reshape(ops.view(x, rows, offsets, apart), [extents.get(k, n) for k, n in enumerate(type_of(x).shape)])


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
