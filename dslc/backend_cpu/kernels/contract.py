"""Contractions: matrix products of any kind and convolutions, with pointwise work on their operands and results (`ir.contractions`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, FLOAT64, INT8, UINT8, DType
from dslc.ir import index
from dslc.ir.contractions import BATCH, COLUMNS, CONTRACTIONS, LINE, ROWS, TERMS, Contraction, Roles, roles_of
from dslc.ir.index import Expr
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose
from dslc.ir.trace import Apply, Node, Read, Test, dims_under, factor_of, survey, symbols_of
from dslc.ir.types import type_of

from .. import emit, gemm, gemm_schedule
from ..gemm_pack import pack_runs
from ..gemm_schedule import Shape, Side
from ..pull import Point, step_of
from ..scalars import Val
from ..ssa import computed
from ..stage import Frame, Generated, Request, Stage
from . import bands, depthwise, integers, places, reduce, runs, winograd, winograd_channels
from .whole import Whole

Value = Any  # an ir.Value

LONG_TERMS = 64  # terms of sums, beside which fetching a line for each vector of results costs nothing that shows
STREAM_BYTES = 8 << 20  # results that are larger go past the caches, which operands are read from again and again


def generate(request: Request) -> Generated:
    """A blocked product, taps one by one where one side has no extent of its own (depthwise convolutions), Winograd's products or bands of rows where
    they pay, or a fold of products of integers."""
    ops = [op for op in request.body.ops if op.operation.name in CONTRACTIONS]
    for special in (integers, depthwise, winograd, winograd_channels, bands):
        try:
            return special.generate(request, ops[0])
        except Unsuited:
            pass
    if not _suits(ops[0]):
        return reduce.generate(request)
    whole = Whole.of(request, CONTRACTIONS)
    if whole.types[0].size == 0:
        return Generated(())
    op = ops[0]
    product = _Product(request, op, _roles(op, request.machine.lanes), request.body.results)
    if product.scattered:  # a result with the points in another order: the product goes to memory first
        product = _Product(request, op, product.roles, list(op.results))
        product.streaming = False
        finish = whole.finish()
        workspace = whole.workspace_bytes
    else:
        whole, finish, workspace = None, [], 0  # type: ignore[assignment]
    packing: list[Stage] = []
    large = gemm_schedule.is_large(product.shape)
    product.find_runs()
    if large and product.lays_out_rows():
        product.sides[0], product.rows_at = replace(product.sides[0], along="k", direct=True, stride=product.row_length), workspace
        workspace += product.shape.m * product.row_length * product.shape.dtype.bytes
        packing.append(Stage(product.lay_out_rows))
    if large and product.has_edge():
        product.split_edge(workspace)
        workspace += product.edge * product.row_length * product.shape.dtype.bytes
        packing.append(Stage(product.lay_out_edge))
    if product.places:
        product.sides[1] = replace(product.sides[1], by_rows=True)
    shape, (a, b), machine = product.shape, product.sides, request.machine
    by_cost, space = partial(gemm_schedule.choose_whole, shape, a, b, machine), partial(gemm_schedule.space, shape, a, b, machine)
    schedule, choice = choose(request.schedule, by_cost, space)
    kept = 0
    if schedule.whole_b:
        product.sides = [product.sides[0], replace(product.sides[1], packed=True)]
        packed = gemm_schedule.packed_bytes(product.shape, product.sides[1], schedule)
        packing.append(Stage(lambda frame: product.pack(frame, schedule), once=b.still))
        if b.still:
            kept = packed
        else:
            product.packed_at, workspace = workspace, workspace + packed
    scratch = gemm_schedule.scratch_elements(product.shape, product.sides[0], schedule) * product.shape.dtype.bytes

    def emit_product(frame: Frame) -> None:
        memories = [whole.memory(frame, 0)] if whole else list(frame.results)
        product.build(frame, schedule, memories)
        if product.edge:
            product.build_edge(frame, memories)

    return Generated([*packing, Stage(emit_product, scratch + 64), *finish], workspace, choice=choice, kept_bytes=kept)


def _suits(op: Any) -> bool:
    maps = op.maps()
    if op.type.dtype.is_integer or prod(maps.domain) == 0 or op.types()[0].dtype.is_integer:
        return False
    if op.operation.name == "nn.conv":
        return type_of(op.w).shape[1] > 2
    return True


def _roles(op: Any, lanes: int) -> Roles:
    """The classes of a contraction's axes, outer columns among the batches where that is better."""
    roles = roles_of(op)
    batch, rows, columns, terms = roles.classes
    moved = _outer_columns(op, columns, op.maps().domain, lanes)
    return replace(roles, classes=(tuple(sorted([*batch, *moved])), rows, tuple(d for d in columns if d not in moved), terms))


def _outer_columns(op: Any, columns: Sequence[int], domain: Sequence[int], lanes: int) -> list[int]:
    """Column axes of a convolution that are better batches: as many as leave columns that fill their vectors."""
    if op.operation.name != "nn.conv" or not columns or columns[-1] != op.type.rank - 1:
        return []
    for count in range(1, len(columns)):
        n = prod(domain[d] for d in columns[-count:])
        if n >= 2 * lanes and n >= 0.8 * -(-n // lanes) * lanes:
            return list(columns[:-count])
    return []


def _stored(node: Node) -> Node:
    """What lies in memory: an 8-bit integer becomes a float as it is loaded, by two instructions, as a 16-bit float does."""
    if isinstance(node, Apply) and node.op.operation.name == "nn.cast" and node.dtype == FLOAT32:
        inner = node.arguments[0]
        return inner if inner.dtype in (INT8, UINT8) else node
    return node


class _Product(Contraction):
    """A contraction, how its operands lie, and its code."""

    def __init__(self, request: Request, op: Any, roles: Roles, results: Sequence[Any]) -> None:
        super().__init__(request.body, op, roles, results)
        dtype = FLOAT64 if op.type.dtype == FLOAT64 else FLOAT32
        self.shape = Shape(self.sizes[ROWS], self.sizes[COLUMNS], self.sizes[TERMS], self.sizes[BATCH], dtype)
        self.lanes, self.still = gemm_schedule.lanes_for(request.machine, dtype), request.still
        self.sides = [self._side(node, dim) for node, dim in zip(self.operands, (ROWS, COLUMNS))]
        if self._in_lines(self.sides[1].shared):
            self.sides[1] = replace(self.sides[1], direct=True, packed=True, lines=True)
        self.places = places.of(request.body, op, roles, self.operands[1], self.lanes)
        self.streaming = request.streams(STREAM_BYTES) and self.shape.n % self.lanes == 0
        self.packed_at = 0  # where in the workspace, or in what is kept, a packed B lies
        self.rows_at: int | None = None  # and rows of A, each `row_length` elements, where they are laid out first
        self.row_length = self.shape.k + self.lanes
        self.body = request.body
        self.runs: runs.Runs | None = None
        self.entered: dict[int, tuple[Any, Point, list[Node], list[Test]]] = {}  # by side: the batch that code is made for, and its point
        self.machine, self.edge, self.edge_at = request.machine, 0, 0  # columns that are done apart, and where they lie in the workspace

    def _side(self, node: Node, dim: int) -> Side:
        """How an operand lies: `dim` is the rows' or the columns' dim."""
        reads = survey(self.trace, [node]).reads
        source = _stored(node)
        plain = isinstance(source, Read) and self._of_batch(source) is not None
        steps = [(factor_of(r.address, dim), factor_of(r.address, TERMS)) for r in reads]
        runs = [self._run(r.address) if k is None else k for r, (_, k) in zip(reads, steps)]
        along = "none"
        if any(k == 1 for k in runs) and all(k in (0, 1) for k in runs):
            along = "k"
        elif any(x in (1, None) for x, _ in steps):
            along = "x"
        direct = plain and along != "none" and steps[0][0] is not None and steps[0][1] is not None
        shared = BATCH not in dims_under(self.trace, [node])[id(node)]
        stride = steps[0][0 if along == "k" else 1] or 0 if direct else 0
        still = dim == COLUMNS and bool(reads) and {r.operand for r in reads} <= self.still  # without a read it is so outside loops too
        return Side(along, direct, shared, False, max(stride, 0), still=still)

    def _in_lines(self, shared: bool) -> bool:
        """Whether the columns lie as `passes.lines` lays them."""
        source, (_, _, n, k) = self.operands[1], self.sizes
        if not isinstance(source, Read) or source.tests or not source.dtype.is_float:
            return False
        batch = index.Const(0) if shared else index.Dim(BATCH)
        at = (batch, index.Dim(COLUMNS) // LINE, index.Dim(TERMS), index.Dim(COLUMNS) % LINE)
        lines = index.linearize(at, (self.sizes[BATCH], -(-n // LINE), k, LINE))
        return index.coarse(source.address, self.sizes) == self.trace.tidy(lines)

    def _of_batch(self, node: Read) -> tuple[list[Node], list[Test]] | None:
        """The places that a read takes from data, and its tests, where both are the same for all points of a batch; None where they are not."""
        symbols = [self.trace.symbols[n] for n in symbols_of(node.address)]
        under = dims_under(self.trace, symbols)
        of_batch = all(under[id(s)] <= {BATCH} for s in symbols)
        known = {n for n, s in self.trace.symbols.items() if s in symbols}
        fixed = all(index.dims_of(t.expr) <= {BATCH} and set(symbols_of(t.expr)) <= known for t in node.tests)
        return (symbols, list(node.tests)) if of_batch and fixed else None

    def _run(self, address: Expr) -> int | None:
        """By how much an address moves with the terms, within each block of lanes, where blocks of terms are whole."""
        if symbols_of(address) or self.shape.k % self.lanes:
            return None
        return step_of(address, TERMS, self.lanes, lambda e: TERMS in index.dims_of(e))

    # ---- emission

    def build(self, frame: Frame, schedule: gemm_schedule.Schedule, memories: Sequence[emit.Memory]) -> None:
        a, b = self._loaded(frame)

        def store(vector: Value, batch: Any, m: Any, n: Any, mask: Value) -> None:
            self._store(frame, schedule.lanes, memories, vector, [emit.idx(batch), emit.idx(m), emit.idx(n), frame.b.index(0)], mask)

        packed_b = self._packed(frame, schedule) if b.side.packed else None
        product = gemm.Product(self.shape, schedule, a, b, store, packed_b, self._ahead(frame))
        gemm.emit(product, frame.tid, frame.threads, frame.scratch)

    def _ahead(self, frame: Frame) -> Any:
        """Of what the epilogue reads row by row beside the sums, where these take long enough to make; None where there is nothing of that."""
        reads = survey(self.trace, [node for node, _ in self.results]).reads
        rows = [r for r in reads if factor_of(r.address, COLUMNS) == 1 and factor_of(r.address, ROWS) != 0 and not symbols_of(r.address)]
        if not rows or self.shape.k < LONG_TERMS:
            return None

        def fetch(batch: Any, m: Any, n: Any) -> None:
            point = Point(frame.b, self.trace, frame.operands, [emit.idx(batch), emit.idx(m), emit.idx(n), frame.b.index(0)])
            for read in rows:
                frame.operands[read.operand].fetch([point.scalar(read.address)])

        return fetch

    def find_runs(self) -> None:
        """Of rows that do not lie in place along their terms, or along themselves."""
        side = self.sides[0]
        if not side.direct and side.along != "x":
            self.runs = runs.of(self.body, self.op, self.roles, self.operands[0])
        if self.runs:
            self.sides[0] = replace(side, along="k")

    def lays_out_rows(self) -> bool:
        """Whether A is small, scattered in memory, and read for many blocks of columns, as filters of a convolution's gradient are, or B so much
        larger that it would rather be read once."""
        shape, side = self.shape, self.sides[0]
        small = shape.m * self.row_length * shape.dtype.bytes <= gemm_schedule.MOST_PACKED
        repeated = shape.batch * shape.n >= 8 * gemm_schedule.MOST_NR or (shape.m < shape.n and shape.n * shape.k * shape.dtype.bytes >= gemm.FAR)
        return (side.along == "none" or self.runs is not None) and side.shared and small and repeated

    def lay_out_rows(self, frame: Frame) -> None:
        """A into the workspace, row by row, k by k."""
        load, rows = self._loader(frame, self.operands[0], ROWS), self._rows(frame)
        low, high = emit.share(self.shape.m, frame.tid, frame.threads)

        found = self.runs.packed(frame, self.shape.dtype) if self.runs else None

        def row(m: Value) -> None:
            if found:
                pack_runs(found, rows, emit.imul(m, self.row_length), 0, m, 0, self.shape.k, self.lanes)
                return

            def part(k: Value, lanes: int, mask: Value) -> None:
                rows.store(load(0, m, k, "k", lanes, mask), [emit.iadd(emit.imul(m, self.row_length), k)])

            emit.vector_loop(0, self.shape.k, self.lanes, part)

        emit.loop(low, high, 1, row)

    def _rows(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.workspace.ref, self.rows_at, self.shape.dtype, self.shape.m * self.row_length)  # type: ignore[union-attr,arg-type]

    # the few columns behind the last whole vector, for which a vector would be mostly idle: dot products along k, their results down the rows

    def has_edge(self) -> bool:
        shape, rows = self.shape, self.sides[0]
        few = not self.sides[1].lines and 0 < shape.n % self.lanes <= self.lanes // 4 and shape.n > self.lanes
        return few and shape.batch == 1 and rows.along == "k" and rows.direct and shape.k >= 16 * self.lanes and shape.m >= 4 * self.lanes

    def split_edge(self, at: int) -> None:
        """Takes these columns from the product; they will lie `at` bytes into the workspace, k by k."""
        self.edge, self.edge_at = self.shape.n % self.lanes, at
        self.shape = replace(self.shape, n=self.shape.n - self.edge)

    def lay_out_edge(self, frame: Frame) -> None:
        load, edge = self._loader(frame, self.operands[1], COLUMNS), self._edge(frame)
        low, high = emit.share_in_steps(self.shape.k, self.lanes, frame.tid, frame.threads)

        def part(x: int) -> None:
            def vector(k: Value, lanes: int, mask: Value) -> None:
                value = load(0, self.shape.n + x, k, "k", lanes, mask)
                edge.store(value, [emit.iadd(x * self.row_length, k)], mask)

            emit.vector_loop(low, high, self.lanes, vector)

        for x in range(self.edge):
            part(x)

    def build_edge(self, frame: Frame, memories: Sequence[emit.Memory]) -> None:
        edge, rows = self._edge(frame), self._loaded(frame)[0]

        def load(batch: Any, x: Any, k: Any, axis: str, lanes: int, mask: Value) -> Value:
            return edge.load([emit.iadd(emit.imul(x, self.row_length), k)], lanes, mask)

        def store(vector: Value, batch: Any, column: Any, m: Any, mask: Value) -> None:
            dims = [emit.idx(batch), emit.idx(m), emit.idx(emit.iadd(column, self.shape.n)), frame.b.index(0)]
            self._store(frame, self.lanes, memories, vector, dims, mask, ROWS)

        shape = replace(self.shape, m=self.edge, n=self.shape.m)
        columns = gemm.Operand(Side("k", stride=self.row_length), load)
        schedule = gemm_schedule.choose(shape, columns.side, rows.side, self.machine)
        gemm.emit(gemm.Product(shape, schedule, columns, rows, store), frame.tid, frame.threads, frame.scratch)

    def _edge(self, frame: Frame) -> emit.Memory:
        return emit.memory_of(frame.workspace.ref, self.edge_at, self.shape.dtype, self.edge * self.row_length)  # type: ignore[union-attr]

    def pack(self, frame: Frame, schedule: gemm_schedule.Schedule) -> None:
        """The whole of B, once, into the workspace, or to be kept."""
        gemm.emit_pack_b(self.shape, schedule, self._loaded(frame)[1], self._packed(frame, schedule), frame.tid, frame.threads)

    def _packed(self, frame: Frame, schedule: gemm_schedule.Schedule) -> emit.Memory:
        if self.sides[1].lines:
            return frame.operands[self.operands[1].operand]  # type: ignore[attr-defined]
        elements = gemm.packed_elements(self.shape, schedule, self.sides[1].shared)
        memory = frame.kept if self.sides[1].still else frame.workspace
        return emit.memory_of(memory.ref, self.packed_at, self.shape.dtype, elements)  # type: ignore[union-attr]

    def _loaded(self, frame: Frame) -> list[gemm.Operand]:
        a, b = (gemm.Operand(side, self._loader(frame, node, dim), enter=self._enterer(frame, dim))
                for side, node, dim in zip(self.sides, self.operands, (ROWS, COLUMNS)))  # fmt: skip
        if self.places:
            b = replace(b, rows=self.places.packed(frame))
        if self.runs and self.rows_at is None:
            a = replace(a, runs=self.runs.packed(frame, self.shape.dtype))
        if self.rows_at is None:
            return [replace(a, place=self._placer(frame)), b]
        rows = self._rows(frame)

        def load(batch: Any, x: Any, k: Any, axis: str, lanes: int, mask: Value) -> Value:
            return rows.load([emit.iadd(emit.imul(x, self.row_length), k)], lanes, mask)

        return [gemm.Operand(a.side, load), b]

    def _enterer(self, frame: Frame, dim: int) -> Any:
        """Of an operand that takes places from data, the same for all points of a batch."""
        source = _stored(self.operands[0 if dim == ROWS else 1])
        fixed = self._of_batch(source) if isinstance(source, Read) else None
        if not fixed or not (fixed[0] or fixed[1]):
            return None

        def enter(batch: Any) -> None:
            zero = frame.b.index(0)
            point = Point(frame.b, self.trace, frame.operands, [emit.idx(batch), zero, zero, zero])
            point.take(point, *fixed)
            self.entered[dim] = (batch, point, *fixed)

        return enter

    def _loader(self, frame: Frame, node: Node, dim: int) -> Any:
        def load(batch: Any, x: Any, k: Any, axis: str, lanes: int, mask: Value) -> Value:
            dims = [emit.idx(batch), frame.b.index(0), frame.b.index(0), emit.idx(k)]
            dims[dim] = emit.idx(x)
            point = Point(frame.b, self.trace, frame.operands, dims, TERMS if axis == "k" else dim, lanes, mask)
            if dim in self.entered and self.entered[dim][0] is batch:
                point.take(*self.entered[dim][1:])
            return self._spread(point, point.value(node), lanes)

        return load

    def _placer(self, frame: Frame) -> Any:
        """Of rows that are read in place."""
        node = _stored(self.operands[0])
        if not self.sides[0].direct or not isinstance(node, Read):
            return None

        def place(batch: Any, x: Any, k: Any) -> tuple[emit.Memory, Any]:
            point = Point(frame.b, self.trace, frame.operands, [emit.idx(batch), emit.idx(x), frame.b.index(0), emit.idx(k)])
            return frame.operands[node.operand], point.scalar(node.address)

        return place

    def _spread(self, point: Point, v: Val, lanes: int) -> Value:
        """A value in the type of the sums, in every lane."""
        dtype: DType = self.shape.dtype
        ssa = v.ssa
        if computed(v.dtype) != computed(dtype):
            ssa = point.s.cast(v, v.dtype, dtype).ssa
        return ssa if v.lanes == lanes else point.b.spread(ssa, computed(dtype), lanes)

    def _store(self, frame: Frame, lanes: int, memories: Sequence[emit.Memory], vector: Value, dims: list[Value], mask: Value,
               along: int = COLUMNS) -> None:  # fmt: skip
        value = Val(vector, self.op.type.dtype, lanes)
        point = Point(frame.b, self.trace, frame.operands, dims, along, lanes, mask, lambda _point, _node: value)
        made = [point.value(node) for node, _ in self.results]
        for v, (_, address), memory in zip(made, self.results, memories):
            point.store(v, memory, address, self.streaming)
