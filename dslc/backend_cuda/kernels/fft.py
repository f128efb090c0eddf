"""Fourier transforms of any length (`ir.fourier`): every pass is a launch over all lines, from one buffer of the workspace to another.

The inverse is the forward transform with real and imaginary parts exchanged before and after. A thread makes one butterfly.
"""

from __future__ import annotations

from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir.fourier import butterfly, plan_of, tables_of, times
from dslc.ir.types import TensorType

from ..scalars import Arithmetic, Val
from ..stage import Function, FunctionWriter, Generated, Request
from ..types import computed_type
from .lines import Lines

THREADS = 256
Complex = tuple[Val, Val]


def generate(request: Request) -> Generated:
    """Functions that read the lines, make a pass each, and write the results; for a chirp the passes twice, with a product between."""
    lines = Lines(request, "nn.fft")
    if request.results[0].size == 0:
        return Generated(())
    made = _Transform(lines)
    return Generated(made.functions(), made.bytes, tables_of(made.plan, made.dtype))


class _Transform:
    """The functions of one transform. Buffer b holds the real parts of all lines, then the imaginary ones."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.plan = lines, plan_of(lines.length)
        self.dtype = FLOAT64 if lines.nodes[0].dtype == FLOAT64 else FLOAT32
        self.kind = computed_type(self.dtype)
        self.total = lines.count * self.plan.size
        self.part = -(-2 * self.total * self.dtype.bytes // 256) * 256
        self.bytes = 2 * self.part

    def functions(self) -> list[Function]:
        out, at = [self._read()], 0
        passes = self._passes(at)
        out += passes
        at = len(passes) % 2
        if self.plan.chirp:
            out.append(self._convolve(at))
            again = self._passes(at)
            out += again
            at = (at + len(again)) % 2
        return [*out, self._write(at)]

    # ---- plumbing

    def _writer(self, suffix: str, threads: int) -> FunctionWriter:
        w = FunctionWriter(self.lines.request, suffix)
        w.line(f"const long long p = (long long)blockIdx.x * {THREADS} + threadIdx.x;")
        w.line(f"if (p >= {threads}) return;")
        return w

    def _function(self, w: FunctionWriter, threads: int, schedule: str) -> Function:
        return w.function((-(-threads // THREADS),), (THREADS,), schedule=schedule)

    def _buffer(self, w: FunctionWriter, name: str, b: int) -> str:
        return w.workspace(name, b * self.part, TensorType(self.dtype, (2 * self.total,))).name

    def _loaded(self, s: Arithmetic, buffer: str, at: str) -> Complex:
        return s.made(f"{buffer}[{at}]", self.dtype), s.made(f"{buffer}[{at} + {self.total}]", self.dtype)

    def _saved(self, w: FunctionWriter, buffer: str, at: str, z: Complex) -> None:
        w.line(f"{buffer}[{at}] = {z[0].text};")
        w.line(f"{buffer}[{at} + {self.total}] = {z[1].text};")

    def _factor(self, w: FunctionWriter, s: Arithmetic, table: int, at: str) -> Complex:
        size = self.plan.n if table == 1 else self.plan.size
        name = w.table(table, TensorType(self.dtype, (2 * size,))).name
        return s.made(f"{name}[{at}]", self.dtype), s.made(f"{name}[{at} + {size}]", self.dtype)

    # ---- functions

    def _read(self) -> Function:
        lines, w = self.lines, self._writer("_read", self.total)
        to = self._buffer(w, "to", 0)
        w.line(f"const {lines.integer} line = p / {self.plan.size};")
        w.line(f"const int i = p % {self.plan.size};")
        if self.plan.chirp:
            with w.block(f"if (i >= {self.plan.n})"):
                w.line(f"{to}[p] = {to}[p + {self.total}] = 0;")
                w.line("return;")
        point = lines.point(w, lines.place(w, "line"), "i")
        nodes = lines.nodes[::-1] if lines.op.inverse else lines.nodes
        re, im = (point.s.cast(point.value(n), n.dtype, self.dtype) for n in nodes)
        z = times(point.s, (re, im), self._factor(w, point.s, 1, "i")) if self.plan.chirp else (re, im)
        self._saved(w, to, "p", z)
        return self._function(w, self.total, f"lines of {self.plan.n} as {self.plan.size} points")

    def _passes(self, at: int) -> list[Function]:
        out, size, stride = [], self.plan.size, 1
        for r in self.plan.radices:
            size //= r
            out.append(self._pass(at, r, size, stride))
            stride *= r
            at = 1 - at
        return out

    def _pass(self, at: int, r: int, m: int, stride: int) -> Function:
        """to[q + stride (b r + k)] = w^(stride b k) sum_j from[q + stride (b + m j)] exp(-2 pi i j k / r), for b < m, q < stride."""
        threads = self.total // r
        w = self._writer(f"_radix{r}", threads)
        source, target = self._buffer(w, "from", at), self._buffer(w, "to", 1 - at)
        w.number("m", m)
        w.number("stride", stride)
        s = Arithmetic(w)
        w.line(f"const long long line = p / {self.plan.size // r};")
        w.line(f"const int in_line = p % {self.plan.size // r};")
        w.line("const int b = in_line / stride;")
        w.line("const int q = in_line % stride;")
        w.line(f"const long long first = line * {self.plan.size} + q;")
        z = [self._loaded(s, source, f"first + stride * (b + m * {j})") for j in range(r)]
        for k, y in enumerate(butterfly(s, self.dtype, z)):
            value = times(s, y, self._factor(w, s, 0, f"stride * b * {k}")) if k else y
            self._saved(w, target, f"first + stride * (b * {r} + {k})", value)
        return self._function(w, threads, f"a thread a butterfly of {r} points")

    def _convolve(self, at: int) -> Function:
        """The product with the chirp's transform, its parts exchanged: the next transform is an inverse one."""
        w = self._writer("_convolve", self.total)
        s, buffer = Arithmetic(w), self._buffer(w, "to", at)
        w.line(f"const int i = p % {self.plan.size};")
        re, im = times(s, self._loaded(s, buffer, "p"), self._factor(w, s, 2, "i"))
        self._saved(w, buffer, "p", (im, re))
        return self._function(w, self.total, "the product with the transform of the chirp")

    def _write(self, at: int) -> Function:
        lines, threads = self.lines, self.lines.count * self.lines.length
        w = self._writer("_write", threads)
        w.line(f"const {lines.integer} line = p / {self.plan.n};")
        w.line(f"const int i = p % {self.plan.n};")
        point = lines.point(w, lines.place(w, "line"), "i")
        s = point.s
        z = self._loaded(s, self._buffer(w, "from", at), f"(long long)line * {self.plan.size} + i")
        if self.plan.chirp:
            z = times(s, (z[1], z[0]), self._factor(w, s, 1, "i"))
        if lines.op.inverse:
            scale = s.const(1 / self.plan.n, self.dtype)
            z = s.mul(z[1], scale), s.mul(z[0], scale)
        for k in (0, 1):
            lines.store(w, point, k, s.cast(z[k], self.dtype, lines.request.results[k].dtype).text)
        return self._function(w, threads, "results")
