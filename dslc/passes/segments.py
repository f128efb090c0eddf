"""Scans in segments: of a scan whose turns are made again on the way back only the carries at the starts of segments are kept.

Reverse mode makes pairs of scans: one over a recurrence, and one over the same turns in the other direction that reads what the first kept of each.
A pair in segments keeps what is carried into each segment. The way back goes over the segments, makes the turns of one again with all that is kept of
them, and goes back through them; the turns of a segment may lie in segments of their own (several levels). These are nested scans, and nothing else:
every op runs as often, in the order and on the values of the pair as it was, so that the bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.ops.control import Rows
from dslc.ir.types import type_of

from .prune import remove_dead
from .scans import Given, Stack, Turns, emits_of, in_segments, joined, reads_turns, run, slices_of

Levels = tuple[int, ...]  # turns of a segment, those of a segment in it, ...


@dataclass(frozen=True)
class Schedule:
    """All is kept of the `stored` turns that come last; those before are in segments."""

    levels: Levels
    stored: int = 0

    def recomputed(self, turns: int, backward: bool = False) -> int:
        """Of so many turns of a scan, those that the way back makes again. `backward`: the scan begins at its last turn."""
        return _in_segments(turns - self.stored, self.levels, backward)

    def held(self, turns: int) -> tuple[int, int]:
        """(starts of segments, turns with all that is kept of them) that are held at once, at most."""
        starts, turns = 0, turns - self.stored
        for m in self.levels:
            starts += turns // m + (turns % m > 0)
            turns = min(m, turns)
        return starts, max(turns, self.stored)


def _in_segments(turns: int, levels: Levels, backward: bool) -> int:
    q, r = divmod(turns, levels[0])
    return q * _again(levels[0], levels[1:], backward) + _again(r, levels[1:], backward)


def _again(turns: int, levels: Levels, backward: bool) -> int:
    """Of a segment: all turns with what is kept of them, and before that those up to the start of the segment in it that comes last."""
    levels = tuple(m for m in levels if m < turns)
    if not levels:
        return turns
    r = turns % levels[0]
    return turns - (r if r and not backward else levels[0]) + _in_segments(turns, levels, backward)


@dataclass(frozen=True)
class Pair:
    """A scan, and one that goes back over its turns; `kept`: the numbers of those emitted values of the first that only the second reads."""

    out: ops.Scan
    back: ops.Scan
    kept: tuple[int, ...]

    @property
    def turns(self) -> int:
        return self.out.trip

    @property
    def carried_bytes(self) -> int:
        """What is carried from one turn to the next."""
        return sum(type_of(v).bytes for v in list(self.out.results)[: self.out.carries])

    @property
    def kept_bytes(self) -> int:
        """What is kept of one turn."""
        return sum(type_of(self.out.results[self.out.carries + k]).bytes for k in self.kept) // self.turns


def pairs_of(block: ir.Block) -> list[Pair]:
    """The pairs of a block, in the order of the ways back; no scan is in two of them."""
    found: list[Pair] = []
    for back in block.operations:
        if not isinstance(back, ops.Scan):
            continue
        sources = [v.owner.opview for v in slices_of(back) if not isinstance(v.owner, ir.Block) and isinstance(v.owner.opview, ops.Scan)]
        candidates = [Pair(out, back, _kept(out, back)) for out in dict.fromkeys(sources) if out.trip == back.trip and out.backward != back.backward]
        candidates = [p for p in candidates if p.kept and not any(p.out in (q.out, q.back) for q in found)]
        if candidates and back.trip > 1:
            found.append(max(candidates, key=lambda p: p.kept_bytes))
    return found


def _kept(out: ops.Scan, back: ops.Scan) -> tuple[int, ...]:
    first = back.constants + back.carries
    if any(out.firsts) or any(back.firsts):
        return ()

    def only_there(value: ir.Value) -> bool:
        uses = [(use.owner.operation, use.operand_number) for use in value.uses]
        return bool(uses) and all(op == back.operation and n >= first for op, n in uses)

    return tuple(k for k, v in enumerate(list(out.results)[out.carries :]) if only_there(v))


# --- rewriting


def segment(pair: Pair, schedule: Schedule) -> None:
    """Puts the pair into segments. Each level is less than the one before, the first at most the number of turns that are not stored."""
    out, back, levels = pair.out, pair.back, schedule.levels
    others = [k for k in range(len(emits_of(out))) if k not in pair.kept]
    everything = Turns(0, pair.turns, reads_turns(out) or reads_turns(back))
    first, last = everything.apart(schedule.stored if out.backward else pair.turns - schedule.stored)
    if out.backward:
        first, last = last, first
    with ir.InsertionPoint(out), out.location:
        given = Given.of(out)
        starts, carries, stacks = _out(out, given, first, levels[0], others, all_of_it=True)
        kept: list[ir.Value] = []
        if schedule.stored:
            carries, stored = run(out, replace(given, carries=tuple(carries)), last, [*others, *pair.kept])
            stacks, kept = _in_order(out, stacks, stored[: len(others)]), stored[len(others) :]
    for old, new in zip([*list(out.results)[: out.carries], *(out.results[out.carries + k] for k in others)], [*carries, *stacks]):
        old.replace_all_uses_with(new)
    with ir.InsertionPoint(back), back.location:
        back_given, stored = Given.of(back), list[ir.Value]()
        if schedule.stored:
            carries, stored = _back_through(pair, back_given, last, kept)
            back_given = replace(back_given, carries=tuple(carries))
        grads, stacks = _back_over(pair, given, back_given, starts, first, levels)
        if schedule.stored:
            stacks = _in_order(out, stacks, stored)
    for old, new in zip(back.results, [*grads, *stacks]):
        old.replace_all_uses_with(new)
    block = back.operation.block
    back.operation.erase()
    out.operation.erase()
    remove_dead(block)


def _in_order(out: ops.Scan, first: Sequence[ir.Value], last: Sequence[ir.Value]) -> list[ir.Value]:
    """Stacks of the turns that come first and of those that come last as one, by turn."""
    return joined([last, first] if out.backward else [first, last])


def _out(
    scan: ops.Scan, given: Given, turns: Turns, length: int, emits: Sequence[int], all_of_it: bool = False
) -> tuple[list[_Starts], list[ir.Value], list[ir.Value]]:
    """A scan in segments: what is carried into each, the last carries, and some of what it emits. Unless it is to be run to its end the segment that
    comes last is left out; its start is carried there."""
    q, r = divmod(turns.count, length)
    parts = [turns.part(0, q * length), turns.part(q * length, r)] if r else [turns]
    starts: dict[int, _Starts] = {}
    stacks: dict[int, list[ir.Value]] = {}
    order = list(enumerate(parts))[:: -1 if scan.backward else 1]
    for n, part in order:
        last = part == order[-1][1] and not all_of_it
        if part.count < length:
            starts[n] = _Starts(given.carries, ())
            if not last:
                carries, stacks[n] = run(scan, given, part, emits)
                given = replace(given, carries=tuple(carries))
        else:
            starts[n], carries, stacks[n] = _segments(scan, given, part, length, emits, last)
            given = replace(given, carries=tuple(carries))
    return [starts[n] for n, _ in enumerate(parts)], list(given.carries), joined([stacks.get(n, []) for n, _ in enumerate(parts)])


@dataclass(frozen=True)
class _Starts:
    """What is carried into one segment, or, stacked, into each of several."""

    one: tuple[ir.Value, ...]
    stacked: tuple[ir.Value, ...]


def _segments(
    scan: ops.Scan, given: Given, turns: Turns, length: int, emits: Sequence[int], but_last: bool
) -> tuple[_Starts, list[ir.Value], list[ir.Value]]:
    """Whole segments: what is carried into each, the last carries, what is emitted. With `but_last` the one that comes last is not run."""
    count = turns.count // length
    over = turns if not but_last else turns.part(length if scan.backward else 0, turns.count - length)
    carried = [(type_of(v), 0) for v in given.carries]
    stacked: list[ir.Value] = []
    carries, stacks = list(given.carries), list[ir.Value]()
    if over.count:
        types = [emits_of(scan)[k] for k in emits]
        based = [] if over.base is None else [over.base]
        made = ops.Scan.build_in_rows(
            [*given.constants, *based],
            given.carries,
            given.rows(scan, over, length),
            [*carried, *in_segments(types, length)],
            over.count // length,
            scan.backward,
        )
        block = made.regions[0].blocks[0]
        turn, *inner = block.arguments
        c, k = len(given.constants), scan.carries
        inside = Given(tuple(inner[:c]), tuple(inner[c + len(based) : c + len(based) + k]), tuple(map(Stack, inner[c + len(based) + k :])))
        with ir.InsertionPoint(block):
            base = replace(over, base=inner[c] if based else None).number(turn, length)
            last, emitted = run(scan, inside, over.within(length, base), emits)
            ops.Yield.of(*last, *inside.carries, *emitted)
        remove_dead(block)
        carries, stacked, stacks = (list(made.results)[a:b] for a, b in ((0, k), (k, 2 * k), (2 * k, None)))
    if but_last:
        ends = [ops.reshape(v, (1, *type_of(v).shape)) for v in carries]
        stacked = [joined([[e], [s]] if scan.backward else [[s], [e]])[0] for e, s in zip(ends, stacked)] if stacked else ends
    assert count == type_of(stacked[0]).shape[0] if stacked else True
    return _Starts((), tuple(stacked)), carries, stacks


def _back_over(pair: Pair, out: Given, back: Given, starts: Sequence[_Starts], turns: Turns, levels: Levels) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over turns whose segments' starts are known: (carries, stacks)."""
    length = levels[0]
    q, r = divmod(turns.count, length)
    parts = [turns.part(0, q * length), turns.part(q * length, r)] if r else [turns]
    stacks: dict[int, list[ir.Value]] = {}
    for n, part in list(enumerate(parts))[:: -1 if pair.back.backward else 1]:
        if part.count < length:
            given = replace(out, carries=starts[n].one)
            carries, stacks[n] = _back_again(pair, given, back, part, levels[1:])
        else:
            carries, stacks[n] = _back_loop(pair, out, back, starts[n], part, levels)
        back = replace(back, carries=tuple(carries))
    return list(back.carries), joined([stacks[n] for n, _ in enumerate(parts)])


def _back_again(pair: Pair, out: Given, back: Given, turns: Turns, levels: Levels) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over turns that are made again, from what is carried into them."""
    levels = tuple(m for m in levels if m < turns.count)
    if levels:
        starts, _, _ = _out(pair.out, out, turns, levels[0], ())
        return _back_over(pair, out, back, starts, turns, levels)
    _, kept = run(pair.out, out, turns, pair.kept)
    return _back_through(pair, back, turns, kept)


def _back_through(pair: Pair, back: Given, turns: Turns, kept: Sequence[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over turns of which all is kept: in stacks of these turns alone."""
    again = dict(zip((pair.out.results[pair.out.carries + k] for k in pair.kept), kept))
    slices = tuple(Stack(again[old], -turns.first) if old in again else given for old, given in zip(slices_of(pair.back), back.slices))
    return run(pair.back, replace(back, slices=slices), turns, range(len(emits_of(pair.back))))


def _back_loop(pair: Pair, out: Given, back: Given, starts: _Starts, turns: Turns, levels: Levels) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over whole segments, as a scan over them."""
    scan, length = pair.back, levels[0]
    gone = {pair.out.results[pair.out.carries + k] for k in pair.kept}
    own = [old not in gone for old in slices_of(scan)]
    rows_out, rows_back = out.rows(pair.out, turns, length), back.rows(scan, turns, length)
    slices = list(dict.fromkeys([*rows_out, *(r for r, mine in zip(rows_back, own) if mine)]))
    based = [] if turns.base is None else [turns.base]
    constants = list(dict.fromkeys([*out.constants, *back.constants, *based]))
    made = ops.Scan.build_in_rows(
        constants, back.carries, [*map(Rows, starts.stacked), *slices], in_segments(emits_of(scan), length), turns.count // length, scan.backward
    )
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    c, k, s = len(constants), scan.carries, len(starts.stacked)
    known = dict(zip(constants, inner))
    sliced = {rows: Stack(value) for rows, value in zip(slices, inner[c + k + s :])}
    out_inside = Given(tuple(known[v] for v in out.constants), tuple(inner[c + k : c + k + s]), tuple(sliced[r] for r in rows_out))
    back_inside = Given(
        tuple(known[v] for v in back.constants),
        tuple(inner[c : c + k]),
        tuple(sliced[r] if mine else given for r, mine, given in zip(rows_back, own, back.slices)),
    )
    with ir.InsertionPoint(block):
        base = replace(turns, base=known[turns.base] if turns.base is not None else None).number(turn, length)
        carries, stacks = _back_again(pair, out_inside, back_inside, turns.within(length, base), levels[1:])
        ops.Yield.of(*carries, *stacks)
    remove_dead(block)
    return list(made.results)[:k], list(made.results)[k:]
