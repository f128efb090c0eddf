"""From a Hopper product's sums to its results: each warp takes its rows, 64 columns at a time, through its own part of shared memory, so that
neighbouring lanes store neighbouring columns.

What the results need from memory is on its way early. What moves with the columns alone is read once for all rows of a piece (16 rows of up to 64
columns); what else is read in chunks, a residual, each lane copies to shared memory one piece ahead, that of a tile's first piece before the tile's
products. As loads to registers they would be waited for with whatever else a thread waits for: it has six counters for all that is under way.
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
MOST_AHEAD = 32768  # bytes of shared memory for a piece of each warp


@dataclass(frozen=True)
class Piece:
    """16 rows of a warp: of its `block` of 64 rows, from column `column` of the tile on; the sums of 64 columns are staged at once."""

    block: int
    column: int


def width_of(epilogue: Epilogue, windows: Windows | None) -> int:
    """Neighbouring columns whose results a lane makes at once."""
    return epilogue.width() if windows is None else windows.walks[COLUMNS].chunk(epilogue.width())


def read_ahead(epilogue: Epilogue, windows: Windows | None) -> list[Read]:
    """What the results need that moves with their rows and can be copied a piece ahead: nothing, where there is no room for all of it."""
    reads = _chunks(epilogue, width_of(epilogue, windows))
    under = dims_under(epilogue.contraction.trace, reads)
    moving = [r for r in reads if ROWS in under[id(r)]]
    return moving if bytes_ahead(moving) <= MOST_AHEAD else []


def bytes_ahead(reads: Sequence[Read]) -> int:
    """Of shared memory: a piece of each of the 8 warps."""
    return sum(8 * 16 * 64 * r.dtype.bytes for r in reads)


def _chunks(epilogue: Epilogue, width: int) -> list[Read]:
    return [r for r in epilogue.chunks(width) if not r.tests and r.dtype.bits >= 16]


class SumsWriter:
    """Writes one tile's stores."""

    def __init__(self, w: FunctionWriter, epilogue: Epilogue, windows: Windows | None, s: HopperSchedule, sizes: Sizes, shares: Shares) -> None:
        self.w, self.epilogue, self.windows, self.s, self.sizes, self.shares = w, epilogue, windows, s, sizes, shares
        self.width = 4 if s.shares else width_of(epilogue, windows)
        self.lanes = min(64 // self.width, WARP)  # that are neighbours in a row
        self.turns = 16 * self.lanes // WARP
        wide = min(s.columns, -(-sizes[2] // 64) * 64)  # columns behind those of all tiles have no results
        starts = range(0, wide, self.lanes * self.width)
        self.pieces = [Piece(r, c) for c in starts for r in range(s.blocks_of_rows)]
        self.ahead = [] if s.shares else read_ahead(epilogue, windows)
        self.still = [] if s.shares else self._still_reads()
        self.held = {id(read): w.fresh("ahead") for read in self.ahead}

    @property
    def bytes(self) -> int:
        """Of shared memory, behind the schedule's own."""
        return bytes_ahead(self.ahead)

    def _still_reads(self) -> list[Read]:
        """What is read once for all rows, as far as registers go."""
        reads = _chunks(self.epilogue, self.width)
        under = dims_under(self.epilogue.contraction.trace, reads)
        room = min(REGISTERS - COMPUTING - self.s.sums, MOST_STILL)
        return [r for r in reads if ROWS not in under[id(r)]][: room // self.width]

    # ---- loads ahead

    def declare(self) -> None:
        """Where a lane's chunks of a piece lie: those of a turn behind each other by lanes, 16 bytes of each at a time."""
        offset = self.s.shared_bytes
        for read in self.ahead:
            size, element = self._copied(read), memory_type(read.dtype)
            turn = 16 * 64 * read.dtype.bytes  # bytes of a warp
            place = f"memory + {offset} + (threadIdx.x / 32 - 4) * {turn} + lane * {size}"
            self.w.line(f"{element}* const {self.held[id(read)]} = reinterpret_cast<{element}*>({place});")
            offset += 8 * turn

    def begin(self) -> None:
        """Before a tile's products: the copies of the first piece."""
        if self.ahead:
            with self.w.unrolled("t", self.turns):
                self._load(0)

    def _copied(self, read: Read) -> int:
        """Bytes of a chunk that are copied at once."""
        return min(self.width * read.dtype.bytes, 16)

    def _parts(self, read: Read) -> list[tuple[int, str]]:
        """The parts of turn `t`'s chunk: each the elements before it, and where it lies."""
        count, each = self.width * read.dtype.bytes // self._copied(read), self._copied(read) // read.dtype.bytes
        return [(k * each, f"{self.held[id(read)]} + (t * {count} + {k}) * {WARP * each}") for k in range(count)]

    def _load(self, number: int) -> None:
        """The copies of turn `t` of a piece, if there is one of that number, in a group of their own."""
        if not self.ahead:
            return
        w = self.w
        if number < len(self.pieces):
            with w.block(""), self._row(self.pieces[number], self._column(self.pieces[number])) as dims:
                point = Point(w, self.epilogue.contraction.trace, w.operand, dims, integer=self.epilogue.integer)
                for read in self.ahead:
                    source = f"{w.operand(read.operand).name} + {point.index(read.address)}"
                    for elements, place in self._parts(read):
                        w.line(f"copy_async{self._copied(read)}({place}, {source}{f' + {elements}' if elements else ''}, true);")
        w.line("copy_async_commit();")

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
        with w.block(f"for (int t = 0; t < {self.turns}; ++t)"):
            if self.ahead:
                w.line(f"copy_async_wait<{self.turns - 1}>();")
            with self._row(piece, tests) as dims:
                loaded = self._loaded()
                self._sums(piece)
                self.epilogue.write(w, dims, self.width, "sums", {**known, **loaded})
            self._load(number + 1)
            if self.ahead:
                w.line("__syncwarp();  // one turn after the other: the work of several at once would need too many registers")

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

    def _loaded(self) -> dict[int, Val]:
        """The chunks that were copied ahead for turn `t` of a piece."""
        w, known = self.w, {}
        for read in self.ahead:
            name, each = w.fresh("x"), self._copied(read) // read.dtype.bytes
            w.line(f"{computed_type(read.dtype)} {name}[{self.width}];")
            for elements, place in self._parts(read):
                w.line(f"load<{each}>({place}, reinterpret_cast<{computed_type(read.dtype)} (&)[{each}]>({name}[{elements}]));")
            known[id(read)] = Val(f"{name}[j]", read.dtype)
        return known
