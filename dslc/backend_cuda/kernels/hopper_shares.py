"""Which of a Hopper product's steps a block does. Where those of all tiles are shared out evenly, a tile's sums are made by several blocks: each puts
its part down in the workspace, and a second function adds the parts of each tile, in their order, and makes the results.

Block b of B does the steps from b S / B on of all S steps, those of a tile behind each other; the part of tile t that it makes is number b + t.
"""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.dtypes import FLOAT32
from dslc.ir.contractions import COLUMNS, ROWS
from dslc.ir.types import TensorType

from ..gemm_schedule import HopperSchedule, Sizes
from ..stage import Function, FunctionWriter
from ..windows import Windows
from .epilogue import THREADS, Epilogue
from .hopper_windows import place_in


@dataclass(frozen=True)
class Shares:
    """`sizes`: of the tiles; `depth`: terms of a step; `offset`: of the parts in the workspace."""

    epilogue: Epilogue
    windows: Windows | None
    s: HopperSchedule
    sizes: Sizes
    depth: int
    offset: int

    @property
    def steps(self) -> int:
        """Of a tile."""
        return -(-self.sizes[3] // self.depth)

    @property
    def parts(self) -> TensorType:
        """The parts of tiles, as they lie in the workspace."""
        return TensorType(FLOAT32, (self.s.parts(self.sizes), self.s.rows, self.s.columns))

    def begin(self, block: str) -> str:
        """The first step of a block."""
        steps = self.s.tiles(self.sizes) * self.steps
        wide = "(long long)" if steps * (self.s.shares + 1) >= 2**31 else ""
        text = f"{wide}({block}) * {steps} / {self.s.shares}"
        return f"(int)({text})" if wide else text

    def places(self, w: FunctionWriter) -> None:
        """`row`, `column` and `batch` of `tile`."""
        s, (batch, rows, columns, _) = self.s, self.sizes
        tall, wide = -(-rows // s.rows), -(-columns // s.columns)
        w.line(f"const TilePlace place = grouped_tile({f'tile % {tall * wide}' if batch > 1 else 'tile'}, {tall}, {wide}, {s.group});")
        w.line(f"const int row = place.row * {s.rows}, column = place.column * {s.columns};")
        w.line(f"const int batch = {f'tile / {tall * wide}' if batch > 1 else '0'};")

    def put(self, w: FunctionWriter, row: str, column: str, width: int, sums: str) -> None:
        """Puts down `width` neighbouring sums of the part that the block makes of `tile`, from a row and a column in the tile on."""
        to = w.workspace("parts", self.offset, self.parts).name
        w.line(f"store<{width}>({to} + (((int)blockIdx.x + tile) * {self.s.rows} + {row}) * {self.s.columns} + {column}, {sums});")

    def folded(self) -> Function:
        """The function that adds the parts of each tile in their order, and makes the results."""
        e, s, steps = self.epilogue, self.s, self.steps
        w = FunctionWriter(e.request, "_sum")
        width = min(e.width(), 4)
        if self.windows is not None:
            width = self.windows.walks[COLUMNS].chunk(width)
        tiles, area = s.tiles(self.sizes), s.rows * s.columns
        blocks = area // (width * THREADS)  # of a tile
        w.line(f"const int tile = blockIdx.x / {blocks}, p = (blockIdx.x % {blocks} * {THREADS} + threadIdx.x) * {width};")
        self.places(w)
        tests = place_in(w, self.windows, s, self.sizes, ROWS, f"row + p / {s.columns}", "m")
        tests += place_in(w, self.windows, s, self.sizes, COLUMNS, f"column + p % {s.columns}", "n")
        if tests:
            w.line(f"if (!({' && '.join(tests)})) return;")
        source = w.workspace("parts", self.offset, self.parts).name
        first, last = (self._block_of(f"{text} * {steps}{more}") for text, more in (("tile", ""), ("(tile + 1)", " - 1")))
        w.line(f"float sums[{width}] = {{}};")
        w.line("#pragma unroll 4")
        with w.block(f"for (int block = {first}, last = {last}; block <= last; ++block)"):
            w.line(f"float more[{width}];")
            w.line(f"load<{width}>({source} + (block + tile) * {area} + p, more);")
            with w.unrolled("j", width):
                w.line("sums[j] += more[j];")
        e.write(w, ["batch", "m", "n", "0"], width, "sums")
        return w.function((tiles * blocks,), (THREADS,), schedule="sums of the parts of each tile, added in order")

    def _block_of(self, step: str) -> str:
        """The block that does a step."""
        steps = self.s.tiles(self.sizes) * self.steps
        wide = "(long long)" if steps * (self.s.shares + 1) >= 2**31 else ""
        return f"(int)(({wide}({step} + 1) * {self.s.shares} - 1) / {steps})"
