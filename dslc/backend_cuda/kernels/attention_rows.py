"""Streams of few rows, as a token that attends to a cache: what bounds them is how fast the rows of y come.

Groups of lanes take rows of y of their own, 16 bytes a lane, and keep running folds of their own for all rows of x. In the end folds meet: those of a
warp by shuffles, those of a block's warps in shared memory. Where the points of the batch are fewer than the processors, several blocks share the
rows of y of one point, and a second launch lets their folds meet. All of it is in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

from dslc.core.dtypes import INT32
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import Choice, choose
from dslc.ir.streams import Sink, Stream
from dslc.ir.trace import Given, Node, Read, survey, symbols_of
from dslc.ir.types import type_of

from ..pull import chunked, moves_with
from ..scalars import Val
from ..stage import Function, Generated, Request
from .attention_folds import Folds
from .map import delinearized, load_chunk

WARP = 32
THREADS = 256, 512  # of a block: where it shares a multiprocessor, and where it has one of its own
MOST_ROWS = 8
MOST_REGISTERS = 160, 104  # of a thread for what it holds and has on its way, for each number of threads
MOST_SHARED = 48 << 10  # bytes that need no leave of the driver
LEAST_BYTES = 1 << 19  # that a block reads, where several share a point: the second launch takes as long as a block takes to read half of it


@dataclass(frozen=True)
class RowsSchedule:
    """`columns` rows of y that a group takes at once; `splits` blocks of so many threads share those of one point."""

    columns: int
    splits: int
    threads: int = THREADS[0]

    @property
    def warps(self) -> int:
        return self.threads // WARP


@dataclass(frozen=True)
class Share:
    """Features that a lane holds: `count` chunks of `width` neighbours, lanes * width apart."""

    width: int
    count: int

    @property
    def registers(self) -> int:
        return self.width * self.count


@dataclass(frozen=True)
class Shares:
    """How `lanes` lanes share the features of each source's operands and of each product's."""

    lanes: int
    sources: tuple[Share, ...]
    products: dict[int, Share]

    @staticmethod
    def of(request: Request, stream: Stream) -> Shares:
        parts = [(s.y_node, s.terms) for s in stream.sources]
        parts += [(s.other, s.features) for s in stream.sinks if s.other is not None and s.features is not None]
        chunks = [(stream.sizes[dim], _width(request, stream, node, dim)) for node, dim in parts]
        most = max(-(-n // width) for n, width in chunks)
        lanes = 1
        while lanes < 32 and lanes < most:
            lanes *= 2
        made = [Share(width, -(-n // (lanes * width))) for n, width in chunks]
        products = [k for k, s in enumerate(stream.sinks) if s.other is not None]
        return Shares(lanes, tuple(made[: len(stream.sources)]), dict(zip(products, made[len(stream.sources) :])))

    def registers(self, rows: int, columns: int) -> int:
        """An estimate of what a thread needs."""
        held = [s.registers for s in (*self.sources, *self.products.values())]
        return sum(held) * (rows + columns) + rows * (columns * (2 * len(self.sources) + len(self.products)) + 4)


def _width(request: Request, stream: Stream, node: Node, dim: int) -> int:
    """Neighbouring features that one load brings: 16 bytes where memory allows it."""
    reads = [r for r in survey(stream.trace, [node]).reads if chunked(r.address, dim, 2) and request.operand_aligned(r.operand)]
    width = 16 // min((r.dtype.bytes for r in reads), default=16)
    while width > 1 and (stream.sizes[dim] % width or not any(chunked(r.address, dim, width) for r in reads)):
        width //= 2
    return min(width, 8)


def generate(request: Request) -> Generated:
    """One function, or two where blocks share points. Unsuited where rows are many, the body is no stream, or the folds do not fit."""
    stream = Stream.of(request.body)
    rows = stream.sizes[stream.x]
    values = [op.results[0] for op in (*(s.op for s in stream.sources), *(s.op for s in stream.sinks))]
    if not 0 < rows <= MOST_ROWS or 0 in stream.sizes or any(s.crosses for s in stream.sinks):
        raise Unsuited("not of few rows")
    if any(not type_of(v).dtype.is_float or type_of(v).dtype.bits > 32 for v in values):
        raise Unsuited("not of float32")
    shares = Shares.of(request, stream)
    fitting = [n for n in (4, 2, 1) if shares.registers(rows, n) <= MOST_REGISTERS[0]]
    record = Record.of(stream)
    if not fitting or record.floats * THREADS[0] // WARP * 4 > MOST_SHARED:
        raise Unsuited("the folds of a row do not fit")
    schedule, choice = _schedule(request, stream, shares, record, fitting)
    return _generated(request, stream, shares, record, schedule, choice)


def _generated(request: Request, stream: Stream, shares: Shares, record: Record, schedule: RowsSchedule, choice: Choice) -> Generated:
    points = prod(stream.sizes[: stream.x])
    first = _Kernel(request, stream, shares, record, schedule).function()
    functions: list[Function] = [first]
    if schedule.splits > 1:
        functions.append(_Meeting(request, stream, record, replace(schedule, columns=1), "_meet").function())
    workspace = points * schedule.splits * schedule.warps * record.floats * 4 if schedule.splits > 1 else 0
    return Generated(tuple(functions), workspace, includes=("stream.cuh", "stream_rows.cuh"), choice=choice)


def _schedule(request: Request, stream: Stream, shares: Shares, record: Record, fitting: Sequence[int]) -> tuple[RowsSchedule, Choice]:
    """So many blocks a point as keep the processors busy, each with enough to read; more threads where fewer blocks than processors have enough."""
    points = prod(stream.sizes[: stream.x])
    streamed = {(r.operand, dim): r.dtype.bytes * stream.sizes[dim] for node, dim in _streamed(stream) for r in survey(stream.trace, [node]).reads}
    most = max(1, sum(streamed.values()) * stream.sizes[stream.y] // LEAST_BYTES)
    splits = min(max(1, request.arch.sms // points), most, 64)
    few, many = THREADS
    step, registers = many // shares.lanes * fitting[0], shares.registers(stream.sizes[stream.x], fitting[0])
    alone = points * splits <= request.arch.sms and stream.sizes[stream.y] >= step and registers <= MOST_REGISTERS[1]
    best = RowsSchedule(fitting[0], splits, many if alone and record.floats * many // WARP * 4 <= MOST_SHARED else few)

    def space() -> list[RowsSchedule]:
        counts = sorted({n for n in (1, splits // 2, splits, 2 * splits) if 0 < n <= 64}, key=lambda n: abs(n - splits))
        return [RowsSchedule(columns, n, best.threads if columns == fitting[0] else few) for n in counts for columns in fitting]

    return choose(request.schedule, lambda: best, space, lambda s: s.columns)


def _streamed(stream: Stream) -> Iterator[tuple[Node, int]]:
    """What is read for every row of y, with the dim of its features."""
    for source in stream.sources:
        yield source.y_node, source.terms
    for sink in stream.sinks:
        if sink.other is not None and sink.features is not None:
            yield sink.other, sink.features


@dataclass(frozen=True)
class Record:
    """The folds of all rows as they lie behind each other: `offsets` by sink, a fold's rows, or a product's rows of features."""

    offsets: tuple[int, ...]
    features: tuple[int, ...]  # of a row by sink; 1 of a fold
    floats: int

    @staticmethod
    def of(stream: Stream) -> Record:
        features = tuple(1 if s.features is None else stream.sizes[s.features] for s in stream.sinks)
        rows, at, offsets = stream.sizes[stream.x], 0, []
        for n in features:
            offsets.append(at)
            at += rows * n
        return Record(tuple(offsets), features, at)


class _Meeting(Folds):
    """Writes how the folds of several warps meet, and what the kernel's results are made of them."""

    def __init__(self, request: Request, stream: Stream, record: Record, schedule: RowsSchedule, suffix: str) -> None:
        super().__init__(request, stream, stream.sizes[stream.x], schedule.columns, suffix)
        self.record, self.schedule, self.threads = record, schedule, schedule.threads

    def function(self) -> Function:
        """The second launch: a block a point of the batch."""
        w, parts = self.w, self.schedule.splits * self.schedule.warps
        points = self.sizes[: self.s.x]
        self._place(points, "blockIdx.x")
        w.line(f"const float* parts = {w.workspace_of('folds', 0, 'float')} + blockIdx.x * {parts * self.record.floats}ull;")
        self._results(parts)
        return w.function((prod(points),), (self.threads,), schedule=f"the folds of {parts} warps of each of {prod(points)} points meet")

    def _place(self, points: Sequence[int], task: str) -> None:
        place = delinearized(self.w, task, points, stem="i")
        self.place = [self.w.value("i", self.integer, d) if d != "0" else d for d in place]

    def _results(self, count: int) -> None:
        """All results from `count` records at `parts`."""
        for number, (node, address, home) in enumerate(self.s.results):
            width = self.record.features[home]
            with self.w.block(f"for (int p = threadIdx.x; p < {self.rows * width}; p += {self.threads})"):
                row = "0" if self.rows == 1 else self.w.value("row", "int", f"p / {width}u" if width > 1 else "p")
                feature = "0" if width == 1 else "p" if self.rows == 1 else self.w.value("c", "int", f"p % {width}u")
                self._result(number, node, address, home, row, feature, count)

    def _result(self, number: int, node: Node, address: object, home: int, row: str, feature: str, count: int) -> None:
        w, found = self.w, {}

        def given(made: Given) -> Val:
            k = made.key[1]
            if k not in found:
                found[k] = self._total(k, row, feature, count, given)
            return Val(found[k], made.dtype)

        more = {d: feature for s in self.s.sinks if (d := s.features) is not None and self.sizes[d] == self.record.features[home]}
        point = self._point(self._dims(row, "0", more), given=given)
        value = point.value(node).text
        w.line(f"store({w.result(number).name} + {point.index(address)}, {value});")  # type: ignore[arg-type]

    def _total(self, k: int, row: str, feature: str, count: int, given: Callable[[Given], Val]) -> str:
        """Writes the fold of sink k of a row over the parts; its name."""
        w, sink = self.w, self.s.sinks[k]
        name = w.fresh("total")
        start = {"max": "-infinity_f32()", "min": "infinity_f32()"}.get(sink.kind, "0.0f")
        best = given(Given(sink.value.dtype, ("sink", sink.leader), ())).text if sink.leader is not None else ""
        after = self._shifted(sink, best, row) if best else ""
        w.line(f"float {name} = {start};")
        with w.block(f"for (int part = 0; part < {count}; ++part)"):
            w.line(f"const float* record = parts + part * {self.record.floats};")
            part = f"record[{self._at(k, row, feature)}]"
            if sink.leader is not None:
                own = w.value("own", "float", f"record[{self._at(sink.leader, row, '0')}]")
                w.line(f"{name} += {own} == -infinity_f32() ? 0.0f : {part} * expf({self._shifted(sink, own, row)} - {after});")
            elif sink.kind in ("max", "min"):
                w.line(f"{name} = {sink.kind}imum({name}, {part});")
            else:
                w.line(f"{name} += {part};")
        return name

    def _shifted(self, sink: Sink, maximum: str, row: str) -> str:
        """The exponent's shift for a maximum, in a loop whose registers cannot be indexed by the row."""
        assert sink.shift is not None and sink.leader is not None
        finite = self.w.value("finite", "float", f"finite_maximum({maximum})")
        return self._wide(self._point(self._dims(row, "0"), given=self._given({sink.leader: finite})), sink.shift)

    def _at(self, k: int, row: str, feature: str) -> str:
        """The place of a fold in a record."""
        width = self.record.features[k]
        parts = [str(self.record.offsets[k]), row if width == 1 else f"{row} * {width}" if row != "0" else "0", feature if width > 1 else "0"]
        return " + ".join(p for p in parts if p != "0") or "0"


class _Kernel(_Meeting):
    """Writes the function that streams."""

    def __init__(self, request: Request, stream: Stream, shares: Shares, record: Record, schedule: RowsSchedule) -> None:
        super().__init__(request, stream, record, schedule, "")
        self.shares, self.splits = shares, schedule.splits
        self.lanes, self.groups = shares.lanes, schedule.threads // shares.lanes
        self.step = self.groups * self.columns

    def function(self) -> Function:
        w, points = self.w, self.sizes[: self.s.x]
        w.line(f"const int lane = threadIdx.x % {self.lanes}u;")
        w.line(f"const int group = threadIdx.x / {self.lanes}u;")
        self._place(points, "blockIdx.x" if self.splits == 1 else w.value("task", "int", f"blockIdx.x / {self.splits}u"))
        ahead = self._known_ahead()
        low, high = self._range() if ahead else ("", "")
        if ahead:
            self._ask(low, high)
            w.ahead_ends()
        self._own()
        self._declare()
        self._hoist()
        if not ahead:
            low, high = self._range()
        with w.block(f"for (int first_column = {low}; first_column < {high}; first_column += {self.step})"):
            self._turn()
        self._meet_in_warp()
        self._leave()
        words = f"{self.lanes} lanes a row of y, {self.columns} rows at once, {self.splits} blocks a point"
        return w.function((prod(points) * self.splits,), (self.threads,), schedule=words)

    # ---- places

    def row(self) -> str:
        return "i" if self.rows > 1 else "0"

    def column(self) -> tuple[str, str]:
        n, text = self.sizes[self.s.y], f"first_column + j * {self.groups} + group"
        return self.w.value("column", self.integer, f"min({text}, {n - 1})"), f"{text} < {n}"

    def of_lanes(self, kind: str, text: str) -> str:
        return text

    def weight(self, k: int) -> str:
        return f"p{k}[i][j]"

    def features(self, k: int) -> int:
        return self.shares.products[k].registers

    def _range(self) -> tuple[str, str]:
        """The part of y that this block visits: of what any row needs, as numbers that were read say too, its share."""
        w = self.w
        low, high = "0", str(self.sizes[self.s.y])
        for e in self.s.needs:
            factors = self.s.bound(e)
            if factors is None:
                continue
            best = str(self.rows - 1) if factors[0] > 0 else "0"
            rest = w.value("rest", "int", self._point(self._dims(best, "0")).near(e))
            if factors[1] < 0:
                high = w.value("high", "int", f"min({high}, {rest} + 1)")
            else:
                low = w.value("low", "int", f"max({low}, -{rest})")
        if self.splits == 1:
            return low, high
        turns = w.value("turns", "int", f"max({high} - {low} + {self.step * self.splits - 1}, 0) / {self.step * self.splits}")
        begin = w.value("begin", "int", f"{low} + (int)(blockIdx.x % {self.splits}u) * {turns} * {self.step}")
        return begin, w.value("end", "int", f"min({high}, {begin} + {turns} * {self.step})")

    # ---- ahead

    def _known_ahead(self) -> bool:
        """Reads the numbers that say which part of y is needed, where none of the launches before makes them; whether all of them are there."""
        w, request = self.w, self.w.request
        nodes = {n: self.trace.symbols[n] for e in self.s.needs for n in symbols_of(e)}
        steady = [n for n in nodes.values() if isinstance(n, Read) and request.operand_steady(n.operand) and n.dtype == INT32]
        if not request.arch.launches_overlap or len(steady) < len(nodes) or any(n.tests or symbols_of(n.address) for n in steady):
            return False
        point = self._point(self._dims("0", "0"))
        for n in steady:
            self.hoisted[id(n)] = Val(w.value("steady", "int", f"int_steady({w.operand(n.operand).name} + {point.index(n.address)})"), n.dtype)
        return True

    def _ask(self, low: str, high: str) -> None:
        """Asks for the rows of y of this thread: they lie in a cache but for the last one, which is on its way there."""
        w = self.w
        with w.block(f"for (int first_column = {low}; first_column < {high}; first_column += {self.step})"), w.unrolled("j", self.columns):
            column, _ = self.column()
            for _, node, dim, share in self._rows_of_y():
                reads = [r for r in survey(self.trace, [node]).reads if not r.tests and not symbols_of(r.address)]
                if not reads:
                    continue
                with w.unrolled("f", share.count):
                    point = self._point(self._dims("0", "0", {self.s.y: column, dim: self._feature(share, dim)[0]}))
                    for read in reads:
                        w.prefetch(f"{w.operand(read.operand).name} + {point.index(read.address)}")

    # ---- operands

    def _own(self) -> None:
        """This lane's features of all rows of x, for every source."""
        for n, source in enumerate(self.s.sources):
            share = self.shares.sources[n]
            self.w.line(f"float x{n}_of_rows[{self.rows}][{share.registers}];")
            with self.w.unrolled("i", self.rows):
                self._features(f"x{n}_of_rows[i]", source.x_node, source.terms, share, {self.s.x: self.row()})

    def _features(self, target: str, node: Node, dim: int, share: Share, at: dict[int, str]) -> None:
        """Fills an array with this lane's features of one row; behind the last one they are 0."""
        w = self.w
        with w.unrolled("f", share.count):
            c, inside = self._feature(share, dim)
            known: dict[int, Val] = {}
            base = self._point(self._dims("0", "0", {**at, dim: c}))
            if share.width > 1:
                for read in survey(self.trace, [node]).reads:
                    still = not any(moves_with(self.trace, t.expr, dim) for t in read.tests)
                    if still and w.request.operand_aligned(read.operand) and chunked(read.address, dim, share.width):
                        known[id(read)] = Val(f"{load_chunk(w, base, w.operand, read, share.width)}[e]", read.dtype)
            with w.unrolled("e", share.width):
                point = self._point(self._dims("0", "0", {**at, dim: f"({c} + e)"}), known)
                value = self._wide(point, node)
                w.line(f"{target}[f * {share.width} + e] = {f'{inside} ? {value} : 0.0f' if inside else value};")

    def _feature(self, share: Share, dim: int) -> tuple[str, str]:
        """The first feature of this lane's chunk f, and where it may lie behind the last one the test that it does not."""
        n, place = self.sizes[dim], f"(f * {self.lanes} + lane) * {share.width}"
        ragged = n % (self.lanes * share.width) != 0
        return self.w.value("c", "int", f"min({place}, {n - share.width})" if ragged else place), f"{place} < {n}" if ragged else ""

    # ---- one turn

    def _turn(self) -> None:
        w, rows_of_y = self.w, self._rows_of_y()
        for name, _, _, share in rows_of_y:
            w.line(f"float {name}[{self.columns}][{share.registers}];")
        with w.unrolled("j", self.columns):
            column, _ = self.column()
            for name, node, dim, share in rows_of_y:
                self._features(f"{name}[j]", node, dim, share, {self.s.y: column})
        for n in range(len(self.s.sources)):
            w.line(f"float s{n}[{self.rows}][{self.columns}];")
            w.line(f"products_of_lanes<{self.lanes}>(s{n}, x{n}_of_rows, y{n}_of_columns);")
        self._arrays(self.by_column, "j", self.columns)
        for k in self.shares.products:
            w.line(f"float p{k}[{self.rows}][{self.columns}];")
        self._lead()
        self._follow()
        for k in self.shares.products:
            w.line(f"add_weighted(o{k}, p{k}, v{k}_of_columns);")

    def _rows_of_y(self) -> list[tuple[str, Node, int, Share]]:
        """What is loaded of each row of y: the array that takes it, its value, the dim of its features, a lane's share."""
        found = [(f"y{n}_of_columns", s.y_node, s.terms, self.shares.sources[n]) for n, s in enumerate(self.s.sources)]
        return found + [(f"v{k}_of_columns", self._other(k), self._dim(k), share) for k, share in self.shares.products.items()]

    def _other(self, k: int) -> Node:
        node = self.s.sinks[k].other
        assert node is not None
        return node

    def _dim(self, k: int) -> int:
        dim = self.s.sinks[k].features
        assert dim is not None
        return dim

    # ---- the end

    def _meet_in_warp(self) -> None:
        """The groups of a warp, by a butterfly: each gets the same bits."""
        w, offset = self.w, self.lanes
        if offset == 32:
            return
        with w.block(f"for (int offset = {offset}; offset < 32; offset *= 2)"), w.unrolled("i", self.rows):
            other = "__shfl_xor_sync(0xffffffffu, {0}, offset)".format
            for k in self.leaders:
                kind = self.s.sinks[k].kind
                next_ = w.value("next", "float", f"{kind}imum(o{k}[i], {other(f'o{k}[i]')})")
                mine = [f for f in self.followers if self.s.sinks[f].leader == k]
                if mine:
                    sink = self.s.sinks[mine[0]]
                    after, before = (self._shifted(sink, text, self.row()) for text in (next_, f"o{k}[i]"))
                    w.line(f"const float factor{k} = o{k}[i] == -infinity_f32() ? 0.0f : expf({before} - {after});")
                w.line(f"o{k}[i] = {next_};")
            for k in self.followers:
                leader = self.s.sinks[k].leader
                factor = f" * factor{leader}" if leader is not None else ""
                with self._each(k) as place:
                    w.line(f"{place} = {place}{factor};")
                    w.line(f"{place} += {other(place)};")

    @contextmanager
    def _each(self, k: int) -> Iterator[str]:
        """Every register of row i of a fold."""
        if self.s.sinks[k].features is None:
            yield f"o{k}[i]"
            return
        with self.w.unrolled("f", self.features(k)):
            yield f"o{k}[i][f]"

    def _leave(self) -> None:
        """A warp's folds as a record: in shared memory, where those of the block meet, or in the workspace."""
        w = self.w
        if self.splits == 1:
            w.line(f"__shared__ float parts[{self.schedule.warps * self.record.floats}];")
            w.line(f"float* record = parts + threadIdx.x / 32 * {self.record.floats};")
        else:
            folds, warp = w.workspace_of("folds", 0, "float"), f"(blockIdx.x * {self.schedule.warps}ull + threadIdx.x / 32)"
            w.line(f"float* record = {folds} + {warp} * {self.record.floats};")
        with w.block(f"if (threadIdx.x % 32 < {self.lanes})"), w.unrolled("i", self.rows):
            for k, sink in enumerate(self.s.sinks):
                if sink.features is None:
                    w.line(f"if (lane == 0) record[{self._at(k, self.row(), '0')}] = o{k}[i];")
                    continue
                share, n = self.shares.products[k], self.record.features[k]
                with w.unrolled("f", share.count), w.unrolled("e", share.width):
                    c = w.value("c", "int", f"(f * {self.lanes} + lane) * {share.width} + e")
                    test = f"if ({c} < {n}) " if n % (self.lanes * share.width) else ""
                    w.line(f"{test}record[{self._at(k, self.row(), c if n > 1 else '0')}] = o{k}[i][f * {share.width} + e];")
        if self.splits == 1:
            w.line("__syncthreads();")
            self._results(self.schedule.warps)
