"""Fourier transforms of any length: rows are the lanes, so that every butterfly is plain vector arithmetic with scalar factors.

Lengths whose prime factors are small go through Stockham passes of radix 4, 2, 3, 5, ...; others become a convolution with a chirp, by transforms
of a power of two (Bluestein 1970). Factors are tables, computed in float64. The inverse is the forward transform with real and imaginary parts
exchanged before and after.
"""

from __future__ import annotations

from math import prod
from typing import Any

from dslc.core.dtypes import FLOAT32, FLOAT64, DType
from dslc.ir import index
from dslc.ir.fourier import FourierPlan, butterfly, plan_of, tables_of, times
from dslc.ir.index import Dim
from dslc.ir.trace import Trace
from dslc.ir.types import type_of

from .. import emit
from ..pull import Point
from ..scalars import Arithmetic, Val
from ..space import lanes_for
from ..stage import Frame, Generated, Request, Stage
from .whole import Whole

PAGE = 4096  # bytes: addresses that far apart share a set of the first cache, which holds 8 or 12 lines
Value = Any  # an ir.Value
Complex = tuple[Val, Val]


def generate(request: Request) -> Generated:
    """One stage, and one more where other results are made from the transform."""
    whole = Whole.of(request, ["nn.fft"])
    t = type_of(whole.op.re)
    if t.size == 0:
        return Generated(())
    dtype = FLOAT64 if t.dtype == FLOAT64 else FLOAT32
    plan = plan_of(t.shape[whole.op.axis])
    lanes = lanes_for(t.size // plan.n, request.machine.lanes * 4 // dtype.bytes)
    if whole.op.axis == t.rank - 1 and plan.n * t.dtype.bytes % PAGE == 0:  # the points of all lanes lie in one set of the first cache
        lanes = max(lanes // 2, 1)
    scratch = 4 * plan.size * lanes * dtype.bytes
    stage = Stage(lambda frame: _Rows(frame, whole, plan, dtype, lanes).emit(), scratch)
    return Generated([stage, *whole.finish()], whole.workspace_bytes, tables_of(plan, dtype))


class _Rows:
    """The emission: `lanes` rows at a time through two buffers of points in scratch."""

    def __init__(self, frame: Frame, whole: Whole, plan: FourierPlan, dtype: DType, lanes: int) -> None:
        self.frame, self.whole, self.plan, self.dtype, self.lanes = frame, whole, plan, dtype, lanes
        op, self.b = whole.op, frame.b
        self.s = Arithmetic(frame.b)
        self.shape = type_of(op.re).shape
        rest = [n for k, n in enumerate(self.shape) if k != op.axis]
        places = index.delinearize(Dim(0), rest)
        axes = [*places[: op.axis], Dim(1), *places[op.axis :]]
        self.trace = Trace(whole.request.body, (prod(rest), plan.n))
        self.axes = tuple(self.trace.tidy(e) for e in axes)
        self.address = self.trace.tidy(index.linearize(self.axes, self.shape))
        self.nodes = [self.trace.at(v, self.axes) for v in (op.re, op.im)]
        if op.inverse:
            self.nodes.reverse()
        part = plan.size * lanes
        self.buffers = [[emit.memory_of(frame.scratch, (2 * k + i) * part * dtype.bytes, dtype, part) for i in (0, 1)] for k in (0, 1)]

    def emit(self) -> None:
        rows = self.trace.sizes[0]
        first, last = emit.share(-(-rows // self.lanes), self.frame.tid, self.frame.threads)

        def block(t: Value) -> None:
            row = self.b.mul(t, self.lanes)
            mask = emit.mask_below(emit.isub(rows, row), self.lanes) if rows % self.lanes else None
            self._read(row, mask)
            at = self._passes(0)
            if self.plan.chirp:
                at = self._convolve(at)
            self._write(row, mask, at)

        emit.loop(first, last, 1, block)

    def _point(self, row: Value, i: Value, mask: Value) -> Point:
        return Point(self.b, self.trace, self.frame.operands, [row, i], 0, self.lanes, mask)

    def _load(self, at: int, i: Value) -> Complex:
        place = self.b.mul(i, self.lanes)
        return tuple(Val(m.load([place], self.lanes), self.dtype, self.lanes) for m in self.buffers[at])  # type: ignore[return-value]

    def _save(self, at: int, i: Value, z: Complex) -> None:
        place = self.b.mul(i, self.lanes)
        for m, v in zip(self.buffers[at], z):
            m.store(v.ssa if v.lanes == self.lanes else emit.splat(v.ssa, self.lanes), [place])

    def _factor(self, table: int, i: Value) -> Complex:
        """An entry of a table, a scalar in all lanes."""
        memory = self.frame.tables[table]
        size = memory.shape[0] // 2
        return Val(memory.load([i]), self.dtype), Val(memory.load([self.b.add(i, size)]), self.dtype)

    def _read(self, row: Value, mask: Value) -> None:
        def at(i: Value) -> None:
            point = self._point(row, i, mask)
            z = tuple(point.s.cast(point.value(n), n.dtype, self.dtype) for n in self.nodes)
            self._save(0, i, times(self.s, z, self._factor(1, i)) if self.plan.chirp else z)  # type: ignore[arg-type]

        emit.loop(0, self.plan.n, 1, at)
        if self.plan.chirp:
            zero = self.s.const(0.0, self.dtype)
            emit.loop(self.plan.n, self.plan.size, 1, lambda i: self._save(0, i, (zero, zero)))

    def _write(self, row: Value, mask: Value, at: int) -> None:
        op = self.whole.op

        def one(i: Value) -> None:
            z = self._load(at, i)
            if self.plan.chirp:
                z = times(self.s, (z[1], z[0]), self._factor(1, i))  # the second transform was an inverse one: exchanged
            if op.inverse:
                scale = self.s.const(1 / self.plan.n, self.dtype)
                z = self.s.mul(z[1], scale), self.s.mul(z[0], scale)
            point = self._point(row, i, mask)
            for k in (0, 1):
                point.store(point.s.cast(z[k], self.dtype, self.nodes[k].dtype), self.whole.memory(self.frame, k), self.address)

        emit.loop(0, self.plan.n, 1, one)

    def _convolve(self, at: int) -> int:
        """The product with the chirp's transform, then the inverse transform: exchanged parts, forward."""

        def one(i: Value) -> None:
            re, im = times(self.s, self._load(at, i), self._factor(2, i))
            self._save(at, i, (im, re))

        emit.loop(0, self.plan.size, 1, one)
        return self._passes(at)

    def _passes(self, at: int) -> int:
        """All passes, from buffer `at` on; the buffer of the result."""
        size, stride = self.plan.size, 1
        for r in self.plan.radices:
            size //= r
            self._pass(at, r, size, stride)
            stride *= r
            at = 1 - at
        return at

    def _pass(self, at: int, r: int, m: int, stride: int) -> None:
        """b[q + stride (r p + k)] = w^(stride p k) sum_j a[q + stride (p + m j)] exp(-2 pi i j k / r), p < m, q < stride."""
        b = self.b

        def outer(p: Value) -> None:
            factors = [self._factor(0, b.mul(p, stride * k)) for k in range(1, r)] if m > 1 else []

            def inner(q: Value) -> None:
                base = b.add(q, b.mul(p, stride))
                z = [self._load(at, b.add(base, stride * m * j)) for j in range(r)]
                target = b.add(q, b.mul(p, stride * r))
                for k, y in enumerate(butterfly(self.s, self.dtype, z)):
                    self._save(1 - at, b.add(target, stride * k), times(self.s, y, factors[k - 1]) if k and factors else y)

            emit.loop(0, stride, 1, inner)

        emit.loop(0, m, 1, outer)
