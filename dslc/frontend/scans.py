"""`scan t carry ...:` as an `nn.scan`: the body is elaborated where it will run, then what it uses from outside becomes operands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import NameError_, ShapeError, SyntaxError_
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, type_of

from . import syntax as s
from .equations import Equation
from .unparse import unparse
from .values import Tensor, Turn, axis_text, check_kind, number

if TYPE_CHECKING:
    from .frame import Frame


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
    trip = frame.size(node.bound) if node.bound is not None else frame.named_size(node.index)
    if trip is None:
        trip = _size_by_reads(frame, node)
    if trip is None:
        raise ShapeError(f"nothing gives the scan index '{node.index}' a range", node.span, help=f"scan {node.index} < SIZE")
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


def _size_by_reads(frame: Frame, node: s.Scan) -> int | None:
    """The axis at which the scan's index stands alone in reads of what was there before the scan; all such axes are equal."""
    found: dict[str, int] = {}
    for read in _reads_at(node.body, node.index):
        value = frame.names.get(read.base.name) if isinstance(read.base, s.Name) else None
        if not isinstance(value, Tensor) or len(read.entries) != value.type.rank:
            continue  # of the scan itself, or told of where it is elaborated
        for entry, n in zip(read.entries, value.type.shape):
            if isinstance(entry, s.Name) and entry.name == node.index:
                found[unparse(read)] = n
    if len(set(found.values())) > 1:
        sizes = ", ".join(f"{n} in {text}" for text, n in found.items())
        raise ShapeError(f"the scan index '{node.index}' is {sizes}", node.span, help=f"scan {node.index} < SIZE")
    return next(iter(found.values()), None)


def _reads_at(node: Any, name: str) -> Iterator[s.Read]:
    """Reads in which the name can be the scan's index: outside equations and reductions that bind it themselves."""
    if isinstance(node, tuple):
        for part in node:
            yield from _reads_at(part, name)
        return
    if not isinstance(node, s.Node) or name in _bound_by(node):
        return
    if isinstance(node, s.Read):
        yield node
    for field in fields(node):
        yield from _reads_at(getattr(node, field.name), name)


def _bound_by(node: s.Node) -> list[str]:
    """The indices that an equation's left side or a reduction binds."""
    if isinstance(node, s.Assign):
        return [a.name for target in node.targets for a in target.axes or () if isinstance(a, s.Index)]
    if isinstance(node, s.Call) and isinstance(node.function, s.Read):
        bare = [e.operands[0] if isinstance(e, s.Compare) else e for e in node.function.entries]
        return [e.name for e in bare if isinstance(e, s.Name)]
    return []


def _carry_start(frame: Frame, c: s.Carry) -> ir.Value:
    value = frame.whole(c.start)
    dtype = frame._dtype(c)
    if c.axes is None:
        if c.type and isinstance(value, (int, float)):
            return number(value, dtype)
        tensor = frame._tensor(value, c.start.span)
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
    value = frame._tensor(frame.names[c.name], c.span)
    if value.type.shape != type_of(old).shape:
        raise ShapeError(f"the carry '{c.name}' starts as {type_of(old)} and becomes {value.type}", c.span)
    check_kind(value.type, type_of(old), f"the carry '{c.name}'", c.span)
    return ops.cast(value.value, type_of(old).dtype)
