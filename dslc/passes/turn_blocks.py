"""turn_blocks: products beside long scans are made block by block of their turns, so that nobody holds their operands for all turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import numpy as np

from dslc.core.dtypes import FLOAT32
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.ops.control import Rows
from dslc.ir.program import functions_of
from dslc.ir.types import TensorType, type_of

from .prune import remove_dead
from .scans import Given, Stack, Turns, emits_of, in_segments, joined, lean, reads_turns, rows_a_turn, run, slices_of


@dataclass(frozen=True)
class TurnBlocks:
    """A long scan and the one that goes back over it run over blocks of turns. A product of what the first takes apart is made for a block at a time
    in front of its turns; products of what the second emits, behind them: those that sum over the turns, gradients of weights, are carried from block
    to block, so their factors are never there for all turns. A block has enough turns for products of at least `terms` terms; shorter scans are left
    alone. Products of `FULL` times as many cost no more than those over all turns: a block has so many turns as long as what is made for it stays
    below a `PART`th of what a budget could save by not keeping all turns. None of this looks at a budget, so what one then computes again is the same
    in every bit: the sums of a program with a budget and of one without have one order.

    before: %z = contract %x, %w; %y = scan over %z; ...; %dz = scan back; %dw = contract %x, %dz
    after:  %y = scan over blocks of %x { %z = contract; scan over %z }; ...; %dw = scan back over blocks { %dz = scan; add %dw, contract %x, %dz }
    """

    terms: int = 256  # fewer cost 4% of a step of an LSTM and more (measured)

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for back in [lean(o) for o in list(program.entry_block.operations) if isinstance(o, ops.Scan)]:
                found = _Found.of(back)
                length = found.length(self.terms) if found is not None else 0
                if found is not None and length:
                    _Rewrite(found, length).write()
            remove_dead(program.entry_block)


FULL = 4
PART = 16


def length_of(turns: int, terms_a_turn: int, terms: int, cheap: int) -> int:
    """Turns of a block: so many that there are `terms` terms, and up to `FULL` times that while they are about `cheap` at most. A number that divides
    all turns if there is one near, and 0 where there would not be two blocks."""
    least, most = (-(-n // max(terms_a_turn, 1)) for n in (terms, FULL * terms))
    if 2 * least > turns:
        return 0
    wanted = max(least, min(most, cheap, turns // 2))
    near = sorted(range(max(least, wanted // 2 + 1), 2 * wanted), key=lambda n: (n < wanted, abs(n - wanted)))
    return next((n for n in near if turns % n == 0 and 2 * n <= turns), wanted)


# --- what is made with the turns


@dataclass(frozen=True)
class _Sunk:
    """An op that is made for a block at a time. `stacks`: those of its operands that have the turns as first axis. `axis`: that of its turns; None
    where it sums over them. What is made of a block has them first."""

    op: Op
    stacks: tuple[ir.Value, ...]
    axis: int | None = 0

    @property
    def sums(self) -> bool:
        return self.axis is None

    @property
    def result(self) -> ir.Value:
        return self.op.results[0]

    @property
    def summed(self) -> TensorType:
        """The type in which sums are carried: 16 bits would lose much of what is added last."""
        return self.op.type.with_dtype(FLOAT32) if self.op.type.dtype.bits == 16 else self.op.type

    def made(self, at: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """The op on other operands."""
        given = self.op.values()
        if self.sums:
            given["dtype"] = self.summed.dtype
        if self.axis:
            given["out"] = [given["out"][n] for n in _order(len(given["out"]), self.axis)]
        with self.op.location:
            value = type(self.op).of(*map(at, self.op.operands), **given)
        if PRECISION in self.op.attributes:
            value.owner.attributes[PRECISION] = self.op.attributes[PRECISION]
        return value


def _order(rank: int, axis: int) -> list[int]:
    """The axes of a tensor, one of them first."""
    return [axis, *(n for n in range(rank) if n != axis)]


def _sunk(op: Op, stack: ir.Value) -> _Sunk | None:
    """The op, where it has a part for each of the turns of the stack, or sums over them."""
    if isinstance(op, ops.Cast):
        return _Sunk(op, (stack,))
    if not isinstance(op, ops.Contract):
        return None
    sides = [list(op.lhs), list(op.rhs)]
    turns = {axes[0] for v, axes in zip(op.operands, sides) if v == stack}
    if len(turns) != 1:
        return None
    (turn,) = turns
    with_turns = [(v, axes) for v, axes in zip(op.operands, sides) if turn in axes]
    if any(axes[0] != turn or axes.count(turn) > 1 for _, axes in with_turns):
        return None
    return _Sunk(op, tuple(v for v, _ in with_turns), list(op.out).index(turn) if turn in op.out else None)


def _is_before(value: ir.Value, op: Op) -> bool:
    owner = value.owner
    return isinstance(owner, ir.Block) or owner.operation.is_before_in_block(op.operation)


@dataclass(frozen=True)
class _Found:
    """A scan, the one back over it, and what is made with their turns: before those of `out`, and after those of `back`."""

    out: ops.Scan
    back: ops.Scan
    before: list[_Sunk]
    after: list[_Sunk]

    @staticmethod
    def of(back: ops.Scan) -> _Found | None:
        """None unless a product that sums over the turns follows."""
        sources = [v.owner.opview for v in slices_of(back) if not isinstance(v.owner, ir.Block) and isinstance(v.owner.opview, ops.Scan)]
        out = next((o for o in sources if o.trip == back.trip and o.backward != back.backward), None)
        if out is None or any(map(_in_rows, (out, back))) or (not out.carries):
            return None
        before, after = _before(out, back), _after(back)
        return _Found(out, back, before, after) if any(s.sums for s in after) else None

    def length(self, terms: int) -> int:
        """Turns of a block."""
        made = {s.result for s in self.before} | {v for s in self.after for v in s.stacks if v in set(self.back.results)}
        kept = {v for v in slices_of(self.back) if v in {*self.out.results, *(s.result for s in self.before)}}
        carried = sum(type_of(v).bytes for v in list(self.out.results)[: self.out.carries])
        saved = sum(type_of(v).bytes for v in kept) - carried
        a_turn = sum(type_of(v).bytes for v in made) // self.back.trip
        return length_of(self.back.trip, self.terms_a_turn(), terms, saved // (PART * max(a_turn, 1)))

    def terms_a_turn(self) -> int:
        sums = [s.op for s in self.after if s.sums]
        return min(prod(op.maps().domain) // max(op.type.size, 1) // self.back.trip for op in sums)


def _in_rows(scan: ops.Scan) -> bool:
    """Whether a scan is one over segments."""
    return any(scan.firsts) or any(rows_a_turn(scan)) or any(rows for _, rows in emits_of(scan))


def _before(out: ops.Scan, back: ops.Scan) -> list[_Sunk]:
    """Products that only these scans take apart, larger than what they are made of."""
    found = []
    scans = (out.operation, back.operation)
    for value in dict.fromkeys([*slices_of(out), *slices_of(back)]):
        op = None if isinstance(value.owner, ir.Block) else value.owner.opview
        if not isinstance(op, ops.Contract) or not _is_before(value, out) or any(use.owner.operation not in scans for use in value.uses):
            continue
        for operand in op.operands:
            sunk = _sunk(op, operand) if type_of(operand).rank and type_of(operand).shape[0] == out.trip else None
            if sunk is not None and sunk.axis == 0 and len(sunk.stacks) == 1 and type_of(operand).bytes < type_of(value).bytes:
                found.append(sunk)
                break
    return found


def _after(back: ops.Scan) -> list[_Sunk]:
    """Products of what a scan emits, and casts on the way to them."""
    stacks = set(list(back.results)[back.carries :])
    found: list[_Sunk] = []
    behind = False
    for op in back.operation.block.operations:
        behind = behind or op.operation == back.operation
        mine = next((v for v in op.operands if v in stacks), None) if behind and isinstance(op, (ops.Contract, ops.Cast)) else None
        sunk = _sunk(op, mine) if mine is not None else None
        if sunk is not None and all(v in stacks or (_is_before(v, back)) for v in op.operands):
            found.append(sunk)
            if sunk.axis == 0:
                stacks.add(sunk.result)
    needed: set[ir.Operation] = set()
    kept = []
    for sunk in reversed(found):  # a cast that no product follows stays where it is
        if isinstance(sunk.op, ops.Contract) or any(use.owner.operation in needed for use in sunk.result.uses):
            kept.append(sunk)
            needed.add(sunk.op.operation)
    return kept[::-1]


# --- rewriting

# makes (carries, values to emit) of where values of the program are, of what the scan is given there, and of the turns
Body = Callable[[Callable[[ir.Value], ir.Value], Given, Turns], tuple[list[ir.Value], list[ir.Value]]]


@dataclass
class _Rewrite:
    """`parts`: of a value with all turns, what there is of it in the blocks, and in the turns behind the last of these."""

    found: _Found
    length: int
    parts: dict[ir.Value, list[ir.Value]] = field(default_factory=dict)

    def write(self) -> None:
        out, back = self.found.out, self.found.back
        everything = Turns(0, out.trip, reads_turns(out) or reads_turns(back))
        whole = out.trip // self.length * self.length
        self.turns = [everything.part(0, whole)]
        if whole < out.trip:
            self.turns.append(everything.part(whole, out.trip - whole))
        self._write_out(out)
        self._write_back(back)
        for sunk in reversed(self.found.after):
            sunk.op.operation.erase()
        back.operation.erase()
        out.operation.erase()
        for sunk in self.found.before:
            sunk.op.operation.erase()

    def _write_out(self, scan: ops.Scan) -> None:
        """Emits what it did, and products for the way back."""
        back = self.found.back
        before = {s.result: s for s in self.found.before}
        mine = [before[v] for v in dict.fromkeys(slices_of(scan)) if v in before]
        mine += [s for s in self.found.before if s not in mine]
        shared = [s.result for s in mine if s.result in slices_of(back)]
        emitted = list(scan.results)[scan.carries :]

        def body(at: Callable[[ir.Value], ir.Value], given: Given, turns: Turns) -> tuple[list[ir.Value], list[ir.Value]]:
            made = {s.result: s.made(at) for s in mine}
            slices = tuple(Stack(made[v], -turns.first) if v in made else s for v, s in zip(slices_of(scan), given.slices))
            carries, stacks = run(scan, Given(given.constants, given.carries, slices), turns, range(len(emitted)))
            return carries, [*stacks, *(made[v] for v in shared)]

        outer = [v for s in mine for v in s.op.operands if v not in s.stacks]
        stacks = [*(v for v in slices_of(scan) if v not in before), *(v for s in mine for v in s.stacks)]
        carries, parts = self._over(scan, [], outer, stacks, [*emitted, *shared], body)
        self.parts.update(zip([*emitted, *shared], parts))
        self._replace(scan, carries, emitted, {back.operation, *(s.op.operation for s in self.found.after)})

    def _write_back(self, scan: ops.Scan) -> None:
        after = self.found.after
        sums = [s for s in after if s.sums]
        emitted = list(scan.results)[scan.carries :]
        given_as, same = _same_emits(scan)
        sunk = {s.op.operation for s in after}
        outside = [v for v in (*emitted, *(s.result for s in after if not s.sums)) if any(use.owner.operation not in sunk for use in v.uses)]

        def body(at: Callable[[ir.Value], ir.Value], given: Given, turns: Turns) -> tuple[list[ir.Value], list[ir.Value]]:
            k = scan.carries
            inner = Given(given.constants, given.carries[:k], given.slices)
            carries, stacks = run(scan, inner, turns, same)
            made = {emitted[n]: stacks[same.index(first)] for n, first in enumerate(_firsts(scan)) if n not in given_as}
            made |= {emitted[n]: at(v) for n, v in given_as.items()}
            totals: list[ir.Value] = []
            for s in after:
                value = s.made(partial(_first_of, made, at))
                if s.sums:
                    totals.append(ops.Add.of(given.carries[k + len(totals)], value) if len(given.carries) > k + len(totals) else value)
                else:
                    made[s.result] = value
            return [*carries, *totals], [made[v] for v in outside]

        made_here = {*emitted, *(s.result for s in after)}
        others = [(v, v in s.stacks) for s in after for v in s.op.operands if v not in made_here]
        stacks = [*slices_of(scan), *(v for v, stacked in others if stacked)]
        carries, parts = self._over(scan, [s.summed for s in sums], [v for v, stacked in others if not stacked], stacks, outside, body)
        k = scan.carries
        for s, total in zip(sums, carries[k:]):
            with ir.InsertionPoint(s.op), s.op.location:
                s.result.replace_all_uses_with(ops.cast(total, s.op.type.dtype))
        self.parts.update(zip(outside, parts))
        self._replace(scan, carries[:k], outside, sunk, {s.result: s.axis for s in after if s.axis})

    def _replace(
        self,
        scan: ops.Scan,
        carries: Sequence[ir.Value],
        stacks: Iterable[ir.Value],
        readers: set[ir.Operation],
        turned: Mapping[ir.Value, int] | None = None,
    ) -> None:
        """Puts new values in the place of a scan's; what is read by others than these has its parts joined. `turned`: where a value has the
        axis of turns, if not first."""
        for old, new in zip(scan.results, carries):
            old.replace_all_uses_with(new)
        with ir.InsertionPoint(scan), scan.location:
            for old in stacks:
                if any(use.owner.operation not in readers for use in old.uses):
                    whole = joined([[p] for p in self.parts[old]])[0]
                    if turned and old in turned:
                        order = _order(type_of(old).rank, turned[old])
                        whole = ops.transpose(whole, [order.index(n) for n in range(len(order))])
                    for use in list(old.uses):
                        if use.owner.operation not in readers:
                            use.owner.operands[use.operand_number] = whole

    def _over(
        self,
        scan: ops.Scan,
        totals: Sequence[TensorType],
        outer: Sequence[ir.Value],
        stacks: Sequence[ir.Value],
        emits: Sequence[ir.Value],
        body: Body,
    ) -> tuple[list[ir.Value], list[list[ir.Value]]]:
        """What the body makes over all turns, of blocks in a scan, of those behind them as it is: (carries, the parts of each value emitted).

        The body is told where a value of the program is (`outer`, or the turns' part of one of `stacks`), what the scan is given, and the turns. A
        total is not given where it begins.
        """
        given = Given.of(scan)
        carries = [*given.carries]
        parts: list[list[ir.Value]] = [[] for _ in self.turns]
        order = list(enumerate(self.turns))[:: -1 if scan.backward else 1]
        with ir.InsertionPoint(scan), scan.location:
            for n, turns in order:
                if n == 0:
                    starts = [*carries, *(ops.zeros(t) for t in totals[len(carries) - scan.carries :])]
                    carries, parts[n] = self._loop(scan, given, starts, turns, outer, stacks, emits, body)
                else:
                    slices = tuple(self._stack(v, n) for v in slices_of(scan))
                    carries, parts[n] = body(partial(self._rest, n, stacks), Given(given.constants, tuple(carries), slices), turns)
        return carries, [list(p) for p in zip(*parts)]

    def _stack(self, value: ir.Value, n: int) -> Stack:
        """Where the n-th part of the turns finds a stack."""
        return Stack(self.parts[value][n], -self.turns[n].first) if value in self.parts else Stack(value)

    def _rest(self, n: int, stacks: Sequence[ir.Value], value: ir.Value) -> ir.Value:
        """The n-th part of the turns of a value, if it has such."""
        if value in self.parts:
            return self.parts[value][n]
        if value not in stacks:
            return value
        shape = type_of(value).shape
        rows = [[int(a == b) for b in range(len(shape))] for a in range(len(shape))]
        return ops.view(value, rows, [self.turns[n].first, *(0 for _ in shape[1:])], [self.turns[n].count, *shape[1:]])

    def _loop(
        self,
        scan: ops.Scan,
        given: Given,
        starts: Sequence[ir.Value],
        turns: Turns,
        outer: Sequence[ir.Value],
        stacks: Sequence[ir.Value],
        emits: Sequence[ir.Value],
        body: Body,
    ) -> tuple[list[ir.Value], list[ir.Value]]:
        """The scan over blocks."""
        constants = list(dict.fromkeys([*given.constants, *outer]))
        slices = {v: self._stack(v, 0) for v in dict.fromkeys(stacks)}
        axes = {s.result: s.axis or 0 for s in self.found.after}
        per_turn = [(type_of(v).with_shape(np.delete(type_of(v).shape, axes.get(v, 0)).tolist()), 0) for v in emits]
        rows = [Rows(s.value, self.length, s.first + turns.first) for s in slices.values()]
        made = ops.Scan.build_in_rows(constants, starts, rows, in_segments(per_turn, self.length), turns.count // self.length, scan.backward)
        block = made.regions[0].blocks[0]
        turn, *inner = block.arguments
        c, k = len(constants), len(starts)
        known = dict(zip(constants, inner)) | dict(zip(slices, inner[c + k :]))
        with ir.InsertionPoint(block):
            own = tuple(Stack(known.get(v, v)) for v in slices_of(scan))  # what the body makes itself is not known
            inside = Given(tuple(known[v] for v in given.constants), tuple(inner[c : c + k]), own)
            carries, emitted = body(known.__getitem__, inside, turns.within(self.length, turns.number(turn, self.length)))
            ops.Yield.of(*carries, *emitted)
        remove_dead(block)
        return list(made.results)[:k], list(made.results)[k:]


def _first_of(made: Mapping[ir.Value, ir.Value], at: Callable[[ir.Value], ir.Value], value: ir.Value) -> ir.Value:
    return made[value] if value in made else at(value)


def _firsts(scan: ops.Scan) -> list[int]:
    """For each emitted value the first one that is the same."""
    yielded = list(list(scan.regions[0].blocks[0].operations)[-1].operands)[scan.carries :]
    return [yielded.index(v) for v in yielded]


def _same_emits(scan: ops.Scan) -> tuple[dict[int, ir.Value], list[int]]:
    """Emitted values that are slices as they come, with their stacks; and the numbers of the others, each value once."""
    block = scan.regions[0].blocks[0]
    yielded = list(list(block.operations)[-1].operands)[scan.carries :]
    sliced = dict(zip(list(block.arguments)[1 + scan.constants + scan.carries :], slices_of(scan)))
    given = {n: sliced[v] for n, v in enumerate(yielded) if v in sliced}
    return given, [n for n, first in enumerate(_firsts(scan)) if n == first and n not in given]
