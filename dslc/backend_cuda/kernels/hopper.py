"""Contractions on Hopper: one warpgroup has the copy engine load tiles, two make products of them with wgmma, and blocks stay for all tiles.

Tiles lie in a ring of stages in shared memory. An mbarrier `full` a stage says that its bytes have landed, an mbarrier `empty` that the consumers'
products have read it; the ring runs on from tile to tile, so that the next tile's first stages load while this one's sums are stored.

In tf32 the copy engine rounds what it copies; wgmma then reads both operands along the terms alone, so that one that lies otherwise is packed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dslc.core.dtypes import DType
from dslc.ir.contractions import BATCH, COLUMNS, ROWS, TERMS

from ..gemm_schedule import SPAN, STAGING, HopperSchedule, Sizes, hopper_schedules
from ..stage import Function, FunctionWriter, Generated
from ..tensor_views import Axis, View
from ..types import memory_type
from ..windows import UNIT, Window, Windows
from .epilogue import Epilogue
from .hopper_shares import Shares
from .hopper_store import SumsWriter, bytes_ahead, read_ahead
from .hopper_windows import clear_stages, copies_of_stage, places_of_tile, stage_bytes
from .operands import Packing

SLAB = 64 * SPAN  # bytes of 64 rows or columns of a tile
FEW = 8  # steps, a loop over which NVRTC leaves no loop of


@dataclass(frozen=True)
class HopperProduct:
    """What is multiplied: how the two operands lie, and what their sums become."""

    epilogue: Epilogue
    views: tuple[View | Window, View | Window]  # rows, columns
    element: DType
    packings: tuple[Packing, ...] = ()  # of operands that the copy engine cannot read as they lie
    windows: Windows | None = None  # where both views are windows

    @property
    def sizes(self) -> Sizes:
        """Those of the tiles: of windows, whole units."""
        sizes = self.epilogue.contraction.sizes
        if self.windows is None:
            return sizes
        rows, columns, steps = (self.windows.walks[c].units for c in (ROWS, COLUMNS, TERMS))
        return sizes[BATCH], rows * UNIT, columns * UNIT, steps * self.depth

    @property
    def depth(self) -> int:
        """Terms of a tile."""
        return SPAN // self.element.bytes

    @property
    def packed_bytes(self) -> int:
        return sum(p.bytes for p in self.packings)

    @cached_property
    def beside(self) -> int:
        """Bytes of shared memory that the results of whole tiles need; known while the body's ops live."""
        return bytes_ahead(read_ahead(self.epilogue, self.windows))

    def shares(self, s: HopperSchedule) -> Shares:
        return Shares(self.epilogue, self.windows, s, self.sizes, self.depth, self.packed_bytes)


def generate(product: HopperProduct, s: HopperSchedule) -> Generated:
    """The packings, the product, and, where steps are shared out, the sums of the parts of each tile."""
    functions = [*(p.function(product.epilogue) for p in product.packings), _main(product, s)]
    workspace = product.packed_bytes
    if s.shares:
        functions.append(product.shares(s).folded())
        workspace += product.shares(s).parts.bytes
    return Generated(functions, workspace, (), ("wgmma.cuh", "gemm.cuh", "async.cuh"))


def fits(product: HopperProduct, rows: int, columns: int) -> bool:
    """Whether tiles of this size are boxes of both operands."""
    return all(isinstance(view, Window) or view.axes(n) is not None for view, n in zip(product.views, (rows, columns)))


def schedules(product: HopperProduct) -> list[HopperSchedule]:
    """All that the product may have."""
    arch = product.epilogue.request.arch
    return hopper_schedules(product.sizes, arch, product.depth, lambda rows, columns: fits(product, rows, columns), product.beside)


def _main(product: HopperProduct, s: HopperSchedule) -> Function:
    w = FunctionWriter(product.epilogue.request)
    maps = [w.tensor_map(f"map_{'ab'[k]}", v.operand, v.tensor_map(n)) for k, (v, n) in enumerate(zip(product.views, (s.rows, s.columns)))]
    w.line("extern __shared__ __align__(1024) unsigned char memory[];")
    w.line(f"unsigned long long* const full = reinterpret_cast<unsigned long long*>(memory + {s.stages * s.stage_bytes + STAGING});")
    w.line(f"unsigned long long* const empty = full + {s.stages};")
    with w.block("if (threadIdx.x == 0)"):
        w.line(f"for (int k = 0; k < {s.stages}; ++k) mbarrier_init(full + k, 1), mbarrier_init(empty + k, {4 if s.turns else 8});")
        w.line("mbarrier_fence();")
        w.line(f"prefetch_map(&{maps[0]}), prefetch_map(&{maps[1]});")
    if product.windows is not None:
        clear_stages(w, product.windows, s)
    w.line("__syncthreads();")
    w.line("const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);  // said to be equal in the warp")
    w.line("int stage = 0;")
    w.line("unsigned phase = 0;")
    with w.block("if (warpgroup == 0)"):
        w.line("give_registers<40>();")
        if product.windows is None:
            _load_tiles(w, product, s, maps)
        else:
            _load_windows(w, product, product.windows, s, maps)
    with w.block("else"):
        w.line("take_registers<232>();")
        beside = _consumer(w, product, s)
    blocks = min(s.shares or s.tiles(product.sizes), product.epilogue.request.arch.sms)
    return w.function((blocks,), (384,), shared_bytes=s.shared_bytes + beside, schedule=s.words(product.depth))


def _load_tiles(w: FunctionWriter, product: HopperProduct, s: HopperSchedule, maps: Sequence[str]) -> None:
    """One thread's copies of all tiles."""
    with w.block("if (threadIdx.x == 0)"), product.shares(s).tiles(w), w.block("for (int k = first; k < last; ++k)"):
        w.line("mbarrier_wait(empty + stage, phase ^ 1);")
        w.line(f"mbarrier_arrive_expect(full + stage, {s.stage_bytes});")
        w.line(f"unsigned char* const tile_a = memory + stage * {s.stage_bytes};")
        w.line(f"unsigned char* const tile_b = tile_a + {s.rows * SPAN};")
        for view, n, to, tensor_map, start in zip(product.views, (s.rows, s.columns), ("tile_a", "tile_b"), maps, ("row", "column")):
            assert isinstance(view, View)
            _copies(w, view, n, to, tensor_map, start)
        w.line(f"if (++stage == {s.stages}) stage = 0, phase ^= 1;")


def _load_windows(w: FunctionWriter, product: HopperProduct, windows: Windows, s: HopperSchedule, maps: Sequence[str]) -> None:
    """One warp's copies, a lane a unit of 64 rows or columns."""
    with w.block("if (threadIdx.x < 32)"):
        w.line("const int lane = threadIdx.x;")
        with product.shares(s).tiles(w):
            places_of_tile(w, windows, s)
            with w.block("for (int k = first; k < last; ++k)"):
                w.line("mbarrier_wait(empty + stage, phase ^ 1);")
                w.line(f"if (lane == 0) mbarrier_arrive_expect(full + stage, {stage_bytes(windows, s)});")
                w.line("__syncwarp();")
                w.line(f"unsigned char* const tile = memory + stage * {s.stage_bytes} + lane * {SLAB};")
                copies_of_stage(w, windows, s, maps)
                w.line(f"if (++stage == {s.stages}) stage = 0, phase ^= 1;")


def _copies(w: FunctionWriter, view: View, n: int, to: str, tensor_map: str, start: str) -> None:
    """The copies of one operand's tile: one box, or boxes of 64 of its own dim where that is the dense one."""
    axes = view.axes(n)
    assert axes is not None
    for k in range(1 if view.along_terms else n // 64):
        own = f"{start} + {64 * k}" if k else start
        names = {BATCH: "batch", ROWS: own, COLUMNS: own, TERMS: f"k * {view.depth}"}
        places = ", ".join(_coordinate(a, names[a.dim], view) for a, _ in axes)
        w.line(f"copy_tile({to}{f' + {k * SLAB}' if k else ''}, &{tensor_map}, full + stage, {places});")


def _coordinate(axis: Axis, position: str, view: View) -> str:
    """Where a position in a class is along one of its axes."""
    if axis.extent == 1:
        return "0"
    text = f"({position}) / {axis.below}" if axis.below > 1 else position
    outermost = any(axes and axes[-1] is axis for axes in (view.own, view.terms)) or (axis.dim == BATCH and axis is view.batch[-1])
    return text if outermost and axis.dim != BATCH else f"({text}) % {axis.extent}"


def _consumer(w: FunctionWriter, product: HopperProduct, s: HopperSchedule) -> int:
    """Products and stores; the bytes of shared memory that these need behind the schedule's."""
    w.line("const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;")
    w.line(f"float* const staged = reinterpret_cast<float*>(memory + {s.stages * s.stage_bytes}) + (threadIdx.x / 32 - 4) * 1024;")
    w.line(f"float d[{s.blocks_of_rows}][{s.columns // 2}];")
    sums = SumsWriter(w, product.epilogue, product.windows, s, product.sizes, product.shares(s))
    sums.declare()
    if s.turns:
        w.comment("Barriers 1 and 2: the turns of the two warpgroups. A parity is only right for who is less than a round of stages behind.")
        w.line("int turn = 2;")
        w.line("if (warpgroup == 2) named_barrier_arrive(1, 256);")
    with product.shares(s).tiles(w):
        if s.turns:
            w.line("turn = 3 - turn;")
            with w.block("if (turn != warpgroup)"):
                w.line(f"stage += last - first, phase ^= stage / {s.stages} & 1, stage %= {s.stages};  // the stages of the other's tile")
                w.line("continue;")
        sums.begin()
        if s.turns:
            w.line("named_barrier_sync(warpgroup, 256);")
        _products(w, product, s, bool(sums.ahead))
        if s.turns:
            w.line("named_barrier_arrive(3 - warpgroup, 256);")
        sums.store()
    return sums.bytes


def _products(w: FunctionWriter, product: HopperProduct, s: HopperSchedule, ahead: bool) -> None:
    """All products of a tile; `ahead`: something is there already that the sums will meet. A stage is given back once the products after those that
    read it were issued and its own are done."""
    trans = ["false" if v.along_terms else "true" for v in product.views]
    steps = [32 if v.along_terms else 16 * SPAN for v in product.views]  # bytes from a product's terms to the next one's
    leading = [16 if v.along_terms else SLAB for v in product.views]
    w.line("int previous = 0;")
    if ahead and -(-product.sizes[3] // product.depth) <= FEW:
        w.line("#pragma unroll 1  // else what is made of the values that are there is done between the steps, in registers that are the sums'")
    with w.block("for (int k = first; k < last; ++k)"):
        w.line("mbarrier_wait(full + stage, phase);")
        w.line(f"const unsigned char* const tile_a = memory + stage * {s.stage_bytes};")
        own = "" if s.turns else f" + (warpgroup - 1) * {s.blocks_of_rows * SLAB}"
        w.line(f"const unsigned long long a = matrix_descriptor(tile_a{own}, {leading[0]}, 1024);")
        w.line(f"const unsigned long long b = matrix_descriptor(tile_a + {s.rows * SPAN}, {leading[1]}, 1024);")
        w.line("wgmma_fence();")
        with w.unrolled("j", SPAN // 32), w.unrolled("r", s.blocks_of_rows):
            operands = f"d[r], a + (r * {SLAB} + j * {steps[0]} >> 4), b + (j * {steps[1]} >> 4), k > first || j > 0"
            w.line(f"wgmma<{trans[0]}, {trans[1]}>({operands}, {memory_type(product.element)}());")
        w.line("wgmma_commit();")
        w.line("wgmma_wait<1>();")
        w.line("if (k > first && lane == 0) mbarrier_arrive(empty + previous);")
        w.line("previous = stage;")
        w.line(f"if (++stage == {s.stages}) stage = 0, phase ^= 1;")
    w.line("wgmma_wait<0>();")
    w.line("if (lane == 0) mbarrier_arrive(empty + previous);")
