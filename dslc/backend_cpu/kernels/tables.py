"""Tables of a stream: each element of a tile is added into one place, in a thread's scratch memory, until its point of the batch is done.

Where the place moves by one with x (`i - j`), a vector goes to neighbouring places at once, in one of as many copies as there are lanes: that of its
first place modulo lanes, so that no load overlaps parts of two stores that are on their way. Where it is any number, each lane has places of its
own. Copies and lanes are summed in the end, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.index import Expr
from dslc.ir.streams import Sink, Stream, affine
from dslc.ir.trace import Node, factor_of, symbols_of

from .. import emit
from ..pull import Point
from ..scalars import Val
from ..ssa import Builder, computed

Value = Any  # an ir.Value


@dataclass(frozen=True)
class Table:
    """`size` places; `step`: by how much the place moves with x, 1 or -1, then `at` is it; 0: by any number, the value of `node`."""

    lanes: int
    size: int
    step: int
    at: Expr
    node: Node

    @staticmethod
    def of(stream: Stream, sink: Sink, lanes: int) -> Table:
        assert sink.features is not None and sink.other is not None
        size, at = stream.sizes[sink.features], affine(stream.trace, sink.other)
        if at is not None and not symbols_of(at) and (step := factor_of(at, stream.x)) in (1, -1):
            low, high = index.bounds(at, stream.sizes)
            if low >= 0 and high < size:
                return Table(lanes, size, step or 0, at, sink.other)
        return Table(lanes, size, 0, index.Const(0), sink.other)

    @property
    def width(self) -> int:
        """Values of one of as many rows as there are lanes: a copy with room for lanes behind the last place; or, all rows as one, the places of all
        lanes, and one for what has none."""
        return -(-(self.size + self.lanes) // self.lanes) * self.lanes

    def add(self, b: Builder, memory: emit.Memory, point: Point, value: Value) -> None:
        """Adds a vector of values, of which lanes that do not exist may be anything."""
        if self.step:
            self._add_run(b, memory, point, value)
        else:
            self._add_lanes(b, memory, point, value)

    def _add_run(self, b: Builder, memory: emit.Memory, point: Point, value: Value) -> None:
        if point.mask is not None:
            value = b.select(point.mask, value, b.const("f32", 0.0, self.lanes))
        first = point.scalar(self.at)
        if self.step < 0:  # the table lies backwards
            first = emit.isub(self.size - 1, first)
        address = emit.iadd(emit.imul(emit.irem(first, self.lanes), self.width), first)
        memory.store(b.same("arith.addf", memory.load([address], self.lanes), value), [address])

    def _add_lanes(self, b: Builder, memory: emit.Memory, point: Point, value: Value) -> None:
        place = point.value(self.node)
        kind = computed(place.dtype)
        many = place.ssa if place.lanes > 1 else b.spread(place.ssa, kind, self.lanes)
        inside = b.compare("lt", many, b.const(kind, self.size, self.lanes), "uint", self.lanes)
        if point.mask is not None:
            inside = b.same("arith.andi", inside, point.mask)
        many = b.select(inside, many, b.const(kind, self.size, self.lanes))
        for lane in range(self.lanes):
            address = emit.iadd(emit.imul(b.to("arith.index_cast", emit.extract(many, lane), "index", 1), self.lanes), lane)
            memory.store(b.same("arith.addf", memory.load([address]), emit.extract(value, lane)), [address])

    def total(self, b: Builder, memory: emit.Memory, place: Value) -> Val:
        """The sum in one place."""
        if self.step < 0:
            place = emit.isub(self.size - 1, place)
        total = None
        for lane in range(self.lanes):
            address = emit.iadd(lane * self.width, place) if self.step else emit.iadd(emit.imul(place, self.lanes), lane)
            part = memory.load([address])
            total = part if total is None else b.same("arith.addf", total, part)
        return Val(total, FLOAT32, 1)
