"""The text of a streaming kernel on Hopper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dslc.core.dtypes import FLOAT32, TF32, DType
from dslc.ir.streams import Sink, Stream
from dslc.ir.trace import Node

from ..stage import Function, Request
from .attention_hopper_tiles import SPAN, WARPGROUP, Box, HopperPlan, box_of
from .attention_mma_text import StreamWriter, unrounded
from .attention_mma_tiles import Tile, element_type
from .attention_turned import Turned

COLUMNS = "columns"  # the ring of values along y, beside those of the tiles


def rounds(sink: Sink, narrow: DType) -> bool:
    """Whether the weights of a product are rounded once: by the body itself, or in tf32."""
    return narrow == FLOAT32 or unrounded(sink, narrow) is not None


class HopperWriter(StreamWriter):
    """Writes one function. See `attention_hopper` for what a block does."""

    plan: HopperPlan

    def __init__(self, request: Request, stream: Stream, sinks: Sequence[int], sources: Sequence[int], results: Sequence[int], plan: HopperPlan,
                 suffix: str, turned: Mapping[Node, Turned]) -> None:  # fmt: skip
        super().__init__(request, stream, sinks, sources, results, plan, suffix)
        self.turned = turned
        self.rings = [t.name for t in self.areas.y] + ([COLUMNS] if self.areas.columns else [])
        held = {self.areas.other[k].name for k in self.contracting}
        self.early = [t.name for t in self.areas.y if t.name not in held]  # read by the scores alone
        self.late = [n for n in self.rings if n in held]

    # ---- the whole

    def function(self) -> Function:
        w, plan, columns = self.w, self.plan, bool(self.areas.columns)
        w.line("extern __shared__ __align__(1024) unsigned char shared[];")
        self._pointers()
        self._barriers()
        self._threads()
        w.line(f"const int warpgroup = __shfl_sync(0xffffffffu, thread / {WARPGROUP}u, 0);  // said to be equal in the warp")
        blocks = self._place()
        low, high = self._range()
        self._block_values()
        with w.block(f"if (warpgroup == {plan.groups})"):
            w.line(f"give_registers<{40 if columns else 24}>();")
            with w.block(f"if (thread < {plan.threads + 32})" if columns else f"if (thread == {plan.threads})"):
                self._produce(low, high)
        with w.block("else"):
            w.line(f"take_registers<{232 if columns else 240}>();")
            self._consume(low, high)
        kind = TF32 if plan.type == FLOAT32 else plan.type.name
        words = f"{plan.bx} rows a block, {plan.by} columns at a time in {plan.stages} stages, {kind} by wgmma of {plan.groups} warpgroups"
        return w.function((blocks,), (plan.threads + WARPGROUP,), shared_bytes=self._barriers_at() + self._barrier_bytes(), schedule=words)

    def _barriers_at(self) -> int:
        return -(-self.areas.bytes // 8) * 8

    def _barrier_bytes(self) -> int:
        return 8 * (1 + 2 * self.plan.stages * len(self.rings))

    def _barriers(self) -> None:
        w, stages = self.w, self.plan.stages
        w.line(f"unsigned long long* const own_full = reinterpret_cast<unsigned long long*>(shared + {self._barriers_at()});")
        for n, name in enumerate(self.rings):
            w.line(f"unsigned long long* const {name}_full = own_full + {1 + 2 * n * stages};")
            w.line(f"unsigned long long* const {name}_empty = {name}_full + {stages};")
        with w.block("if (threadIdx.x == 0)"):
            w.line("mbarrier_init(own_full, 1);")
            with w.block(f"for (int k = 0; k < {stages}; ++k)"):
                for name in self.rings:
                    arrivals = 32 if name == COLUMNS else 1
                    w.line(f"mbarrier_init({name}_full + k, {arrivals}), mbarrier_init({name}_empty + k, {self.plan.groups * 4});")
            w.line("mbarrier_fence();")
        w.line("__syncthreads();")

    # ---- the producing warp

    def _produce(self, low: str, high: str) -> None:
        """Has all tiles copied; its lanes make the values along y, if there are any."""
        w, plan, a = self.w, self.plan, self.areas
        first = f"if (thread == {plan.threads})" if a.columns else ""
        with w.block(first):
            w.line(f"mbarrier_arrive_expect(own_full, {sum(_bytes(t) for t in a.x)});")
            for t in a.x:
                self._copy(t, t.name, "own_full", "first_x")
        w.line("int stage = 0;")
        w.line("unsigned phase = 0;")
        with w.block(f"for (int first_y = {low}; first_y < {high}; first_y += {plan.by})"):
            with w.block(first):
                for t in a.y:
                    w.line(f"mbarrier_wait({t.name}_empty + stage, phase ^ 1);")
                    w.line(f"mbarrier_arrive_expect({t.name}_full + stage, {_bytes(t)});")
                    self._copy(t, f"{t.name} + stage * {t.rows * t.chunks}", f"{t.name}_full + stage", "first_y")
            if a.columns:
                w.line(f"mbarrier_wait({COLUMNS}_empty + stage, phase ^ 1);")
                self._fill_columns("thread % 32u", 32, "first_y", "stage")
                w.line(f"mbarrier_arrive({COLUMNS}_full + stage);")
            w.line(f"if (++stage == {plan.stages}) stage = 0, phase ^= 1;")

    def _copy(self, t: Tile, to: str, barrier: str, first: str) -> None:
        """One copy for each slab of the tile's rows."""
        w, box = self.w, self._box(t)
        name = w.tensor_map(f"map_{t.name}", box.operand, box.tensor_map(t.rows))
        outer = f", {self.point('0', '0').index(box.base)}" if box.base is not None else ""
        for k in range(t.chunks // 8):
            slab = k * SPAN // self.plan.type.bytes
            place = f"{first}{f' + {slab}' if k else ''}, 0" if t.turned else f"{slab}, {first}"
            w.line(f"copy_tile({to}{f' + {k * t.rows * 8}' if k else ''}, &{name}, {barrier}, {place}{outer});")

    def _box(self, t: Tile) -> Box:
        box = self.turned[t.node].box() if t.turned else box_of(self.request, self.s, t)
        assert box is not None
        return box

    # ---- the consuming warpgroups

    def _consume(self, low: str, high: str) -> None:
        w, plan = self.w, self.plan
        w.line("const int lane = thread % 32u;")
        self._values_of_rows()
        self._sums()
        for k in self.contracting:
            w.line(f"unsigned packed{k}[{plan.steps}][4];")
            if not rounds(self.sinks[k], plan.type):
                w.line(f"unsigned rest{k}[{plan.steps}][4];")
        for t in self.areas.x:
            w.line(f"const unsigned long long rows_{t.name} = matrix_descriptor({t.name} + warpgroup * 512, 16, 1024);")
        w.line("int stage = 0, previous = 0;")
        w.line("unsigned phase = 0;")
        with w.block(f"if ({low} < {high})"):
            if plan.beside:
                w.comment("Barriers 1 and 2: the turns of the two warpgroups at the tensor cores.")
                w.line("if (warpgroup == 1) named_barrier_arrive(1, 256);")
            w.line("mbarrier_wait(own_full, 0);")
            if plan.beside:
                self._first(low)
            with w.block(f"for (int first_y = {low}{f' + {plan.by}' if plan.beside else ''}; first_y < {high}; first_y += {plan.by})"):
                (self._next if plan.beside else self._alone)()
            if plan.beside:
                self._last()
        self._finish()

    def _alone(self) -> None:
        """Scores of one tile, then its products."""
        w = self.w
        self._scores()
        w.line("wgmma_wait<0>();")
        self._release(self.early, "stage")
        self._wait_columns()
        self._weights(self._whole())
        self._release_columns()
        for k in self.contracting:
            self._shrink(k)
        self._pack()
        w.line("previous = stage;")
        w.line("wgmma_fence();")
        self._products("phase")
        w.line("wgmma_wait<0>();")
        self._release(self.late, "previous")
        w.line(f"if (++stage == {self.plan.stages}) stage = 0, phase ^= 1;")

    def _first(self, low: str) -> None:
        """The first tile: scores and weights alone."""
        w = self.w
        with w.block(""):
            w.line(f"const int first_y = {low};")
            self._scores()
            w.line("named_barrier_arrive(2 - warpgroup, 256);")
            w.line("wgmma_wait<0>();")
            self._release(self.early, "stage")
            self._wait_columns()
            self._weights(self._whole())
            self._release_columns()
            self._pack()
            self._advance()

    def _next(self) -> None:
        """The scores of one tile beside the products of the one before."""
        w = self.w
        self._scores()
        self._products("stage > previous ? phase : phase ^ 1")
        w.line("named_barrier_arrive(2 - warpgroup, 256);")
        w.line("wgmma_wait<1>();")
        self._release(self.early, "stage")
        self._wait_columns()
        self._weights(self._whole())
        self._release_columns()
        w.line("wgmma_wait<0>();")
        self._release(self.late, "previous")
        for k in self.contracting:
            self._shrink(k)
        self._pack()
        self._advance()

    def _last(self) -> None:
        w = self.w
        w.line("wgmma_fence();")
        self._products("stage > previous ? phase : phase ^ 1")
        w.line("wgmma_wait<0>();")
        w.line("if (warpgroup == 0) named_barrier_sync(1, 256);  // the other has had its last turn")

    def _scores(self) -> None:
        w, plan = self.w, self.plan
        for name in dict.fromkeys(self.areas.source_y[k].name for k in self.sources):
            w.line(f"mbarrier_wait({name}_full + stage, phase);")
        if plan.beside:
            w.line("named_barrier_sync(1 + warpgroup, 256);")
        for k in self.sources:
            w.line(f"float {plan.fragment(f'score{k}')};")
        w.line("wgmma_fence();")
        for k in self.sources:
            x, y = self.areas.source_x[k], self.areas.source_y[k]
            w.line(f"const unsigned long long columns{k} = matrix_descriptor({y.name} + stage * {y.rows * y.chunks}, 16, 1024);")
            with w.unrolled("c", x.used // 2):
                a, b = (_terms_from(t, "c") for t in (x, y))
                w.line(f"wgmma<false, false>(score{k}, rows_{x.name} + {a}, columns{k} + {b}, c > 0, {element_type(plan)}());")
        w.line("wgmma_commit();")

    def _products(self, phase: str) -> None:
        """Adds the products of the packed weights, of the tile of stage `previous`."""
        w, plan = self.w, self.plan
        waited = {self.areas.source_y[k].name for k in self.sources}
        for name in self.late:
            if name not in waited:
                w.line(f"mbarrier_wait({name}_full + previous, {phase});")
        for k in self.contracting:
            t = self.areas.other[k]
            trans, leading, place = ("false", 16, _terms_from(t, "c")) if t.turned else ("true", t.rows * SPAN, f"(c * {16 * SPAN} >> 4)")
            w.line(f"const unsigned long long terms{k} = matrix_descriptor({t.name} + previous * {t.rows * t.chunks}, {leading}, 1024);")
            with w.unrolled("c", plan.steps):
                for part in ("packed",) if rounds(self.sinks[k], plan.type) else ("packed", "rest"):
                    w.line(f"wgmma_registers<{trans}>(sum{k}, {part}{k}[c], terms{k} + {place}, 1, {element_type(plan)}());")
        w.line("wgmma_commit();")

    def _pack(self) -> None:
        w, narrow = self.w, element_type(self.plan)
        for k in self.contracting:
            w.line(f"pack_weights<{narrow}>(packed{k}, weight{k});")
            if not rounds(self.sinks[k], self.plan.type):
                w.line(f"pack_rests<{narrow}>(rest{k}, weight{k});")

    def _release(self, names: Sequence[str], stage: str) -> None:
        for name in names:
            self.w.line(f"if (lane == 0) mbarrier_arrive({name}_empty + {stage});")

    def _wait_columns(self) -> None:
        if self.areas.columns:
            self.w.line(f"mbarrier_wait({COLUMNS}_full + stage, phase);")

    def _release_columns(self) -> None:
        if self.areas.columns:
            self.w.line("__syncwarp();")
            self._release([COLUMNS], "stage")

    def _advance(self) -> None:
        self.w.line("previous = stage;")
        self.w.line(f"if (++stage == {self.plan.stages}) stage = 0, phase ^= 1;")


def _bytes(t: Tile) -> int:
    """What its copies bring."""
    return t.rows * t.chunks * 16


def _terms_from(t: Tile, step: str) -> str:
    """Where a product's terms begin in a tile that lies along them, in a descriptor's units."""
    return f"({t.rows * SPAN} * ({step} / 4) + 32 * ({step} % 4) >> 4)"
