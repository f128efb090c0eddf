"""Reading a program at one position of time: the ops that compute the last `reach` positions of a value, for each row of a batch its own position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dslc.core import dtypes
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.types import TensorType, type_of

from .timeflow import Flow, Masks, all_of_time, cannot_follow, exact, looks_ahead

Want = dict[int, int]
"""Axis: reach. The axis then holds the positions p - reach + 1 .. p, p being the row's position; axes that are not named are whole."""


@dataclass(frozen=True)
class Piece:
    """What a value is at the position. `lead`: it has one more axis in front, over the rows of the batch."""

    value: ir.Value
    lead: bool = False


class Past(Protocol):
    """Where earlier positions come from: caches in a step, the whole window in a prefill."""

    def token(self, rows: Rows, value: ir.Value) -> ir.Value:
        """A time input at the position, its time axis of extent 1."""
        ...

    def window(self, rows: Rows, value: ir.Value, axis: int, reach: int | None, lane: int | None) -> ir.Value:
        """All positions up to this one (reach None; later ones are anything finite), or the last `reach`."""
        ...

    def scanned(self, rows: Rows, op: ops.Scan, lanes: Sequence[int | None]) -> list[ir.Value | None]:
        """The values that a scan emits in this turn, with a first axis of extent 1, after the carries (None)."""
        ...

    def folded(self, rows: Rows, op: ops.Cumulative, lane: int | None) -> ir.Value:
        """A running fold at the position."""
        ...


class Rows:
    """Values of a program at a position of each row; see `Want`. `position`: int32 [rows]."""

    def __init__(self, time: Flow, batch: Flow, masks: Masks, past: Past, position: ir.Value, length: int) -> None:
        self.time, self.batch, self.masks, self.past, self.position, self.length = time, batch, masks, past, position, length
        self.lanes = type_of(position).shape[0]
        self._memo: dict[Any, Piece] = {}

    def at(self, value: ir.Value, want: Want, lane: int | None) -> Piece:
        """The value at the wanted axes. `lane`: its axis over the rows of the batch; a result without one may get a leading one."""
        lane = None if self.lanes == 1 else lane  # one row has one position, and needs no axis
        key = (value, tuple(sorted(want.items())), lane)
        found = self._memo.get(key)
        if found is None:
            found = self._made(value, want, lane)
            if found.lead and self.lanes == 1:
                found = Piece(ops.pick(found.value, 0, 0))
            elif found.lead and lane is not None:
                found = Piece(_diagonal(found.value, lane))
            self._memo[key] = found
        return found

    def plain(self, value: ir.Value, want: Want, lane: int | None) -> ir.Value:
        """The same where no leading axis can be."""
        piece = self.at(value, want, lane)
        if piece.lead:
            raise cannot_follow(value.owner.opview, "a value here depends on the position and has no batch axis")
        return piece.value

    def _made(self, value: ir.Value, want: Want, lane: int | None) -> Piece:
        owner = value.owner
        op = None if isinstance(owner, ir.Block) else owner.opview
        if self.time.touched(value):
            axes = self.time.axes(value)
            if self.lanes > 1 and (lane is None or self.batch.axes(value) != {lane}):
                raise cannot_follow(op, "rows of the batch are mixed") if op else AssertionError("an input without a batch axis")
            open_ = [a for a in axes if want.get(a) != 1]
            if op and any(type_of(value).shape[a] < self.length for a in axes):
                raise cannot_follow(op, "fewer positions than the input has")
            if len(open_) == 1 and len(axes) == 1 and set(want) <= axes and not self._passes(op, open_[0]):
                return Piece(self.past.window(self, value, open_[0], want.get(open_[0]), lane))
            if op is None:
                return Piece(self.past.token(self, value))
            if not axes:
                raise all_of_time(self.time, op)
            if len(open_) == len(axes) > 1:
                raise cannot_follow(op, "all pairs of positions are needed at once")
        if op is None:
            return self.taken(Piece(value), want)
        with op.location:
            rule = _RULES.get(type(op)) or (_elementwise if op.structure == "elementwise" else None)
            if rule is None:
                return self._fallback(op, value, want)
            made = rule(self, op, value, want, lane)
        _keep_precision(op, made.value)
        return made

    def _passes(self, op: Op | None, axis: int) -> bool:
        """True for a view that places the time axis elsewhere of what is not larger: what it reads is kept."""
        if not isinstance(op, (ops.View, ops.Reshape)) or exact(op.maps().reads[0], axis) is None:
            return False
        return type_of(op.operands[0]).size <= op.type.size

    def _fallback(self, op: Op, value: ir.Value, want: Want) -> Piece:
        if self.time.touched(value):
            raise cannot_follow(op, f"'{op._op_name}' over time")
        return self.taken(Piece(value), want)

    # --- positions

    def times(self, reach: int) -> ir.Value:
        """int32 [rows, reach]: the positions p - reach + 1 .. p."""
        t = TensorType(dtypes.INT32, (self.lanes, reach))
        spread = ops.broadcast(self.position, t.shape, [0])
        return spread if reach == 1 else ops.Add.of(spread, ops.Sub.of(ops.Iota.of(axis=1, shape=t.shape, dtype=t.dtype), ops.full(t, reach - 1)))

    def taken(self, piece: Piece, want: Want) -> Piece:
        """The wanted positions of a whole value, gathered; zeros before the first one."""
        for axis, reach in sorted(want.items()):
            x = piece.value
            rank, at = type_of(x).rank, axis + piece.lead
            front = [0, at] if piece.lead else [at]
            order = [*front, *(k for k in range(rank) if k not in front)]
            y = ops.Gather.of(ops.transpose(x, order), self.times(reach), batch=int(piece.lead), outside=0.0)  # [rows, reach, rest]
            back = [0] + [0] * (rank - piece.lead)
            back[1 + axis] = 1
            for k, other in enumerate(a for a in range(rank - piece.lead) if a != axis):
                back[1 + other] = 2 + k
            piece = Piece(ops.transpose(y, back), True)
        return piece

    def last(self, value: ir.Value, want: Want, lane: int | None) -> ir.Value:
        """The wanted positions of a whole value that has a batch axis."""
        found = self.taken(Piece(value), want).value
        return ops.pick(found, 0, 0) if lane is None else _diagonal(found, lane)

    def spread(self, x: ir.Value, t: TensorType, lane: int | None, axes: Sequence[int] = ()) -> ir.Value:
        """x [rows, ...] over the shape of t: the rows along the axis `lane`, the others along `axes`."""
        if lane is None:
            return ops.broadcast(ops.pick(x, 0, 0), t.shape, axes)
        return ops.broadcast(x, t.shape, [lane, *axes])

    def started(self, x: ir.Value, reach: int, lane: int | None, axis: int, before: float | int | bool) -> ir.Value:
        """x, whose `axis` holds the last `reach` positions, with `before` where these lie before the first one."""
        if reach == 1:
            return x
        t = type_of(x)
        times = self.times(reach)
        inside = ops.Compare.of(times, ops.full_like(times, 0), predicate="ge")
        return ops.Select.of(self.spread(inside, t, lane, [axis]), x, ops.full(t, before))

    def first(self, t: TensorType, lane: int | None) -> ir.Value:
        """bool of shape t: true for the rows that are at their first position."""
        return self.spread(ops.Compare.of(self.position, ops.full_like(self.position, 0), predicate="eq"), t, lane)

    def reach(self, op: Op, value: ir.Value, axis: int, want: Want, neutral: Sequence[float]) -> tuple[int, float]:
        """How far back a fold over the time axis `axis` of its operand reaches, by the masks, and what the masked rest is."""
        for i in (a for a, n in want.items() if n == 1 and a != axis):
            for constant in neutral:
                found = self.masks.reach(value, i, axis, constant)
                if found is not None:
                    return found, constant
        raise looks_ahead(op, f"{op._op_name} over time, and no mask is proved to hide what comes later")


def _diagonal(x: ir.Value, lane: int) -> ir.Value:
    """[rows, ..., rows at lane, ...] where the two are one row."""
    shape = type_of(x).shape[1:]
    rows = [[int(k == lane) for k in range(len(shape))], *([int(k == a) for k in range(len(shape))] for a in range(len(shape)))]
    return ops.view(x, rows, [0] * len(rows), shape)


def _resized(shape: Sequence[int], want: Want) -> tuple[int, ...]:
    return tuple(want.get(a, n) for a, n in enumerate(shape))


def _keep_precision(op: Op, made: ir.Value) -> None:
    """What stands for an op computes as that was told to."""
    if PRECISION in op.attributes and not isinstance(made.owner, ir.Block) and made.owner.name == op.operation.name:
        made.owner.attributes[PRECISION] = op.attributes[PRECISION]


def _leading(pieces: Sequence[Piece], lanes: int) -> tuple[list[ir.Value], bool]:
    """All with a leading axis where one has it."""
    if not any(p.lead for p in pieces):
        return [p.value for p in pieces], False
    out = []
    for p in pieces:
        t = type_of(p.value)
        out.append(p.value if p.lead else ops.broadcast(p.value, (lanes, *t.shape), range(1, t.rank + 1)))
    return out, True


def _elementwise(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    values, lead = _leading([rows.at(v, want, lane) for v in op.operands], rows.lanes)
    return Piece(type(op).of(*values, **op.values()), lead)


def _constant(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    t = op.type
    if op.uniform is not None:
        return Piece(ops.full(t.with_shape(_resized(t.shape, want)), op.uniform, op.exact))
    return rows._fallback(op, value, want)


def _iota(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    shape = _resized(op.shape, want)
    if op.axis not in want:
        return Piece(ops.Iota.of(axis=op.axis, shape=shape, dtype=op.dtype))
    return Piece(ops.broadcast(ops.cast(rows.times(want[op.axis]), op.dtype), (rows.lanes, *shape), [0, 1 + op.axis]), True)


def _view(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    """Each axis of the operand that is read at `time + rest` is needed from the least rest on; a rest above 0 looks ahead."""
    x, shape, matrix = op.operands[0], _resized(op.shape, want), [list(r) for r in op.matrix]
    timed, touched = rows.time.axes(x), rows.time.touched(x)
    offsets, inner, guards = list(op.offsets), {}, []
    for k, row in enumerate(matrix):
        named = [q for q in want if row[q]]
        others = index.bounds(_affine(row, offsets[k], set(named)), op.shape)
        if not named:
            if k in timed and not any(row[q] for q in rows.time.axes(value)) and others[1] > 0:
                raise looks_ahead(op, f"position {others[1]} is read at every time")
            continue
        simple = len(named) == 1 and row[named[0]] == 1
        if touched and (not simple or others[1] > 0):
            raise looks_ahead(op, f"up to {others[1]} positions ahead are read") if others[1] > 0 else cannot_follow(op, "a stride along time")
        if not simple or (others != (0, 0) and not touched):
            return rows.taken(Piece(value), want)
        if type_of(x).shape[k] != op.shape[named[0]] and not touched:
            return rows.taken(Piece(value), want)
        reach = want[named[0]]
        inner[k] = reach - others[0]
        if others[0] < 0:
            guards.append((k, list(row), op.offsets[k], reach))
            offsets[k] += inner[k] - reach
    source = None if lane is None else next((k for k, r in enumerate(matrix) if r[lane] == 1 and sum(map(bool, r)) == 1), None)
    piece = rows.at(x, inner, source)
    if not piece.lead:
        made = Piece(ops.view(piece.value, matrix, offsets, shape, op.outside))
    elif lane is not None:
        made = Piece(ops.view(piece.value, [[int(q == lane) for q in range(len(shape))], *matrix], [0, *offsets], shape, op.outside))
    else:
        wide = [[1, *([0] * len(shape))], *([0, *r] for r in matrix)]
        made = Piece(ops.view(piece.value, wide, [0, *offsets], (rows.lanes, *shape), op.outside), True)
    for _, row, offset, reach in guards:
        made = Piece(_bounded(rows, made.value, row, offset, want, reach, lane, op.outside), made.lead)
    return made


def _affine(row: Sequence[int], offset: int, without: set[int]) -> index.Expr:
    e: index.Expr = index.Const(offset)
    for q, f in enumerate(row):
        e = e + index.Dim(q) * (0 if q in without else f)
    return e


def _bounded(rows: Rows, y: ir.Value, row: list[int], offset: int, want: Want, reach: int, lane: int | None, outside: float) -> ir.Value:
    """y with `outside` where the position that it was read at lies before the first one."""
    t = type_of(y)
    axis = next(q for q in want if row[q])
    place = rows.spread(rows.times(reach), t, lane, [axis])
    for q, f in enumerate(row):
        if f and q != axis:
            number = ops.Iota.of(axis=q, shape=t.shape, dtype=dtypes.INT32)
            place = ops.Add.of(place, number if f == 1 else ops.Mul.of(number, ops.full_like(number, f)))
    inside = ops.Compare.of(place, ops.full_like(place, -offset), predicate="ge")
    return ops.Select.of(inside, y, ops.full(t, outside))


def _reshape(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    reads = op.maps().reads[0]
    inner = {k: n for a, n in want.items() if (k := exact(reads, a)) is not None}
    source = None if lane is None else exact(reads, lane)
    if len(inner) != len(want) or (lane is not None and rows.time.touched(value) and source is None):
        return rows._fallback(op, value, want)
    piece = rows.at(op.operands[0], inner, source)
    shape = _resized(op.shape, want)
    made = Piece(ops.reshape(piece.value, (rows.lanes, *shape) if piece.lead else shape), piece.lead)
    return made


def _concat(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    if op.axis in want or (rows.time.touched(value) and op.axis in rows.time.axes(value)):
        return rows._fallback(op, value, want)
    values, lead = _leading([rows.at(v, want, lane) for v in op.operands], rows.lanes)
    return Piece(ops.Concat.of(*values, axis=op.axis + lead), lead)


def _gather(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    table, batch, rank = op.operands[0], op.batch, type_of(op.operands[1]).rank
    count = len(op.operands) - 1
    if any(batch <= a < batch + count for a in rows.time.axes(table)):
        return rows._fallback(op, value, want) if not rows.time.touched(value) else _refuse(op)
    ids_want = {a: n for a, n in want.items() if a < rank}
    table_want = {a if a < batch else a - rank + batch + count: n for a, n in want.items() if a < batch or a >= rank}
    if (lane is not None and lane >= rank) or (table_want and not rows.time.touched(table) and any(a < batch for a in table_want)):
        return rows._fallback(op, value, want)
    ids = [rows.at(v, ids_want, lane) for v in list(op.operands)[1:]]
    source = rows.at(table, table_want, lane if lane is not None and lane < batch else None)
    values, lead = _leading(ids, rows.lanes)
    if not lead and source.lead:
        if lane == 0 and batch == 0:  # the lane of the ids is the leading axis of the table
            return Piece(ops.Gather.of(source.value, *values, batch=1, outside=op.outside))
        values, lead = _leading([Piece(v) for v in values] + [Piece(values[0], True)], rows.lanes)[0][:-1], True
    if not lead:
        return Piece(ops.Gather.of(source.value, *values, batch=batch, outside=op.outside))
    if batch == 0 and not source.lead:
        return Piece(ops.Gather.of(source.value, *values, batch=0, outside=op.outside), True)
    both, _ = _leading([source, Piece(values[0], True)], rows.lanes)
    return Piece(ops.Gather.of(both[0], *values, batch=batch + 1, outside=op.outside), True)


def _scatter(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    """Each position scatters what is its own: its time, and its row of the batch, are no scattered axes."""
    rank, first = type_of(op.operands[1]).rank, op.batch + len(op.sizes)
    if lane is not None and lane >= op.batch:
        return rows._fallback(op, value, want)
    of_ids = {a: n for a, n in want.items() if a < op.batch}
    of_values = {a if a < op.batch else a - first + rank: n for a, n in want.items()}
    pieces = [rows.at(op.operands[0], of_values, lane), *(rows.at(v, of_ids, lane) for v in list(op.operands)[1:])]
    values, lead = _leading(pieces, rows.lanes)
    return Piece(ops.Scatter.of(*values, kind=op.kind, batch=op.batch + lead, sizes=op.sizes), lead)


def _refuse(op: Op) -> Piece:
    raise cannot_follow(op, "positions are chosen by data, and nothing proves that they are past")


def _contract(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    numbers = {op.out[a]: n for a, n in want.items()}
    sides = list(zip(op.operands, (op.lhs, op.rhs)))
    guards: list[tuple[int, int, int, float]] = []  # operand, index, reach, what is before
    for summed in op.summed:
        if not any(axes.index(summed) in rows.time.axes(v) for v, axes in sides):
            continue
        reach, side = _summed_reach(rows, op, sides, summed, numbers)
        if reach < rows.length:
            numbers[summed] = max(reach, 1)
            guards.append((side, summed, numbers[summed], 0.0))
    group = None if lane is None else op.out[lane]
    made, all_axes = [], []
    extra = max([*op.lhs, *op.rhs]) + 1
    for n, (v, axes) in enumerate(sides):
        mine = axes.index(group) if group is not None and group in axes else None
        piece = rows.at(v, {axes.index(i): r for i, r in numbers.items() if i in axes}, mine)
        here = ([group if group is not None else extra] if piece.lead else []) + list(axes)
        x = piece.value
        for side, summed, reach, before in guards:
            if side == n and reach > 1:
                x = rows.started(x, reach, None if group is None else here.index(group), here.index(summed), before)
        made.append(x)
        all_axes.append(here)
    lead = any(extra in axes for axes in all_axes)
    out = [*([extra] if lead else []), *op.out]
    return Piece(ops.Contract.of(*made, lhs=all_axes[0], rhs=all_axes[1], out=out, dtype=op.dtype, tf32=op.tf32), lead)


def _summed_reach(rows: Rows, op: Op, sides: Sequence[Any], summed: int, numbers: Want) -> tuple[int, int]:
    for n, (v, axes) in enumerate(sides):
        local = {axes.index(i): r for i, r in numbers.items() if i in axes}
        for i in (a for a, r in local.items() if r == 1 and axes[a] != summed):
            found = rows.masks.reach(v, i, axes.index(summed), 0.0)
            if found is not None:
                return found, n
    raise looks_ahead(op, "a sum over time, and no mask is proved to hide what comes later")


def _reduce(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    x = op.operands[0]
    kept = [k for k in range(type_of(x).rank) if k not in op.axes]
    inner, guards = {kept[a]: n for a, n in want.items()}, []
    for axis in sorted(set(op.axes) & rows.time.axes(x)):
        reach, masked = rows.reach(op, x, axis, inner, [float(ops.identity(op.kind, type_of(x).dtype))])
        if reach < rows.length:
            inner[axis] = max(reach, 1)
            guards.append((axis, inner[axis], masked))
    source = None if lane is None else kept[lane]
    piece = rows.at(x, inner, source)
    y = piece.value
    for axis, reach, masked in guards:
        y = rows.started(y, reach, source, axis + piece.lead, masked)
    return Piece(ops.Reduce.of(y, kind=op.kind, axes=[a + piece.lead for a in op.axes]), piece.lead)


def _softmax(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    x, inner = op.operands[0], dict(want)
    if op.axis in rows.time.axes(x):
        reach, _ = rows.reach(op, x, op.axis, want, [-np.inf])
        if inner.get(op.axis, rows.length) < reach:
            raise cannot_follow(op, "a part of a softmax over time")
    elif op.axis in want:
        return rows._fallback(op, value, want)
    piece = rows.at(x, inner, lane)
    y = piece.value
    if op.axis in inner:
        y = rows.started(y, inner[op.axis], lane, op.axis + piece.lead, -np.inf)
    return Piece(type(op).of(y, axis=op.axis + piece.lead), piece.lead)


def _conv(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    x, w = op.operands
    spaces = [a for a in want if a >= 3]
    if rows.time.touched(w) or len(spaces) != 1 or len(want) != 1 or lane not in (0, None):
        return rows._fallback(op, value, want)
    axis, s = spaces[0], spaces[0] - 3
    ahead = (type_of(w).shape[axis] - 1) * op.dilation[s] - op.low[s]
    if ahead > 0:
        raise looks_ahead(op, f"a convolution over time reads {ahead} positions ahead")
    if op.stride[s] != 1 or op.spacing[s] != 1:
        raise cannot_follow(op, "a convolution with a stride along time")
    reach = want[axis] + op.low[s]
    y = rows.started(rows.plain(x, {axis: reach}, lane), reach, lane, axis, 0.0)
    values = op.values() | {
        "low": [0 if k == s else n for k, n in enumerate(op.low)],
        "size": [want[axis] if k == s else n for k, n in enumerate(op.size)],
    }
    return Piece(ops.Conv.of(y, w, **values))


def _scan(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    if not rows.time.touched(value):
        return rows._fallback(op, value, want)
    number = list(op.results).index(value)
    if number < op.carries:
        raise looks_ahead(op, "what a scan ends with is known after all of time")
    if op.backward:
        raise looks_ahead(op, "a scan runs over time from its end")
    if want != {0: 1} or op.trip != rows.length:
        raise cannot_follow(op, "a scan inside of time")
    lanes: list[int | None] = []
    for k in range(op.carries):
        axes = rows.batch.axes(list(op.regions[0].blocks[0].arguments)[1 + op.constants + k])
        if len(axes) != 1 and rows.lanes > 1:
            raise cannot_follow(op, "a carry of a scan that has no batch axis")
        lanes.append(None if rows.lanes == 1 else next(iter(axes)))
    found = rows.past.scanned(rows, op, lanes)
    for result, made in zip(op.results, found):
        if made is not None:
            rows._memo[(result, ((0, 1),), lane)] = Piece(made)
    made = found[number]
    assert made is not None
    return Piece(made)


def _cumulative(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    if op.axis not in rows.time.axes(op.operands[0]):
        if op.axis in want:
            return rows._fallback(op, value, want)
        piece = rows.at(op.operands[0], want, lane)
        return Piece(ops.Cumulative.of(piece.value, **(op.values() | {"axis": op.axis + piece.lead})), piece.lead)
    if op.reverse:
        raise looks_ahead(op, f"a running {op.kind} from the end of time")
    if want != {op.axis: 1}:
        raise cannot_follow(op, f"a running {op.kind} inside of time")
    return Piece(rows.past.folded(rows, op, lane))


def _along(rows: Rows, op: Op, value: ir.Value, want: Want, lane: int | None) -> Piece:
    """Sorts, transforms and places of the largest along an axis that is not time; the latter along time too, of what a mask leaves of the past."""
    x, drops = op.operands[0], isinstance(op, ops.ArgReduce)
    inner = {a + (drops and a >= op.axis): n for a, n in want.items()}
    if op.axis in rows.time.axes(x):
        if not drops:
            raise looks_ahead(op, f"a {op._op_name} over time")
        rows.reach(op, x, op.axis, inner, [-np.inf if op.kind == "max" else np.inf])
    elif op.axis in inner:
        return rows._fallback(op, value, want)
    source = None if lane is None else lane + (drops and lane >= op.axis)
    pieces, lead = _leading([rows.at(v, inner, source) for v in op.operands], rows.lanes)
    made = type(op).of(*pieces, **(op.values() | {"axis": op.axis + lead}))
    return Piece(made if len(op.results) == 1 else made[list(op.results).index(value)], lead)


Rule = Callable[[Rows, Any, ir.Value, Want, "int | None"], Piece]
_RULES: dict[type[Op], Rule] = {
    ops.Constant: _constant, ops.Iota: _iota, ops.View: _view, ops.Reshape: _reshape, ops.Concat: _concat, ops.Gather: _gather, ops.Scatter: _scatter,
    ops.Contract: _contract, ops.Reduce: _reduce, ops.Softmax: _softmax, ops.LogSoftmax: _softmax, ops.Conv: _conv, ops.Scan: _scan,
    ops.Cumulative: _cumulative, ops.Sort: _along, ops.ArgReduce: _along, ops.FFT: _along,
}  # fmt: skip
