"""traffic: what a kernel would read of another is made again where that is less to read: a normalized tensor in float32 from the sums of a
convolution in 16 bits, a mask from what it compares."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.program import arguments_of, functions_of, results_of
from dslc.ir.types import fuse_locations, type_of

from .fuse import role_of
from .kernel_rules import PLACEMENT, is_placement
from .mincut import ENDLESS, cheapest
from .recompute import BYTE, price_of
from .regions import clone_into

READERS = ("map", "reduce")  # kinds of kernels that make what they read as they go
MOST_OPS = 90  # of a reader: half as many again as `fuse` gives one kernel
SPREAD = 8  # times fewer elements has what is repeated over a value


@dataclass(frozen=True)
class Traffic:
    """Of the pointwise work of each kernel, a least cut for each kernel behind it chooses what that one reads and what it computes for itself, by
    bytes moved. Values that nobody reads any more are not written; small ones between (a row's mean) are, where that saves more. It is done where it
    saves `least` bytes, and never has more bytes live at a time than before. Values keep their bits: a cast that rounds is cloned with the rest.

    before: %h, %n = kernel map (%x, %m) { sub, mul }; %y = kernel reduce (%n, %g)      x in bfloat16, n in float32
    after:  %h = kernel map (%x, %m) { sub, mul };     %y = kernel reduce (%x, %m, %g) { sub, mul, ... }
    """

    least: int = 1 << 20

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            block = program.entry_block
            *body, end = block.operations
            arguments = {slot.name: v for slot, v in zip(arguments_of(program), block.arguments)}
            nexts = {arguments[slot.name]: k for k, (slot, _) in enumerate(results_of(program)) if slot.name in arguments}
            time: dict[ir.Operation, int] = {}
            for made in reversed(body):
                if isinstance(made, ops.Kernel) and any(type_of(v).bytes >= self.least for v in made.results):
                    time = time or {op.operation: n for n, op in enumerate(block.operations)}
                    sharing = _Sharing(made, time, end, nexts)
                    if sharing.settle() and sharing.saved() >= self.least and sharing.fits():
                        sharing.apply()
                        time = {}  # kernels are others now


def _price(value: ir.Value) -> int | None:
    """What computing a value of a kernel again costs beside its operands; None where that is not done."""
    if isinstance(value.owner, ir.Block):
        return None
    op = value.owner.opview
    if op.structure not in ("elementwise", "generator") or any(_rearranges(v, type_of(value).size) for v in op.operands):
        return None
    return price_of(op)


def _rearranges(value: ir.Value, size: int) -> bool:
    """Whether a view shows something that is no small thing repeated: another kernel may walk it otherwise."""
    while not isinstance(value.owner, ir.Block) and isinstance(value.owner.opview, (ops.View, ops.Reshape)):
        value = value.owner.operands[0]
        if type_of(value).size * SPREAD > size:
            return True
    return False


def sources(value: ir.Value) -> Iterator[ir.Value]:
    """The values of a body that one is computed from, through placement too; none of an argument."""
    for v in () if isinstance(value.owner, ir.Block) else value.owner.operands:
        if isinstance(v.owner, ir.Block) or not is_placement(v.owner.opview):
            yield v
        else:
            yield from sources(v)


@dataclass
class _Cut:
    """What a reader does for itself: `again`, values of the maker's body; `dropped`, those of them that it read before; `read`, what it reads
    instead."""

    again: dict[ir.Value, None]
    dropped: set[ir.Value]
    read: dict[ir.Value, None]


@dataclass
class _Sharing:
    """A kernel, the values that it yields, and what each of its readers computes again. `time`: the order of the block's ops; `nexts`: which operand
    of the block's end is the next value of an argument. `kept`: yielded values that some reader goes on reading; `refused`: readers that would be too
    large."""

    made: ops.Kernel
    time: Mapping[ir.Operation, int]
    end: Op
    nexts: Mapping[ir.Value, int]
    results: list[ir.Value] = field(default_factory=list)
    readers: dict[ops.Kernel, dict[ir.Value, None]] = field(default_factory=dict)  # with what each reads, as yielded values
    kept: set[ir.Value] = field(default_factory=set)
    refused: set[ops.Kernel] = field(default_factory=set)
    cuts: dict[ops.Kernel, _Cut] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.results = list(list(self.made.regions[0].blocks[0].operations)[-1].operands)
        for inner, outer in zip(self.results, self.made.results):
            for use in outer.uses:
                reader = use.owner.opview
                if isinstance(reader, ops.Kernel) and reader.kind in READERS and self.results.count(inner) == 1 and _by_points(reader, outer):
                    self.readers.setdefault(reader, {})[inner] = None
                else:
                    self.kept.add(inner)

    def settle(self) -> bool:
        """Finds the cuts. A value that one reader goes on reading is written, which changes what the others gain; whether any cut is left."""
        while True:
            self.cuts = {r: self._cut(r, read) for r, read in self.readers.items() if r not in self.refused}
            large = {r for r, cut in self.cuts.items() if _core_ops(r) + len(cut.again) > MOST_OPS}
            kept = {v for r, read in self.readers.items() for v in read if r in self.refused or v not in self.cuts[r].dropped}
            kept |= {v for cut in self.cuts.values() for v in cut.read if v in self.results}
            if not large and kept <= self.kept:
                return any(cut.dropped for cut in self.cuts.values())
            self.refused |= large
            self.kept |= kept

    def _cut(self, reader: ops.Kernel, wanted: Iterable[ir.Value]) -> _Cut:
        found = cheapest(wanted, _price, partial(self._reading, reader), sources)
        again = dict.fromkeys(v for v, made in found.items() if made)
        read = dict.fromkeys(s for v in again for s in sources(v) if s not in again)
        return _Cut(again, set(again) & set(wanted), read)

    def _reading(self, reader: ops.Kernel, value: ir.Value) -> int:
        """What it costs that a reader has a value of the maker from memory."""
        outer = self._outside(value)
        size = type_of(value).bytes * BYTE
        if outer is None:  # it would be written for the readers
            return 2 * size if self.made.kind in READERS else ENDLESS // 2
        if isinstance(value.owner, ir.Block):
            if self._is_replaced(outer, reader):
                return ENDLESS // 2
            return 0 if outer in reader.operands else size
        sharers = sum(value in read for read in self.readers.values())
        return size if value in self.kept or outer not in reader.operands else size + size // sharers

    def _is_replaced(self, argument: ir.Value, reader: ops.Kernel) -> bool:
        """Whether the next value of an argument may lie in its place when a reader runs."""
        owner = self.end.operands[self.nexts[argument]].owner if argument in self.nexts else None
        return owner is not None and not isinstance(owner, ir.Block) and self.time[owner] <= self.time[reader.operation]

    def _outside(self, value: ir.Value) -> ir.Value | None:
        """A value of the maker's body as it is in memory, if it is there."""
        if isinstance(value.owner, ir.Block):
            return self.made.operands[value.arg_number]
        return self.made.results[self.results.index(value)] if value in self.results else None

    def _unwritten(self) -> list[ir.Value]:
        """Yielded values that nobody reads any more."""
        return [v for v in self.results if v not in self.kept and any(v in read for read in self.readers.values())]

    def _extra(self) -> dict[ir.Value, None]:
        """Values of the maker's body that it is to yield as well."""
        return dict.fromkeys(v for cut in self.cuts.values() for v in cut.read if self._outside(v) is None)

    def saved(self) -> int:
        """Bytes that are not moved, less what the computing costs in such."""
        found = sum(type_of(v).bytes for v in self._unwritten()) - sum(type_of(v).bytes for v in self._extra())
        for reader, cut in self.cuts.items():
            found += sum(type_of(v).bytes for v in cut.dropped) - sum(_price(v) or 0 for v in cut.again) // BYTE
            found -= sum(type_of(v).bytes for v in cut.read if (outer := self._outside(v)) is None or outer not in reader.operands)
        return found

    def fits(self) -> bool:
        """Whether at no time more bytes are live: what is read later than before, against what is no longer there."""
        ends: dict[ir.Value, int] = {}  # of what is read instead
        for reader, cut in self.cuts.items():
            for v in cut.read:
                ends[v] = max(ends.get(v, 0), self.time[reader.operation])
        longer = [(type_of(v).bytes, self._last_read(outer) if outer is not None else 0, end)
                  for v, end in ends.items() if (outer := self._outside(v)) is None or not self._stays(outer)]  # fmt: skip
        gone = [(type_of(v).bytes, self._last_read(self._outside(v))) for v in self._unwritten()]
        times = {end for _, _, end in longer} | {end for _, end in gone}
        return all(sum(size for size, first, end in longer if first < t <= end) <= sum(size for size, end in gone if end >= t) for t in times)

    def _stays(self, outer: ir.Value) -> bool:
        """Whether a value is the program's own."""
        return isinstance(outer.owner, ir.Block) or any(not isinstance(u.owner.opview, ops.Kernel) for u in outer.uses)

    def _last_read(self, outer: ir.Value | None) -> int:
        return max((self.time[use.owner] for use in outer.uses if use.owner in self.time), default=0) if outer is not None else 0

    # --- rewriting

    def apply(self) -> None:
        made = self._yielding()
        for reader, cut in self.cuts.items():
            if cut.dropped:
                self._grown(made, reader, cut)
        self.made.operation.erase()

    def _yielding(self) -> dict[ir.Value, ir.Value]:
        """The maker anew, without what nobody reads and with what readers read instead; what it yields, by the values of the old one's body."""
        gone = self._unwritten()
        yielded = [v for v in self.results if v not in gone] + list(self._extra())
        if not yielded:
            return {}
        with ir.InsertionPoint(self.made):
            new = rebuilt(self.made, yielded)
        found = dict(zip(yielded, new.results))
        for inner, outer in zip(self.results, self.made.results):
            if inner in found:
                outer.replace_all_uses_with(found[inner])
        return found

    def _grown(self, made: Mapping[ir.Value, ir.Value], reader: ops.Kernel, cut: _Cut) -> None:
        """A reader with the work of its cut before its own."""
        outer = {v: made[v] if v in made else self.made.operands[v.arg_number] for v in cut.read}
        dropped = {made.get(v, self.made.results[self.results.index(v)]): v for v in cut.dropped}
        operands = list(dict.fromkeys([*(v for v in reader.operands if v not in dropped), *outer.values()]))
        block = reader.regions[0].blocks[0]
        with ir.InsertionPoint(reader), fuse_locations([reader.location, self.made.location]):
            new = ops.Kernel.build(operands, [type_of(v) for v in reader.results], reader.kind, reader.role)
        inside = dict(zip(operands, new.regions[0].blocks[0].arguments))
        with ir.InsertionPoint(new.regions[0].blocks[0]):
            again = _Cloner({v: inside[o] for v, o in outer.items()})
            results = clone_into(block, [again.of(dropped[v]) if v in dropped else inside[v] for v in reader.operands])
            ops.Yield.of(*results)
        new.attributes["role"] = ir.StringAttr.get(role_of(new.kind, list(new.regions[0].blocks[0].operations)[:-1]))
        for old, now in zip(reader.results, new.results):
            old.replace_all_uses_with(now)
        reader.operation.erase()


@dataclass
class _Cloner:
    """Copies what values are made of to the insertion point, once; `known`: what stands for values that are not copied."""

    known: dict[ir.Value, ir.Value]

    def of(self, value: ir.Value) -> ir.Value:
        if value not in self.known:
            operands = [self.of(v) for v in value.owner.operands]
            copy = value.owner.clone()
            for k, operand in enumerate(operands):
                copy.operands[k] = operand
            self.known.update(zip(value.owner.results, copy.results))
        return self.known[value]


def rebuilt(kernel: ops.Kernel, yielded: Sequence[ir.Value], read: Mapping[ir.Value, ir.Value] | None = None) -> ops.Kernel:
    """A kernel, at the insertion point, that yields these values of another's body, without what they do not need. `read`: values of that body which
    it reads from outside, and what they are there."""
    read = dict(read or {})
    needed = _reaching(yielded, read)
    block = kernel.regions[0].blocks[0]
    sources = {a: v for a, v in zip(block.arguments, kernel.operands) if a in needed} | {v: o for v, o in read.items() if v in needed}
    outer = list(dict.fromkeys(sources.values()))
    folds = any(not isinstance(v.owner, ir.Block) and v.owner.opview.structure == "reduce" for v in needed)
    kind = "map" if kernel.kind == "reduce" and not folds else kernel.kind
    with kernel.location:
        new = ops.Kernel.build(outer, [type_of(v) for v in yielded], kind, kernel.role)
        inside = dict(zip(outer, new.regions[0].blocks[0].arguments))
        with ir.InsertionPoint(new.regions[0].blocks[0]):
            cloner = _Cloner({v: inside[o] for v, o in sources.items()})
            for op in block.operations:  # in their order
                if any(v in needed for v in op.results):
                    cloner.of(op.results[0])
            ops.Yield.of(*(cloner.of(v) for v in yielded))
    new.attributes["role"] = ir.StringAttr.get(role_of(kind, list(new.regions[0].blocks[0].operations)[:-1]))
    return new


def _reaching(values: Iterable[ir.Value], ends: Container[ir.Value]) -> set[ir.Value]:
    """What values are made of, with the values themselves; nothing is looked for behind `ends`."""
    found: set[ir.Value] = set()
    stack = list(values)
    while stack:
        v = stack.pop()
        if v not in found:
            found.add(v)
            stack += [] if isinstance(v.owner, ir.Block) or v in ends else v.owner.operands
    return found


def _by_points(reader: ops.Kernel, value: ir.Value) -> bool:
    """Whether a kernel reads an operand point by point alone."""
    block = reader.regions[0].blocks[0]
    inner = [a for a, v in zip(block.arguments, reader.operands) if v == value]
    readers = [use.owner.opview for a in inner for use in a.uses]
    return all(isinstance(op, ops.Reduce) or (isinstance(op, Op) and op.structure == "elementwise") for op in readers)


def _core_ops(kernel: ops.Kernel) -> int:
    """The ops of a kernel that `fuse` counts."""
    return sum(not isinstance(op, PLACEMENT) and not is_placement(op) for op in list(kernel.regions[0].blocks[0].operations)[:-1])
