"""How a matrix product is computed: its tile, blocks and order, chosen by a small cost function.

    C[b, m, n] = sum_k A[b, m, k] * B[b, k, n]

Two forms. `outer`: a tile of `mr` rows and `nv` vectors of columns is held in registers while k runs; A gives scalars, B vectors along n. `dot`:
lanes run along k for both operands, each tile element is a vector folded at the end; for few rows and a B whose k is contiguous, it needs no packing.

Work is cut into tasks (batch, block of rows, block of columns), which the threads share by number. No sum depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise, product

from dslc.core import dtypes
from dslc.core.dtypes import DType

from .machine import Machine

MOST_K = 2048  # longer sums go through blocks of k and an accumulator in scratch
BLOCK_K = 512
TASKS = 8  # wanted at least, so that several threads have equal shares
ROWS_SHARE = 16  # of the second cache, one part is for the rows of A that meet all panels of a block of B in turn
LARGE = 4 << 20  # multiply-adds: some 20 us of a core
LEFT = 27  # of 32 registers, for sums, beside what packing by rows holds in them: LLVM keeps its constants there through all loops
MOST_NR = 128  # columns of a tile, at most
MOST_PACKED = 4 << 20  # bytes of a B that is packed as a whole, before the product: beyond, it would come from memory
MOST_OF_BATCH = 64  # rows of a batch with a B of its own, from which on packing this is worth while
MOST_DOT = 64  # rows up to which the dot form is worth a trial
TILES_TRIED = 8  # the best by cost
MANY_ROWS = 64  # with which a product in a loop packs its columns in each turn at little cost, rather than keep many bytes of them
MOST_WAYS, MOST_TRIED = 160, 48  # combinations that are looked at, schedules that are tried
MORE_BLOCKS = 0.03  # of the time, that twice as many blocks cost
BLOCK_SHARE = 2  # and one part for a packed block of A, which every panel of B reads again; one of B may be twice as large


@dataclass(frozen=True)
class Side:
    """What the schedule must know of an operand. x is the row of A or the column of B.

    `along`: the axis whose elements are contiguous, "k" or "x", or "none". `direct`: a load is a plain read of memory, cheap to repeat.
    `shared`: the same for every batch. `packed`: B only: it lies packed in memory: in panels (see `emit_pack_b`), or where `lines` is true in those
    of `passes.lines`, for any tile. `still`: B only: no turn of the loops around the product changes it. `by_rows`: B only: its columns are rows of
    places, which are packed row by row.
    `stride`: elements between neighbours along the other axis where known (0: unknown): at powers of two they collide in the cache.
    """

    along: str
    direct: bool = True
    shared: bool = False
    packed: bool = False
    stride: int = 0
    by_rows: bool = False
    still: bool = False
    lines: bool = False


@dataclass(frozen=True)
class Shape:
    """Sizes of a product, all at least 1, and the type that is multiplied and summed: float32 or float64."""

    m: int
    n: int
    k: int
    batch: int = 1
    dtype: DType = dtypes.FLOAT32


@dataclass(frozen=True)
class Schedule:
    """`mr` rows and `nv` vectors of `lanes` columns a tile (dot form: `nv` columns); blocks of `mc` rows, `nc` columns, `kc` terms.

    `pack_a`, `pack_b`: blocks are copied to scratch first; `whole_b`: all of B is packed before, by a stage of its own. `rows_outer`: the tasks'
    order is (batch, rows, columns), and a packed block of A is kept from task to task; else (batch, columns, rows), and one of B is.
    """

    form: str
    lanes: int
    mr: int
    nv: int
    mc: int
    nc: int
    kc: int
    pack_a: bool = False
    pack_b: bool = False
    rows_outer: bool = False
    whole_b: bool = False

    @property
    def nr(self) -> int:
        """Columns of a tile."""
        return self.nv * (self.lanes if self.form == "outer" else 1)


def lanes_for(machine: Machine, dtype: DType) -> int:
    return machine.lanes * 4 // dtype.bytes


def _tiles(machine: Machine) -> Iterator[tuple[int, int]]:
    """Tiles whose accumulators, a row of B and a value of A fit the registers; beyond nine rows the streams of A fall over each other."""
    for mr in range(1, 10):
        for nv in range(1, 9):
            if mr * nv + nv + 1 <= machine.registers:
                yield mr, nv


def strip_cost(rows: int, vectors: int, machine: Machine, streams: int | None = None) -> float:
    """Cycles for one k of a tile: the products and a part of the loads, or the loads alone (B from the second cache), or the latency of a product:
    a tile of few accumulators waits for its own sums. `streams`: in how many places the rows lie; None: each in one of its own.
    """
    return max(rows * vectors / machine.fmas + 0.15 * vectors + 0.1 * (streams or rows), vectors * 1.5 + rows * 0.5, 4.0)


def _tile_cost(shape: Shape, a: Side, mr: int, nv: int, lanes: int, machine: Machine) -> float:
    """Cycles for one k of the whole product of one batch; a tile that reaches over the edge costs as much as any."""
    tiles = -(-shape.m // mr) * -(-shape.n // (nv * lanes))
    cycles = tiles * (strip_cost(mr, nv, machine, 1 if a.along == "x" else mr) + (30 + 3 * mr * nv) / shape.k)  # and a tile's filling and storing
    return cycles * idling(tiles * shape.batch)


def idling(tasks: int) -> float:
    """How much longer equal tasks take than perfect shares of them, on two and on four threads."""
    return sum(-(-tasks // threads) * threads / tasks for threads in (2, 4)) / 2


@lru_cache(maxsize=4096)
def choose(shape: Shape, a: Side, b: Side, machine: Machine) -> Schedule:
    """The schedule of a product on this machine."""
    if b.by_rows and not b.packed:
        machine = replace(machine, registers=machine.registers * LEFT // 32)
    if shape.m <= 12 and _can_be_dot(shape, a, b, machine):
        return _dot(shape, lanes_for(machine, shape.dtype))
    tile = tile_of(shape, a, machine)
    return _outer(shape, a, b, machine, _Way(False, False, 0, 1.0, False, False, tile))


def tile_of(shape: Shape, a: Side, machine: Machine) -> tuple[int, int]:
    """Rows and vectors of columns of the cheapest tile."""
    return min(_tiles_of(shape, a, machine), key=lambda t: _tile_cost(shape, a, t[0], t[1], lanes_for(machine, shape.dtype), machine))


def cycles(shape: Shape, a: Side, machine: Machine) -> float:
    """What a product costs with the cheapest tile."""
    return shape.batch * shape.k * _tile_cost(shape, a, *tile_of(shape, a, machine), lanes_for(machine, shape.dtype), machine)


def choose_whole(shape: Shape, a: Side, b: Side, machine: Machine) -> Schedule:
    """As `choose`, with B packed as a whole where a product is large enough for that and would pack the same columns again and again, or each turn of
    a loop would and has few rows, or few columns to keep."""
    schedule = choose(shape, a, b, machine)
    keeps = b.still and schedule.pack_b and (shape.m < MANY_ROWS or packed_bytes(shape, b, schedule) <= MOST_PACKED)
    if keeps or (is_large(shape) and packs_again(shape, schedule)):
        return replace(choose(shape, a, replace(b, packed=True), machine), whole_b=True)
    return schedule


@dataclass(frozen=True)
class _Way:
    """One way to make the outer form: whether B is packed as a whole, whether the tasks' order is the other one than by the rule, terms of a block
    (0: by the rule), the part of the second cache that blocks may fill, whether B and A are packed against the rule, a tile."""

    whole_b: bool
    turned: bool
    depth: int
    cache: float
    other_b: bool
    other_a: bool
    tile: tuple[int, int]


def _outer(shape: Shape, a: Side, b: Side, machine: Machine, way: _Way) -> Schedule:
    lanes = lanes_for(machine, shape.dtype)
    mr, nv = way.tile
    strips, panels = -(-shape.m // mr), -(-shape.n // (nv * lanes))
    uneven = b.stride and b.stride * shape.dtype.bytes % 1024
    long = shape.k > MOST_K
    pack_a = a.along == "none" or not a.direct or (a.along == "x" and panels >= 4) != way.other_a
    again = shape.batch == 1 or b.shared or shape.m >= MOST_OF_BATCH  # a packed block is read by enough rows
    pays = strips >= 4 and again and ((panels > 1 and (shape.m >= 256 or not (uneven or long))) or (long and not pack_a))
    pack_b = not b.packed and (b.along != "x" or not b.direct or pays != way.other_b)
    together = long and a.along == "x"  # rows that share lines, which are near while all read them: few terms of many rows
    depth = way.depth or ((BLOCK_K // 2 if together else 2 * BLOCK_K if pack_a else BLOCK_K) if long else shape.k)
    blocks = -(-shape.k // depth) if pack_a or pack_b or together else 1
    if blocks == 1 and b.packed and strips > 1:  # a panel that all strips read stays in the second cache
        blocks = -(-shape.k * nv * lanes * shape.dtype.bytes // (machine.l2 // 2))
    kc = shape.k if blocks == 1 else -(-shape.k // blocks // 16) * 16
    while kc < shape.k and shape.k % kc and shape.k % kc < lanes:  # a block has at least a vector of terms
        kc += 16
    schedule = Schedule("outer", lanes, mr, nv, strips * mr, nv * lanes, min(kc, shape.k), pack_a, pack_b)
    made = _blocked(shape, schedule, strips, panels, int(machine.l2 * way.cache), together)
    return replace(made, rows_outer=made.rows_outer != way.turned)


def _can_be_dot(shape: Shape, a: Side, b: Side, machine: Machine) -> bool:
    return b.along == "k" and not b.packed and a.along == "k" and shape.k >= lanes_for(machine, shape.dtype)


def _tiles_of(shape: Shape, a: Side, machine: Machine) -> list[tuple[int, int]]:
    rows = (1, 2, 4, 8) if a.along != "k" else range(1, 10)  # rows that lie together: whole vectors, and never across two cache lines
    vectors = -(-shape.n // lanes_for(machine, shape.dtype))
    return [t for t in _tiles(machine) if t[0] <= shape.m and t[1] <= vectors and t[0] in rows]


@lru_cache(maxsize=256)
def space(shape: Shape, a: Side, b: Side, machine: Machine) -> tuple[Schedule, ...]:
    """Schedules that are worth a trial: the cost function's, then those that differ from it in one thing, then in two, ..."""
    lanes = lanes_for(machine, shape.dtype)
    found = {choose_whole(shape, a, b, machine): None}
    if shape.m <= MOST_DOT and _can_be_dot(shape, a, b, machine):
        found[_dot(shape, lanes)] = None
    tiles = sorted(_tiles_of(shape, a, machine), key=lambda t: _tile_cost(shape, a, t[0], t[1], lanes, machine))
    depths = [0, *(n for n in (256, BLOCK_K, 2 * BLOCK_K) if n < shape.k), *([shape.k] if shape.k > MOST_K else [])]
    packed_whole = next(iter(found)).whole_b
    wholes = [packed_whole, not packed_whole] if (is_large(shape) or b.still) and not b.packed else [packed_whole]
    options = (wholes, (False, True), depths, (1.0, 0.5, 2.0, 0.25), (False, True), (False, True), tiles[:TILES_TRIED])
    ways = sorted(product(*(range(len(o)) for o in options)), key=lambda way: (sum(map(bool, way)), sum(way)))
    for numbers in islice(ways, MOST_WAYS):
        way = _Way(*(o[n] for o, n in zip(options, numbers)))  # type: ignore[arg-type,index]
        side = replace(b, packed=True) if way.whole_b else b
        made = replace(_outer(shape, a, side, machine, way), whole_b=way.whole_b)
        alike = way.turned and (made.mc >= shape.m or made.nc >= shape.n) and not (made.pack_a or made.pack_b)  # one order of blocks
        if not alike and (not way.whole_b or packed_bytes(shape, side, made) <= MOST_PACKED):
            found[made] = None
    return tuple(found)[:MOST_TRIED]


def is_large(shape: Shape) -> bool:
    """Whether a product is worth a pass before it, and the memory that this fills."""
    return shape.batch * shape.m * shape.n * shape.k >= LARGE


def packs_again(shape: Shape, s: Schedule) -> bool:
    """Whether the schedule packs the same columns of B for several blocks of rows, and a whole packed B is small: then it is better packed once."""
    repeated = s.pack_b and -(-shape.m // s.mc) > 1 and (s.rows_outer or s.kc < shape.k)
    return repeated and packed_bytes(shape, Side("x"), s) <= MOST_PACKED


def packed_bytes(shape: Shape, b: Side, s: Schedule) -> int:
    """Of a B packed as a whole, all batches."""
    return (1 if b.shared else shape.batch) * -(-shape.n // s.nr) * s.nr * shape.k * shape.dtype.bytes


def _dot(shape: Shape, lanes: int) -> Schedule:
    mr = min(shape.m, 4)
    columns = min(8 if mr < 4 else 4, lanes)
    per_task = max(1, min(16, -(-shape.n // columns) * shape.batch // (4 * TASKS)))
    return Schedule("dot", lanes, mr, columns, shape.m, columns * per_task, shape.k)


def _blocked(shape: Shape, s: Schedule, strips: int, panels: int, l2: int, together: bool) -> Schedule:
    """Sizes of blocks: large enough that packing pays, small enough for the second cache and for equal shares. `together`: strips of rows share
    lines, between blocks of terms."""
    size = s.kc * shape.dtype.bytes
    several = s.pack_a or s.kc < shape.k  # a block of A meets a block of B that is as deep
    most_panels = max(1, (2 if several or not s.pack_b else 1) * (l2 // BLOCK_SHARE) // (size * s.nr))
    most_strips = max(1, l2 // BLOCK_SHARE // (size * s.mr)) if several else strips
    if not several and strips >= 32:  # few rows at a time, so that results and what the epilogue reads pass in whole rows
        most_strips = max(8, l2 // ROWS_SHARE // (size * s.mr))
    row_blocks, column_blocks = -(-strips // most_strips), -(-panels // most_panels)
    rows_outer = s.pack_a and (not s.pack_b or shape.m > shape.n)

    def cuts_rows() -> bool:
        """Whether more blocks of rows cost less than more blocks of columns: what is not cut is read, or packed, once more."""
        if together:  # a task for it packs B once more, or A, at twice the cost; where A lies as it is its lines would be cut
            return s.pack_a and shape.n * row_blocks < 2 * shape.m * column_blocks
        return rows_outer or (s.kc < shape.k and shape.m > shape.n)

    while shape.batch * _blocks(strips, row_blocks) * _blocks(panels, column_blocks) < TASKS and (row_blocks < strips or column_blocks < panels):
        if (cuts_rows() or column_blocks == panels) and row_blocks < strips:
            row_blocks = min(strips, row_blocks + 1)
        else:
            column_blocks = min(panels, column_blocks + 1)
    row_blocks, column_blocks = _evened(shape.batch, strips, panels, row_blocks, column_blocks, rows_outer)
    return replace(s, mc=-(-strips // row_blocks) * s.mr, nc=-(-panels // column_blocks) * s.nr, rows_outer=rows_outer)


def _evened(batch: int, strips: int, panels: int, row_blocks: int, column_blocks: int, rows_outer: bool) -> tuple[int, int]:
    """So many blocks, or some more where their tasks make more equal shares."""

    def cost(blocks: tuple[int, int]) -> float:
        (outer, inner), counts = (blocks, (strips, panels)) if rows_outer else (blocks[::-1], (panels, strips))
        more = blocks[0] * blocks[1] / (row_blocks * column_blocks) - 1
        return _uneven(batch, *counts, outer, inner) + MORE_BLOCKS * more

    row_choice = {_blocks(strips, n) for n in range(row_blocks, min(row_blocks + 4, strips + 1))}
    column_choice = {_blocks(panels, n) for n in range(column_blocks, min(column_blocks + 4, panels + 1))}
    return min(product(sorted(row_choice), sorted(column_choice)), key=cost)


def _uneven(batch: int, outer: int, inner: int, outer_blocks: int, inner_blocks: int) -> float:
    """The largest share of tiles by the perfect one, for two and for four threads. `outer`, `inner`: tiles along the blocks of the two loops."""
    tasks, whole = batch * outer_blocks * inner_blocks, batch * outer * inner

    def before(task: int) -> int:
        """Tiles of the tasks before one."""
        block, i = divmod(task, inner_blocks)
        b, o = divmod(block, outer_blocks)
        low, high = part_start(o, outer, outer_blocks), part_start(o + 1, outer, outer_blocks)
        return (b * outer + low) * inner + (high - low) * part_start(i, inner, inner_blocks)

    def largest(threads: int) -> int:
        ends = [before(tasks * t // threads) for t in range(threads + 1)]
        return max(high - low for low, high in pairwise(ends))

    return sum(largest(threads) * threads / whole for threads in (2, 4)) / 2


def part_start(block: int, count: int, blocks: int) -> int:
    """The first strip, or panel, of a block: blocks differ by one at most."""
    return block * count // blocks


def _blocks(count: int, wanted: int) -> int:
    """How many blocks there are, none of more than it takes for so many."""
    return -(-count // -(-count // wanted))


def scratch_elements(shape: Shape, a: Side, s: Schedule) -> int:
    """Elements of scratch that `gemm.emit` needs a thread: packed A, packed B, sums."""
    return a_elements(s, a) + b_elements(s) + sums_elements(shape, s)


def sums_elements(shape: Shape, s: Schedule) -> int:
    """Elements where sums wait for the epilogue: a tile, or between blocks of k a block."""
    if s.form == "dot":
        return 0
    return (s.mc * s.nc if s.kc < shape.k else s.mr * s.nr) + s.lanes


def row_length(s: Schedule) -> int:
    """From one packed row of A to the next, where its rows are copied: never a power of two."""
    return -(-s.kc // s.lanes) * s.lanes + s.lanes


def panel_rows(s: Schedule) -> int:
    """Rows that a panel of A takes, where it is packed k by k: a power of two, for whole loads."""
    return 1 << (s.mr - 1).bit_length()


def panel_length(s: Schedule) -> int:
    """From one panel of A to the next, where it is packed k by k: whole vectors, never a power of two, for all panels are filled side by side."""
    return -(-panel_rows(s) * s.kc // s.lanes) * s.lanes + s.lanes


def a_elements(s: Schedule, a: Side) -> int:
    if not s.pack_a:
        return 0
    if a.along == "k":
        return s.mc * row_length(s)
    return s.mc // s.mr * panel_length(s) + s.lanes


def b_elements(s: Schedule) -> int:
    return s.nc * s.kc if s.pack_b else 0
