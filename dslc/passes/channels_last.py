"""channels_last: where the elements of a convolutional network's values lie.

Tensor cores take whole rows of channels, and channels fill the vectors of a CPU where the places of small pictures do not, so where it pays the
values between convolutions are made with their channels as the last axis, whatever the order in which the model names them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import gcd, prod

from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.program import blocks_of, functions_of, stored_of
from dslc.ir.types import type_of

from .conv_products import as_product, is_exact
from .prepare import behind_each
from .prune import remove_dead
from .simplify import maker, simplify_block, uniform

CHUNK = 16  # bytes that one access moves; of half as many, as four channels of 16 bits are, the gain is half
# Cycles of a multiprocessor a product: gathered one by one, operands come at a quarter of the rate at which chunks do; in tf32 that is what wgmma,
# whose operands come in chunks alone, gains over mma.sync.
SAVED = 3 / 1024
PER_BYTE = 2 / 13  # cycles of a multiprocessor a byte: a value in the other order is read once more and written once more
VIEWS = (ops.View, ops.Reshape)
# The same with vectors: cycles of a core's multiplying unit, of which there is at least one.
PACKED = 0.05  # of a product's time goes by where its windows are packed place by place, with tests
BORDERS = 2.0  # times as long takes a filter of one channel along rows of places, whose ends it has to test
PER_BYTE_OF_VECTORS = 1 / 8

Axis = tuple[ir.Value, int]


@dataclass(frozen=True)
class ChannelsLast:
    """Values that convolutions of 16-bit floats, or in tf32, read and make, and all that is at the same points, are made with their channels last;
    what lies otherwise is read through a transpose. Done where the products' gain is more than the transposes cost. `lanes`: of a CPU's vectors of
    float32, which want it for convolutions of float32 and float64.

    before: %y = conv %x, %w; %z = max %y, 0      after: %t = contract windows of %x', %w; %z' = max %t, 0; %z = transpose %z'
    """

    lanes: int = 0

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):  # bodies of loops and branches are each on their own
                _block(block, self.lanes, stored_of(program))


def _block(block: ir.Block, lanes: int, parameters: Sequence[ir.Value]) -> None:
    if not any(isinstance(op, ops.Conv) for op in block.operations):
        return
    found = Axes.of(block, parameters, lanes)
    channels = {v: axis for group in found.groups() if _pays(found, group) for v, axis in group.items()}
    if channels:
        _Rewrite(channels, found).block(block)
        for _ in range(2):  # a view of a reshape is made one view first, which then cancels a transpose
            simplify_block(block)


# --- which axes are channels ------------------------------------------------------------------------------------------------------------


@dataclass
class Axes:
    """Axes of the values of a block that are the same axis: of an elementwise op's operands and result, of a view and what it shows."""

    block: ir.Block
    lanes: int = 0
    same: dict[Axis, Axis] = field(default_factory=dict)  # towards the root of each set
    seeds: list[Axis] = field(default_factory=list)
    weights: Collection[ir.Value] = ()  # what follows from parameters alone
    of_filters: set[ir.Value] = field(default_factory=set)  # gradients of filters: convolutions over pictures whose channels are the batch

    @staticmethod
    def of(block: ir.Block, parameters: Sequence[ir.Value], lanes: int = 0) -> Axes:
        weights, filters = behind_each(block, parameters), set()
        found = Axes(block, lanes, weights=weights)
        for op in block.operations:
            if isinstance(op, Op) and len(op.results) == 1:
                for a, b in _pairs(op):
                    found._join(a, b)
        convs = [op for op in block.operations if isinstance(op, ops.Conv)]
        for op in sorted(convs, key=lambda op: op.w not in weights):  # those of parameters first: they are no gradients of filters
            if op.w not in weights and found._is_of_filters(op):
                found.of_filters.add(op.results[0])
                found._seed(op, [*_through(op.x, 0), *_through(op.w, 1)])
                continue
            pictures = [*_through(op.x, 2), *([] if lanes and _is_narrow(op, lanes) else _channels_behind(op))]
            for a in pictures:
                found._join(a, pictures[-1])
            found._seed(op, pictures)
            if _root(op.w) not in filters:  # the first one's: the gradient of the input sums over the others
                filters.add(_root(op.w))
                found._seed(op, _through(op.w, 2))
        return found

    def _seed(self, op: ops.Conv, axes: Sequence[Axis]) -> None:
        self.seeds += axes if self.wants(op) else []

    def wants(self, conv: ops.Conv) -> bool:
        """Whether a convolution is of the kind that channels may be last for."""
        return conv.type.dtype in (FLOAT32, FLOAT64) if self.lanes else conv.tf32 or conv.type.dtype.bits == 16

    def _is_of_filters(self, op: ops.Conv) -> bool:
        """By the axes of what is known of other convolutions; else it sums over more places than it has."""
        known = {self.root(axis) for axis in self.seeds}
        batch, channels = (any(self.root(axis) in known for axis in _through(op.x, k)) for k in (0, 2))
        return batch if batch != channels else prod(type_of(op.w).shape[3:]) > prod(op.size)

    def root(self, axis: Axis) -> Axis:
        way = []
        while axis in self.same:
            way.append(axis)
            axis = self.same[axis]
        self.same.update(dict.fromkeys(way[:-1], axis))
        return axis

    def _join(self, a: Axis, b: Axis) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.same[a] = b

    def groups(self) -> Iterable[dict[ir.Value, int]]:
        """For each set of axes that holds a seed: the values and their channel axes. A value with two such axes has none."""
        wanted = {self.root(axis) for axis in self.seeds}
        groups: dict[Axis, dict[ir.Value, list[int]]] = defaultdict(lambda: defaultdict(list))
        count: dict[ir.Value, int] = defaultdict(int)
        for op in self.block.operations:
            for value in op.results if isinstance(op, Op) else ():
                for k in range(type_of(value).rank):
                    if (root := self.root((value, k))) in wanted:
                        groups[root][value].append(k)
                        count[value] += 1
        return [{v: axes[0] for v, axes in group.items() if count[v] == 1} for group in groups.values()]

    def is_made(self, value: ir.Value, axis: int) -> bool:
        """Whether a value can be made with its channels last, and is not so already."""
        op = maker(value)
        if self.lanes and value in self.weights:
            return False
        if isinstance(op, ops.Conv):
            return is_exact(op) and value not in self.of_filters
        made = isinstance(op, (ops.Contract, ops.Reduce, ops.Fold, ops.Concat)) or (op is not None and op.structure == "elementwise")
        return made and type_of(value).rank > (1 if self.lanes else 2) and axis < type_of(value).rank - 1


def _pairs(op: Op) -> Iterator[tuple[Axis, Axis]]:
    """(axis of an operand, axis of the result) that are one axis."""
    y = op.results[0]
    shape = type_of(y).shape
    if op.structure == "elementwise":
        for v in op.operands:
            if not isinstance(v.owner, ir.Block) and type_of(v).shape == shape:
                yield from (((v, k), (y, k)) for k in range(len(shape)))
        return
    if isinstance(op, ops.Contract):
        yield from _channels_through(op)
    if not op.operands or isinstance(op.operands[0].owner, ir.Block):
        return
    x = op.operands[0]
    if isinstance(op, ops.View):
        yield from (((x, a), (y, k)) for a, k in unit_rows(op.matrix, type_of(x).shape, shape))
    elif isinstance(op, ops.Fold):
        yield from (((x, k), (y, a)) for a, k in unit_rows(op.matrix, shape, type_of(x).shape))
    elif isinstance(op, ops.Reshape):
        yield from (((x, a), (y, k)) for a, k in kept_axes(type_of(x).shape, shape))
    elif isinstance(op, ops.Reduce):
        kept = [a for a in range(type_of(x).rank) if a not in op.axes]
        yield from (((x, a), (y, k)) for k, a in enumerate(kept))
    elif isinstance(op, ops.Concat):
        yield from (((v, k), (y, k)) for v in op.operands for k in range(len(shape)) if not isinstance(v.owner, ir.Block))


def _channels_through(op: ops.Contract) -> Iterator[tuple[Axis, Axis]]:
    """Of a product with a matrix, as a convolution of one tap is: the channels that are summed and those that are made stand for each other."""
    for value, axes, matrix in ((op.a, op.lhs, op.rhs), (op.b, op.rhs, op.lhs)):
        summed, made = ([i for i in matrix if (i in op.out) == kept] for kept in (False, True))
        if len(axes) > 2 and len(summed) == len(made) == 1 and made[0] not in axes and not isinstance(value.owner, ir.Block):
            yield (value, list(axes).index(summed[0])), (op.results[0], list(op.out).index(made[0]))


def unit_rows(matrix: Sequence[Sequence[int]], rows: Sequence[int], columns: Sequence[int]) -> list[tuple[int, int]]:
    """(row, column) of entries that are alone in their row and column, between axes of one length."""
    out = []
    for a, row in enumerate(matrix):
        used = [k for k, f in enumerate(row) if f]
        if len(used) == 1 and abs(row[used[0]]) == 1 and rows[a] == columns[used[0]] and sum(bool(other[used[0]]) for other in matrix) == 1:
            out.append((a, used[0]))
    return out


def kept_axes(before: Sequence[int], after: Sequence[int]) -> list[tuple[int, int]]:
    """Axes that a reshape leaves: of one length, with as many elements before them."""
    places = {(prod(before[:a]), n): a for a, n in enumerate(before) if n > 1}
    return [(places[key], k) for k, n in enumerate(after) if (key := (prod(after[:k]), n)) in places]


def _through(value: ir.Value, axis: int) -> list[Axis]:
    """The axis, and where groups of channels were split apart, that of all channels before."""
    op, shape = maker(value), type_of(value).shape
    out = [] if isinstance(value.owner, ir.Block) else [(value, axis)]
    if isinstance(op, ops.Reshape) and axis == 2 and shape[1] > 1 and maker(op.x) is not None:
        whole = type_of(op.x).shape
        if whole[:2] == (shape[0], shape[1] * shape[2]):
            return [(op.x, 1)]
    return out


def _channels_behind(conv: ops.Conv) -> list[Axis]:
    """The result's channels, where it is put back together from groups too."""
    y, out = conv.results[0], [(conv.results[0], 1 if _is_alone(conv) else 2)]
    for use in y.uses:
        op = use.owner.opview
        if isinstance(op, ops.Reshape) and type_of(op.results[0]).shape[:2] == (conv.type.shape[0], conv.type.shape[1] * conv.type.shape[2]):
            out.append((op.results[0], 1))
    return out


# --- whether it pays --------------------------------------------------------------------------------------------------------------------


def _pays(found: Axes, group: dict[ir.Value, int]) -> bool:
    """Whether the convolutions of a group gain more than it costs to bring values into the order and back."""
    made = [v for v, axis in group.items() if found.is_made(v, axis)]
    convs = [op for op in found.block.operations if isinstance(op, ops.Conv) and _touches(op, group) and found.wants(op)]
    gain = sum(_spared(op, found.lanes) if found.lanes else SAVED * _gathered(op, op.results[0] in found.of_filters) for op in convs)
    crossing: dict[ir.Value, None] = {}
    for value in made:
        op = maker(value)
        if op is not None and not isinstance(op, (ops.Conv, ops.Contract)):
            crossing |= dict.fromkeys(r for v in op.operands if (r := _root(v)) not in group and _is_wide(r, value))
        crossing |= dict.fromkeys(value for reader in _readers(value) if not isinstance(reader, Op) or _needs_order(reader, group))
    if found.lanes:
        turned = [op for op in convs if _has_channels_apart(op) and _is_wide_enough(op, found.lanes)]
        crossing |= dict.fromkeys(r for op in turned if (r := _root(op.x)) not in made)
    return gain > (PER_BYTE_OF_VECTORS if found.lanes else PER_BYTE) * sum(type_of(v).bytes for v in crossing)


def _touches(conv: ops.Conv, group: dict[ir.Value, int]) -> bool:
    return conv.results[0] in group or _root(conv.x) in group or _root(conv.w) in group


def _gathered(conv: ops.Conv, of_filters: bool) -> float:
    """Products whose operands come in chunks once the channels are last."""
    x, w = type_of(conv.x).shape, type_of(conv.w).shape
    channels = (x[0], w[1]) if of_filters else (x[2],)
    chunk = gcd(CHUNK, *(c * type_of(conv.x).dtype.bytes for c in channels))
    return conv.type.size * x[2] * prod(w[3:]) * chunk / CHUNK if 2 * chunk >= CHUNK else 0


def _spared(conv: ops.Conv, lanes: int) -> float:
    """Cycles of a core's vectors, each for as many products as it has lanes: by how many fewer are there along channels than along places."""
    *_, row = size = conv.type.shape[3:]
    products = conv.type.size * prod(type_of(conv.w).shape[2:]) * conv.type.dtype.bytes / (4 * lanes * prod(conv.spacing))
    if _is_alone(conv):
        before = BORDERS / _filled(row, conv, lanes)
    elif conv.spacing[-1] > 1:  # a phase's places are neighbours along a row alone
        before = (1 + PACKED) / _filled(-(-row // conv.spacing[-1]), conv, lanes)
    else:
        before = (1 + PACKED) / _filled(prod(size), conv, lanes)
    return products * (before - 1 / _filled(_together(conv), conv, lanes))


def _filled(n: int, conv: ops.Conv, lanes: int) -> float:
    """The part of the vectors' lanes that n values fill."""
    width = lanes * 4 // conv.type.dtype.bytes
    return n / (-(-n // width) * width)


def _is_alone(conv: ops.Conv) -> bool:
    """Whether each channel has a filter of its own."""
    return conv.type.shape[2] == 1 and type_of(conv.w).shape[2] == 1


def _together(conv: ops.Conv) -> int:
    """Channels of the result that are made of the same elements, or each of its own."""
    return conv.type.shape[1] if _is_alone(conv) else conv.type.shape[2]


def _is_narrow(conv: ops.Conv, lanes: int) -> bool:
    """Whether a vector of channels would be idle for the most part."""
    return _filled(_together(conv), conv, lanes) <= 0.5


def _has_channels_apart(conv: ops.Conv) -> bool:
    """Whether what a convolution reads is known to have other neighbours in memory than its channels."""
    return innermost(conv.x) not in (None, 1 if _is_alone(conv) else 2)


def _is_wide_enough(conv: ops.Conv, lanes: int) -> bool:
    """To be laid out with the channels last: of fewer runs of taps are as long."""
    return prod(type_of(conv.x).shape[1:3]) >= lanes // 2


def _root(value: ir.Value) -> ir.Value:
    """What a value is a view of."""
    while isinstance(op := maker(value), VIEWS):
        value = op.operands[0]
    return value


def _is_wide(root: ir.Value, value: ir.Value) -> bool:
    """No constant, and nothing that is spread out: a tensor that has to be turned."""
    return uniform(root) is None and 2 * type_of(root).size >= type_of(value).size


def _readers(value: ir.Value) -> Iterator[ir.OpView]:
    for use in value.uses:
        op = use.owner.opview
        if isinstance(op, VIEWS):
            yield from _readers(op.results[0])
        else:
            yield op


def _needs_order(reader: Op, group: dict[ir.Value, int]) -> bool:
    """Whether a reader of a turned value must bring it back: contractions and folds read any order."""
    return reader.results[0] not in group and not isinstance(reader, (ops.Conv, ops.Contract, ops.Reduce)) if reader.results else True


# --- the new order ----------------------------------------------------------------------------------------------------------------------


@dataclass
class _Rewrite:
    """Makes values anew with the channel axis last; whoever reads the old ones sees the new ones transposed. `channels`: the axis of each value."""

    channels: dict[ir.Value, int]
    found: Axes

    def block(self, block: ir.Block) -> None:
        for op in list(block.operations):
            if not isinstance(op, Op) or len(op.results) != 1:
                continue
            old = op.results[0]
            with ir.InsertionPoint(op), op.location:
                seen = self._seen(op)
            if seen is not None:
                if old in self.channels:
                    self.channels[seen] = self.channels.pop(old)
                old.replace_all_uses_with(seen)
                op.operation.erase()
        remove_dead(block)

    def _seen(self, op: Op) -> ir.Value | None:
        """The op's value as its readers know it, of one made anew; None where it stays."""
        if isinstance(op, ops.Reduce):
            return self._reduce(op)
        y = op.results[0]
        axis = self.channels.get(y)
        if axis is None or not self.found.is_made(y, axis):
            return self._narrow(op) if isinstance(op, ops.Conv) and self.found.lanes else None
        if isinstance(op, ops.Conv):
            return self._conv(op)
        order = _last(type_of(y).rank, axis)
        new = self._anew(op, order)
        keep_precision(op, new)
        return ops.transpose(new, _inverse(order))

    def _conv(self, op: ops.Conv) -> ir.Value:
        """Made as [n, ..., channels]."""
        n, g, o, *size = op.type.shape
        space = len(size)
        vectors = self.found.lanes > 0
        inner = vectors and _has_channels_apart(op)
        if inner and _is_wide_enough(op, self.found.lanes):
            op, inner = _turned(op), False
        new = as_product(op, [0, *range(3, 3 + space), *([1] if g > 1 else []), 2], joined=vectors, taps_inner=inner)
        keep_precision(op, new)
        new = ops.reshape(new, (n, *size, g * o))
        return ops.reshape(ops.transpose(new, [0, space + 1, *range(1, space + 1)]), op.type.shape)

    def _narrow(self, op: ops.Conv) -> ir.Value | None:
        """Of few channels, in their own order: the terms go by the channels of what is read, where these lie last."""
        if innermost(op.x) != 2 or not is_exact(op):
            return None
        new = as_product(op, range(op.type.rank), joined=True)
        keep_precision(op, new)
        return new

    def _reduce(self, op: ops.Reduce) -> ir.Value | None:
        """Over an operand with its channels last; the result has the same axes in the order in which they are then left."""
        axis, rank = self.channels.get(op.x), type_of(op.x).rank
        if axis is None or axis == rank - 1:
            return None
        order = _last(rank, axis)
        new = ops.Reduce.of(ops.transpose(op.x, order), kind=op.kind, axes=[k for k, a in enumerate(order) if a in op.axes])
        keep_precision(op, new)
        left = [a for a in order if a not in op.axes]
        return ops.transpose(new, [left.index(a) for a in sorted(left)])

    def _anew(self, op: Op, order: Sequence[int]) -> ir.Value:
        """The result of an op with its axes in this order."""
        values = op.values()
        if isinstance(op, ops.Contract):
            return ops.Contract.of(*op.operands, **{**values, "out": [op.out[k] for k in order]})
        if isinstance(op, ops.Concat):
            return ops.Concat.of(*[ops.transpose(v, order) for v in op.operands], axis=list(order).index(op.axis))
        if isinstance(op, ops.Fold):
            return self._fold(op, order)
        return type(op).of(*[ops.transpose(v, order) for v in op.operands], **values)

    def _fold(self, op: ops.Fold, order: Sequence[int]) -> ir.Value:
        """A fold into axes of this order, of an operand whose channels are last too."""
        rank = type_of(op.g).rank
        inner = next((_last(rank, k) for a, k in unit_rows(op.matrix, op.shape, type_of(op.g).shape) if a == order[-1]), list(range(rank)))
        strides = [op.matrix[a][k] for a in order for k in inner]
        offsets, shape = ([values[a] for a in order] for values in (op.offsets, op.shape))
        return ops.Fold.of(ops.transpose(op.g, inner), strides=strides, offsets=offsets, shape=shape)


def _turned(conv: ops.Conv) -> ops.Conv:
    """The convolution of pictures that are laid out with their channels last."""
    order = [0, *range(3, type_of(conv.x).rank), 1, 2]
    x = ops.transpose(ops.StopGradient.of(ops.transpose(conv.x, order)), _inverse(order))
    made = maker(ops.Conv.of(x, conv.w, **conv.values()))
    assert isinstance(made, ops.Conv)
    return made


def innermost(value: ir.Value) -> int | None:
    """The axis along which a value's elements are neighbours in memory, seen through views; None where that is no axis."""
    op, t = maker(value), type_of(value)
    if not isinstance(op, VIEWS):
        return t.rank - 1
    axis = innermost(op.x)
    if axis is None or axis < 0:
        return None
    if isinstance(op, ops.View):
        read = op.maps().reads[0][axis]
        return read.axis if isinstance(read, index.Dim) else None
    behind = prod(type_of(op.x).shape[axis + 1 :])  # elements of axes behind it, which stay behind
    return next((k for k, n in enumerate(t.shape) if n > 1 and prod(t.shape[k + 1 :]) == behind), None)


def _last(rank: int, axis: int) -> list[int]:
    return [*(k for k in range(rank) if k != axis), axis]


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(k) for k in range(len(order))]


def keep_precision(op: Op, value: ir.Value) -> None:
    """The mark of the precision pass goes on."""
    made = maker(value)
    if made is not None and PRECISION in op.attributes:
        made.attributes[PRECISION] = op.attributes[PRECISION]
