"""Which of a Hopper product's steps a block does. Where those of all tiles are shared out evenly, a tile's sums are made in parts: each is put down
in the workspace, and a second function adds the parts of each tile, in their order, and makes the results.

Share q of Q are the steps from q S / Q on of all S steps, those of a tile behind each other; the part that it makes of tile t is number q + t. With
T tiles, shares that are Q / gcd(Q, T) apart begin at the same step of their tiles: they are made at one time and are neighbours, so that they find
each other's operands in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd

from dslc.core.dtypes import FLOAT32
from dslc.ir.contractions import COLUMNS, ROWS
from dslc.ir.types import TensorType

from ..gemm_schedule import HopperSchedule, Sizes
from ..stage import Function, FunctionWriter
from ..windows import Windows
from .epilogue import THREADS, Epilogue, lanes_of
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

    @property
    def alike(self) -> int:
        """Shares that begin at the same step of their tiles."""
        return gcd(self.s.tiles(self.sizes), self.s.shares)

    @contextmanager
    def tiles(self, w: FunctionWriter) -> Iterator[None]:
        """The loop over a block's tiles: `tile`, its `row`, `column` and `batch`, its steps `first` up to `last`, the `share` they are of."""
        tiles, shares, steps = self.s.tiles(self.sizes), self.s.shares, self.steps
        if not shares:
            with w.block(f"for (int tile = blockIdx.x; tile < {tiles}; tile += gridDim.x)"):
                w.line(f"const int first = 0, last = {steps};")
                self._place(w)
                yield
            return
        with w.block(f"for (int turn_of_shares = blockIdx.x; turn_of_shares < {shares}; turn_of_shares += gridDim.x)"):
            w.line(f"const int share = turn_of_shares % {self.alike} * {shares // self.alike} + turn_of_shares / {self.alike};")
            w.line(f"const int end = {self._begin('(share + 1)')};")
            with w.block(f"for (int step = {self._begin('share')}; step < end; step = (step / {steps} + 1) * {steps})"):
                w.line(f"const int tile = step / {steps}, first = step % {steps}, last = min({steps}, first + end - step);")
                self._place(w)
                yield

    def _begin(self, share: str) -> str:
        """The first step of a share."""
        return self._scaled(share, self.s.tiles(self.sizes) * self.steps, self.s.shares)

    def _share_of(self, step: str) -> str:
        """The share that a step is of: the last that does not begin behind it."""
        return self._scaled(f"({step} + 1)", self.s.shares, self.s.tiles(self.sizes) * self.steps, " - 1")

    def _scaled(self, x: str, factor: int, divisor: int, more: str = "") -> str:
        if (self.s.tiles(self.sizes) * self.steps + 1) * (self.s.shares + 1) < 2**31:
            return f"({x} * {factor}{more}) / {divisor}"
        return f"(int)(((long long){x} * {factor}{more}) / {divisor})"

    def _place(self, w: FunctionWriter) -> None:
        """`row`, `column` and `batch` of `tile`."""
        s, (batch, rows, columns, _) = self.s, self.sizes
        tall, wide = -(-rows // s.rows), -(-columns // s.columns)
        number, each = "tile", s.tiles(self.sizes) // self.alike if s.shares else 1
        if each > 1:
            w.line(f"const int number = tile % {each} * {self.alike} + tile / {each};")
            number = "number"
        w.line(f"const TilePlace place = grouped_tile({f'{number} % {tall * wide}' if batch > 1 else number}, {tall}, {wide}, {s.group});")
        w.line(f"const int row = place.row * {s.rows}, column = place.column * {s.columns};")
        w.line(f"const int batch = {f'{number} / {tall * wide}' if batch > 1 else '0'};")

    def put(self, w: FunctionWriter, row: str, column: str, width: int, sums: str) -> None:
        """Puts down `width` neighbouring sums of the part that the block makes of `tile`, from a row and a column in the tile on."""
        to = w.workspace("parts", self.offset, self.parts).name
        w.line(f"store<{width}>({to} + ((share + tile) * {self.s.rows} + {row}) * {self.s.columns} + {column}, {sums});")

    def folded(self) -> Function:
        """The function that adds the parts of each tile in their order, and makes the results."""
        e, s, steps = self.epilogue, self.s, self.steps
        w = FunctionWriter(e.request, "_sum")
        width = min(e.width(), 4)
        if self.windows is not None:
            width = self.windows.walks[COLUMNS].chunk(width)
        tiles, area = s.tiles(self.sizes), s.rows * s.columns
        lanes = lanes_of(-(-s.shares // tiles))
        blocks = area * lanes // (width * THREADS)  # of a tile
        thread = f"blockIdx.x % {blocks} * {THREADS} + threadIdx.x"
        w.line(f"const int tile = blockIdx.x / {blocks}, p = ({thread}) {f'/ {lanes} ' if lanes > 1 else ''}* {width};")
        self._place(w)
        tests = place_in(w, self.windows, s, self.sizes, ROWS, f"row + p / {s.columns}", "m")
        tests += place_in(w, self.windows, s, self.sizes, COLUMNS, f"column + p % {s.columns}", "n")
        source = w.workspace("parts", self.offset, self.parts).name
        first, last = self._share_of(f"tile * {steps}"), self._share_of(f"tile * {steps} + {steps - 1}")
        with e.sum_of_parts(w, width, lanes, tests, first, f"{last} + 1"):
            w.line(f"load<{width}>({source} + (part + tile) * {area} + p, more);")
        e.write(w, ["batch", "m", "n", "0"], width, "sums")
        return w.function((tiles * blocks,), (THREADS,), schedule="sums of the parts of each tile, added in order")
