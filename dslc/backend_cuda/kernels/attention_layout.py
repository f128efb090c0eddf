"""The tile of an attention kernel: how many rows and columns, how threads share them, where everything lies in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from dslc.ir import index
from dslc.ir.index import Dim
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import Choice, choose
from dslc.ir.streams import Stream
from dslc.ir.trace import Node, Read, symbols_of

from ..stage import Request

LANES = 16  # that share a row
MOST_REGISTERS = 176  # of a thread for its tiles: what addresses and pointwise work take comes on top
ENOUGH_WARPS = 8  # of a multiprocessor, to hide latencies


@dataclass(frozen=True)
class Tile:
    """`groups` of 16 lanes; every lane has `rows` x `columns` scores."""

    groups: int
    rows: int
    columns: int

    @property
    def threads(self) -> int:
        return self.groups * LANES

    @property
    def x(self) -> int:
        """Rows of a block."""
        return self.groups * self.rows

    @property
    def y(self) -> int:
        """Columns that are done at once."""
        return self.columns * LANES

    @property
    def reuse(self) -> float:
        """Products for each load from shared memory."""
        return self.rows * self.columns / (self.rows + self.columns)


TILES = (Tile(8, 8, 4), Tile(16, 4, 4), Tile(8, 4, 4), Tile(8, 4, 2), Tile(8, 2, 2), Tile(8, 1, 1))


@dataclass(frozen=True)
class Area:
    """Rows in shared memory, from float `offset` on, `stride` floats apart; `width` of them, a multiple of 4, are of use."""

    offset: int
    rows: int
    width: int
    stride: int


@dataclass(frozen=True)
class Held:
    """Features of a product that a lane holds for each row: chunks of `width` neighbours, 16 * `width` apart."""

    width: int
    registers: int

    @staticmethod
    def of(features: int) -> Held:
        """The one that wastes the least."""
        return min((Held(w, -(-features // (LANES * w)) * w) for w in (4, 2, 1) if features % w == 0), key=lambda h: (h.registers, -h.width))


@dataclass(frozen=True)
class Layout:
    """`own`: of each source its operand along x; `streamed`: the distinct operands along y, (area, node, dim), and which of them each source and
    each product reads; `weights`: of each product the other operand's tile."""

    stream: Stream
    tile: Tile
    own: tuple[Area, ...]
    streamed: tuple[tuple[Area, Node, int], ...]
    source_operand: tuple[int, ...]
    sink_operand: dict[int, int]
    weights: dict[int, Area]
    held: dict[int, Held]
    shared_bytes: int

    @property
    def registers(self) -> int:
        """An estimate of what a thread's tiles take."""
        rows, columns = self.tile.rows, self.tile.columns
        sums = rows * (sum(h.registers for h in self.held.values()) + len(self.stream.sinks))
        kept = sum(s.kind in ("max", "min") for s in self.stream.sinks)
        scores = rows * columns * (len(self.own) + kept) + 4 * columns
        product = 4 * rows + max((h.registers for h in self.held.values()), default=0)
        return sums + max(scores, product)


def layout_of(request: Request) -> tuple[Layout, Choice]:
    """The layout with the tile that was asked for, or else with the least estimated time; Unsuited where none fits."""
    stream = Stream.of(request.body)
    if 0 in stream.sizes:
        raise Unsuited("nothing to sum")
    fitting = [made for made in _layouts(stream) if made.shared_bytes <= request.arch.shared_bytes and made.registers <= MOST_REGISTERS]
    if not fitting:
        raise Unsuited("no tile fits into shared memory and registers")
    best = sorted(fitting, key=lambda made: _time(made, request))
    held = {made.tile: made.registers for made in best}
    tile, choice = choose(request.schedule, lambda: best[0].tile, lambda: list(held), held.__getitem__)
    return next(made for made in best if made.tile == tile), choice


def _time(layout: Layout, request: Request) -> float:
    """Rounds of blocks times what a round takes: the rows of all blocks of a multiprocessor, slower where warps are few or operands little used."""
    tile, arch, stream = layout.tile, request.arch, layout.stream
    blocks = prod(stream.sizes[: stream.x]) * -(-stream.sizes[stream.x] // tile.x)
    by_registers = arch.registers // (min(layout.registers + 64, 255) * tile.threads)
    resident = min(max(by_registers, 1), arch.shared_bytes // layout.shared_bytes, -(-blocks // arch.sms))
    warps = resident * tile.threads // 32
    return -(-blocks // (arch.sms * resident)) * resident * tile.x / (tile.reuse * min(warps / ENOUGH_WARPS, 1))


def _layouts(stream: Stream) -> Iterator[Layout]:
    sizes = stream.sizes
    operands: dict[Any, tuple[Node, int]] = {}

    def number(node: Node, dim: int) -> int:
        key = _identity(node, dim, sizes)
        operands.setdefault(key, (node, dim))
        return list(operands).index(key)

    sources = tuple(number(s.y_node, s.terms) for s in stream.sources)
    sinks = {k: number(s.other, s.features) for k, s in enumerate(stream.sinks) if s.other is not None and s.features is not None}
    held = {k: Held.of(sizes[stream.sinks[k].features]) for k in sinks}  # type: ignore[index]
    for tile in TILES:
        at = 0

        def area(rows: int, width: int) -> Area:
            nonlocal at
            wide = -(-width // 4) * 4
            made = Area(at, rows, wide, wide + 4 if wide % 8 == 0 else wide)
            at += rows * made.stride
            return made

        own = tuple(area(tile.x, sizes[s.terms]) for s in stream.sources)
        streamed = tuple((area(tile.y, sizes[dim]), node, dim) for node, dim in operands.values())
        weights = {k: area(tile.x, tile.y) for k in sinks}
        yield Layout(stream, tile, own, streamed, sources, sinks, weights, held, at * 4)


def _identity(node: Node, dim: int, sizes: tuple[int, ...]) -> Any:
    """What two operands have in common where they are the same matrix: q is summed over in a score and a product's factor in its gradient."""
    if isinstance(node, Read) and not symbols_of(node.address) and not any(symbols_of(t.expr) for t in node.tests):
        place = [Dim(len(sizes)) if k == dim else Dim(k) for k in range(len(sizes))]
        tests = tuple((index.substitute(t.expr, place), t.size) for t in node.tests)
        return node.operand, index.substitute(node.address, place), tests, sizes[dim]
    return id(node), dim
