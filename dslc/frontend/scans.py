"""`scan t carry ...:` as an `nn.scan`: the body is elaborated where it will run, then what it uses from outside becomes operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dslc.core import dtypes
from dslc.core.errors import NameError_, ShapeError, SyntaxError_
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, type_of

from . import syntax as s
from .equations import Equation
from .inner_gradients import bring_in
from .unparse import unparse
from .values import Tensor, Turn, axis_text, number, stored

if TYPE_CHECKING:
    from .frame import Frame

Found = TypeVar("Found", bound=s.Node)


class ScanBuilder:
    """A scan in elaboration. `turn` is the turn's number inside the body."""

    def __init__(self, index: str, trip: int, starts: Sequence[ir.Value], outer_turn: ir.Value | None):
        self.index, self.trip = index, trip
        self.starts = list(starts)
        types = [TensorType(dtypes.INT32, ()), *(type_of(v) for v in self.starts)]
        self.draft = ir.Operation.create("nn.scan_draft", regions=1)
        self.block = self.draft.regions[0].blocks.append(*[t.to_mlir() for t in types], arg_locs=[ir.Location.unknown()] * len(types))
        self.turn = self.block.arguments[0]
        self.slices: list[tuple[ir.Value, ir.Value]] = []  # (stacked outside, slice inside)
        self.outer_turn = outer_turn
        self.emitted: dict[str, Any] = {}
        self.frame: Any = None

    @property
    def carries(self) -> list[ir.Value]:
        return list(self.block.arguments)[1 : 1 + len(self.starts)]

    def random_turn(self) -> ir.Value:
        """The number of the turn among those of all enclosing scans, row-major, the outer ones first."""
        if self.outer_turn is None:
            return self.turn
        size = ops.constant(self.trip)
        return ops.Add.of(ops.Mul.of(self.outer_turn, size), self.turn)

    @contextmanager
    def inside(self) -> Iterator[None]:
        with ir.InsertionPoint(self.block):
            yield

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Just before the scan."""
        with ir.InsertionPoint(self.draft):
            yield

    def is_inner(self, value: ir.Value) -> bool:
        """Made in this body."""
        owner = value.owner
        return (owner if isinstance(owner, ir.Block) else owner.operation.block) == self.block

    def slice(self, stacked: ir.Value) -> ir.Value:
        """The turn's slice of a tensor whose first axis is the turn."""
        for known, inner in self.slices:
            if known == stacked:
                return inner
        t = type_of(stacked)
        inner = self.block.add_argument(t.with_shape(t.shape[1:]).to_mlir(), ir.Location.unknown())
        self.slices.append((stacked, inner))
        return inner

    def finish(self, next_carries: Sequence[ir.Value], emitted: Sequence[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
        """Builds the scan in place of the draft: (last carries, stacks)."""
        scans = [*(self.frame.builder.scans if self.frame else ()), self]
        bring_in(self.block, {inner: (stacked, scan.turn) for scan in scans for stacked, inner in scan.slices})
        captured = self._captured([*next_carries, *emitted])
        with ir.InsertionPoint(self.draft):
            scan = ops.Scan.build(captured, self.starts, [stacked for stacked, _ in self.slices], [type_of(v) for v in emitted], self.trip)
        block = scan.regions[0].blocks[0]
        arguments = list(block.arguments)
        turn, constants = arguments[0], arguments[1 : 1 + len(captured)]
        carries = arguments[1 + len(captured) : 1 + len(captured) + len(self.starts)]
        slices = arguments[1 + len(captured) + len(self.starts) :]
        swap = dict(zip(captured, constants)) | {self.turn: turn} | dict(zip(self.carries, carries)) | dict(zip([i for _, i in self.slices], slices))
        for op in list(self.block.operations):
            op.operation.detach_from_parent()
            block.append(op.operation)
            for k, operand in enumerate(op.operands):
                if operand in swap:
                    op.operands[k] = swap[operand]
        with ir.InsertionPoint(block):
            ops.Yield.of(*[swap.get(v, v) for v in (*next_carries, *emitted)])
        results = list(scan.results)
        self.draft.erase()
        return results[: len(self.starts)], results[len(self.starts) :]

    def _captured(self, yielded: Sequence[ir.Value]) -> list[ir.Value]:
        """Values from outside that the body uses, in order of use."""
        own = set(self.block.arguments)
        for op in self.block.operations:
            own.update(op.results)
        found: dict[ir.Value, None] = {}
        for op in self.block.operations:
            for operand in op.operands:
                if operand not in own:
                    found[operand] = None
        for value in yielded:
            if value not in own:
                found[value] = None
        return list(found)


def emit(frame: Frame, node: s.Emit) -> None:
    """`emit y[..., t] = e`: the scan gives the stack of every turn's value."""
    if not frame.builder.scans or frame.builder.scans[-1].frame is not frame:
        raise SyntaxError_("emit stands outside a scan", node.span)
    builder = frame.builder.scans[-1]
    for item in node.items:
        assert item.target is not None
        if item.target.name in builder.emitted:
            first = builder.emitted[item.target.name][-1]
            raise NameError_(
                f"'{item.target.name}' is emitted twice in one turn", [item.target.span, first], notes=[f"the first one stands at {first}"]
            )
        axes = item.target.axes or ()
        places = [k for k, a in enumerate(axes) if isinstance(a, s.Index) and a.name == builder.index]
        if len(places) != 1:
            raise ShapeError(f"an emitted value has the scan's index among its axes: {item.target.name}[..., {builder.index}, ...]", item.target.span)
        kept = tuple(a for a in axes if not (isinstance(a, s.Index) and a.name == builder.index))
        inner = s.Target(span=item.target.span, name=item.target.name, axes=kept)
        made = Equation(frame, inner, item.span).elaborate(item.value)
        builder.emitted[item.target.name] = (made.value, places[0], axes, item.span)


def scan(frame: Frame, node: s.Scan) -> None:
    """`scan t carry ...:` whole; afterwards the carries' names stand for their last values, the emitted ones for their stacks."""
    trip = _trip(frame, node)
    for k, c in enumerate(node.carries):
        if c.name in [other.name for other in node.carries[:k]]:
            raise NameError_(f"the scan carries '{c.name}' twice", c.span)
    starts = [_carry_start(frame, c) for c in node.carries]
    outer = frame.builder.scans[-1] if frame.builder.scans else None
    builder = ScanBuilder(node.index, trip, starts, outer.random_turn() if outer else None)
    builder.frame = frame
    hidden = dict(frame.names)
    frame.builder.scans.append(builder)
    with builder.inside():
        frame.define(node.index, Turn(builder))
        for c, value in zip(node.carries, builder.carries):
            frame.label(value, [axis_text(a) for a in c.axes or ()], c.span)
            frame.define(c.name, Tensor(value))
        frame.run(node.body)
        following = [_next_carry(frame, c, value) for c, value in zip(node.carries, builder.carries)]
    frame.builder.scans.pop()
    last, stacks = builder.finish(following, [v for v, *_ in builder.emitted.values()])
    frame.names = hidden
    for c, value in zip(node.carries, last):
        frame.define(c.name, Tensor(value))
    for (name, (_, place, axes, span)), stack in zip(builder.emitted.items(), stacks):
        rank = type_of(stack).rank
        order = list(range(1, rank))
        order.insert(place, 0)
        value = ops.transpose(stack, order)
        frame.label(value, [axis_text(a) for a in axes], span)
        frame.define(name, Tensor(value))


def _trip(frame: Frame, node: s.Scan) -> int:
    """The number of turns: the scan's own bound, the dimension of the index's name, or the axis that it alone stands for in what the body reads."""
    if node.bound is not None:
        return frame.size(node.bound)
    named = frame.named_size(node.index)
    if named is not None:
        return named
    made = {t.name for t in _inside(node, s.Target, node.index)} | {c.name for c in node.carries}
    found: list[tuple[int, s.Read]] = []
    for read in _inside(node, s.Read, node.index):
        base = frame.names.get(read.base.name) if isinstance(read.base, s.Name) and read.base.name not in made else None
        if isinstance(base, Tensor):
            found += [(n, read) for n in _alone(read, base.type.shape, node.index)]
    if not found:
        raise ShapeError(f"nothing gives the scan index '{node.index}' a range", node.span, help=f"scan {node.index} < SIZE")
    size, first = found[0]
    for other, read in found[1:]:
        if other != size:
            raise ShapeError(f"the scan index '{node.index}' is {size} in {unparse(first)} but {other} in {unparse(read)}", [first.span, read.span],
                             notes=frame.origins([first, read]), help=f"scan {node.index} < SIZE")  # fmt: skip
    return size


def _inside(node: s.Node, kind: type[Found], index: str) -> Iterator[Found]:
    """The nodes of a kind below one, but for where an equation, a reduction or another scan has an index of that name of its own."""
    for child in s.children(node):
        if isinstance(child, kind):
            yield child
        if not _binds(child, index):
            yield from _inside(child, kind, index)


def _binds(node: s.Node, index: str) -> bool:
    match node:
        case s.Scan():
            return node.index == index
        case s.Assign():
            return any(_names(t.axes or (), index) for t in node.targets)
        case s.Call(function=s.Read(entries=entries)):
            return _names(entries, index)
    return False


def _names(entries: Sequence[s.Node], index: str) -> bool:
    return any(isinstance(e, (s.Name, s.Index)) and e.name == index for e in entries)


def _alone(read: s.Read, shape: Sequence[int], index: str) -> list[int]:
    """The sizes of the axes at which a read has the index alone; none where the number of entries does not fit, which the equation tells."""
    rest = next((k for k, e in enumerate(read.entries) if isinstance(e, s.Rest)), None)
    behind = 0 if rest is None else len(read.entries) - rest - 1
    if len(read.entries) != len(shape) if rest is None else len(read.entries) - 1 > len(shape):
        return []
    before = [*zip(read.entries[:rest], shape)]
    after = [*zip(read.entries[len(read.entries) - behind :], shape[len(shape) - behind :])] if behind else []
    return [n for e, n in (*before, *after) if isinstance(e, s.Name) and e.name == index]


def _carry_start(frame: Frame, c: s.Carry) -> ir.Value:
    value = frame.whole(c.start)
    dtype = frame.dtype_of(c)
    if c.axes is None:
        if c.type and isinstance(value, (int, float)):
            return number(value, dtype)
        tensor = frame.tensor_of(value, c.start.span)
        return ops.cast(tensor.value, dtype) if c.type else tensor.value
    t = TensorType(dtype, frame.shape(c.axes))
    if isinstance(value, Tensor):
        if value.type.rank == 0:
            return ops.spread(ops.cast(value.value, dtype), t)
        if value.type.shape != t.shape:
            raise ShapeError(f"the carry '{c.name}' is {t}, its start {value.type}", c.span)
        return ops.cast(value.value, dtype)
    return number(value, dtype, t.shape)


def _next_carry(frame: Frame, c: s.Carry, old: ir.Value) -> ir.Value:
    value = frame.tensor_of(frame.names[c.name], c.span)
    if value.type.shape != type_of(old).shape:
        raise ShapeError(f"the carry '{c.name}' starts as {type_of(old)} and becomes {value.type}", c.span)
    return stored(value, type_of(old).dtype, f"the carry '{c.name}'", c.span)
