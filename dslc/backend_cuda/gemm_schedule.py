"""How a contraction is shared out on a GPU: tiles, stages, warps, splits of the terms; chosen by a count of cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import gcd

from .arch import Arch

SPAN = 128  # bytes of a Hopper tile's terms
STAGING = 8 * 16 * 64 * 4  # bytes: 16 rows of 64 float32 sums for each of 8 consumer warps
BARRIERS = 256  # bytes behind them
TENSOR_CORE = 4096  # bytes of one operand whose products a multiprocessor makes in a cycle, with wgmma
MMA_RATE = 1024  # the same with mma.sync
BYTES = 14  # between memory and a multiprocessor in a cycle, where all are busy
START = 1500  # cycles until a block's first tile is there
LEAST_STEPS = 3  # of SPAN bytes, of a block's share
UNLIKE = 1.04  # times as slow are shares that begin at unlike steps of their tiles: they find less in the L2 cache
MOST_WAVES = 2  # of tiles whose steps are shared out: with more, whole tiles leave few multiprocessors idle
Sizes = tuple[int, int, int, int]  # batch, rows, columns, terms


@dataclass(frozen=True)
class HopperSchedule:
    """A block makes tiles of rows x columns: two consumer warpgroups share a tile's rows or, taking turns, make a tile each. `shares`: equal shares
    into which the steps of all tiles are cut, so that a tile may be made in parts whose sums are added behind it (stream-K, Osama et al. 2023); 0:
    tiles are made whole."""

    rows: int
    columns: int
    turns: bool
    stages: int
    shares: int
    group: int  # rows of tiles that are walked together

    @property
    def blocks_of_rows(self) -> int:
        """Blocks of 64 rows that one warpgroup makes."""
        return self.rows // (64 if self.turns else 128)

    @property
    def sums(self) -> int:
        """Registers of a thread that hold sums."""
        return self.blocks_of_rows * self.columns // 2

    @property
    def stage_bytes(self) -> int:
        return (self.rows + self.columns) * SPAN

    @property
    def shared_bytes(self) -> int:
        return self.stages * self.stage_bytes + STAGING + BARRIERS

    def tiles(self, sizes: Sizes) -> int:
        return sizes[0] * -(-sizes[1] // self.rows) * -(-sizes[2] // self.columns)

    def parts(self, sizes: Sizes) -> int:
        """Sums of tiles that are put down where steps are shared out: share q's of tile t are number q + t."""
        return self.tiles(sizes) + self.shares - 1

    def words(self, depth: int) -> str:
        how = "taking turns at tiles" if self.turns else "sharing each tile"
        shared = f", all steps in {self.shares} shares" if self.shares else ""
        return f"two warpgroups {how} of {self.rows} x {self.columns}, a third loads {self.stages} stages of {depth} terms{shared}"


# rows, columns, turns: by how much the products of a step are slower than the tensor cores' rate, seen beside each other on an H100; those of 64
# columns in turns by the bytes that go through shared memory
HOPPER_TILES = {
    (128, 256, False): 1.0, (256, 128, False): 1.0, (128, 192, False): 1.05, (64, 256, True): 1.05, (128, 128, True): 1.09, (128, 128, False): 1.09,
    (128, 64, False): 1.9, (256, 64, True): 1.75, (128, 64, True): 1.8,
}  # fmt: skip


def hopper_schedules(sizes: Sizes, arch: Arch, depth: int, fits: Callable[[int, int], bool], beside: int = 0) -> list[HopperSchedule]:
    """All schedules that a product may have; `depth`: terms of a tile; `fits(rows, columns)`: whether the copy engine can make such tiles; `beside`:
    bytes of shared memory that the results of whole tiles need. Steps are shared out for tiles of 128 rows and more, where there are so many: with
    fewer it was slower wherever it was seen."""
    out = []
    for rows, columns, turns in HOPPER_TILES:
        if fits(rows, columns):
            out.append(_whole(rows, columns, turns, sizes, arch, beside))
            parts = _whole(rows, columns, turns, sizes, arch, 0)
            out += [replace(parts, shares=n) for n in _shares(parts, sizes, arch, depth)]
    return out


def _whole(rows: int, columns: int, turns: bool, sizes: Sizes, arch: Arch, beside: int) -> HopperSchedule:
    stages = (arch.shared_bytes - STAGING - BARRIERS - beside) // ((rows + columns) * SPAN)
    tall = -(-sizes[1] // rows)
    return HopperSchedule(rows, columns, turns, min(stages, 8), 0, max(1, min(tall, 2048 // rows)))


def _shares(s: HopperSchedule, sizes: Sizes, arch: Arch, depth: int) -> list[int]:
    """A few for each tile, or as many as there are multiprocessors."""
    tiles, steps = s.tiles(sizes), -(-sizes[3] // depth)
    if s.rows < min(128, sizes[1]) or tiles > MOST_WAVES * arch.sms:
        return []
    even = {n * tiles for n in (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, arch.sms // tiles) if n > 1}
    return sorted(n for n in even | {arch.sms} if n != tiles and tiles * steps >= n * LEAST_STEPS)


def hopper_cycles(s: HopperSchedule, sizes: Sizes, arch: Arch, depth: int, moved: int = 2) -> float:
    """Cycles of the whole product: waves of tiles, or of shares, each its products and its stores. `moved`: bytes that are read and written for each
    result. Beside another tile's products plain stores cost nothing; what more there is costs what it costs alone, as was seen on an H200, where
    power bounds the clock. A warpgroup that has no other beside it stores at half the rate of two."""
    tiles, steps = s.tiles(sizes), -(-sizes[3] // depth)
    product = s.rows * s.columns * SPAN / TENSOR_CORE * HOPPER_TILES[s.rows, s.columns, s.turns]  # of a step
    own, begun = steps, 1
    if s.shares:
        own = -(-tiles * steps // s.shares)
        begun = 1 if s.shares % tiles == 0 else -(-(own - 1) // steps) + 1  # tiles of a share, at most
        product *= UNLIKE if gcd(s.shares, tiles) < tiles else 1
    waves = -(-(s.shares or tiles) // arch.sms)
    plain, stores = (begun * s.rows * s.columns * n / BYTES for n in (2, 4 if s.shares else moved))
    if s.turns and waves * begun > 1:
        made = waves * (max(own * product, plain) + stores - plain)
    else:
        made = waves * (own * product + stores * (2 if s.turns else 1))
    if not s.shares:
        return START + made
    folded = s.parts(sizes) * s.rows * s.columns * 4 + sizes[0] * sizes[1] * sizes[2] * moved
    return START + made + START * 3 + folded / (arch.sms * BYTES)


@dataclass(frozen=True)
class TileSchedule:
    """A block makes one tile of rows x columns, each warp some of its rows in 64 columns; `stages` tiles of `depth` terms are loaded ahead."""

    rows: int
    columns: int
    depth: int
    tall: int  # warps one below the other
    stages: int
    splits: int
    group: int

    @property
    def warps(self) -> int:
        return self.tall * self.columns // 64

    @property
    def sums(self) -> int:
        """Sums that a thread holds."""
        return self.rows * self.columns // (self.warps * 32)

    def words(self, how: str) -> str:
        split = f", terms split in {self.splits}" if self.splits > 1 else ""
        return f"tiles of {self.rows} x {self.columns}, {self.stages} stages of {self.depth} terms, {self.warps} warps, {how}{split}"


# rows, columns, warps one below the other
MMA_TILES = ((128, 128, 4), (128, 64, 4), (64, 128, 2), (64, 64, 4))
FMA_TILES = ((256, 128, 4), (128, 128, 2), (128, 128, 4), (64, 128, 2), (64, 64, 2), (32, 64, 1))
# Of those with 128 sums a thread: by how much their multiply-adds are faster than those of 128 x 128 by 8 warps, where so many operands lie along the
# terms; seen beside each other on an H200
WIDE = {(256, 128, 4): (1.04, 1.05, 1.14), (128, 128, 2): (0.95, 1.08, 1.05)}


def moving_cycles(moved: int, arch: Arch) -> float:
    """Cycles of a launch that reads and writes so many bytes together."""
    return START + moved / (13 * arch.sms)


def tile_schedules(sizes: Sizes, arch: Arch, element: int, mma: bool, along: int) -> list[TileSchedule]:
    """All schedules of a product, with elements of so many bytes in shared memory, by tensor cores or by multiply-adds; so many of its operands lie
    along the terms. Where both do, the largest tiles are read in whole lines."""
    splits = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if n == 1 or sizes[3] >= n * 4 * 64 // element]
    out = []
    for rows, columns, tall in MMA_TILES if mma else FMA_TILES:
        depth = (128 if along == 2 and rows * columns > 128 * 128 else 64) // element
        stages = 3 if 3 * (rows + columns) * depth * element * 2 <= arch.shared_bytes else 2
        group = max(1, min(-(-sizes[1] // rows), 1024 // rows))
        out += [TileSchedule(rows, columns, depth, tall, stages, n, group) for n in splits]
    return out


def tile_cycles(s: TileSchedule, sizes: Sizes, arch: Arch, rate: int, along: int, moved: int) -> float:
    """Cycles of the whole product, with as many blocks on a multiprocessor as have 8 warps together, which makes `rate` products a cycle; so many of
    its operands lie along the terms. `moved` as of `hopper_cycles`."""
    batch, rows, columns, terms = sizes
    tiles = batch * -(-rows // s.rows) * -(-columns // s.columns) * s.splits
    beside = max(1, 8 // s.warps)
    faster = WIDE[s.rows, s.columns, s.tall][along] if s.sums > 64 else 1.0
    reached = faster * rate / (1.0 if s.rows * s.columns >= 128 * 128 else 1.2 if s.rows * s.columns >= 128 * 64 else 1.6)
    waves = -(-tiles // (arch.sms * beside))
    more = (moved if s.splits == 1 else 4) - 2  # bytes, than plain stores of 16 bits
    per_wave = beside * s.rows * s.columns * (-(-terms // s.splits) / reached + 1 / 16 + more / BYTES) + START
    fold = START * 3 + batch * rows * columns * (s.splits * 4 + moved) / (arch.sms * BYTES) if s.splits > 1 else 0
    return waves * per_wave + fold
