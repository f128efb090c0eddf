"""Contractions: matrix products of any kind and convolutions, with pointwise work on their operands and results.

The axes of a contraction fall into four classes: batch (in both operands and the result), rows and columns (in one operand and the result), terms
(summed). Each class is one dim of the loop nest, whatever axes it is made of, so that every contraction is C[b, m, n] = sum_k A[b, m, k] B[b, k, n];
windows, transposes and gathers are in the operands' traces. Columns are those along which the result is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, FLOAT64, DType
from dslc.ir import index
from dslc.ir.index import Dim, Expr
from dslc.ir.trace import Coordinates, Given, Guard, Node, Read, Test, Trace, dims_under, factor_of, survey
from dslc.ir.types import type_of

from .. import emit, gemm, gemm_schedule
from ..gemm_schedule import Shape, Side
from ..pull import Point
from ..scalars import Val
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage
from . import reduce
from .whole import Whole

Value = Any  # an ir.Value
BATCH, ROWS, COLUMNS, TERMS = range(4)  # dims of the nest

CONTRACTIONS = ("nn.contract", "nn.conv")


@dataclass(frozen=True)
class Roles:
    """Which axes of the contraction's domain are in which class, and which operand has the rows (0 or 1)."""

    classes: tuple[tuple[int, ...], ...]
    rows_of: int


def generate(request: Request) -> Generated:
    """A blocked product, or a fold of products where one side has no extent of its own (depthwise convolutions) or the type is an integer."""
    ops = list(dict.fromkeys(op for op, _ in request.body.makers.values() if op.operation.name in CONTRACTIONS))
    if not _suits(ops[0]):
        return reduce.generate(request)
    whole = Whole.of(request, CONTRACTIONS)
    if whole.types[0].size == 0:
        return Generated(())
    op = ops[0]
    product = Contraction(request, op, roles_of(op, request.machine.lanes), request.body.results)
    if product.scattered:  # a result with the points in another order: the product goes to memory first
        product = Contraction(request, op, product.roles, list(op.results))
        finish = whole.finish()
        workspace = whole.workspace_bytes
    else:
        whole, finish, workspace = None, [], 0  # type: ignore[assignment]
    schedule = gemm_schedule.choose(product.shape, product.sides[0], product.sides[1], request.machine)
    scratch = gemm_schedule.scratch_elements(product.shape, product.sides[0], schedule) * product.shape.dtype.bytes

    def emit_product(frame: Frame) -> None:
        product.build(frame, schedule, [whole.memory(frame, 0)] if whole else list(frame.results))

    return Generated([Stage(emit_product, scratch + 64), *finish], workspace)


def _suits(op: Any) -> bool:
    maps = op.maps()
    if op.type.dtype.is_integer or prod(maps.domain) == 0 or op.types()[0].dtype.is_integer:
        return False
    if op.operation.name == "nn.conv":
        return type_of(op.w).shape[1] > 2
    return True


def roles_of(op: Any, lanes: int) -> Roles:
    """The classes of a contraction's axes."""
    maps = op.maps()
    rank = op.type.rank
    used = [set().union(*(index.dims_of(e) for e in reads)) for reads in maps.reads]
    batch = [d for d in range(rank) if d in used[0] and d in used[1]]
    own = [[d for d in range(rank) if d in used[k] and d not in used[1 - k]] for k in (0, 1)]
    batch += [d for d in range(rank) if d not in used[0] and d not in used[1]]
    terms = list(range(rank, len(maps.domain)))
    columns_of = 1 if max(own[1], default=-1) >= max(own[0], default=-1) else 0
    columns = own[columns_of]
    moved = _outer_columns(op, columns, maps.domain, lanes)
    batch = sorted([*batch, *moved])
    columns = [d for d in columns if d not in moved]
    return Roles((tuple(batch), tuple(own[1 - columns_of]), tuple(columns), tuple(terms)), 1 - columns_of)


def _outer_columns(op: Any, columns: Sequence[int], domain: Sequence[int], lanes: int) -> list[int]:
    """Column axes of a convolution that are better batches: as many as leave columns that fill their vectors."""
    if op.operation.name != "nn.conv" or not columns or columns[-1] != op.type.rank - 1:
        return []
    for count in range(1, len(columns)):
        n = prod(domain[d] for d in columns[-count:])
        if n >= 2 * lanes and n >= 0.8 * -(-n // lanes) * lanes:
            return list(columns[:-count])
    return []


class Contraction:
    """The traces of a contraction over (batch, rows, columns, terms), and of the results made from it."""

    def __init__(self, request: Request, op: Any, roles: Roles, results: Sequence[Any]) -> None:
        self.request, self.op, self.roles = request, op, roles
        maps = op.maps()
        axes: list[Expr] = [index.Const(0)] * len(maps.domain)
        sizes = []
        for k, members in enumerate(roles.classes):
            extents = [maps.domain[d] for d in members]
            for d, e in zip(members, index.delinearize(Dim(k), extents)):
                axes[d] = e
            sizes.append(prod(extents))
        self.scattered = False
        self.trace = Trace(request.body, sizes, self._provide)
        self.axes = tuple(self.trace.tidy(e) for e in axes)
        self.points = self.axes[: op.type.rank]
        self.nodes = [self._operand(maps, k) for k in (roles.rows_of, 1 - roles.rows_of)]
        self.results = [self._result(v) for v in results]
        dtype = FLOAT64 if op.type.dtype == FLOAT64 else FLOAT32
        self.shape = Shape(sizes[ROWS], sizes[COLUMNS], sizes[TERMS], sizes[BATCH], dtype)
        self.sides = [self._side(node, dim) for node, dim in zip(self.nodes, (ROWS, COLUMNS))]

    def _provide(self, trace: Trace, value: Any, at: Coordinates, tests: tuple[Test, ...]) -> Node | None:
        if value != self.op.results[0]:
            return None
        self.scattered |= at != self.points
        return Given(self.op.type.dtype, 0, at)

    def _operand(self, maps: Any, k: int) -> Node:
        node, extra = self.trace.operand_at(self.op, maps, k, self.axes, ())
        return node if not extra or isinstance(node, Read) else Guard(node.dtype, extra, node, 0.0)

    def _result(self, value: Any) -> tuple[Node, Expr]:
        shape, own = type_of(value).shape, self.op.type.shape
        at = self.points
        if shape != own:
            if prod(shape) != prod(own):
                self.scattered = True
                return Given(self.op.type.dtype, 0, at), index.Const(0)
            position = index.linearize(at, own)
            at = tuple(self.trace.tidy(e) for e in index.delinearize(position, shape))
        return self.trace.at(value, at), self.trace.tidy(index.linearize(at, shape))

    def _side(self, node: Node, dim: int) -> Side:
        """How an operand lies: `dim` is the rows' or the columns' dim."""
        reads = survey(self.trace, [node]).reads
        plain = isinstance(node, Read) and not node.tests
        steps = [(factor_of(r.address, dim), factor_of(r.address, TERMS)) for r in reads]
        along = "none"
        if any(k == 1 for _, k in steps) and all(k in (0, 1) for _, k in steps):
            along = "k"
        elif any(x in (1, None) for x, _ in steps):
            along = "x"
        direct = plain and along != "none" and steps[0][0] is not None and steps[0][1] is not None
        shared = BATCH not in dims_under(self.trace, [node])[id(node)]
        stride = steps[0][0 if along == "k" else 1] or 0 if direct else 0
        return Side(along, direct, shared, False, max(stride, 0))

    # ---- emission

    def build(self, frame: Frame, schedule: gemm_schedule.Schedule, memories: Sequence[emit.Memory]) -> None:
        a, b = (gemm.Operand(side, self._loader(frame, node, dim)) for side, node, dim in zip(self.sides, self.nodes, (ROWS, COLUMNS)))

        def store(vector: Value, batch: Any, m: Any, n: Any, mask: Value) -> None:
            self._store(frame, schedule.lanes, memories, vector, [emit.idx(batch), emit.idx(m), emit.idx(n), frame.b.index(0)], mask)

        gemm.emit(gemm.Product(self.shape, schedule, a, b, store), frame.tid, frame.threads, frame.scratch)

    def _loader(self, frame: Frame, node: Node, dim: int) -> Any:
        def load(batch: Any, x: Any, k: Any, axis: str, lanes: int, mask: Value) -> Value:
            dims = [emit.idx(batch), frame.b.index(0), frame.b.index(0), emit.idx(k)]
            dims[dim] = emit.idx(x)
            point = Point(frame.b, self.trace, frame.operands, dims, TERMS if axis == "k" else dim, lanes, mask)
            return self._spread(point, point.value(node), lanes)

        return load

    def _spread(self, point: Point, v: Val, lanes: int) -> Value:
        """A value in the type of the sums, in every lane."""
        dtype: DType = self.shape.dtype
        ssa = v.ssa
        if computed(v.dtype) != computed(dtype):
            ssa = point.s.cast(v, v.dtype, dtype).ssa
        return ssa if v.lanes == lanes else point.b.spread(ssa, computed(dtype), lanes)

    def _store(self, frame: Frame, lanes: int, memories: Sequence[emit.Memory], vector: Value, dims: list[Value], mask: Value) -> None:
        value = Val(vector, self.op.type.dtype, lanes)
        point = Point(frame.b, self.trace, frame.operands, dims, COLUMNS, lanes, mask, lambda _point, _node: value)
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, memories):
            point.store(v, memory, address)
