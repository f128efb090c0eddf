"""Contractions by tiles that the threads load: right on every architecture, for operands of any layout with any pointwise work before the product.

An operand that lies in memory as it is multiplied is copied beside the products (cp.async), 16 bytes at a time where it is dense and aligned, else,
if its elements have 4 bytes, one by one. What must be computed, or is too narrow for that, goes through registers: it is loaded before the products
of a step and stored behind them. Tensor cores multiply 16-bit floats, and float32 in tf32, which is rounded on its way from the tiles; others are
multiplied and added in their own precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dslc.core.dtypes import BFLOAT16, FLOAT16, DType
from dslc.ir.contractions import TERMS
from dslc.ir.trace import Read, survey

from ..gemm_schedule import MMA_RATE, Sizes, TileSchedule, tile_cycles, tile_schedules
from ..pull import Point
from ..stage import Function, FunctionWriter, Generated
from ..types import computed_type, memory_type
from .epilogue import Epilogue
from .operands import Operand, operand_of, write_values

MANY = 8  # divisions in the address and the tests of a value
COPIES = 4  # of a thread whose addresses are made side by side: those of 16 with tests, as of windows, would fill all registers


@dataclass(frozen=True)
class TileProduct:
    """`element`: the type of tiles in shared memory."""

    epilogue: Epilogue
    operands: tuple[Operand, Operand]  # rows, columns
    element: DType

    @property
    def sizes(self) -> Sizes:
        return self.epilogue.contraction.sizes

    @property
    def mma(self) -> bool:
        return self.element.bytes == 2 or self.epilogue.contraction.op.tf32

    @property
    def rate(self) -> int:
        """Products a cycle of a multiprocessor."""
        return MMA_RATE // self.element.bytes if self.mma else 64

    @property
    def padding(self) -> int:
        """Elements behind each row of a tile that has one row a term."""
        return 8 if self.mma and self.element.bytes == 4 else 0

    def elements(self, s: TileSchedule, side: int) -> int:
        """Of a side's tile."""
        n = (s.rows, s.columns)[side]
        if not self.mma and self.operands[side].along == TERMS:
            return n * (s.depth + self.chunk)
        return (n + self.padding) * s.depth

    def shared_bytes(self, s: TileSchedule) -> int:
        """Of the tiles, and of the sums that are staged where they were."""
        tiles = s.stages * (self.elements(s, 0) + self.elements(s, 1)) * self.element.bytes
        return max(tiles, s.warps * 16 * 64 * self.epilogue.wide.bytes)

    def place(self, s: TileSchedule, side: int) -> str:
        """Where an element lies in a side's tile: element `dense` of row `line`."""
        operand, n = self.operands[side], (s.rows, s.columns)[side]
        along = operand.along == TERMS
        if not self.mma:
            return f"line * {s.depth + self.chunk if along else n} + dense"
        if self.padding and not along:
            return f"place_in_term<{n}>(line, dense)"
        dense, chunk = s.depth if along else n, self.chunk
        return f"tile_place<{dense // chunk}>(line, dense / {chunk}) * {chunk}" + ("" if operand.width in (0, chunk) else f" + dense % {chunk}")

    @property
    def chunk(self) -> int:
        """Elements in 16 bytes."""
        return 16 // self.element.bytes


def product_of(epilogue: Epilogue) -> TileProduct:
    """The product as tiles make it. Floats of 8 bits are float16 in shared memory, which holds them exactly."""
    operand = epilogue.contraction.op.types()[0].dtype
    element = operand if operand in (BFLOAT16, FLOAT16) else FLOAT16 if operand.bits == 8 else epilogue.wide
    sides = tuple(operand_of(epilogue, side, element) for side in (0, 1))
    return TileProduct(epilogue, sides, element)  # type: ignore[arg-type]


def schedules(product: TileProduct) -> list[tuple[TileSchedule, float]]:
    """All that fit, with their cycles."""
    sizes, arch, along = product.sizes, product.epilogue.request.arch, sum(o.along == TERMS for o in product.operands)
    every = tile_schedules(sizes, arch, product.element.bytes, product.mma, along)
    return [(s, tile_cycles(s, sizes, arch, product.rate, along, product.epilogue.moved)) for s in every if fits(product, s)]


def fits(product: TileProduct, s: TileSchedule) -> bool:
    """Whether the operands' way to a tile leaves registers for the sums. 128 of 4 bytes fit where both are copied 16 bytes at a time. Of values that
    threads compute, with much index arithmetic, as of windows with few channels, 32 of a thread do."""
    if s.sums > 64 and (product.epilogue.wide.bytes > 4 or any(o.width != product.chunk for o in product.operands)):
        return False
    sides = [(o, n) for o, n in zip(product.operands, (s.rows, s.columns)) if not o.width]
    divisions = max((survey(product.epilogue.contraction.trace, [o.node]).divisions for o, _ in sides), default=0)
    return divisions < MANY or sum(n for _, n in sides) * s.depth <= 32 * 32 * s.warps


def generate(product: TileProduct, s: TileSchedule) -> Generated:
    """One function, or two where the terms are split."""
    functions = [_main(product, s)]
    workspace = 0
    if s.splits > 1:
        functions.append(product.epilogue.folded(s.splits))
        workspace = product.epilogue.partial(s.splits).bytes
    return Generated(functions, workspace, (), ("async.cuh", "tiles.cuh"))


def _main(product: TileProduct, s: TileSchedule) -> Function:
    w = FunctionWriter(product.epilogue.request)
    batch, rows, columns, terms = product.sizes
    element, wide = memory_type(product.element), computed_type(product.epilogue.wide)
    tall, broad, steps = -(-rows // s.rows), -(-columns // s.columns), -(-terms // s.depth)
    flat = tall * broad
    w.line("extern __shared__ __align__(1024) unsigned char memory[];")
    w.line(f"{element}* const tiles_a = reinterpret_cast<{element}*>(memory);")
    w.line(f"{element}* const tiles_b = tiles_a + {s.stages * product.elements(s, 0)};")
    w.line(f"const TilePlace place = grouped_tile({f'blockIdx.x % {flat}' if batch * s.splits > 1 else 'blockIdx.x'}, {tall}, {broad}, {s.group});")
    w.line(f"const int first_row = place.row * {s.rows}, first_column = place.column * {s.columns};")
    w.line(f"const int batch = {f'blockIdx.x / {flat} % {batch}' if batch > 1 else '0'};")
    w.line("const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;")
    if s.splits > 1:
        w.line(f"const int split = blockIdx.x / {flat * batch};")
        w.line(f"const int first = split * {steps} / {s.splits}, count = (split + 1) * {steps} / {s.splits} - first;")
    else:
        w.line(f"const int first = 0, count = {steps};")
    share = s.rows // s.tall
    w.line(f"const int warp_row = warp % {s.tall} * {share}, warp_column = warp / {s.tall} * 64;")
    w.line(f"{wide} d[{share // 16}][32] = {{}};" if product.mma else f"{wide} d[{share // 4}][8] = {{}};")
    w.comment(f"Step k multiplies while the tiles of step k + {s.stages - 1} are loaded; steps below 0 load alone.")
    with w.block(f"for (int step = {1 - s.stages}; step < count; ++step)"):
        w.line(f"const int next = step + {s.stages - 1}, stage = next % {s.stages};")
        w.line(f"copy_async_wait<{s.stages - 2}>();")
        w.line("__syncthreads();")
        held = []
        for side in (0, 1):
            held.append(_load(w, product, side, s))
        w.line("copy_async_commit();")
        along = ", ".join("true" if o.along == TERMS else "false" for o in product.operands)
        with w.block("if (step >= 0)"):
            tile_a, tile_b = (f"tiles_{'ab'[side]} + step % {s.stages} * {product.elements(s, side)}" for side in (0, 1))
            w.line(f"multiply_tiles<{s.rows}, {s.columns}, {s.depth}, {along}>(d, {tile_a}, {tile_b}, warp_row, warp_column);")
        for store in held:
            store()
    _finish(w, product, s, share)
    blocks = flat * batch * s.splits
    how = ("tensor cores" if product.element.bytes == 2 else "tensor cores in tf32") if product.mma else "multiply-adds"
    least = product.chunk if product.padding else 1  # in tf32 the addresses of smaller copies take too many registers
    beside = (3 if s.warps <= 4 else 2) if s.warps <= 8 and product.mma and all(o.width >= least for o in product.operands) else 1
    return w.function((blocks,), (s.warps * 32,), shared_bytes=product.shared_bytes(s), blocks_per_sm=beside, schedule=s.words(how))


def _load(w: FunctionWriter, product: TileProduct, side: int, s: TileSchedule):  # type: ignore[no-untyped-def]
    """Loads a tile of the next step: copies, or values that stay in registers until the function that is returned writes their stores."""
    operand, n, start = product.operands[side], (s.rows, s.columns)[side], ("first_row", "first_column")[side]
    chunk, threads = product.chunk, s.warps * 32
    width = operand.width or chunk
    dense, others = (s.depth, n) if operand.along == TERMS else (n, s.depth)
    count = dense * others // width
    turns = -(-count // threads)
    held = "" if operand.width else w.fresh("held")
    if held:
        w.line(f"{computed_type(product.element)} {held}[{turns}][{chunk}] = {{}};")
    place, stage = product.place(s, side), f"tiles_{'ab'[side]} + stage * {product.elements(s, side)}"

    @contextmanager
    def chunks() -> Iterator[None]:
        with w.unrolled("c", turns, COPIES if operand.width else turns):
            w.line(f"const int part = threadIdx.x + c * {threads};")
            w.line(f"const int line = part / {dense // width}, dense = part % {dense // width} * {width};")
            yield

    with w.block("if (next < count)"), chunks():
        x, k = ("line", "dense") if operand.along == TERMS else ("dense", "line")
        w.line(f"const int x = {start} + {x}, term = (first + next) * {s.depth} + {k};")
        if operand.width:
            _copy(w, product, operand, s, n, f"{stage} + {place}", "" if count % threads == 0 else f"part < {count}")
        else:
            exists = [] if count % threads == 0 else [f"part < {count}"]
            write_values(w, product.epilogue, operand, chunk, f"{held}[c]", _bounds(product, operand, s, n), exists)

    def store() -> None:
        if held:
            with w.block("if (next < count)"), chunks():
                guard = "" if count % threads == 0 else f"if (part < {count}) "
                w.line(f"{guard}store<{chunk}>({stage} + {place}, {held}[c]);")

    return store


def _bounds(product: TileProduct, operand: Operand, s: TileSchedule, n: int) -> list[tuple[str, int]]:
    """What must be tested of a chunk's first element: (name, extent) of its own dim and of the terms, where tiles overhang."""
    own, terms = product.sizes[operand.own], product.sizes[TERMS]
    return ([("x", own)] if own % n else []) + ([("term", terms)] if terms % s.depth else [])


def _copy(w: FunctionWriter, product: TileProduct, operand: Operand, s: TileSchedule, n: int, to: str, exists: str) -> None:
    """One asynchronous copy."""
    node, e = operand.node, product.epilogue
    assert isinstance(node, Read)
    point = Point(w, e.contraction.trace, w.operand, operand.dims(), integer=e.integer)
    tests = [f"{name} < {extent}" for name, extent in _bounds(product, operand, s, n)]
    if node.tests:
        tests.append(point.all_of(node.tests))
    copy = f"copy_async{operand.width * product.element.bytes}({to}, {w.operand(node.operand).name} + {point.index(node.address)}, "
    w.line(f"{f'if ({exists}) ' if exists else ''}{copy}{' && '.join(tests) or 'true'});")


def _finish(w: FunctionWriter, product: TileProduct, s: TileSchedule, share: int) -> None:
    """The sums to memory, 16 rows of a warp at a time, so that neighbouring lanes store neighbouring columns."""
    e = product.epilogue
    _, rows, columns, _ = product.sizes
    width = e.width() if s.splits == 1 else e.partial_width()
    lanes, wide = 64 // width, computed_type(e.wide)
    w.line("__syncthreads();")
    w.line(f"{wide}* const staged = reinterpret_cast<{wide}*>(memory) + warp * 1024;")
    along = ", ".join("true" if o.along == TERMS else "false" for o in product.operands)
    for part in range(share // 16):
        w.line("__syncwarp();")
        w.line(f"stage_sums<0>(staged, d[{part}]);" if product.mma else f"stage_share<{along}, {part}>(staged, d);")
        w.line("__syncwarp();")
        w.line("#pragma unroll 1")
        with w.block(f"for (int p = lane; p < {16 * lanes}; p += 32)"):
            w.line(f"const int m = first_row + warp_row + {16 * part} + p / {lanes}, n = first_column + warp_column + p % {lanes} * {width};")
            tests = ([f"m < {rows}"] if rows % s.rows else []) + ([f"n < {columns}"] if columns % s.columns else [])
            with w.block(f"if ({' && '.join(tests)})" if tests else ""):
                w.line(f"{wide} sums[{width}];")
                w.line(f"load_staged<{width}>(staged, p / {lanes}, p % {lanes} * {width}, sums);")
                dims = ["batch", "m", "n", "0"]
                if s.splits > 1:
                    e.write_partial(w, "split", dims, width, "sums", s.splits)
                else:
                    e.write(w, dims, width, "sums")
