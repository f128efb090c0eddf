"""Scans in segments: of a scan whose turns are made again on the way back only the carries at the starts of segments are kept.

Reverse mode makes pairs of scans: one over a recurrence, and one over the same turns in the other direction that reads what the first kept of each.
A pair in segments keeps what is carried into each segment. The way back goes over the segments, makes the turns of one again with all that is kept of
them, and goes back through them; the turns of a segment may lie in segments of their own (several levels). These are nested scans, and nothing else:
every op runs as often, in the order and on the values of the pair as it was, so that the bits are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.ops.control import Rows, rows_of
from dslc.ir.types import TensorType, type_of

from .prune import remove_dead
from .regions import clone_into

Levels = tuple[int, ...]  # turns of a segment, those of a segment in it, ...


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


def slices_of(scan: ops.Scan) -> list[ir.Value]:
    return list(scan.operands)[scan.constants + scan.carries :]


def _kept(out: ops.Scan, back: ops.Scan) -> tuple[int, ...]:
    first = back.constants + back.carries
    if any(out.firsts) or any(back.firsts):
        return ()

    def only_there(value: ir.Value) -> bool:
        uses = [(use.owner.operation, use.operand_number) for use in value.uses]
        return bool(uses) and all(op == back.operation and n >= first for op, n in uses)

    return tuple(k for k, v in enumerate(list(out.results)[out.carries :]) if only_there(v))


# --- what a schedule costs


def recomputed(turns: int, levels: Levels, backward: bool = False) -> int:
    """Turns that the way back makes again. `backward`: the scan itself begins at its last turn."""
    q, r = divmod(turns, levels[0])
    return q * _again(levels[0], levels[1:], backward) + _again(r, levels[1:], backward)


def _again(turns: int, levels: Levels, backward: bool) -> int:
    """Of a segment: all turns with what is kept of them, and before that those up to the start of the segment in it that comes last."""
    levels = tuple(m for m in levels if m < turns)
    if not levels:
        return turns
    r = turns % levels[0]
    return turns - (r if r and not backward else levels[0]) + recomputed(turns, levels, backward)


def held(turns: int, levels: Levels) -> tuple[int, int]:
    """(starts of segments, turns with all that is kept of them) that are held at once, at most."""
    starts = 0
    for m in levels:
        starts += turns // m + (turns % m > 0)
        turns = min(m, turns)
    return starts, turns


# --- rewriting


def segment(pair: Pair, levels: Levels) -> None:
    """Puts the pair into segments. `levels`: each less than the one before, the first less than the number of turns."""
    out, back = pair.out, pair.back
    others = [k for k in range(len(out.results) - out.carries) if k not in pair.kept]
    everything = _Turns(0, pair.turns, None)
    with ir.InsertionPoint(out), out.location:
        given = _Given.of(out)
        starts, carries, stacks = _out(out, given, everything, levels[0], others, all_of_it=True)
    for old, new in zip([*list(out.results)[: out.carries], *(out.results[out.carries + k] for k in others)], [*carries, *stacks]):
        old.replace_all_uses_with(new)
    with ir.InsertionPoint(back), back.location:
        grads, stacks = _back_over(pair, given, _Given.of(back), starts, everything, levels)
    for old, new in zip(back.results, [*grads, *stacks]):
        old.replace_all_uses_with(new)
    back.operation.erase()
    out.operation.erase()


@dataclass(frozen=True)
class _Turns:
    """`count` turns from number `first` on, counted from where the sliced tensors begin; there it is turn `base` (None: 0) of the whole scan."""

    first: int
    count: int
    base: ir.Value | None

    def part(self, first: int, count: int) -> _Turns:
        return replace(self, first=self.first + first, count=count)

    def number(self, turn: ir.Value, length: int = 1) -> ir.Value:
        """Of segment `turn` of so many turns, the number in the whole scan of its first turn."""
        value = turn
        if length != 1:
            value = ops.Mul.of(value, ops.constant(length))
        if self.first:
            value = ops.Add.of(value, ops.constant(self.first))
        return value if self.base is None else ops.Add.of(value, self.base)


@dataclass(frozen=True)
class _Given:
    """A scan's operands as they are called where a part of it is made."""

    constants: tuple[ir.Value, ...]
    carries: tuple[ir.Value, ...]
    slices: tuple[ir.Value, ...]

    @staticmethod
    def of(scan: ops.Scan) -> _Given:
        c, k = scan.constants, scan.carries
        values = tuple(scan.operands)
        return _Given(values[:c], values[c : c + k], values[c + k :])


def _rows_a_turn(scan: ops.Scan) -> list[int]:
    """Of each sliced tensor, as in `Rows.count`."""
    inner = list(scan.regions[0].blocks[0].arguments)[1 + scan.constants + scan.carries :]
    return [type_of(i).shape[0] if type_of(i).rank == type_of(v).rank else 0 for i, v in zip(inner, slices_of(scan))]


def _emits(scan: ops.Scan) -> list[tuple[TensorType, int]]:
    """The types of what a turn emits, with its rows as in `Rows.count`."""
    yielded = list(list(scan.regions[0].blocks[0].operations)[-1].operands)[scan.carries :]
    stacks = list(scan.results)[scan.carries :]
    return [(type_of(v), rows_of(type_of(s), type_of(v)) or 0 if type_of(v).rank == type_of(s).rank else 0) for v, s in zip(yielded, stacks)]


def _in_segments(emits: Iterable[tuple[TensorType, int]], length: int) -> list[tuple[TensorType, int]]:
    """The types of what `length` turns emit, stacked."""
    out = []
    for t, rows in emits:
        stack = t.with_shape((rows * length, *t.shape[1:]) if rows else (length, *t.shape))
        out.append((stack, stack.shape[0]))
    return out


def _run(scan: ops.Scan, given: _Given, turns: _Turns, emits: Sequence[int]) -> tuple[list[ir.Value], list[ir.Value]]:
    """Some turns of a scan as they are, with some of what it emits: (carries, stacks)."""
    types = _emits(scan)
    slices = [Rows(v, rows, turns.first * max(rows, 1)) for v, rows in zip(given.slices, _rows_a_turn(scan))]
    based = [] if turns.base is None else [turns.base]
    made = ops.Scan.build_in_rows(
        [*given.constants, *based], given.carries, slices, [types[k] for k in emits], turns.count, scan.backward
    )
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    c = len(given.constants)
    with ir.InsertionPoint(block):
        number = replace(turns, base=inner[c] if based else None).number(turn)
        yielded = clone_into(scan.regions[0].blocks[0], [number, *inner[:c], *inner[c + len(based) :]])
        ops.Yield.of(*yielded[: scan.carries], *(yielded[scan.carries + k] for k in emits))
    remove_dead(block)
    return list(made.results)[: scan.carries], list(made.results)[scan.carries :]


def _out(
    scan: ops.Scan, given: _Given, turns: _Turns, length: int, emits: Sequence[int], all_of_it: bool = False
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
                carries, stacks[n] = _run(scan, given, part, emits)
                given = replace(given, carries=tuple(carries))
        else:
            starts[n], carries, stacks[n] = _segments(scan, given, part, length, emits, last)
            given = replace(given, carries=tuple(carries))
    return [starts[n] for n, _ in enumerate(parts)], list(given.carries), _joined([stacks.get(n, []) for n, _ in enumerate(parts)])


@dataclass(frozen=True)
class _Starts:
    """What is carried into one segment, or, stacked, into each of several."""

    one: tuple[ir.Value, ...]
    stacked: tuple[ir.Value, ...]


def _segments(
    scan: ops.Scan, given: _Given, turns: _Turns, length: int, emits: Sequence[int], but_last: bool
) -> tuple[_Starts, list[ir.Value], list[ir.Value]]:
    """Whole segments: what is carried into each, the last carries, what is emitted. With `but_last` the one that comes last is not run."""
    count = turns.count // length
    run = turns if not but_last else turns.part(length if scan.backward else 0, turns.count - length)
    carried = [(type_of(v), 0) for v in given.carries]
    stacked: list[ir.Value] = []
    carries, stacks = list(given.carries), list[ir.Value]()
    if run.count:
        types = [_emits(scan)[k] for k in emits]
        slices = [Rows(v, length * max(rows, 1), run.first * max(rows, 1)) for v, rows in zip(given.slices, _rows_a_turn(scan))]
        based = [] if run.base is None else [run.base]
        made = ops.Scan.build_in_rows(
            [*given.constants, *based], given.carries, slices, [*carried, *_in_segments(types, length)], run.count // length, scan.backward
        )
        block = made.regions[0].blocks[0]
        turn, *inner = block.arguments
        c, k = len(given.constants), scan.carries
        inside = _Given(tuple(inner[:c]), tuple(inner[c + len(based) : c + len(based) + k]), tuple(inner[c + len(based) + k :]))
        with ir.InsertionPoint(block):
            base = replace(run, base=inner[c] if based else None).number(turn, length)
            last, emitted = _run(scan, inside, _Turns(0, length, base), emits)
            ops.Yield.of(*last, *inside.carries, *emitted)
        remove_dead(block)
        carries, stacked, stacks = (list(made.results)[a:b] for a, b in ((0, k), (k, 2 * k), (2 * k, None)))
    if but_last:
        ends = [ops.reshape(v, (1, *type_of(v).shape)) for v in carries]
        stacked = [_joined([[e], [s]] if scan.backward else [[s], [e]])[0] for e, s in zip(ends, stacked)] if stacked else ends
    assert count == type_of(stacked[0]).shape[0] if stacked else True
    return _Starts((), tuple(stacked)), carries, stacks


def _joined(parts: Sequence[Sequence[ir.Value]]) -> list[ir.Value]:
    """Stacks of consecutive turns as one."""
    parts = [p for p in parts if p]
    return list(parts[0]) if len(parts) == 1 else [ops.Concat.of(*stacks, axis=0) for stacks in zip(*parts)]


def _back_over(
    pair: Pair, out: _Given, back: _Given, starts: Sequence[_Starts], turns: _Turns, levels: Levels
) -> tuple[list[ir.Value], list[ir.Value]]:
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
    return list(back.carries), _joined([stacks[n] for n, _ in enumerate(parts)])


def _back_again(pair: Pair, out: _Given, back: _Given, turns: _Turns, levels: Levels) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over turns that are made again, from what is carried into them."""
    levels = tuple(m for m in levels if m < turns.count)
    if levels:
        starts, _, _ = _out(pair.out, out, turns, levels[0], ())
        return _back_over(pair, out, back, starts, turns, levels)
    _, kept = _run(pair.out, out, turns, pair.kept)
    return _run_back(pair, back, kept, turns)


def _run_back(pair: Pair, back: _Given, kept: Sequence[ir.Value], turns: _Turns) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over these turns; `kept` holds them alone."""
    scan = pair.back
    there = dict(zip((pair.out.results[pair.out.carries + k] for k in pair.kept), kept))
    places = [there.get(old) for old in slices_of(scan)]
    types = _emits(scan)
    rows = _rows_a_turn(scan)
    slices = [Rows(v, n, turns.first * max(n, 1)) if own is None else Rows(own, n) for v, n, own in zip(back.slices, rows, places)]
    based = [] if turns.base is None else [turns.base]
    made = ops.Scan.build_in_rows([*back.constants, *based], back.carries, slices, types, turns.count, scan.backward)
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    c = len(back.constants)
    with ir.InsertionPoint(block):
        number = replace(turns, base=inner[c] if based else None).number(turn)
        yielded = clone_into(scan.regions[0].blocks[0], [number, *inner[:c], *inner[c + len(based) :]])
        ops.Yield.of(*yielded)
    remove_dead(block)
    return list(made.results)[: scan.carries], list(made.results)[scan.carries :]


def _back_loop(
    pair: Pair, out: _Given, back: _Given, starts: _Starts, turns: _Turns, levels: Levels
) -> tuple[list[ir.Value], list[ir.Value]]:
    """The way back over whole segments, as a scan over them."""
    scan, length = pair.back, levels[0]
    gone = {pair.out.results[pair.out.carries + k] for k in pair.kept}
    own = [k for k, old in enumerate(slices_of(scan)) if old not in gone]
    rows_out, rows_back = _rows_a_turn(pair.out), _rows_a_turn(scan)
    slices: dict[tuple[ir.Value, int], None] = {}
    for v, rows in (*zip(out.slices, rows_out), *((back.slices[k], rows_back[k]) for k in own)):
        slices.setdefault((v, max(rows, 1)))
    based = [] if turns.base is None else [turns.base]
    constants = list(dict.fromkeys([*out.constants, *back.constants, *based]))
    made = ops.Scan.build_in_rows(
        constants, back.carries,
        [*(Rows(v) for v in starts.stacked), *(Rows(v, length * rows, turns.first * rows) for v, rows in slices)],
        _in_segments(_emits(scan), length), turns.count // length, scan.backward,
    )  # fmt: skip
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    c, k, s = len(constants), scan.carries, len(starts.stacked)
    known = dict(zip(constants, inner))
    sliced = dict(zip(slices, inner[c + k + s :]))
    out_inside = _Given(
        tuple(known[v] for v in out.constants), tuple(inner[c + k : c + k + s]),
        tuple(sliced[v, max(rows, 1)] for v, rows in zip(out.slices, rows_out)),
    )  # fmt: skip
    back_inside = _Given(
        tuple(known[v] for v in back.constants), tuple(inner[c : c + k]),
        tuple(sliced.get((v, max(rows, 1)), v) for v, rows in zip(back.slices, rows_back)),
    )  # fmt: skip
    with ir.InsertionPoint(block):
        base = replace(turns, base=known[turns.base] if based else None).number(turn, length)
        carries, stacks = _back_again(pair, out_inside, back_inside, _Turns(0, length, base), levels[1:])
        ops.Yield.of(*carries, *stacks)
    remove_dead(block)
    return list(made.results)[:k], list(made.results)[k:]
