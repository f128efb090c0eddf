"""fuse: partitions a program into kernels.

Ops that only say where elements lie (views, constants, indices) belong to no kernel: every kernel that reads through them has its own copy. The other
ops start as groups of one; groups are merged along the values between them, the largest first, wherever the union is still a kernel of one kind
(docs/architecture.md) and no cycle arises.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dslc.core.dtypes import FLOAT32
from dslc.ir import ops
from dslc.ir.bodies import locations_of
from dslc.ir.mlir import ir
from dslc.ir.op import POINTWISE, Op
from dslc.ir.program import arguments_of, functions_of, name_of, results_of
from dslc.ir.types import TensorType, fuse_locations, type_of

from .kernel_rules import AGAIN, CONTROL, is_placement, is_read_along, kind_of, read_by_product, widens_bytes
from .prepare import NAME as PREPARE
from .prune import remove_dead
from .simplify import maker

MAX_OPS = 60  # of a kernel: beyond, compile time grows and nothing is gained
MAX_STEPS = 100  # in search of a path from one op to another


@dataclass(frozen=True)
class Fuse:
    """Every op ends in an `nn.kernel`, but for scans and conds, whose bodies are fused on their own.

    before: %1 = contract %x, %w; %2 = add %1, %b; %3 = exp %2      after: %3 = kernel contract (%x, %w, %b) { ... }

    `apart`: what is prepared from each parameter is a kernel of its own (`passes.pieces`), where others make one launch of it all.
    """

    apart: bool = False

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            prepare(program.entry_block)
            arguments = {slot.name: v for slot, v in zip(arguments_of(program), program.entry_block.arguments)}
            updated = {v: arguments.get(slot.name) for slot, v in results_of(program) if slot.role in ("param", "state")}
            _fuse_block(program.entry_block, updated, together=not (self.apart and name_of(program) == PREPARE))


def prepare(block: ir.Block) -> None:
    """softmax and log_softmax in reductions and elementwise ops; each reader of a 16-bit value has its own cast to float32, and each product of
    bytes its own wider ones, so that what is stored is the narrow value."""
    for op in list(block.operations):
        if isinstance(op, (ops.Softmax, ops.LogSoftmax)):
            with ir.InsertionPoint(op), op.location:
                op.results[0].replace_all_uses_with(op.expand())
            op.operation.erase()
        elif isinstance(op, Op):
            for region in op.regions:
                prepare(region.blocks[0])
    for op in list(block.operations):
        if isinstance(op, ops.Gather):
            _widen_last(op)
    for op in reversed(list(block.operations)):
        if isinstance(op, Op) and (_widens(op) or (widens_bytes(op) and read_by_product(op))):
            _one_a_reader(op)


def _widen_last(op: ops.Gather) -> None:
    """Of 16-bit values that are gathered as float32, those that are gathered become float32."""
    wide = maker(op.x)
    if wide is not None and _widens(wide) and op.outside == 0:
        with ir.InsertionPoint(op), op.location:
            found = ops.Gather.of(wide.x, *op.operands[1:], batch=op.batch, outside=op.outside)
            op.results[0].replace_all_uses_with(ops.cast(found, FLOAT32))
        op.operation.erase()


def _one_a_reader(op: Op) -> None:
    readers: dict[ir.Operation, None] = {use.owner.operation: None for use in op.results[0].uses}
    for reader in list(readers)[1:]:
        copy = op.operation.clone(ir.InsertionPoint(reader))
        for k, operand in enumerate(reader.operands):
            if operand == op.results[0]:
                reader.operands[k] = copy.results[0]


@dataclass
class Graph:
    """The ops of a block that become kernels ("core" ops), by number in program order, and who uses whose values.

    `uses[n]`: (producer, value, views between) of core op n. `groups[g]`: numbers of the ops of a group.
    """

    block: ir.Block
    core: list[Op] = field(default_factory=list)
    number: dict[ir.Value, int] = field(default_factory=dict)
    uses: list[list[tuple[int, ir.Value]]] = field(default_factory=list)
    consumers: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    outside: set[ir.Value] = field(default_factory=set)  # values that the block returns or a control op takes
    group_of: list[int] = field(default_factory=list)
    groups: dict[int, set[int]] = field(default_factory=dict)
    types: dict[ir.Value, TensorType] = field(default_factory=dict)  # asked for so far: MLIR is slow to tell them
    operands: list[tuple[ir.Value, ...]] = field(default_factory=list)  # of each core op; so are the next two
    results: list[tuple[ir.Value, ...]] = field(default_factory=list)
    structures: list[str] = field(default_factory=list)
    anchors: dict[int, Op] = field(default_factory=dict)  # core ops that are not pointwise, and no control ops
    controls: set[int] = field(default_factory=set)
    sources: dict[ir.Value, tuple[tuple[int, ir.Value], ...]] = field(default_factory=dict)  # of views and other placement
    views: dict[ir.Value, tuple[ir.Value, Sequence[tuple[int, ...]]] | None] = field(default_factory=dict)
    folded: dict[int, tuple[tuple[int, ...], list[int]]] = field(default_factory=dict)  # by reductions asked for so far
    again: set[int] = field(default_factory=set)  # ops that compute a value anew
    updates: set[int] = field(default_factory=set)  # groups that are independent groups beside each other
    verdicts: dict[tuple[int, int, int, int, bool], bool] = field(default_factory=dict)  # of groups that were to be merged, by their sizes
    late: dict[int, set[int]] = field(default_factory=dict)  # ops of a parameter's update, and who must have read the old value before it

    @staticmethod
    def of(block: ir.Block) -> Graph:
        graph = Graph(block)
        operations = list(block.operations)
        for op in (operations[-1], *(o for o in operations if isinstance(o, CONTROL))):
            graph.outside.update(op.operands)
        for op in operations[:-1]:
            if (is_placement(op) or is_read_along(op)) and not any(r in graph.outside for r in op.results):
                continue
            n = len(graph.core)
            graph.core.append(op)
            graph.operands.append(tuple(op.operands))
            graph.results.append(tuple(op.results))
            graph.structures.append(op.structure)
            if isinstance(op, CONTROL):
                graph.controls.add(n)
            elif op.structure not in POINTWISE:
                graph.anchors[n] = op
            if AGAIN in op.attributes:
                graph.again.add(n)
            graph.uses.append(list(graph._sources(op)))
            for producer, _ in graph.uses[n]:
                graph.consumers[producer].add(n)
            for r in op.results:
                graph.number[r] = n
        graph.group_of = list(range(len(graph.core)))
        graph.groups = {n: {n} for n in range(len(graph.core))}
        return graph

    def type_of(self, value: ir.Value) -> TensorType:
        found = self.types.get(value)
        if found is None:
            found = self.types[value] = type_of(value)
        return found

    def folds(self, reduction: int) -> tuple[tuple[int, ...], list[int]]:
        """The shape that a reduction folds, and along which axes."""
        found = self.folded.get(reduction)
        if found is None:
            found = self.folded[reduction] = (self.type_of(self.operands[reduction][0]).shape, sorted(self.anchors[reduction].axes))
        return found

    def inner(self, members: Iterable[int]) -> set[ir.Value]:
        """The values that these ops make."""
        return {v for n in members for v in self.results[n]}

    def _sources(self, op: Op) -> Iterable[tuple[int, ir.Value]]:
        """The core values that an op reads, through views too."""
        for value in op.operands:
            yield from self.source_of(value)

    def source_of(self, value: ir.Value) -> Sequence[tuple[int, ir.Value]]:
        """The core values that a value is made of by placement alone."""
        if value in self.number:
            return ((self.number[value], value),)
        found = self.sources.get(value)
        if found is None:
            owner = value.owner
            found = () if isinstance(owner, ir.Block) else tuple(s for operand in owner.operands for s in self.source_of(operand))
            self.sources[value] = found
        return found

    def repeats(self, value: ir.Value) -> tuple[ir.Value, Sequence[tuple[int, ...]]] | None:
        """(source, matrix) of a view without offsets."""
        if value not in self.views:
            op = value.owner.opview
            is_plain = isinstance(op, ops.View) and not any(op.offsets)
            self.views[value] = (op.operands[0], op.matrix) if is_plain else None
        return self.views[value]

    def outputs(self, group: Iterable[int]) -> list[ir.Value]:
        """The values of a group that are used outside it."""
        members = set(group)
        out = []
        for n in sorted(members):
            for r in self.results[n]:
                if r in self.outside or any(c not in members and any(v == r for _, v in self.uses[c]) for c in self.consumers[n]):
                    out.append(r)
        return out

    def successors(self, group: int) -> set[int]:
        return {self.group_of[c] for n in self.groups[group] for c in self.consumers[n]} - {group}

    def predecessors(self, group: int) -> set[int]:
        return {self.group_of[p] for n in self.groups[group] for p, _ in self.uses[n]} - {group}

    def makes_cycle(self, a: int, b: int) -> bool:
        """True where a path leads from group a to group b through a third one, and where none was found in `MAX_STEPS` from either end: between the
        two lies most of a deep network then. As a rule one end has soon no further to go."""
        first, last = min(self.groups[a]), max(self.groups[b])
        below, above = list(self.successors(a) - {b}), list(self.predecessors(b) - {a})
        from_a, to_b = set(below), set(above)
        if not from_a.isdisjoint(to_b):
            return True
        for k in range(MAX_STEPS):
            if k >= len(below) or k >= len(above):
                return False
            down = {s for s in self.successors(below[k]) - from_a if min(self.groups[s]) < last}
            from_a |= down
            up = {p for p in self.predecessors(above[k]) - to_b if max(self.groups[p]) > first}
            to_b |= up
            if not down.isdisjoint(to_b) or not up.isdisjoint(from_a):
                return True
            below += down
            above += up
        return True

    def undoes(self, a: int, b: int) -> bool:
        """True where merging group a into group b puts a value that is computed anew beside what it was to be computed from."""
        anew = self.again & self.groups[b]
        return any(p in self.groups[a] and p not in self.again for n in anew for p, _ in self.uses[n])

    def spread_readers(self, old: ir.Value) -> set[int]:
        """The core ops that read a value through views, or not point by point."""
        out: set[int] = set()
        stack = [old]
        while stack:
            value = stack.pop()
            for use in value.uses:
                op = use.owner.opview
                made = list(op.results)
                if not made or made[0] not in self.number:
                    stack += made
                elif value != old or op.structure != "elementwise":
                    out.add(self.number[made[0]])
        return out

    def find_late(self, updated: Mapping[ir.Value, ir.Value | None]) -> None:
        """An update whose parameter is read elsewhere than at its own points comes after those reads: in their kernel it would cost a copy."""
        for value, old in updated.items():
            readers = self.spread_readers(old) if old is not None and value in self.number else set()
            if not readers:
                continue
            update: set[int] = set()
            ahead = [-self.number[value]]
            while ahead:  # last first: the readers of what an op makes are all known
                n = -heapq.heappop(ahead)
                ends = all(v in updated or v not in self.outside for v in self.results[n])
                if n in update or not ends or not self.consumers[n] <= update or self.core[n].structure != "elementwise":
                    continue
                if self.type_of(self.results[n][0]).shape == self.type_of(value).shape:
                    update.add(n)
                    for producer, _ in self.uses[n]:
                        heapq.heappush(ahead, -producer)
            self.late |= dict.fromkeys(update - readers, readers)

    def overwrites(self, union: set[int]) -> bool:
        """True where a group makes a next value of what it reads elsewhere than where it would write."""
        return any(not self.late[n].isdisjoint(union) for n in union if n in self.late)

    def widens(self, a: int, union: set[int]) -> bool:
        """True where group a writes more bytes when it is grown to the union, and all that is new is read by reductions and pointwise work up to
        them: that could do it itself."""
        before, after = self.outputs(self.groups[a]), self.outputs(union)
        if sum(self.type_of(v).bytes for v in after) <= sum(self.type_of(v).bytes for v in before):
            return False
        stack = [v for v in after if v not in before]
        seen: set[int] = set(union)
        while stack:
            value = stack.pop()
            if value in self.outside:
                return False
            for n in self.consumers[self.number[value]] - seen:
                op = self.core[n]
                seen.add(n)
                if op.structure not in POINTWISE:
                    if not isinstance(op, ops.Reduce):
                        return False
                elif not self._follows_a_fold(n, union):
                    stack += self.results[n]
        return True

    def _follows_a_fold(self, op: int, group: set[int]) -> bool:
        """Whether an op depends on a group through another that is not pointwise, or lies too far from it to be looked at."""
        first = min(group)
        stack = [(p, False) for p, _ in self.uses[op]]
        seen = set(stack)
        while stack:
            n, folded = stack.pop()
            if (n in group and folded) or len(seen) > MAX_STEPS:
                return True
            if n < first or n in group:
                continue
            more = {(p, folded or self.core[n].structure not in POINTWISE) for p, _ in self.uses[n]} - seen
            seen |= more
            stack += more
        return False

    def merge(self, a: int, b: int) -> None:
        for n in self.groups[a]:
            self.group_of[n] = b
        self.groups[b] |= self.groups.pop(a)

    def merge_update(self, groups: Sequence[int]) -> None:
        """Groups that depend on nothing of each other, as one kernel."""
        for a, b in pairwise(groups):
            self.merge(a, b)
        if len(groups) > 1:
            self.updates.add(groups[-1])


def _fuse_block(block: ir.Block, updated: Mapping[ir.Value, ir.Value | None], together: bool = True) -> None:
    """`updated` as in `grouped`. `together`: updates, and casts, are one launch."""
    for op in block.operations:
        if isinstance(op, (ops.Scan, ops.Cond)):
            for region in op.regions:
                _fuse_block(region.blocks[0], {})
    graph = grouped(block, updated)
    if together:
        _merge_updates(graph, updated)
        _merge_casts(graph)
    _emit(graph, updated)
    remove_dead(block)


def grouped(block: ir.Block, updated: Mapping[ir.Value, ir.Value | None] | None = None) -> Graph:
    """The ops of a block as groups that are kernels, updates of parameters aside. `updated`: next values, and what each replaces."""
    graph = Graph.of(block)
    graph.find_late(updated or {})
    _merge_along_values(graph, lean=True)
    _merge_along_values(graph, lean=False)
    _merge_siblings(graph)
    _widen_late(graph)
    return graph


def _can_merge(graph: Graph, a: int, b: int, lean: bool = False) -> bool:
    if len(graph.groups[a]) + len(graph.groups[b]) > MAX_OPS:
        return False
    key = (a, len(graph.groups[a]), b, len(graph.groups[b]), lean)  # groups only grow
    is_kernel = graph.verdicts.get(key)
    if is_kernel is None:
        is_kernel = graph.verdicts[key] = _is_kernel(graph, a, b, lean)
    return is_kernel and not graph.makes_cycle(a, b)


def _is_kernel(graph: Graph, a: int, b: int, lean: bool) -> bool:
    """Whether two groups are one kernel, and gain by it; whatever the other groups are."""
    union = graph.groups[a] | graph.groups[b]
    kind = None if graph.undoes(a, b) or graph.overwrites(union) else kind_of(graph, union)
    return kind is not None and not (lean and kind == "contract" and graph.widens(a, union))


def _merge_along_values(graph: Graph, lean: bool) -> None:
    """Consumers in order take in the groups they read from, the largest value first; again until nothing changes. `lean`: no contraction writes
    more than its own result for reductions, which can compute the rest themselves."""
    changed = True
    while changed:
        changed = False
        for n in range(len(graph.core)):
            sources = sorted(graph.uses[n], key=lambda use: -graph.type_of(use[1]).bytes)
            for producer, _ in sources:
                a, b = graph.group_of[producer], graph.group_of[n]
                if a != b and _can_merge(graph, a, b, lean):
                    graph.merge(a, b)
                    changed = True


def _merge_siblings(graph: Graph) -> None:
    """Groups of elementwise work on the same points that read the same value become one pass over memory."""
    readers: dict[ir.Value, list[int]] = defaultdict(list)
    for n in range(len(graph.core)):
        for _, value in graph.uses[n]:
            readers[value].append(n)
    for value, users in readers.items():
        if type_of(value).size < 1024:
            continue
        for a, b in pairwise(users):
            g, h = graph.group_of[a], graph.group_of[b]
            if (
                g != h
                and graph.again.isdisjoint(graph.groups[g] | graph.groups[h])
                and kind_of(graph, graph.groups[g]) == "map" == kind_of(graph, graph.groups[h])
                and _independent(graph, g, h)
                and _can_merge(graph, g, h)
            ):
                graph.merge(g, h)


def _widen_late(graph: Graph) -> None:
    """Casts of 16-bit values to float32 for another kernel are done there, so that the narrow value is what is stored. Where a kernel stores it and
    its cast, for one that must find it in float32 (a sort), the cast is made of what is stored: all readers find the same numbers."""
    for n, op in enumerate(graph.core):
        a, readers = graph.group_of[n], {graph.group_of[c] for c in graph.consumers[n]}
        if _widens(op) and {op.x, *graph.results[n]} <= set(graph.outputs(graph.groups[a])):
            graph.groups[a] = graph.groups[a] - {n}
            graph.group_of[n] = len(graph.core) + n
            graph.groups[len(graph.core) + n] = {n}
            continue
        if not _widens(op) or len(readers) != 1 or a in readers or any(r in graph.outside for r in graph.results[n]):
            continue
        (b,) = readers
        rest = graph.groups[a] - {n}
        if any(graph.group_of[p] == a for p, _ in graph.uses[n]) and rest and graph.again.isdisjoint({n}):
            kinds = kind_of(graph, graph.groups[a]), kind_of(graph, graph.groups[b])
            if kinds == (kind_of(graph, rest), kind_of(graph, graph.groups[b] | {n})) and None not in kinds:
                graph.groups[a], graph.groups[b], graph.group_of[n] = rest, graph.groups[b] | {n}, b


def _widens(op: Op) -> bool:
    return isinstance(op, ops.Cast) and type_of(op.x).dtype.bits == 16 and op.dtype == FLOAT32


def _independent(graph: Graph, a: int, b: int) -> bool:
    return not graph.makes_cycle(a, b) and not graph.makes_cycle(b, a)


def _merge_updates(graph: Graph, updated: Mapping[ir.Value, ir.Value | None]) -> None:
    """Groups that only make next values of parameters and states run in one launch."""
    ends = [
        g
        for g in graph.groups
        if not graph.successors(g) and kind_of(graph, graph.groups[g]) == "map" and all(v in updated for v in graph.outputs(graph.groups[g]))
    ]
    graph.merge_update(ends)


def _merge_casts(graph: Graph) -> None:
    """Groups that only cast arguments of the block, weights to 16 bits, run in one launch."""
    starts = [
        g
        for g, members in graph.groups.items()
        if all(isinstance(graph.core[n], ops.Cast) and not graph.uses[n] for n in members) and kind_of(graph, members) == "map"
    ]
    graph.merge_update(starts)


# --- kernels ----------------------------------------------------------------------------------------------------------------------------


def _emit(graph: Graph, updated: Mapping[ir.Value, ir.Value | None]) -> None:
    """Writes each group as a kernel before the block's end, in an order that respects all reads, and takes the old ops away."""
    end = list(graph.block.operations)[-1]
    replaced: dict[ir.Value, ir.Value] = {}
    old = [op for op in graph.block.operations if op.operation != end.operation and not isinstance(op, CONTROL)]
    for g in ordered(graph):
        members = sorted(graph.groups[g])
        if isinstance(graph.core[members[0]], CONTROL):
            op = graph.core[members[0]]
            for k, operand in enumerate(op.operands):
                op.operands[k] = replaced.get(operand, operand)
            op.operation.move_before(end.operation)
            continue
        _kernel(graph, members, end, replaced, updated)
    for k, operand in enumerate(end.operands):
        end.operands[k] = replaced.get(operand, operand)
    for op in reversed(old):
        op.operation.erase()


def ordered(graph: Graph) -> list[int]:
    """Groups in topological order, as near to program order as that allows; but single numbers made of single numbers come first, so that an
    optimizer's step needs not wait for its rate."""
    waiting = {g: {graph.group_of[p] for n in members for p, _ in graph.uses[n]} - {g} for g, members in graph.groups.items()}
    numbers: dict[int, bool] = {}

    def place(g: int) -> int:
        return -1 if _of_numbers(graph, g, waiting_at_first, numbers) else min(graph.groups[g])

    waiting_at_first = {g: set(needs) for g, needs in waiting.items()}
    blocked: dict[int, list[int]] = defaultdict(list)
    for g, needs in waiting.items():
        for n in needs:
            blocked[n].append(g)
    before = {g: {graph.group_of[r] for n in members for r in graph.late.get(n, ())} - {g} for g, members in graph.groups.items()}
    ready = [(place(g), g) for g, needs in waiting.items() if not needs]
    heapq.heapify(ready)
    held: list[tuple[int, int]] = []  # groups that overwrite what others have yet to read: those come first where they can
    out: list[int] = []
    done: set[int] = set()
    while ready or held:
        if ready and not before[ready[0][1]] <= done:
            held.append(heapq.heappop(ready))
            continue
        held.sort()
        _, g = heapq.heappop(ready) if ready else held.pop(0)
        out.append(g)
        done.add(g)
        for h in blocked[g]:
            waiting[h].discard(g)
            if not waiting[h]:
                heapq.heappush(ready, (place(h), h))
        for entry in [e for e in held if before[e[1]] <= done]:
            held.remove(entry)
            heapq.heappush(ready, entry)
    assert len(out) == len(graph.groups), "kernels depend on each other in a circle"
    return out


def _of_numbers(graph: Graph, group: int, needs: dict[int, set[int]], known: dict[int, bool]) -> bool:
    """Whether a group makes single numbers from arguments and other such groups alone."""
    if group not in known:
        single = all(graph.type_of(r).size == 1 for n in graph.groups[group] for r in graph.results[n])
        known[group] = single and all(_of_numbers(graph, g, needs, known) for g in needs[group])
    return known[group]


def _kernel(graph: Graph, members: list[int], end: Op, replaced: dict[ir.Value, ir.Value], updated: Mapping[ir.Value, ir.Value | None]) -> None:
    outputs = graph.outputs(members)
    if not outputs:
        return
    body, operands = _body(graph, members, outputs)
    kind = "update" if graph.group_of[members[0]] in graph.updates else kind_of(graph, set(members))
    assert kind is not None
    types: list[TensorType] = [type_of(v) for v in outputs]
    with ir.InsertionPoint(end), fuse_locations(locations_of(body)):
        kernel = ops.Kernel.build([replaced.get(v, v) for v in operands], types, kind, role_of(kind, body))
        block = kernel.regions[0].blocks[0]
        swap: dict[ir.Value, ir.Value] = dict(zip(operands, block.arguments))
        with ir.InsertionPoint(block):
            for op in body:
                copy = op.operation.clone()
                if AGAIN in copy.attributes:
                    del copy.attributes[AGAIN]
                for k, operand in enumerate(copy.operands):
                    copy.operands[k] = swap[operand]
                swap.update(zip(op.results, copy.results))
            ops.Yield.of(*[swap[v] for v in outputs])
    replaced.update(zip(outputs, kernel.results))


def _body(graph: Graph, members: list[int], outputs: list[ir.Value]) -> tuple[list[Op], list[ir.Value]]:
    """The ops of a kernel in order, with the views and constants it needs; the values it reads from outside."""
    inside = set(members)
    order: dict[Op, None] = {}
    operands: dict[ir.Value, None] = {}
    done: set[ir.Value] = set()

    def visit(value: ir.Value) -> None:
        if value in done:
            return
        done.add(value)
        owner = value.owner
        if isinstance(owner, ir.Block) or (value in graph.number and graph.number[value] not in inside):
            operands[value] = None
            return
        for operand in owner.operands:
            visit(operand)
        if owner.opview not in order:
            order[owner.opview] = None
            done.update(owner.results)

    for value in outputs:
        visit(value)
    return list(order), list(operands)


def role_of(kind: str, body: Iterable[Op]) -> str:
    """A readable name: the kind and the ops that say most."""
    telling = [op._op_name for op in body if not is_placement(op) and op._op_name not in ("cast", "select", "compare", "add", "mul", "sub", "neg")]
    names = list(dict.fromkeys(telling)) or list(dict.fromkeys(op._op_name for op in body if not is_placement(op)))
    return "_".join([kind, *(n for n in names[:3] if n != kind)])
