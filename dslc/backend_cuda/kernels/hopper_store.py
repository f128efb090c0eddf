"""From a Hopper product's sums to its results: each warp takes its rows, 64 columns at a time, through its own part of shared memory, so that
neighbouring lanes store neighbouring columns.

What the results need from memory is on its way early. What moves with the columns alone is read once for all rows of a piece (16 rows of up to 64
columns); what else is read in chunks, a residual, is loaded one piece ahead, that of a tile's first piece before the tile's products: registers of a
turn take the next piece's as soon as this one's are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dslc.ir.contractions import COLUMNS, ROWS
from dslc.ir.trace import Read, dims_under

from ..gemm_schedule import HopperSchedule, Sizes
from ..pull import Point
from ..scalars import Val
from ..stage import FunctionWriter
from ..types import computed_type, memory_type
from ..windows import Windows
from .epilogue import Epilogue
from .hopper_shares import Shares
from .hopper_windows import place_in

WARP = 32
REGISTERS = 232  # of a thread, as `hopper` takes them
COMPUTING = 56  # of them for addresses and the work on one turn's sums
MOST_STILL = 48  # that hold what moves with the columns alone


@dataclass(frozen=True)
class Piece:
    """16 rows of a warp: of its `block` of 64 rows, from column `column` of the tile on; the sums of 64 columns are staged at once."""

    block: int
    column: int


class SumsWriter:
    """Writes one tile's stores."""

    def __init__(self, w: FunctionWriter, epilogue: Epilogue, windows: Windows | None, s: HopperSchedule, sizes: Sizes, shares: Shares) -> None:
        self.w, self.epilogue, self.windows, self.s, self.sizes, self.shares = w, epilogue, windows, s, sizes, shares
        width = epilogue.width() if windows is None else windows.walks[COLUMNS].chunk(epilogue.width())
        self.width = 4 if s.shares else width
        self.lanes = min(64 // self.width, WARP)  # that are neighbours in a row
        self.turns = 16 * self.lanes // WARP
        wide = min(s.columns, -(-sizes[2] // 64) * 64)  # columns behind those of all tiles have no results
        starts = range(0, wide, self.lanes * self.width)
        self.pieces = [Piece(r, c) for c in starts for r in range(s.blocks_of_rows)]
        self.ahead, self.still = self._reads()
        self.held = {id(read): w.fresh("ahead") for read in self.ahead}

    def _reads(self) -> tuple[list[Read], list[Read]]:
        """What is loaded ahead, and what is read once for all rows, as far as registers go."""
        if self.s.shares:
            return [], []
        reads = [r for r in self.epilogue.chunks(self.width) if not r.tests and r.dtype.bits >= 16]
        under = dims_under(self.epilogue.contraction.trace, reads)
        moving = [r for r in reads if ROWS in under[id(r)]]
        still = [r for r in reads if ROWS not in under[id(r)]]
        room = REGISTERS - COMPUTING - self.s.sums
        needed = sum(self.turns * self._registers(r) for r in moving)
        ahead = moving if needed <= room else []
        room = min(room - needed if ahead else room, MOST_STILL)
        return ahead, still[: room // self.width]

    def _packed(self, read: Read) -> bool:
        """Whether a chunk stays as it lies in memory until it is used."""
        return read.dtype.bytes < 4

    def _registers(self, read: Read) -> int:
        return max(self.width * read.dtype.bytes // 4, 1)

    # ---- loads ahead

    def begin(self) -> None:
        """Before a tile's products: the loads of the first piece."""
        for read in self.ahead:
            if self._packed(read):
                self.w.line(f"Chunk<{self.width * read.dtype.bytes}>::type {self.held[id(read)]}[{self.turns}] = {{}};")
            else:
                self.w.line(f"{computed_type(read.dtype)} {self.held[id(read)]}[{self.turns}][{self.width}] = {{}};")
        if self.ahead:
            with self.w.unrolled("t", self.turns):
                self._load(0)

    def _load(self, number: int) -> None:
        """The loads of turn `t` of a piece, if there is one of that number."""
        if not self.ahead or number >= len(self.pieces):
            return
        w = self.w
        with w.block(""), self._row(self.pieces[number], self._column(self.pieces[number])) as dims:
            point = Point(w, self.epilogue.contraction.trace, w.operand, dims, integer=self.epilogue.integer)
            for read in self.ahead:
                to, source = f"{self.held[id(read)]}[t]", f"{w.operand(read.operand).name} + {point.index(read.address)}"
                w.line(f"{to} = load_packed<{self.width}>({source});" if self._packed(read) else f"load<{self.width}>({source}, {to});")

    # ---- places

    def _column(self, piece: Piece) -> list[str]:
        """Declares `n`, this lane's first column in the piece; tests of whether there is such a one."""
        return place_in(self.w, self.windows, self.s, self.sizes, COLUMNS, f"column + {self._column_in_tile(piece)}", "n")

    def _column_in_tile(self, piece: Piece) -> str:
        return f"{piece.column} + lane % {self.lanes} * {self.width}"

    @contextmanager
    def _row(self, piece: Piece, tests: Sequence[str]) -> Iterator[list[str]]:
        """Declares `m`, the row of turn `t`; what is inside is done where row and column exist. Gives the names of the four dims."""
        tests = [*place_in(self.w, self.windows, self.s, self.sizes, ROWS, f"row + {self._row_in_tile(piece)}", "m"), *tests]
        with self.w.block(f"if ({' && '.join(tests)})" if tests else ""):
            yield ["batch", "m", "n", "0"]

    def _row_in_tile(self, piece: Piece) -> str:
        s = self.s
        warp = f"{piece.block * 64} + warp * 16" if s.turns else f"(warpgroup - 1) * {s.blocks_of_rows * 64} + {piece.block * 64} + warp * 16"
        return f"{warp} + lane / {self.lanes} + t * {WARP // self.lanes}"

    # ---- stores

    def store(self) -> None:
        """Behind a tile's products: all pieces, one after the other."""
        w = self.w
        for number, piece in enumerate(self.pieces):
            if piece.column % 64 == 0 or self.s.blocks_of_rows > 1:
                w.line("__syncwarp();")
                w.line(f"stage_sums<{piece.column // 64 * 32}>(staged, d[{piece.block}]);")
                w.line("__syncwarp();")
            with w.block(""):
                if self.s.shares:
                    self._put(piece)
                else:
                    tests = self._column(piece)
                    self._store(number, tests, self._still(tests))

    def _put(self, piece: Piece) -> None:
        """A piece of a part of a tile."""
        w = self.w
        w.line("#pragma unroll 2")
        with w.block(f"for (int t = 0; t < {self.turns}; ++t)"):
            self._sums(piece)
            self.shares.put(w, self._row_in_tile(piece), self._column_in_tile(piece), self.width, "sums")

    def _sums(self, piece: Piece) -> None:
        """Turn `t` of a piece, from where it is staged."""
        self.w.line(f"float sums[{self.width}];")
        self.w.line(f"load_staged<{self.width}>(staged, lane / {self.lanes} + t * {WARP // self.lanes}, "
                    f"{piece.column % 64} + lane % {self.lanes} * {self.width}, sums);")  # fmt: skip

    def _store(self, number: int, tests: list[str], known: dict[int, Val]) -> None:
        w, piece = self.w, self.pieces[number]
        w.line("#pragma unroll" if self.ahead else f"#pragma unroll {min(self.turns, 2)}")
        with w.block(f"for (int t = 0; t < {self.turns}; ++t)"), self._with_next(number) as loaded, self._row(piece, tests) as dims:
            self._sums(piece)
            self.epilogue.write(w, dims, self.width, "sums", {**known, **loaded})

    def _still(self, tests: Sequence[str]) -> dict[int, Val]:
        """Reads what moves with the columns alone."""
        w, known = self.w, {}
        point = Point(w, self.epilogue.contraction.trace, w.operand, ["batch", "0", "n", "0"], integer=self.epilogue.integer)
        guard = " && ".join(tests)
        for read in self.still:
            name = w.fresh("x")
            w.line(f"{computed_type(read.dtype)} {name}[{self.width}];")
            w.line(f"{f'if ({guard}) ' if tests else ''}"
                   f"load<{self.width}>({w.operand(read.operand).name} + {point.index(read.address)}, {name});")  # fmt: skip
            known[id(read)] = Val(f"{name}[j]", read.dtype)
        return known

    @contextmanager
    def _with_next(self, number: int) -> Iterator[dict[int, Val]]:
        """The chunks that were loaded ahead for turn `t` of a piece; the next piece's take their registers."""
        w, known = self.w, {}
        for read in self.ahead:
            held, name = f"{self.held[id(read)]}[t]", w.fresh("x")
            w.line(f"{computed_type(read.dtype)} {name}[{self.width}];")
            if self._packed(read):
                w.line(f"unpack<{memory_type(read.dtype)}>({held}, {name});")
            else:
                with w.unrolled("j", self.width):
                    w.line(f"{name}[j] = {held}[j];")
            known[id(read)] = Val(f"{name}[j]", read.dtype)
        self._load(number + 1)
        yield known
        if self.ahead:
            w.line("__syncwarp();  // one turn after the other: the work of several at once would need too many registers")
