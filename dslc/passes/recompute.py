"""recompute: cheap pointwise values that would be kept for long are computed again where they are used late."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import partial

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.program import functions_of
from dslc.ir.types import type_of

from .fuse import Graph, grouped, ordered, prepare
from .kernel_rules import AGAIN, CHEAP
from .mincut import cheapest

# Prices in sixteenths of a kept byte, for each element that is computed again. A kept byte is written and read; an element of a transcendental
# function costs about as many instructions as two bytes of that traffic cost time, one of Philox's draws twice as many.
BYTE = 16
SIMPLE, DIVISION, TRANSCENDENTAL, DRAW = 1, 4, 16, 32
WRITTEN_ANEW = 2  # sixteenths more, a byte, for a value that no kernel would write otherwise
DIVISIONS = (ops.Div, ops.Sqrt, ops.Rsqrt)
NEAR = 8  # kernels: uses so near to each other share what is computed again


@dataclass(frozen=True)
class Recompute:
    """Which values live through the fullest moment of a program is chosen anew: of the pointwise ops before it, a least cut keeps the fewest bytes,
    and what lies beyond the cut is cloned before its late uses, so that `fuse` takes the clones into the kernels that use them. Random
    ops draw the same bits again. Clusters of values that save fewer than `least` bytes stay as they are; kernels that exist already and the bodies of
    scans are left alone.

    before: %1 = contract; %2 = mul %1, .7; %3 = erf %2; ...; mul %g, %3     (%2 and %3 kept)
    after:  %1 = contract; %2 = mul %1, .7; %3 = erf %2; ...; %2b = mul %1, .7; %3b = erf %2b; mul %g, %3b     (%1 kept)
    """

    least: int = 1 << 20

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            prepare(program.entry_block)
            _recompute(program.entry_block, self.least)


def _recompute(block: ir.Block, least: int) -> None:
    crossing = Crossing.of(grouped(block))
    if sum(crossing.size(v) for v in crossing.wanted) < least:
        return
    early = set[ir.Value]()  # what would be there again long before it is used
    while found := crossing.too_early(crossing.cut(early)) - early:
        early |= found
    again = crossing.worthwhile(crossing.cut(early), least)
    if again:
        _clone_late(crossing, again)


@dataclass
class Crossing:
    """The fullest moment of a program whose ops are grouped as `fuse` would: ops of kernels up to it are early, the others late.

    `wanted`: early values that late ops read. `written`: values that their kernel writes to memory.
    """

    graph: Graph
    late: list[bool]
    delay: list[int]  # of each op: how many kernels its own comes after the fullest moment
    wanted: set[ir.Value] = field(default_factory=set)
    written: set[ir.Value] = field(default_factory=set)
    returned: set[ir.Value] = field(default_factory=set)

    @staticmethod
    def of(graph: Graph) -> Crossing:
        returned = set(list(graph.block.operations)[-1].operands)
        order = ordered(graph)
        time_of = {g: t for t, g in enumerate(order)}
        position = [time_of[g] for g in graph.group_of]
        last: dict[ir.Value, int] = {}
        for n, uses in enumerate(graph.uses):
            for _, value in uses:
                last[value] = max(last.get(value, 0), position[n])
        written = {v for v, t in last.items() if t > position[graph.number[v]]}
        fullest = _fullest((graph.type_of(v).bytes, position[graph.number[v]], last[v]) for v in written - returned)
        crossing = Crossing(graph, [p > fullest for p in position], [p - fullest for p in position], written=written, returned=returned)
        for n, uses in enumerate(graph.uses):
            if crossing.late[n]:
                crossing.wanted.update(v for p, v in uses if not crossing.late[p])
        return crossing

    def size(self, value: ir.Value) -> int:
        """The bytes that it costs to keep a value; what the program returns is kept anyway."""
        return 0 if value in self.returned else self.graph.type_of(value).bytes

    def price(self, value: ir.Value) -> int | None:
        """What computing a value again costs beside its operands; None where it must not be."""
        op = self.graph.core[self.graph.number[value]]
        if value in self.returned or op.structure not in ("elementwise", "generator"):
            return None
        if isinstance(op, ops.Cast) and _is_argument(op.operands[0]):
            return None  # a weight or a picture in 16 bits, which is read whole by each product
        return price_of(op)

    def sources(self, value: ir.Value) -> Iterable[ir.Value]:
        """The early core values that its op reads, through views too."""
        return (v for _, v in self.graph.uses[self.graph.number[value]])

    def cut(self, kept_anyway: Container[ir.Value]) -> set[ir.Value]:
        """The values to compute again."""

        def price(value: ir.Value) -> int | None:
            return None if value in kept_anyway else self.price(value)

        def kept(value: ir.Value) -> int:
            return self.size(value) * (BYTE if value in self.written else BYTE + WRITTEN_ANEW)

        found = cheapest(sorted(self.wanted, key=self.graph.number.__getitem__), price, kept, self.sources)
        return {v for v, made in found.items() if made}

    def too_early(self, again: set[ir.Value]) -> set[ir.Value]:
        """Of the values to compute again, those that one use needs so early that they would lie in memory for more than half of the time until the
        next. So it is with a residual stream: each turn of it is a sum of all turns before."""
        own: dict[ir.Value, int] = {}  # the delay of the first late op that reads a value
        for n, read in enumerate(self.graph.uses):
            for _, v in read if self.late[n] else ():
                own[v] = min(own.get(v, self.delay[n]), self.delay[n])
        uses: dict[ir.Value, set[int]] = defaultdict(set, {v: {at} for v, at in own.items()})  # and of what is computed from it again
        for v in sorted(again, key=self.graph.number.__getitem__, reverse=True):
            for source in self.sources(v) if uses[v] else ():
                uses[source].add(min(uses[v]))
        return {v for v in again if uses[v] and 2 * min(uses[v]) < max(uses[v])}

    def worthwhile(self, again: set[ir.Value], least: int) -> set[ir.Value]:
        """Of the values to compute again, those of clusters that save at least so many bytes."""
        cluster_of: dict[ir.Value, ir.Value] = {}

        def root(v: ir.Value) -> ir.Value:
            while cluster_of.setdefault(v, v) != v:
                v = cluster_of[v]
            return v

        for v in again:
            for source in self.sources(v):
                if source in again or source not in self.wanted:
                    cluster_of[root(source)] = root(v)
        saved: dict[ir.Value, int] = defaultdict(int)
        for v in list(cluster_of) + [v for v in again if v not in cluster_of]:
            saved[root(v)] += self.size(v) if v in again and v in self.wanted else -self.size(v) if v not in again else 0
        return {v for v in again if saved[root(v)] >= least}


def _is_argument(value: ir.Value) -> bool:
    """Whether a value is the block's own, or a view of such."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner.opview
        if not isinstance(op, (ops.View, ops.Reshape)):
            return False
        value = op.operands[0]
    return True


def price_of(op: Op) -> int:
    """What it costs to compute an elementwise op again, in sixteenths of a byte."""
    if isinstance(op, ops.Random):
        each = DRAW
    elif isinstance(op, (*CHEAP, ops.Neg, ops.StopGradient)):
        each = SIMPLE
    else:
        each = DIVISION if isinstance(op, DIVISIONS) else TRANSCENDENTAL
    return each * type_of(op.results[0]).size


def _fullest(lives: Iterable[tuple[int, int, int]]) -> int:
    """The kernel after which the most bytes are kept. A life is (bytes, the kernel that writes, the last that reads)."""
    change: dict[int, int] = defaultdict(int)
    for size, first, last in lives:
        change[first] += size
        change[last] -= size
    live = kept = fullest = 0
    for t in sorted(change):
        live += change[t]
        if live > kept:
            kept, fullest = live, t
    return fullest


def _clone_late(crossing: Crossing, again: set[ir.Value]) -> None:
    """Late ops read clones of these values; a clone stands before the first op, in program order, that needs it. A use that comes more than `NEAR`
    kernels later has a clone of its own: the first would lie in memory until then."""
    number = crossing.graph.number
    clones: dict[ir.Value, list[tuple[int, ir.Value]]] = defaultdict(list)  # with the delay of the op that each was made for

    def clone_of(value: ir.Value, delay: int) -> ir.Value:
        """The value, or its clone where it is to be computed again or is a view of such."""
        near = next((clone for made, clone in clones[value] if abs(delay - made) <= NEAR), None)
        owner = value.owner
        if near is not None or isinstance(owner, ir.Block) or (value in number and value not in again):
            return value if near is None else near
        operands = [clone_of(v, delay) for v in owner.operands]
        if value not in again and operands == list(owner.operands):
            return value
        copy = owner.clone()
        if value in again:
            copy.attributes[AGAIN] = ir.UnitAttr.get()
        for k, operand in enumerate(operands):
            copy.operands[k] = operand
        for old, new in zip(owner.results, copy.results):
            clones[old].append((delay, new))
        return clones[value][-1][1]

    for n, op in enumerate(crossing.graph.core):
        if crossing.late[n]:
            _read_clones(op, partial(clone_of, delay=crossing.delay[n]))


def _read_clones(op: Op, clone_of: Callable[[ir.Value], ir.Value]) -> None:
    with ir.InsertionPoint(op), op.location:
        for k, operand in enumerate(op.operands):
            replaced = clone_of(operand)
            if replaced != operand:
                op.operands[k] = replaced
