"""The tile space of attention: the values at the points of scores, the folds that read them, and the algebra that shortens the way between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key

from dslc.core.dtypes import FLOAT32
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.streams import Axes, axes_of, is_fold
from dslc.ir.types import spans_of, type_of

from .precision import rounding, through_rounding
from .tables import sums_last

MOVES = (ops.View, ops.Reshape, ops.Cast)


@dataclass
class Space:
    """The values at the points of a score that are made from scores, the folds that read them, and what else does."""

    root: Op
    axes: dict[ir.Value, Axes]
    tiles: set[ir.Value]
    scores: list[Op]
    tables: bool = False  # whether kernels fold a tile into tables
    sinks: list[Op] = field(default_factory=list)
    escapes: list[Op] = field(default_factory=list)

    @staticmethod
    def of(root: Op, roots: Mapping[ir.Value, Op], tables: bool) -> Space:
        """`roots`: the scores of a block by their values."""
        space = Space(root, {}, set(), [root], tables)
        space.grow()
        near = {root.results[0]: None, **{v: None for fold in (root, *space.sinks) for v in _products_of_its_matrices(fold)}}
        space.axes = axes_of([v for v in near if v in roots])
        space.scores = in_order(roots[v] for v in space.axes if v in roots)
        space.grow()
        return space

    def grow(self) -> None:
        """Fills in tiles, sinks and escapes."""
        self.axes = axes_of([self.root.results[0], *(s.results[0] for s in self.scores)])
        self.tiles, sinks, escapes = set(), {}, {}
        stack = [s.results[0] for s in self.scores]
        while stack:
            value = stack.pop()
            if value in self.tiles:
                continue
            self.tiles.add(value)
            for use in value.uses:
                user = use.owner.opview
                if is_fold(user, self.tables) and user not in self.scores:
                    sinks[user.operation] = user
                elif getattr(user, "results", None) and len(user.results) == 1 and user.results[0] in self.axes:
                    stack.append(user.results[0])
                else:
                    escapes[user.operation] = user
        self.sinks = in_order(sinks.values())
        self.escapes = list(escapes.values())

    def members(self) -> list[Op]:
        return [v.owner.opview for v in self.tiles]

    def obstacle(self) -> str | None:
        """Why the space must be written after all."""
        if self.escapes:
            op = self.escapes[0]
            name = "the result of the program" if op.operation.name == "func.return" else op.operation.name.removeprefix("nn.")
            return f"{name} at {line_of(op)} reads the weights or scores themselves"
        if not any(isinstance(op, ops.Contract) for op in self.sinks):
            return "no contraction follows"
        if not any(isinstance(op, ops.Reduce) for op in self.sinks) and not any(op not in self.scores for op in self.members()):
            return "nothing stands between two contractions"
        for op in self.sinks:
            if isinstance(op, ops.Reduce) and op.kind not in ("sum", "max"):
                return f"{op.kind} at {line_of(op)}"
            if self.streamed(op) is None:
                return f"{op.operation.name.removeprefix('nn.')} at {line_of(op)} folds other axes"
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
        if isinstance(op, ops.Scatter):
            both = {a for a in axes[op.batch :] if a is not None}
            return next((frozenset(both & side) for side in self.sides if both & side and len(both - side) == 1), None)
        if isinstance(op, ops.Reduce):
            places = list(op.axes)
        else:
            mine = (op.lhs, op.rhs)[k]
            places = [p for p, i in enumerate(mine) if i not in op.out]
        found = frozenset(a for p in places if (a := axes[p]) is not None)
        return found if found and any(found <= side for side in self.sides) else None

    def leaves_tiles(self, value: ir.Value, places: Iterable[int]) -> bool:
        """Whether a sum of a tile along these axes has rows and columns still."""
        folded = {self.axes[value][p] for p in places}
        return all(side - folded for side in self.sides)

    def table_batch(self, like: ir.Value) -> list[int] | None:
        """The axes of a value with a tile's points for each of whose points a kernel has a table of its own: all but those that its other folds
        stream and one of the other side; None where there is no such kernel."""
        folds = [s for op in self.sinks if isinstance(op, ops.Contract) and (s := self.streamed(op)) is not None]
        if not self.tables or not folds or type_of(like).dtype != FLOAT32:
            return None
        streamed = max(folds, key=len)
        shape = type_of(self.root.results[0]).shape
        x = max((a for side in self.sides if not streamed <= side for a in side), key=lambda a: (shape[a], a), default=None)
        axes = axes_of([self.root.results[0], like]).get(like)
        return None if x is None or axes is None else [p for p, a in enumerate(axes) if a not in streamed and a != x]

    # --- algebra

    def prepare(self) -> None:
        """Folds over axes of both sides go one side after the other, sums that leave rows and columns last; a division by a constant is a product."""
        for op in self.members():
            divisor = op.operands[1].owner.opview if isinstance(op, ops.Div) and not isinstance(op.operands[1].owner, ir.Block) else None
            if isinstance(divisor, ops.Constant) and divisor.uniform and op.operands[0] in self.tiles:
                with ir.InsertionPoint(op), op.location:
                    made = ops.Mul.of(op.operands[0], ops.full_like(op.results[0], 1 / divisor.uniform))
                op.results[0].replace_all_uses_with(made)
                op.operation.erase()
        self.grow()
        if sums_last(self):
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
        last = in_order([other, sink, score])[-1]
        with ir.InsertionPoint(last), sink.location:
            dtype = type_of(sink.results[0]).dtype
            a = ops.transpose(ops.cast(g, dtype), [g_names.index(n) for n in order])
            b = ops.transpose(ops.cast(other.results[0], dtype), [o_names.index(n) for n in order])
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
        rounded = type_of(sink.operands[k]).dtype
        product = through_rounding(sink.operands[k])
        if isinstance(product.owner, ir.Block) or not isinstance(op := product.owner.opview, (ops.Mul, ops.Div)):
            return False
        ids = (sink.lhs, sink.rhs)[k]
        for place in (1, 0) if isinstance(op, ops.Mul) else (1,):
            row = self._row(op.operands[place], [p for p, i in enumerate(ids) if i not in sink.out])
            if row is None or op.operands[1 - place] not in self.tiles:
                continue
            x, matrix, offsets = row
            with ir.InsertionPoint(sink), sink.location:
                operands = list(sink.operands)
                operands[k] = rounding(op.operands[1 - place], rounded)
                total = ops.Contract.of(*operands, **{**sink.values(), "dtype": type_of(x).dtype})
                out = [[line[ids.index(i)] if i in ids else 0 for i in sink.out] for line in matrix]
                factor = ops.view(x, out, offsets, type_of(total).shape)
                made = ops.cast(type(op).of(total, factor), type_of(sink.results[0]).dtype)
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


def in_order(some: Iterable[Op]) -> list[Op]:
    """Ops of one block in the order that they have there."""

    def compare(a: Op, b: Op) -> int:
        return -1 if a.operation.is_before_in_block(b.operation) else 1

    return sorted(some, key=cmp_to_key(compare))


def line_of(op: Op) -> str:
    """Where an op comes from, for notes."""
    spans = spans_of(op.location)
    return f"line {spans[-1].line}" if spans else "?"


def _products_of_its_matrices(fold: Op) -> Iterator[ir.Value]:
    """The contractions that read an operand of this one too, through views and casts: a gradient's scores are made of values that its folds read."""
    stack, seen = [_matrix(v) for v in fold.operands if isinstance(fold, ops.Contract)], set[ir.Value]()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        for use in value.uses:
            user = use.owner.opview
            if isinstance(user, ops.Contract):
                yield user.results[0]
            elif isinstance(user, MOVES):
                stack.append(user.results[0])


def _matrix(value: ir.Value) -> ir.Value:
    while not isinstance(value.owner, ir.Block) and isinstance(value.owner.opview, MOVES):
        value = value.owner.opview.operands[0]
    return value


def _factors(value: ir.Value) -> list[ir.Value]:
    """The factors of a product; a truth value cast to a number, and a selection against 0, count as factors themselves."""
    value = through_rounding(value)
    if isinstance(value.owner, ir.Block):
        return [value]
    op = value.owner.opview
    if isinstance(op, ops.Mul):
        return _factors(op.operands[0]) + _factors(op.operands[1])
    return [value]
