"""attention: chains of contractions with a tile between them that need not lie in memory become streaming kernels, by algebra.

A score is a contraction that is larger than its operands. The tile space is everything pointwise made from scores at the same points; it ends in
folds (sums, maxima, contractions). Folds along the same axes whose operands need no finished fold but such as the online rescaling allows are one
kernel, in which scores are computed anew from their operands. The same rules make the forward kernel and those of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from dslc.ir import ops
from dslc.ir.bodies import body_key, locations_of
from dslc.ir.mlir import func, ir
from dslc.ir.op import POINTWISE, Op
from dslc.ir.program import functions_of, slot_of
from dslc.ir.rows import Unsuited
from dslc.ir.streams import Stream, axes_from
from dslc.ir.trace import Body
from dslc.ir.types import fuse_locations, type_of

from .kernel_rules import is_placement
from .notes import note
from .prune import remove_dead
from .regions import sort
from .tile_space import Space, line_of

MAX_TERMS = 256  # of a score: beyond, to compute it anew costs more than to read it
FEW_ROWS, MANY_COLUMNS = 8, 32  # of a score that is derived although it is smaller than its operands
CROSS_BYTES = 4 << 20  # of sums that a thread keeps where products cross the stream


@dataclass(frozen=True)
class Attention:
    """Scores that only folds read are never written. Its notes name the scores that are written after all, each with what
    stood in the way. `workers`: threads of a target whose kernels fold a tile along both axes, a task a point of the batch, so that a gradient's tile
    is made once and not for either axis; 0 where they do not. `few_rows`: scores of few rows are streamed too.

    before: %s = contract %q, %k; %p = softmax %s; %o = contract %p, %v      after: %o, %m, %l = kernel attention (%q, %k, %v) { ... }
    """

    workers: int = 0
    few_rows: bool = False

    def run(self, module: ir.Module) -> None:
        notes: list[str] = []
        for program in functions_of(module):
            _derive(program.entry_block, self, notes)
        note(module, "attention", notes)


def _derive(block: ir.Block, options: Attention, notes: list[str]) -> None:
    roots = _scores(block, options.few_rows)
    if not roots:
        return
    _expand(roots.values())
    for space in _spaces(block, options, notes):
        space.reassociate()
    remove_dead(block)
    for space in _spaces(block, options, notes):
        space.pull_out()
    remove_dead(block)
    sort(block)
    spaces = _spaces(block, options, notes)
    order = Order.of(block, [sink for space in spaces for sink in space.sinks])
    for space in spaces:
        _kernels(order, space, options.workers, notes)
    sort(block)
    remove_dead(block)


def _scores(block: ir.Block, few_rows: bool) -> dict[ir.Value, Op]:
    """The contractions of a block that are scores, by their values."""
    found = (op for op in block.operations if isinstance(op, ops.Contract))
    return {op.results[0]: op for op in found if is_score(op) or (few_rows and _is_score_of_few(op))}


def _spaces(block: ir.Block, options: Attention, notes: list[str]) -> list[Space]:
    """The tile spaces of a block that only folds read; notes what stands in the way of the others."""
    roots = _scores(block, options.few_rows)
    done: set[ir.Value] = set()
    found = []
    for value, root in roots.items():
        if value in done:
            continue
        space = Space.of(root, roots, options.workers > 0)
        space.prepare()
        done |= space.tiles
        reason = space.obstacle()
        if reason is None:
            found.append(space)
        elif any(isinstance(op, ops.Exp) for op in space.members()):
            notes.append(f"{line_of(root)}: not streamed: {reason}")
    return found


def is_score(op: ops.Contract) -> bool:
    """A contraction that is at least as large as either operand, of few terms, with an axis of each operand alone. One of a weight without a batch
    axis is a projection: its result is kept."""
    a, b = op.types()
    if op.type.size < max(a.size, b.size) or not op.type.dtype.is_float or not op.summed:
        return False
    if math.prod(op.sizes[i] for i in op.summed) > MAX_TERMS:
        return False
    own = [any(i in op.out and i not in other for i in mine) for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs))]
    batched = any(i in op.lhs and i in op.rhs for i in op.out)
    return all(own) and (batched or not any(is_parameter(v) for v in op.operands))


def _is_score_of_few(op: ops.Contract) -> bool:
    """A contraction of few rows with many, as of a token with a cache: smaller than what it reads, but a stream is one launch instead of three."""
    if not op.type.dtype.is_float or not op.summed or any(is_parameter(v) for v in op.operands):
        return False
    own = [math.prod(op.sizes[i] for i in op.out if (i in mine) > (i in other)) for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs))]
    return min(own) <= FEW_ROWS and max(own) >= MANY_COLUMNS and math.prod(op.sizes[i] for i in op.summed) <= MAX_TERMS


def is_parameter(value: ir.Value) -> bool:
    """A trained weight, seen through views."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner.opview
        if not isinstance(op, (ops.View, ops.Reshape, ops.Cast)):
            return False
        value = op.operands[0]
    return isinstance(value.owner.owner.opview, func.FuncOp) and slot_of(value).role in ("param", "prepared")


def _expand(roots: Iterable[Op]) -> None:
    """softmax and log_softmax of scores in reductions and elementwise ops, until none is left."""
    for root in roots:
        while op := _whole_softmax(root):
            with ir.InsertionPoint(op), op.location:
                op.results[0].replace_all_uses_with(op.expand())
            op.operation.erase()


def _whole_softmax(root: Op) -> Op | None:
    """A softmax or log_softmax of what is made from a score."""
    users = (use.owner.opview for value in axes_from(root.results[0]) for use in value.uses)
    return next((op for op in users if isinstance(op, (ops.Softmax, ops.LogSoftmax))), None)


# --- kernels ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Sinks that become one kernel."""

    streamed: frozenset[int]
    sinks: list[Op]
    crossing: bool = False  # some of the sinks fold the other axis


@dataclass(frozen=True)
class Order:
    """The values of a sorted block by number (the hash of an op itself changes with its operands); for each the sinks that it depends on, as bits."""

    block: ir.Block
    number: dict[ir.Value, int]
    bits: dict[ir.Value, int]  # of a sink's result
    depends: dict[ir.Value, int]
    streams: dict[tuple[str, bool], Stream | str]  # by the text of a body and whether its sinks may cross: those of equal layers are equal

    @staticmethod
    def of(block: ir.Block, sinks: Iterable[Op]) -> Order:
        order = Order(block, {}, {sink.results[0]: 1 << k for k, sink in enumerate(sinks)}, {}, {})
        for k, op in enumerate(block.operations):
            needs = order.union(op.operands)
            for r in op.results:
                order.number[r] = k
                order.depends[r] = needs | order.bits.get(r, 0)
        return order

    def union(self, values: Iterable[ir.Value]) -> int:
        """The sinks that any of these depends on."""
        found = 0
        for v in values:
            found |= self.depends.get(v, 0)
        return found

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        old.replace_all_uses_with(new)
        self.depends[new] = self.depends[old]


def _kernels(order: Order, space: Space, workers: int, notes: list[str]) -> None:
    needs: dict[Op, tuple[set[Op], set[Op]]] = {}
    groups: list[_Group] = []
    of: dict[ir.Value, int] = {}
    edges: dict[int, set[int]] = {}  # the groups that a group needs
    for sink in space.sinks:
        streamed = space.streamed(sink)
        if streamed is None:
            notes.append(f"{line_of(space.root)}: not streamed: {sink.operation.name.removeprefix('nn.')} at {line_of(sink)} folds other axes")
            return
        soft, hard = needs[sink] = _needs(order, space, sink, needs)
        place = None
        for k in range(len(groups) - 1, -1, -1):
            mine = set(groups[k].sinks)
            if groups[k].streamed != streamed or mine & hard:
                continue
            before = {of[t.results[0]] for t in soft | hard if t.results[0] in of and t not in mine}
            if not _reaches(edges, before, k) and _joins(order, space, groups[k].sinks, sink):
                place = k
                break
        if place is None:
            groups.append(_Group(streamed, [sink]))
            place = len(groups) - 1
        else:
            groups[place].sinks.append(sink)
        of[sink.results[0]] = place
        edges.setdefault(place, set()).update({of[t.results[0]] for t in soft | hard if t.results[0] in of} - {place})
    for group in _crossed(order, space, groups, edges, workers) if workers else groups:
        _emit(order, space, group, notes)


def _crossed(order: Order, space: Space, groups: Sequence[_Group], edges: dict[int, set[int]], workers: int) -> list[_Group]:
    """Groups along two axes as one, where neither needs the other and the threads get equal shares of the batch."""
    out = list(groups)
    for a, b in combinations(range(len(groups)), 2):
        first, second = groups[a], groups[b]
        if first not in out or second not in out or first.streamed == second.streamed:
            continue
        if _reaches(edges, [a], b) or _reaches(edges, [b], a):
            continue
        both = _Group(first.streamed, [*first.sinks, *second.sinks], crossing=True)
        stream = _stream(order, both, *_parts(order, space, both))
        if isinstance(stream, Stream) and _pays(stream, workers):
            out[out.index(first)] = both
            out.remove(second)
            for one, other in ((a, b), (b, a)):  # who needs one needs both
                edges.setdefault(one, set()).add(other)
    return out


def _pays(stream: Stream, workers: int) -> bool:
    points = math.prod(stream.sizes[: stream.x])
    kept = sum(4 * stream.sizes[stream.y] * stream.sizes[s.features] for s in stream.sinks if s.crosses and s.features is not None)
    return kept <= CROSS_BYTES and (points % workers == 0 or points >= 8 * workers)


def _reaches(edges: Mapping[int, set[int]], start: Iterable[int], goal: int) -> bool:
    """Whether a group is needed by one of these, through others too."""
    stack, seen = list(start), set()
    while stack:
        g = stack.pop()
        if g == goal:
            return True
        if g not in seen:
            seen.add(g)
            stack += edges.get(g, ())
    return False


def _needs(order: Order, space: Space, sink: Op, known: Mapping[Op, tuple[set[Op], set[Op]]]) -> tuple[set[Op], set[Op]]:
    """(sinks whose results enter through pointwise work alone, sinks on which anything else depends). `known`: the same of the sinks before."""
    soft: set[Op] = set()
    mask = order.union(v for v in sink.operands if v not in space.tiles)
    seen: set[ir.Value] = set()
    stack = [v for v in sink.operands if v in space.tiles]
    while stack:
        value = stack.pop()
        if value in seen or isinstance(value.owner, ir.Block):
            continue
        seen.add(value)
        op = value.owner.opview
        if op in space.sinks:
            soft.add(op)
        elif op.structure in POINTWISE:
            stack += op.operands
        else:
            mask |= order.union(op.operands)
    hard = {op for op in space.sinks if order.bits[op.results[0]] & mask}
    for op in list(soft):  # what a finished fold needed is needed before too
        more, rest = known[op]
        soft |= more
        hard |= rest
    return soft, hard


def _joins(order: Order, space: Space, sinks: Sequence[Op], sink: Op) -> bool:
    """Whether the correction rule lets a fold read running folds of a kernel; the kernel's analysis decides."""
    if isinstance(sink, ops.Reduce) and sink.kind == "max" and sinks:
        return False
    ends = [v.results[0] for v in (*sinks, sink)]
    body, operands = _body(space, ends, {s.results[0] for s in (*sinks, sink)})
    return isinstance(_stream(order, _Group(frozenset(), [*sinks, sink]), body, operands, ends), Stream)


def _body(space: Space, results: Sequence[ir.Value], mine: set[ir.Value]) -> tuple[list[Op], list[ir.Value]]:
    """The ops of a kernel in order, and what it reads: large values are computed anew, small ones and other kernels' folds are read."""
    threshold = type_of(space.root.results[0]).shape
    smallest = min(_area(space), type_of(space.root.results[0]).size) if threshold else 1
    ops_in: dict[Op, None] = {}
    operands: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    row_of = _rows(space, mine)

    def visit(value: ir.Value) -> None:
        if value in seen:
            return
        seen.add(value)
        owner = value.owner
        if isinstance(owner, ir.Block):
            operands[value] = None
            return
        op = owner.opview
        inline = value in mine or op in space.scores or value in space.tiles or is_placement(op) or value in row_of
        inline = inline or (op.structure in POINTWISE and type_of(value).size >= smallest)
        inline = inline or (isinstance(op, (ops.View, ops.Reshape)))
        if not inline or (op in space.sinks and value not in mine):
            operands[value] = None
            return
        for operand in op.operands:
            visit(operand)
        ops_in[op] = None

    for value in results:
        visit(value)
    return list(ops_in), list(operands)


def _area(space: Space) -> int:
    """Points of one tile: rows times columns, without the batch."""
    root = space.root
    n = 1
    for p, i in enumerate(root.out):
        if (i in root.lhs) != (i in root.rhs):
            n *= type_of(root.results[0]).shape[p]
    return n


def _rows(space: Space, mine: set[ir.Value]) -> set[ir.Value]:
    """Pointwise values made of this kernel's folds alone, with as many points as one of them: an epilogue, and rows that come back."""
    found: set[ir.Value] = set()
    mine = {v for v in mine if not isinstance(v.owner.opview, ops.Scatter)}  # tables are results as they are
    shapes = {type_of(v).shape for v in mine}
    stack = list(mine)
    while stack:
        value = stack.pop()
        for use in value.uses:
            user = use.owner.opview
            if getattr(user, "structure", None) not in ("elementwise", "view") or not user.results or user.results[0] in found:
                continue
            if user.structure == "elementwise" and (type_of(user.results[0]).shape not in shapes or user.results[0] in space.tiles):
                continue
            if all(_made_of(v, mine | found) for v in user.operands):
                found.add(user.results[0])
                stack.append(user.results[0])
    return found


def _made_of(value: ir.Value, made: set[ir.Value]) -> bool:
    return value in made or (not isinstance(value.owner, ir.Block) and is_placement(value.owner.opview) and not _reads_data(value))


def _reads_data(value: ir.Value) -> bool:
    if isinstance(value.owner, ir.Block):
        return True
    op = value.owner.opview
    return not is_placement(op) or any(_reads_data(v) for v in op.operands)


def _emit(order: Order, space: Space, group: _Group, notes: list[str]) -> None:
    body, operands, results = _parts(order, space, group)
    found = _stream(order, group, body, operands, results)
    if isinstance(found, str):
        notes.append(f"{line_of(space.root)}: not streamed: {found} ({', '.join(line_of(s) for s in group.sinks)})")
        return
    kernel = _kernel(order, body, operands, results, fuse_locations(locations_of(body)))
    for old, new in zip(results, kernel.results):
        order.replace(old, new)


def _parts(order: Order, space: Space, group: _Group) -> tuple[list[Op], list[ir.Value], list[ir.Value]]:
    """(body, operands, results) of a group's kernel."""
    mine = {s.results[0] for s in group.sinks}
    rows = _rows(space, mine)
    shapes = {type_of(v).shape for v in mine}
    made = [v for v in (*mine, *rows) if type_of(v).shape in shapes and (v in mine or v.owner.opview.structure == "elementwise")]
    used = [v for v in made if any(_outside(space, u.owner.opview, mine | rows, group) for u in v.uses)]
    results = sorted(used, key=lambda v: order.number[v])
    return *_body(space, results, mine), results


def _outside(space: Space, user: Op, inner: set[ir.Value], group: _Group) -> bool:
    """Whether a use of a kernel's value is another kernel's, or none's."""
    if user in space.sinks:
        return user not in group.sinks
    if not user.operation.name.startswith("nn.") or isinstance(user, (ops.Kernel, ops.Scan, ops.Cond)) or not user.results:
        return True
    result = user.results[0]
    if result in space.tiles or (isinstance(user, (ops.View, ops.Reshape)) and _into_tiles(space, result)):
        return any(_feeds(space, result, s) for s in space.sinks if s not in group.sinks)
    if result not in inner or type_of(result).shape not in {type_of(v).shape for v in inner}:
        return True
    return user.structure != "elementwise" and any(_outside(space, use.owner.opview, inner, group) for use in result.uses)


def _into_tiles(space: Space, value: ir.Value) -> bool:
    """Whether a value is read by tiles alone, through views too."""
    users = [use.owner.opview for use in value.uses]
    return bool(users) and all(
        len(getattr(u, "results", ())) == 1
        and (u.results[0] in space.tiles or (isinstance(u, (ops.View, ops.Reshape)) and _into_tiles(space, u.results[0])))
        for u in users
    )


def _feeds(space: Space, value: ir.Value, sink: Op) -> bool:
    stack, seen = [value], set()
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        for use in v.uses:
            user = use.owner.opview
            if user == sink or user.operation == sink.operation:
                return True
            if len(user.results) == 1 and (user.results[0] in space.tiles or isinstance(user, ops.View)):
                stack.append(user.results[0])
    return False


def _kernel(order: Order, body: Iterable[Op], operands: Sequence[ir.Value], results: Sequence[ir.Value], location: ir.Location) -> ops.Kernel:
    """These ops as a kernel at the end of the block, in the order in which its results need them: equal layers have equal kernels."""
    with ir.InsertionPoint.at_block_terminator(order.block), location:
        kernel = ops.Kernel.build(operands, [type_of(v) for v in results], "attention", _role(body))
        inner = kernel.regions[0].blocks[0]
        swap: dict[ir.Value, ir.Value] = dict(zip(operands, inner.arguments))
        with ir.InsertionPoint(inner):
            for op in body:
                copy = op.operation.clone()
                for k, operand in enumerate(copy.operands):
                    copy.operands[k] = swap[operand]
                swap.update(zip(op.results, copy.results))
            ops.Yield.of(*[swap[v] for v in results])
    return kernel


def _role(body: Iterable[Op]) -> str:
    kinds = [op.kind for op in body if isinstance(op, ops.Reduce)]
    return "attention" if "max" in kinds or "sum" in kinds else "attention_stream"


def _stream(order: Order, group: _Group, body: Sequence[Op], operands: Sequence[ir.Value], results: Sequence[ir.Value]) -> Stream | str:
    """The stream that these ops are, or why they are none: its sizes and the kinds of its parts, for its ops are gone when this is told."""
    if order.union(operands) & sum(order.bits[s.results[0]] for s in group.sinks):
        return "its operands depend on its results"
    kernel = _kernel(order, body, operands, results, ir.Location.unknown())
    try:
        made = Body.of(kernel.regions[0].blocks[0])
        key = (body_key(made), group.crossing)
        if key not in order.streams:
            try:
                order.streams[key] = Stream.of(made, group.crossing)
            except Unsuited as e:
                order.streams[key] = str(e)
        return order.streams[key]
    finally:
        kernel.operation.erase()
