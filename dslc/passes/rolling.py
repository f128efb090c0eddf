"""Carries of a scan that lie in the rows of what it stacks of them: every turn makes the next value one row further on, and nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of

CHUNK = 16  # bytes: a row of another size would put the carry where kernels cannot read it in chunks


@dataclass(frozen=True)
class Roll:
    """A carry of a scan, with the results that stack what it is as a turn begins, and what the turn makes of it.

    All of it is one stretch of memory: the value before the first turn, then what each turn makes, `row` bytes each; a turn goes `stride` bytes on,
    several rows where the scan in it rolls too. With `backward` the first value is the last in memory. Offsets are bytes from its beginning.
    """

    carry: int
    before: int | None
    after: int | None
    row: int
    stride: int
    trip: int
    backward: bool

    @property
    def bytes(self) -> int:
        return self.trip * self.stride + self.row

    @property
    def first(self) -> int:
        """Where the scan begins."""
        return self.trip * self.stride if self.backward else 0

    @property
    def last(self) -> int:
        """Where it ends."""
        return 0 if self.backward else self.trip * self.stride

    @property
    def begin(self) -> int:
        """Where the carry is in turn 0."""
        return self.stride if self.backward else 0

    @property
    def end(self) -> int:
        """Where turn 0 puts the next one."""
        return 0 if self.backward else self.stride

    def places(self) -> dict[int, int]:
        """Of the scan's results: where each begins."""
        found = {self.carry: self.last, self.before: self.row if self.backward else 0, self.after: 0 if self.backward else self.row}
        return {number: at for number, at in found.items() if number is not None}


def rolls_of(scan: ops.Scan) -> list[Roll]:
    """The carries that roll: whose values, before or behind each turn, the scan stacks, or the scan in it whose carry goes on where this one is."""
    c, k = scan.constants, scan.carries
    block = scan.regions[0].blocks[0]
    yielded = list(list(block.operations)[-1].operands)
    found: list[Roll] = []
    for number, (argument, value) in enumerate(zip(list(block.arguments)[1 + c :], yielded[:k])):
        row = type_of(argument).bytes
        if isinstance(value.owner, ir.Block) or value in yielded[:number] or row % CHUNK:
            continue
        for before, after in (*_inner(scan, argument, value), (argument, value)):
            stacks = [_stack_of(v, scan, yielded) for v in (before, after)]
            made = [n for n in stacks if n is not None]
            if made:
                found.append(Roll(number, stacks[0], stacks[1], row, type_of(yielded[made[0]]).bytes, scan.trip, scan.backward))
                break
    return [roll for roll in found if roll.trip * roll.stride]


def _inner(scan: ops.Scan, argument: ir.Value, value: ir.Value) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """The stacks of the scan that goes on with a carry and makes its next value."""
    inner = value.owner.opview
    if not isinstance(inner, ops.Scan) or inner.backward != scan.backward:
        return []
    number, results = list(inner.results).index(value), list(inner.results)
    if number >= inner.carries or inner.operands[inner.constants + number] != argument:
        return []
    return [tuple(None if n is None else results[n] for n in (r.before, r.after)) for r in rolls_of(inner) if r.carry == number]  # type: ignore[misc]


def _stack_of(value: ir.Value | None, scan: ops.Scan, yielded: Sequence[ir.Value]) -> int | None:
    """The result that stacks a value; none where that is to be a part of something else."""
    numbers = [n for n in range(scan.carries, len(yielded)) if value is not None and yielded[n] == value]
    return next((n for n in numbers if joined_to(scan.results[n]) is None), None)


def joined_to(stack: ir.Value) -> ops.Kernel | None:
    """The kernel that only puts a stack of a scan behind those of others, which nothing else reads."""
    join = next((use.owner.opview for use in stack.uses), None)
    return join if isinstance(join, ops.Kernel) and joins_stacks(join) else None


def joins_stacks(kernel: ops.Kernel) -> bool:
    """Whether a kernel only puts stacks of scans, which nothing else reads, one behind the other."""
    block = kernel.regions[0].blocks[0]
    join, *more = block.operations
    if len(more) != 1 or not isinstance(join, ops.Concat) or join.axis != 0 or list(join.operands) != list(block.arguments):
        return False
    return all(len(list(v.uses)) == 1 and _is_stack(v) for v in kernel.operands)


def _is_stack(value: ir.Value) -> bool:
    scan = None if isinstance(value.owner, ir.Block) else value.owner.opview
    return isinstance(scan, ops.Scan) and list(scan.results).index(value) >= scan.carries
