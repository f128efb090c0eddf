"""Builds matrix products over plain arrays, for tests and the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dslc.backend_cpu import emit, gemm
from dslc.backend_cpu.gemm_schedule import Schedule, Shape, Side, choose, scratch_elements
from dslc.backend_cpu.machine import Machine, host
from dslc.backend_cpu.native import KernelArguments, KernelCall, KernelFunction, NativeObject, build_object
from dslc.ir.contractions import LINE
from dslc.ir.mlir import arith, vector
from dslc.ir.plan import Place


@dataclass(frozen=True)
class Layout:
    """How the two operands lie: `ta`: A is [k, m]; `tb`: B is [n, k]. `packed`: B is packed by a kernel of its own. `opaque`: no plain reads.
    `lines`: the packed B is there before, as `passes.lines` lays it."""

    ta: bool = False
    tb: bool = False
    packed: bool = False
    opaque: bool = False
    lines: bool = False


def operand(memory: emit.Memory, side: Side, rows: int, columns: int, x_is_row: bool) -> gemm.Operand:
    """An operand that lies as [batch, rows, columns]."""

    def place(b: Any, x: Any, k: Any) -> Any:
        row, column = (x, k) if x_is_row else (k, x)
        return emit.iadd(0 if side.shared else emit.imul(b, rows * columns), emit.imul(row, columns), column)

    def load(b: Any, x: Any, k: Any, axis: str, lanes: int, mask: Any) -> Any:
        at = place(b, x, k)
        if lanes == 1 or (axis == "k") == x_is_row:
            return memory.load([at], lanes, mask)
        return memory.gather([at], arith.muli(vector.step(emit.vec(lanes, emit.index_type())), emit.splat(emit.idx(columns), lanes)), mask)

    return gemm.Operand(side, load, place=(lambda b, x, k: (memory, place(b, x, k))) if side.direct else None)


def sides(shape: Shape, layout: Layout) -> tuple[Side, Side]:
    if layout.opaque:
        return Side("none", direct=False), Side("none", direct=False, packed=layout.packed, shared=layout.packed)
    a = Side("x" if layout.ta else "k", stride=shape.m if layout.ta else shape.k)
    if layout.lines:
        return a, Side("x", packed=True, lines=True)
    b = Side("k" if layout.tb else "x", stride=shape.k if layout.tb else shape.n, packed=layout.packed, shared=layout.packed)
    return a, b


def build(
    shape: Shape,
    layout: Layout,
    *,
    schedule: Schedule | None = None,
    machine: Machine | None = None,
    epilogue: Callable[[Any], Any] = lambda v: v,
) -> tuple[Schedule, NativeObject, NativeObject]:
    """The schedule, the object of the product, and that of the packing, where the layout has B packed beforehand; where the schedule has, the
    product's object does it. Slots: A, B, C, packed B."""
    a_side, b_side = sides(shape, layout)
    s = schedule or choose(shape, a_side, b_side, machine or host())
    b_batches, b_is_packed = 1 if b_side.shared else shape.batch, b_side.packed or s.whole_b
    b_side = replace(b_side, packed=b_is_packed)

    def operands(k: KernelArguments) -> tuple[gemm.Operand, gemm.Operand]:
        a = operand(k.operands[0], a_side, *((shape.k, shape.m, False) if layout.ta else (shape.m, shape.k, True)))
        b = operand(k.operands[1], b_side, *((shape.n, shape.k, True) if layout.tb else (shape.k, shape.n, False)))
        return a, b

    def multiply(k: KernelArguments) -> None:
        def store(value: Any, b: Any, m: Any, n: Any, mask: Any) -> None:
            k.operands[2].store(epilogue(value), [emit.iadd(emit.imul(b, shape.m * shape.n), emit.imul(m, shape.n), n)], mask)

        product = gemm.Product(shape, s, *operands(k), store, k.operands[3] if b_is_packed else None)
        gemm.emit(product, k.tid, k.nt, k.scratch)

    def pack(k: KernelArguments) -> None:
        b = operands(k)[1]
        along = "none" if layout.opaque else "k" if layout.tb else "x"
        gemm.emit_pack_b(shape, s, gemm.Operand(Side(along, shared=b_side.shared), b.load), k.operands[3], k.tid, k.nt)

    elements = (shape.batch * shape.m * shape.k, b_batches * shape.k * shape.n, shape.batch * shape.m * shape.n, packed_elements(shape, s, layout))
    types = tuple((shape.dtype, (n,)) for n in elements)
    kernels = [KernelFunction("product", types, multiply, scratch_elements(shape, a_side, s) * shape.dtype.bytes)]
    if layout.packed or s.whole_b:
        kernels.append(KernelFunction("pack", types, pack))
    together = [kernels[::-1]] if s.whole_b else [[k] for k in kernels]
    slots = tuple(Place("slot", i) for i in range(4))
    objects = [build_object(each, [KernelCall(k.symbol, slots) for k in each], 0) for each in together]
    return s, objects[0], objects[-1]


def packed_elements(shape: Shape, s: Schedule, layout: Layout) -> int:
    if layout.lines:
        return shape.batch * -(-shape.n // LINE) * LINE * shape.k
    return gemm.packed_elements(shape, s, layout.packed) if layout.packed or s.whole_b else 1


def arrays(shape: Shape, s: Schedule, layout: Layout, seed: int = 0) -> list[np.ndarray]:
    """Random A and B, C full of NaN, room for the packed B."""
    rng = np.random.default_rng(seed)
    batches = 1 if layout.packed else shape.batch
    dtype = shape.dtype.numpy
    a = rng.standard_normal((shape.batch, shape.k, shape.m) if layout.ta else (shape.batch, shape.m, shape.k)).astype(dtype)
    b = rng.standard_normal((batches, shape.n, shape.k) if layout.tb else (batches, shape.k, shape.n)).astype(dtype)
    packed = in_lines(b) if layout.lines else np.zeros(packed_elements(shape, s, layout), dtype)
    return [a, b, np.full((shape.batch, shape.m, shape.n), np.nan, dtype), packed]


def in_lines(b: np.ndarray) -> np.ndarray:
    """[batch, k, n] in lines of columns; what is behind the last one is NaN, which no result may have taken."""
    batch, k, n = b.shape
    whole = np.full((batch, k, -(-n // LINE) * LINE), np.nan, b.dtype)
    whole[:, :, :n] = b
    return np.ascontiguousarray(whole.reshape(batch, k, -1, LINE).transpose(0, 2, 1, 3)).reshape(-1)


def exact(a: np.ndarray, b: np.ndarray, layout: Layout) -> np.ndarray:
    """The product in float64."""
    return (a.swapaxes(1, 2) if layout.ta else a).astype(np.float64) @ (b.swapaxes(1, 2) if layout.tb else b).astype(np.float64)
