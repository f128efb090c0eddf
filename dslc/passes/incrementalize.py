"""incrementalize: from a program that is causal in time to the program of one position, with caches; and to the one that fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dslc.core import dtypes
from dslc.core.errors import Span, UnsupportedOp
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, program_of, results_of
from dslc.ir.types import TensorType, spans_of, type_of

from .prune import drop_arguments, remove_dead
from .regions import clone_into
from .rows import Rows
from .timeflow import Flow, Masks, all_of_time, cannot_follow

POSITION = "position"  # int32 [rows]: the place in its sequence of the token whose output is wanted
COMBINE: dict[str, Callable[..., ir.Value]] = {"sum": ops.Add.of, "prod": ops.Mul.of, "max": ops.Max.of, "min": ops.Min.of}


@dataclass(frozen=True)
class Incrementalize:
    """Makes `output` the row of one position of time. Inputs: `inputs` names those with time, each [batch, time, ...]; `position` is new.

    A step takes them with a time of 1 and holds what it needs of the past in states named `cache.N`. A prefill takes them whole, fills the
    same states and gives the output at `position`. Each row of the batch has a position of its own.
    `room`: the length of caches that keep every position, where steps are made for a longer time than the program's own.
    Errors: UnsupportedOp at the line that looks ahead, or for which there is no rule.

    before: f(tokens[b, t]) -> logits[b, t, v]      after: f(tokens[b, 1], position[b], cache.0, ...) -> logits[b, v], cache.0, ...
    """

    inputs: tuple[str, ...]
    output: str
    prefill: bool = False
    room: int | None = None

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        slots, block = arguments_of(program), program.entry_block
        timed = [(s, v) for s, v in zip(slots, block.arguments) if s.name in self.inputs]
        if not timed or any(s.type.rank < 2 or s.type.shape[:2] != timed[0][0].type.shape[:2] for s, _ in timed):
            raise UnsupportedOp("decoding needs inputs with the axes [batch, time, ...]")
        if changed := [v for s, v in results_of(program) if s.role in ("state", "param")]:
            raise UnsupportedOp("the model changes states of its own when it runs", _place(changed[0]))
        length = timed[0][0].type.shape[1]
        room = self.room or length
        _order(block)
        masks = Masks()
        time, batch = Flow(block, {v: 1 for _, v in timed}, masks), Flow(block, {v: 0 for _, v in timed})
        slot, value = next((s, v) for s, v in results_of(program) if s.name == self.output)
        position = add_argument(program, Slot(POSITION, "input", TensorType(dtypes.INT32, (timed[0][0].type.shape[0],)), bounds=(0, length)))
        with ir.InsertionPoint(list(block.operations)[-1]), ir.Location.unknown():
            past: _Filled | _Kept = _Filled(program, position, room) if self.prefill else _Kept(program, position, room, {v: s for s, v in timed})
            rows = Rows(time, batch, masks, past, position, length)
            t = type_of(value)
            if time.touched(value) and not time.axes(value):
                raise all_of_time(time, value.owner.opview)
            if time.axes(value) != {1} or (t.shape[0] > 1 and batch.axes(value) != {0}):
                raise UnsupportedOp(f"'{self.output}' must have the axes [batch, time, ...], with time running along its second axis", _place(value))
            row = rows.plain(value, {1: 1}, 0)
            out = ops.reshape(row, (t.shape[0], *t.shape[2:]))
        finish_program(program, [(Slot(self.output, "output", type_of(out), slot.line), out), *past.results])
        remove_dead(block)
        drop_arguments(program, {POSITION, *(s.name for s, _ in past.results)})


def _place(value: ir.Value) -> list[Span]:
    """The line that makes a value."""
    return [] if isinstance(value.owner, ir.Block) else list(spans_of(value.owner.location)[:1])


def _order(block: ir.Block) -> None:
    """Slices that also permute axes become a slice and a transpose: a cache then keeps the slice in its source's order, each row in one piece."""
    for op in [o for o in block.operations if isinstance(o, ops.View) and o.type.size < type_of(o.operands[0]).size]:
        moving = {a: row for a, row in enumerate(op.matrix) if any(row)}
        kept = {row.index(1): a for a, row in moving.items() if 1 in row and sum(map(abs, row)) == 1}  # the source's axis of each result axis
        order = sorted(kept, key=kept.__getitem__)
        if not len(kept) == len(moving) == op.type.rank or order == sorted(order) or not op.inside:
            continue
        with ir.InsertionPoint(op), op.location:
            rows = [[int(kept.get(order[k]) == a) for k in range(len(order))] for a in range(len(op.matrix))]
            sliced = ops.view(op.operands[0], rows, op.offsets, [op.type.shape[k] for k in order])
            op.results[0].replace_all_uses_with(ops.transpose(sliced, [order.index(k) for k in range(len(order))]))
        op.operation.erase()


class _Caches:
    """Names and collects the states; what a step and a prefill have in common, so that both name them alike."""

    def __init__(self, program: func.FuncOp, position: ir.Value, room: int) -> None:
        self.program, self.position, self.room = program, position, room
        self.results: list[tuple[Slot, ir.Value]] = []
        self._count = 0
        self._windows: dict[tuple[ir.Value, int, int | None], ir.Value] = {}

    def state(self, t: TensorType) -> tuple[Slot, ir.Value]:
        """A new cache and what it holds."""
        slot = Slot(f"cache.{self._count}", "state", t)
        self._count += 1
        return slot, add_argument(self.program, slot)

    def window(self, rows: Rows, value: ir.Value, axis: int, reach: int | None, lane: int | None) -> ir.Value:
        key = (value, axis, reach)
        if key not in self._windows:
            new = rows.plain(value, {axis: 1}, lane)  # a prefill drops it, but its caches are kept
            slot, old = self.state(_with_length(type_of(value), axis, self.room if reach is None else reach - 1))
            found, kept = self.windowed(rows, value, axis, reach, lane, new, old)
            self.results.append((slot, kept))
            self._windows[key] = found
        return self._windows[key]

    def windowed(
        self, rows: Rows, value: ir.Value, axis: int, reach: int | None, lane: int | None, new: ir.Value, old: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """(what is asked for, the cache's next value) for a new row and the cache as it is."""
        raise NotImplementedError


class _Kept(_Caches):
    """The past of a step: linear caches, windows that move along, carries."""

    def __init__(self, program: func.FuncOp, position: ir.Value, room: int, inputs: dict[ir.Value, Slot]) -> None:
        super().__init__(program, position, room)
        self._tokens = {}
        for value, slot in inputs.items():
            t = slot.type.with_shape((slot.type.shape[0], 1, *slot.type.shape[2:]))
            self._tokens[value] = add_argument(program, replace(slot, type=t))

    def token(self, rows: Rows, value: ir.Value) -> ir.Value:
        return self._tokens[value]

    def windowed(
        self, rows: Rows, value: ir.Value, axis: int, reach: int | None, lane: int | None, new: ir.Value, old: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """reach None: the row is written at its position. Else the last reach - 1 rows are kept, and move by one."""
        if reach is not None:
            found = ops.Concat.of(old, new, axis=axis)
            return found, ops.slice_axis(found, axis, 1, reach - 1)
        kept = ops.Put.of(old, new, self.position, axis=axis, lane=-1 if lane is None else lane)
        return kept, kept

    def scanned(self, rows: Rows, op: ops.Scan, lanes: Sequence[int | None]) -> list[ir.Value | None]:
        constants, starts, slices = _scan_operands(rows, op, lanes)
        carries, slots = [], []
        for start, lane in zip(starts, lanes):
            slot, old = self.state(type_of(start))
            slots.append(slot)
            carries.append(ops.Select.of(rows.first(type_of(old), lane), start, old))
        ends = clone_into(op.regions[0].blocks[0], [ops.constant(0), *constants, *carries, *slices])
        self.results += zip(slots, ends)
        return [None] * op.carries + [ops.reshape(v, (1, *type_of(v).shape)) for v in ends[op.carries :]]

    def folded(self, rows: Rows, op: ops.Cumulative, lane: int | None) -> ir.Value:
        x = rows.plain(op.operands[0], {op.axis: 1}, lane)
        slot, old = self.state(type_of(x))
        carry = ops.Select.of(rows.first(type_of(x), lane), ops.full_like(x, ops.identity(op.kind, type_of(x).dtype)), old)
        total = COMBINE[op.kind](carry, x)
        self.results.append((slot, total))
        return carry if op.exclusive else total


class _Filled(_Caches):
    """The past of a prefill: it has the whole window, and leaves in the caches what the steps from `position` + 1 on need."""

    def token(self, rows: Rows, value: ir.Value) -> ir.Value:
        return rows.last(value, {1: 1}, None if rows.lanes == 1 else 0)

    def windowed(
        self, rows: Rows, value: ir.Value, axis: int, reach: int | None, lane: int | None, new: ir.Value, old: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        if reach is None:
            return value, _widened(value, type_of(old))
        return rows.last(value, {axis: reach}, lane), rows.last(value, {axis: reach - 1}, lane)

    def scanned(self, rows: Rows, op: ops.Scan, lanes: Sequence[int | None]) -> list[ir.Value | None]:
        """The scan runs over the whole window; a row's carries stay as they are after its position."""
        _scan_operands(rows, op, lanes)
        c, k = op.constants, op.carries
        operands, emits = list(op.operands), [type_of(v).with_shape(type_of(v).shape[1:]) for v in list(op.results)[k:]]
        made = ops.Scan.build([*operands[:c], self.position], operands[c : c + k], operands[c + k :], emits, op.trip, op.backward)
        inner = list(made.regions[0].blocks[0].arguments)
        with ir.InsertionPoint(made.regions[0].blocks[0]):
            ends = clone_into(op.regions[0].blocks[0], [*inner[: 1 + c], *inner[2 + c :]])
            live = ops.Compare.of(ops.spread(inner[0], type_of(self.position)), inner[1 + c], predicate="le")
            carried = [
                ops.Select.of(rows.spread(live, type_of(end), lane), end, before) for end, before, lane in zip(ends, inner[2 + c : 2 + c + k], lanes)
            ]
            ops.Yield.of(*carried, *ends[k:])
        for last in list(made.results)[:k]:
            self.results.append((self.state(type_of(last))[0], last))
        found: list[ir.Value | None] = [None] * k
        for before, stack in zip(list(op.results)[k:], list(made.results)[k:]):
            found.append(rows.last(stack, {0: 1}, _lane(rows, before)))
        return found

    def folded(self, rows: Rows, op: ops.Cumulative, lane: int | None) -> ir.Value:
        x = rows.plain(op.operands[0], {op.axis: 1}, lane)
        slot, _ = self.state(type_of(x))
        found = rows.last(op.results[0], {op.axis: 1}, lane)
        self.results.append((slot, COMBINE[op.kind](found, x) if op.exclusive else found))
        return found


def _with_length(t: TensorType, axis: int, length: int) -> TensorType:
    return t.with_shape([length if a == axis else n for a, n in enumerate(t.shape)])


def _widened(value: ir.Value, t: TensorType) -> ir.Value:
    """The value with zeros behind it along its axes, up to another shape."""
    rank = t.rank
    same = type_of(value) == t
    return value if same else ops.view(value, [[int(a == k) for k in range(rank)] for a in range(rank)], [0] * rank, t.shape)


def _scan_operands(rows: Rows, op: ops.Scan, lanes: Sequence[int | None]) -> tuple[list[ir.Value], list[ir.Value], list[ir.Value]]:
    """A scan's constants, starting carries, and slices of one turn, at the position."""
    if list(op.regions[0].blocks[0].arguments[0].uses):
        raise cannot_follow(op, "a scan that reads the number of its turn")
    c, k = op.constants, op.carries
    operands = list(op.operands)
    constants = [rows.plain(v, {}, _lane(rows, v)) for v in operands[:c]]
    starts = [rows.plain(v, {}, lane) for v, lane in zip(operands[c : c + k], lanes)]
    slices = []
    for v in operands[c + k :]:
        row = rows.plain(v, {0: 1}, _lane(rows, v))
        slices.append(ops.reshape(row, type_of(row).shape[1:]))
    return constants, starts, slices


def _lane(rows: Rows, value: ir.Value) -> int | None:
    return None if rows.lanes == 1 else next(iter(rows.batch.axes(value)), None)
