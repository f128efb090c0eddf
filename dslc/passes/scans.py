"""Scans taken apart: some of their turns, at the insertion point and from other operands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.ops.control import Rows, rows_of
from dslc.ir.types import TensorType, type_of

from .prune import remove_dead
from .regions import clone_into


def slices_of(scan: ops.Scan) -> list[ir.Value]:
    return list(scan.operands)[scan.constants + scan.carries :]


@dataclass(frozen=True)
class Turns:
    """`count` turns from number `first` on, counted from where the sliced tensors begin; there it is turn `base` (None: 0) of the whole scan. Nobody
    reads the numbers of turns unless they are `read`."""

    first: int
    count: int
    read: bool
    base: ir.Value | None = None

    def part(self, first: int, count: int) -> Turns:
        return replace(self, first=self.first + first, count=count)

    def apart(self, count: int) -> tuple[Turns, Turns]:
        """The first ones, and the others."""
        return self.part(0, count), self.part(count, self.count - count)

    def within(self, length: int, base: ir.Value) -> Turns:
        """Those of a segment, where its slices are the sliced tensors; `base` is its `number`."""
        return Turns(0, length, self.read, base if self.read else None)

    def number(self, turn: ir.Value, length: int = 1) -> ir.Value:
        """Of segment `turn` of so many turns, the number in the whole scan of its first turn."""
        if not self.read:
            return turn
        value = turn
        if length != 1:
            value = ops.Mul.of(value, ops.constant(length))
        if self.first:
            value = ops.Add.of(value, ops.constant(self.first))
        return value if self.base is None else ops.Add.of(value, self.base)


@dataclass(frozen=True)
class Stack:
    """A tensor that a scan takes apart; turn 0 of `Turns` is turn `first` of it."""

    value: ir.Value
    first: int = 0


@dataclass(frozen=True)
class Given:
    """A scan's operands as they are called where a part of it is made."""

    constants: tuple[ir.Value, ...]
    carries: tuple[ir.Value, ...]
    slices: tuple[Stack, ...]

    @staticmethod
    def of(scan: ops.Scan) -> Given:
        c, k = scan.constants, scan.carries
        values = tuple(scan.operands)
        return Given(values[:c], values[c : c + k], tuple(map(Stack, values[c + k :])))

    def rows(self, scan: ops.Scan, turns: Turns, length: int = 0) -> list[Rows]:
        """What a scan over some turns takes apart, turn by turn or `length` of them at a time."""
        each = rows_a_turn(scan)
        return [Rows(s.value, max(n, 1) * length if length else n, (s.first + turns.first) * max(n, 1)) for s, n in zip(self.slices, each)]


def reads_turns(scan: ops.Scan) -> bool:
    """Whether the body of a scan reads the number of its turn."""
    return bool(list(scan.regions[0].blocks[0].arguments[0].uses))


def rows_a_turn(scan: ops.Scan) -> list[int]:
    """Of each sliced tensor, as in `Rows.count`."""
    inner = list(scan.regions[0].blocks[0].arguments)[1 + scan.constants + scan.carries :]
    return [type_of(i).shape[0] if type_of(i).rank == type_of(v).rank else 0 for i, v in zip(inner, slices_of(scan))]


def emits_of(scan: ops.Scan) -> list[tuple[TensorType, int]]:
    """The types of what a turn emits, with its rows as in `Rows.count`."""
    yielded = list(list(scan.regions[0].blocks[0].operations)[-1].operands)[scan.carries :]
    stacks = list(scan.results)[scan.carries :]
    return [(type_of(v), rows_of(type_of(s), type_of(v)) or 0 if type_of(v).rank == type_of(s).rank else 0) for v, s in zip(yielded, stacks)]


def in_segments(emits: Iterable[tuple[TensorType, int]], length: int) -> list[tuple[TensorType, int]]:
    """The types of what `length` turns emit, stacked."""
    out = []
    for t, rows in emits:
        stack = t.with_shape((rows * length, *t.shape[1:]) if rows else (length, *t.shape))
        out.append((stack, stack.shape[0]))
    return out


def run(scan: ops.Scan, given: Given, turns: Turns, emits: Sequence[int]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Some turns of a scan as they are, with some of what it emits: (carries, stacks). One turn over all rows there are is no loop."""
    types = emits_of(scan)
    rows = given.rows(scan, turns)
    if turns.count == 1 and all(n for _, n in types) and all(r.count == type_of(r.value).shape[0] for r in rows):
        number = turns.number(ops.constant(0)) if turns.read else ops.constant(0)
        yielded = clone_into(scan.regions[0].blocks[0], [number, *given.constants, *given.carries, *(r.value for r in rows)])
        return yielded[: scan.carries], [yielded[scan.carries + k] for k in emits]
    based = [] if turns.base is None else [turns.base]
    made = ops.Scan.build_in_rows([*given.constants, *based], given.carries, rows, [types[k] for k in emits], turns.count, scan.backward)
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    c = len(given.constants)
    with ir.InsertionPoint(block):
        number = replace(turns, base=inner[c] if based else None).number(turn)
        yielded = clone_into(scan.regions[0].blocks[0], [number, *inner[:c], *inner[c + len(based) :]])
        ops.Yield.of(*yielded[: scan.carries], *(yielded[scan.carries + k] for k in emits))
    remove_dead(block)
    return list(made.results)[: scan.carries], list(made.results)[scan.carries :]


def joined(parts: Sequence[Sequence[ir.Value]]) -> list[ir.Value]:
    """Stacks of consecutive turns as one."""
    parts = [p for p in parts if p]
    if len(parts) == 1:
        return list(parts[0])
    return [ops.Concat.of(*(piece for stack in stacks for piece in _pieces(stack)), axis=0) for stacks in zip(*parts)]


def _pieces(stack: ir.Value) -> list[ir.Value]:
    """What a stack that nobody reads yet was joined of."""
    join = None if isinstance(stack.owner, ir.Block) else stack.owner.opview
    return list(join.operands) if isinstance(join, ops.Concat) and not list(stack.uses) else [stack]


def lean(scan: ops.Scan) -> ops.Scan:
    """The scan without what its body does not read: in its place."""
    block = scan.regions[0].blocks[0]
    given, arguments = Given.of(scan), list(block.arguments)
    c, k = scan.constants, scan.carries
    constants = [n for n in range(c) if list(arguments[1 + n].uses)]
    slices = [n for n in range(len(given.slices)) if list(arguments[1 + c + k + n].uses)]
    if len(constants) == c and len(slices) == len(given.slices):
        return scan
    rows = given.rows(scan, Turns(0, scan.trip, False))
    with ir.InsertionPoint(scan), scan.location:
        made = ops.Scan.build_in_rows(
            [given.constants[n] for n in constants], given.carries, [rows[n] for n in slices], emits_of(scan), scan.trip, scan.backward
        )
    inner = list(made.regions[0].blocks[0].arguments)
    numbers = [0, *(1 + n for n in constants), *range(1 + c, 1 + c + k), *(1 + c + k + n for n in slices)]
    swap = dict(zip(numbers, inner))
    with ir.InsertionPoint(made.regions[0].blocks[0]):
        ops.Yield.of(*clone_into(block, [swap.get(n, inner[0]) for n in range(len(arguments))]))
    for old, new in zip(scan.results, made.results):
        old.replace_all_uses_with(new)
    scan.operation.erase()
    return made
