"""attention: chains of contractions with a tile between them that need not lie in memory become streaming kernels, by algebra.

A score is a contraction that is larger than its operands. The tile space is everything pointwise made from scores at the same points; it ends in
folds (sums, maxima, contractions). Folds along the same axes whose operands need no finished fold but such as the online rescaling allows are one
kernel, in which scores are computed anew from their operands. The same rules make the forward kernel and those of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.rows import Unsuited
from dslc.ir.streams import FOLDS, Axes, Stream, axes_from
from dslc.ir.trace import Body
from dslc.ir.types import fuse_locations, spans_of, type_of

from .kernel_rules import POINTWISE, is_placement
from .prune import remove_dead

MAX_TERMS = 256  # of a score: beyond, to compute it anew costs more than to read it
NOTES = "nn.attention"  # attribute of the module: what could not be derived, and why


@dataclass(frozen=True)
class Attention:
    """Scores that only folds read are never written.

    before: %s = contract %q, %k; %p = softmax %s; %o = contract %p, %v      after: %o, %m, %l = kernel attention (%q, %k, %v) { ... }
    """

    def run(self, module: ir.Module) -> None:
        notes: list[str] = []
        for op in module.body.operations:
            if isinstance(op, func.FuncOp):
                _derive(op.entry_block, notes)
        if notes:
            module.operation.attributes[NOTES] = ir.ArrayAttr.get([ir.StringAttr.get(n) for n in dict.fromkeys(notes)])


def notes_of(module: ir.Module) -> list[str]:
    """What the pass could not derive."""
    found = module.operation.attributes
    return [ir.StringAttr(a).value for a in ir.ArrayAttr(found[NOTES])] if NOTES in found else []


def _derive(block: ir.Block, notes: list[str]) -> None:
    roots = [op for op in block.operations if isinstance(op, ops.Contract) and _is_score(op)]
    if not roots:
        return
    _expand(roots)
    for space in _spaces(block, notes):
        space.reassociate()
    remove_dead(block)
    for space in _spaces(block, notes):
        space.pull_out()
    remove_dead(block)
    for space in _spaces(block, notes):
        _kernels(block, space, notes)
    _sort(block)
    remove_dead(block)


def _spaces(block: ir.Block, notes: list[str]) -> list[Space]:
    """The tile spaces of a block that only folds read; notes what stands in the way of the others."""
    roots = [op for op in block.operations if isinstance(op, ops.Contract) and _is_score(op)]
    done: set[ir.Value] = set()
    found = []
    for root in roots:
        if root.results[0] in done:
            continue
        space = Space.of(root, roots)
        space.prepare()
        done |= space.tiles
        reason = space.obstacle()
        if reason is None:
            found.append(space)
        elif any(isinstance(op, ops.Exp) for op in space.members()):
            notes.append(f"{_line(root)}: not streamed: {reason}")
    return found


def _line(op: Op) -> str:
    spans = spans_of(op.location)
    return f"line {spans[-1].line}" if spans else "?"


def _is_score(op: ops.Contract) -> bool:
    """A contraction that is at least as large as either operand, of few terms, with an axis of each operand alone. One of a weight without a batch
    axis is a projection: its result is kept."""
    a, b = op.types()
    if op.type.size < max(a.size, b.size) or not op.type.dtype.is_float or not op.summed:
        return False
    if math.prod(op.sizes[i] for i in op.summed) > MAX_TERMS:
        return False
    own = [any(i in op.out and i not in other for i in mine) for mine, other in ((op.lhs, op.rhs), (op.rhs, op.lhs))]
    batched = any(i in op.lhs and i in op.rhs for i in op.out)
    return all(own) and (batched or not any(_is_parameter(v) for v in op.operands))


def _is_parameter(value: ir.Value) -> bool:
    """A trained weight, seen through views."""
    while not isinstance(value.owner, ir.Block):
        op = value.owner.opview
        if not isinstance(op, (ops.View, ops.Reshape, ops.Cast)):
            return False
        value = op.operands[0]
    owner = value.owner.owner
    if not isinstance(owner.opview, func.FuncOp):
        return False
    from dslc.ir.program import arguments_of

    return arguments_of(owner.opview)[value.arg_number].role == "param"  # type: ignore[attr-defined]


def _expand(roots: Sequence[Op]) -> None:
    """softmax and log_softmax of scores in reductions and elementwise ops, until none is left."""
    again = True
    while again:
        again = False
        for root in roots:
            for value in list(axes_from(root.results[0])):
                for use in list(value.uses):
                    op = use.owner.opview
                    if isinstance(op, (ops.Softmax, ops.LogSoftmax)):
                        with ir.InsertionPoint(op), op.location:
                            op.results[0].replace_all_uses_with(op.expand())
                        op.operation.erase()
                        again = True
                        break
                if again:
                    break
            if again:
                break


# --- the tile space -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Space:
    """The values at the points of a score that are made from scores, the folds that read them, and what else does."""

    root: Op
    axes: dict[ir.Value, Axes]
    tiles: set[ir.Value]
    scores: list[Op]
    sinks: list[Op] = field(default_factory=list)
    escapes: list[Op] = field(default_factory=list)

    @staticmethod
    def of(root: Op, roots: Sequence[Op]) -> Space:
        axes = axes_from(root.results[0])
        scores = [r for r in roots if r.results[0] in axes]
        space = Space(root, axes, set(), scores)
        space.grow()
        return space

    def grow(self) -> None:
        """Fills in tiles, sinks and escapes."""
        self.axes = axes_from(self.root.results[0])
        self.tiles, sinks, escapes = set(), {}, {}
        stack = [s.results[0] for s in self.scores]
        while stack:
            value = stack.pop()
            if value in self.tiles:
                continue
            self.tiles.add(value)
            for use in value.uses:
                user = use.owner.opview
                if isinstance(user, FOLDS) and user not in self.scores:
                    sinks[user.operation] = user
                elif getattr(user, "results", None) and len(user.results) == 1 and user.results[0] in self.axes:
                    stack.append(user.results[0])
                else:
                    escapes[user.operation] = user
        order = {op.operation: k for k, op in enumerate(self.root.operation.block.operations)}
        self.sinks = sorted(sinks.values(), key=lambda op: order[op.operation])
        self.escapes = list(escapes.values())

    def members(self) -> list[Op]:
        return [v.owner.opview for v in self.tiles]

    def obstacle(self) -> str | None:
        """Why the space must be written after all."""
        if self.escapes:
            op = self.escapes[0]
            name = "the result of the program" if op.operation.name == "func.return" else op.operation.name.removeprefix("nn.")
            return f"{name} at {_line(op)} reads the weights or scores themselves"
        if not any(isinstance(op, ops.Contract) for op in self.sinks):
            return "no contraction follows"
        if not any(isinstance(op, ops.Reduce) for op in self.sinks) and not any(op not in self.scores for op in self.members()):
            return "nothing stands between two contractions"
        for op in self.sinks:
            if isinstance(op, ops.Reduce) and op.kind not in ("sum", "max"):
                return f"{op.kind} at {_line(op)}"
            if self.streamed(op) is None:
                return f"{op.operation.name.removeprefix('nn.')} at {_line(op)} folds other axes"
        return None

    def operand(self, op: Op) -> int | None:
        """Which operand of a sink is a tile; None: two."""
        places = [k for k, v in enumerate(op.operands) if v in self.tiles]
        return places[0] if len(places) == 1 else None

    def streamed(self, op: Op) -> frozenset[int] | None:
        """The axes along which a sink folds; None where they belong to both sides of a score, or are a batch's."""
        k = self.operand(op)
        if k is None:
            return None
        axes = self.axes[op.operands[k]]
        if isinstance(op, ops.Reduce):
            places = list(op.axes)
        else:
            mine = (op.lhs, op.rhs)[k]
            places = [p for p, i in enumerate(mine) if i not in op.out]
        found = frozenset(a for p in places if (a := axes[p]) is not None)
        return found if found and any(found <= side for side in self.sides) else None

    # --- algebra

    def prepare(self) -> None:
        """Folds over axes of both sides go one side after the other; a division by a constant is a product."""
        for op in self.members():
            divisor = op.operands[1].owner.opview if isinstance(op, ops.Div) and not isinstance(op.operands[1].owner, ir.Block) else None
            if isinstance(divisor, ops.Constant) and divisor.uniform and op.operands[0] in self.tiles:
                with ir.InsertionPoint(op), op.location:
                    made = ops.Mul.of(op.operands[0], ops.full_like(op.results[0], 1 / divisor.uniform))
                op.results[0].replace_all_uses_with(made)
                op.operation.erase()
        self.grow()
        for sink in self.sinks:
            if isinstance(sink, ops.Reduce) and self.streamed(sink) is None and self.operand(sink) == 0:
                self._split(sink)
        self.grow()

    def _split(self, sink: Op) -> None:
        axes = self.axes[sink.operands[0]]
        for side in self.sides[::-1]:
            first = [p for p in sink.axes if axes[p] in side]
            if first:
                with ir.InsertionPoint(sink), sink.location:
                    part = ops.Reduce.of(sink.operands[0], kind=sink.kind, axes=first)
                    rest = [p - sum(q < p for q in first) for p in sink.axes if p not in first]
                    made = ops.Reduce.of(part, kind=sink.kind, axes=rest)
                sink.results[0].replace_all_uses_with(made)
                sink.operation.erase()
                return

    @property
    def sides(self) -> list[set[int]]:
        """The axes that only the first operand of the score has, and only the second."""
        root = self.root
        return [{p for p, i in enumerate(root.out) if i in mine and i not in other} for mine, other in ((root.lhs, root.rhs), (root.rhs, root.lhs))]

    def reassociate(self) -> None:
        """sum_j p_ij (sum_c g_ic v_jc) is sum_c g_ic o_ic where o_ic = sum_j p_ij v_jc is there already."""
        for sink in list(self.sinks):
            if not isinstance(sink, ops.Reduce) or sink.kind != "sum":
                continue
            factors = _factors(sink.operands[0])
            for n, f in enumerate(factors):
                score = f.owner.opview if not isinstance(f.owner, ir.Block) else None
                if score is None or score not in self.scores:
                    continue
                rest = factors[:n] + factors[n + 1 :]
                made = self._partner(sink, score, rest)
                if made is not None:
                    sink.results[0].replace_all_uses_with(made)
                    sink.operation.erase()
                    break

    def _partner(self, sink: Op, score: Op, rest: list[ir.Value]) -> ir.Value | None:
        for other in self.sinks:
            if not isinstance(other, ops.Contract) or self.streamed(other) != self.streamed(sink):
                continue
            k = self.operand(other)
            assert k is not None
            if sorted(map(hash, _factors(other.operands[k]))) != sorted(map(hash, rest)):
                continue
            values = other.operands[1 - k]
            for side in (0, 1):
                if score.operands[side] == values:
                    made = self._row_product(sink, score, side, other, k)
                    if made is not None:
                        return made
        return None

    def _row_product(self, sink: Op, score: Op, side: int, other: Op, k: int) -> ir.Value | None:
        """The sum over features of (the score's other operand) * (the contraction's result), with the sink's axes in order."""
        g = score.operands[1 - side]
        g_ids, v_ids = (score.lhs, score.rhs) if side == 1 else (score.rhs, score.lhs)
        p_ids, w_ids = (other.lhs, other.rhs) if k == 0 else (other.rhs, other.lhs)
        tile_axes, p_axes = self.axes[score.results[0]], self.axes[other.operands[k]]
        name = {i: ("t", tile_axes[p]) for p, i in enumerate(score.out)}
        other_name = {i: ("t", p_axes[p]) for p, i in enumerate(p_ids)}
        for a, b in zip(v_ids, w_ids):
            if a in name and b in other_name:
                if name[a] != other_name[b]:
                    return None
            elif a in score.summed and b not in other_name:
                name[a] = other_name[b] = ("c", a)
            else:
                return None
        if any(i not in name for i in g_ids) or any(i not in other_name for i in other.out):
            return None
        g_names, o_names = [name[i] for i in g_ids], [other_name[i] for i in other.out]
        axes = [("t", a) for p, a in enumerate(self.axes[sink.operands[0]]) if p not in sink.axes]
        if sorted(map(str, g_names)) != sorted(map(str, o_names)) or sorted(map(str, axes)) != sorted(str(n) for n in g_names if n[0] == "t"):
            return None
        order = [*axes, *(n for n in g_names if n[0] == "c")]
        last = max((p for p, op in enumerate(_ordered(self.root)) if op.operation in (other.operation, sink.operation, score.operation)), default=0)
        with ir.InsertionPoint(list(self.root.operation.block.operations)[last]), sink.location:
            a = ops.transpose(g, [g_names.index(n) for n in order])
            b = ops.transpose(other.results[0], [o_names.index(n) for n in order])
            return ops.Reduce.of(ops.Mul.of(a, b), kind="sum", axes=range(len(axes), len(order)))

    def pull_out(self) -> None:
        """sum_j (e_ij r_i) v_jc is r_i sum_j e_ij v_jc: factors that do not move along the stream leave the sum."""
        again = True
        while again:
            again = False
            for sink in self.sinks:
                if isinstance(sink, ops.Contract) and self._pulled(sink):
                    self.grow()
                    again = True
                    break

    def _pulled(self, sink: Op) -> bool:
        k = self.operand(sink)
        if k is None or isinstance(sink.operands[k].owner, ir.Block):
            return False
        op = sink.operands[k].owner.opview
        if not isinstance(op, (ops.Mul, ops.Div)):
            return False
        ids = (sink.lhs, sink.rhs)[k]
        for place in (1, 0) if isinstance(op, ops.Mul) else (1,):
            row = self._row(op.operands[place], [p for p, i in enumerate(ids) if i not in sink.out])
            if row is None or op.operands[1 - place] not in self.tiles:
                continue
            x, matrix, offsets = row
            with ir.InsertionPoint(sink), sink.location:
                operands = list(sink.operands)
                operands[k] = op.operands[1 - place]
                total = ops.Contract.of(*operands, **sink.values())
                out = [[line[ids.index(i)] if i in ids else 0 for i in sink.out] for line in matrix]
                factor = ops.view(x, out, offsets, type_of(total).shape)
                made = type(op).of(total, factor)
            sink.results[0].replace_all_uses_with(made)
            sink.operation.erase()
            return True
        return False

    def _row(self, value: ir.Value, streamed: Sequence[int]) -> tuple[ir.Value, list[tuple[int, ...]], Sequence[int]] | None:
        """(x, matrix, offsets) where a value is a view of x that does not move along these axes."""
        if isinstance(value.owner, ir.Block) or not isinstance(value.owner.opview, ops.View):
            return None
        op = value.owner.opview
        matrix = op.matrix
        return (op.x, matrix, op.offsets) if op.inside and all(line[p] == 0 for line in matrix for p in streamed) else None


def _ordered(root: Op) -> list[Op]:
    return list(root.operation.block.operations)


def _factors(value: ir.Value) -> list[ir.Value]:
    """The factors of a product; a truth value cast to a number, and a selection against 0, count as factors themselves."""
    if isinstance(value.owner, ir.Block):
        return [value]
    op = value.owner.opview
    if isinstance(op, ops.Mul):
        return _factors(op.operands[0]) + _factors(op.operands[1])
    return [value]


# --- kernels ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Sinks that become one kernel."""

    streamed: frozenset[int]
    sinks: list[Op]


def _kernels(block: ir.Block, space: Space, notes: list[str]) -> None:
    groups: list[_Group] = []
    of: dict[ir.Value, int] = {}
    edges: dict[int, set[int]] = {}  # the groups that a group needs
    for sink in space.sinks:
        streamed = space.streamed(sink)
        if streamed is None:
            notes.append(f"{_line(space.root)}: not streamed: {sink.operation.name.removeprefix('nn.')} at {_line(sink)} folds other axes")
            return
        soft, hard = _needs(space, sink)
        place = None
        for k in range(len(groups) - 1, -1, -1):
            mine = set(groups[k].sinks)
            before = {of[t.results[0]] for t in soft | hard if t.results[0] in of and t not in mine}
            if (
                groups[k].streamed == streamed
                and not mine & hard
                and not _reaches(edges, before, k)
                and _joins(space, groups[k].sinks, sink, soft & mine)
            ):
                place = k
                break
        if place is None:
            groups.append(_Group(streamed, [sink]))
            place = len(groups) - 1
        else:
            groups[place].sinks.append(sink)
        of[sink.results[0]] = place
        edges.setdefault(place, set()).update({of[t.results[0]] for t in soft | hard if t.results[0] in of} - {place})
    for group in groups:
        _emit(block, space, group, notes)


def _reaches(edges: dict[int, set[int]], start: Iterable[int], goal: int) -> bool:
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


def _needs(space: Space, sink: Op) -> tuple[set[Op], set[Op]]:
    """(sinks whose results enter through pointwise work alone, sinks on which anything else depends)."""
    soft: set[Op] = set()
    hard: set[Op] = set()
    seen: set[tuple[ir.Value, bool]] = set()
    stack = [(v, v not in space.tiles) for v in sink.operands]
    while stack:
        value, through = stack.pop()
        if (value, through) in seen or isinstance(value.owner, ir.Block):
            continue
        seen.add((value, through))
        op = value.owner.opview
        if op in space.sinks:
            (hard if through else soft).add(op)
            through = True if through else through
            stack += [(v, True) for v in op.operands] if through else []
            continue
        pointwise = op.structure in POINTWISE
        stack += [(v, through or not pointwise) for v in op.operands]
    for op in list(soft):  # what a finished fold needed is needed before too
        more, rest = _needs(space, op)
        soft |= more
        hard |= rest
    return soft, hard


def _joins(space: Space, sinks: Sequence[Op], sink: Op, reads: set[Op]) -> bool:
    """Whether the correction rule lets a fold read running folds of a kernel; the kernel's analysis decides."""
    if isinstance(sink, ops.Reduce) and sink.kind == "max" and sinks:
        return False
    ends = [v.results[0] for v in (*sinks, sink)]
    body, operands = _body(space, ends, {s.results[0] for s in (*sinks, sink)})
    return _stream(body, operands, ends, sink.operation.block) is None


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


def _emit(block: ir.Block, space: Space, group: _Group, notes: list[str]) -> None:
    mine = {s.results[0] for s in group.sinks}
    rows = _rows(space, mine)
    shapes = {type_of(v).shape for v in mine}
    order = {op.operation: k for k, op in enumerate(block.operations)}
    made = [v for v in (*mine, *rows) if type_of(v).shape in shapes and (v in mine or v.owner.opview.structure == "elementwise")]
    used = [v for v in made if any(_outside(space, u.owner.opview, mine | rows, group) for u in v.uses)]
    results = sorted(used, key=lambda v: order[v.owner])
    body, operands = _body(space, results, mine)
    body.sort(key=lambda op: order[op.operation])
    reason = _stream(body, operands, results, block) if not _depend(operands, set(results)) else "its operands depend on its results"
    if reason is not None:
        notes.append(f"{_line(space.root)}: not streamed: {reason} ({', '.join(_line(s) for s in group.sinks)})")
        return
    kernel = _kernel(body, operands, results, _place(block, operands, results), fuse_locations([op.location for op in body]))
    for old, new in zip(results, kernel.results):
        old.replace_all_uses_with(new)


def _depend(values: Sequence[ir.Value], on: set[ir.Value]) -> bool:
    stack, seen = list(values), set()
    while stack:
        value = stack.pop()
        if value in on:
            return True
        if value not in seen and not isinstance(value.owner, ir.Block):
            seen.add(value)
            stack += value.owner.operands
    return False


def _sort(block: ir.Block) -> None:
    """Puts the ops of a block in an order in which values are made before they are read, near to the one they have."""
    done: set[ir.Operation] = set()
    *ops_in, end = block.operations

    def place(op: Op) -> None:
        stack = [op]
        while stack:
            current = stack[-1]
            if current.operation in done:
                stack.pop()
                continue
            waiting = [v.owner.opview for v in current.operands if not isinstance(v.owner, ir.Block) and v.owner not in done]
            if waiting:
                stack += waiting
                continue
            done.add(stack.pop().operation)
            current.operation.move_before(end.operation)

    for op in ops_in:
        place(op)


def _outside(space: Space, user: Op, inner: set[ir.Value], group: _Group) -> bool:
    """Whether a use of a kernel's value is another kernel's, or none's."""
    if user in space.sinks:
        return user not in group.sinks
    if not user.operation.name.startswith("nn.") or isinstance(user, (ops.Kernel, ops.Scan, ops.Cond)) or not user.results:
        return True
    result = user.results[0]
    if result in space.tiles or (isinstance(user, (ops.View, ops.Reshape)) and _into_tiles(space, result)):
        return any(_feeds(space, result, s) for s in space.sinks if s not in group.sinks)
    return result not in inner or type_of(result).shape not in {type_of(v).shape for v in inner} or user.structure != "elementwise"


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


def _place(block: ir.Block, operands: Sequence[ir.Value], results: Sequence[ir.Value]) -> ir.InsertionPoint:
    """Behind the last value that the kernel reads."""
    order = {op.operation: k for k, op in enumerate(block.operations)}
    last = max((order[v.owner] for v in operands if not isinstance(v.owner, ir.Block)), default=-1)
    return ir.InsertionPoint(list(block.operations)[last + 1])


def _kernel(
    body: Sequence[Op], operands: Sequence[ir.Value], results: Sequence[ir.Value], at: ir.InsertionPoint, location: ir.Location
) -> ops.Kernel:
    with at, location:
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


def _stream(body: Sequence[Op], operands: Sequence[ir.Value], results: Sequence[ir.Value], block: ir.Block) -> str | None:
    """Why these ops are no stream; None where they are one."""
    order = {op.operation: k for k, op in enumerate(block.operations)}
    kernel = _kernel(sorted(body, key=lambda op: order[op.operation]), operands, results,
                     ir.InsertionPoint(list(block.operations)[-1]), ir.Location.unknown())  # fmt: skip
    try:
        Stream.of(Body.of(kernel.regions[0].blocks[0]))
    except Unsuited as e:
        return str(e)
    finally:
        kernel.operation.erase()
    return None
