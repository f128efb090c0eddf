"""Sort kernels: a bitonic network on pairs (key, place), all of which differ, so that the order is stable.

A key is a 64-bit integer in the order of the values; NaN has the largest. A block sorts a short line in shared memory; long lines lie in the
workspace, where every step of the network is a launch over all of them. Values are read again at the sorted places.
"""

from __future__ import annotations

from dslc.core.dtypes import FLOAT64, INT32, INT64
from dslc.ir.types import TensorType

from ..pull import Point
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request
from .lines import Lines

SHARED = 2048  # places of a line that a block sorts in its shared memory, 12 bytes each
THREADS = 256
LAST = "0x7fffffffffffffffLL"


def generate(request: Request) -> Generated:
    """One function, or for long lines one that fills the workspace, one that is launched for every step, and one that writes the results."""
    lines = Lines(request, "nn.sort")
    if request.results[0].size == 0:
        return Generated(())
    size = 1 << (lines.length - 1).bit_length() if lines.length > 1 else 1
    if size <= SHARED:
        return Generated((_in_shared_memory(lines, size),))
    pairs = _Pairs(lines, size)
    steps = [(run, reach) for run in _doubling(2, size) for reach in reversed(list(_doubling(1, run // 2)))]
    return Generated([pairs.fill(), *(pairs.step(*s) for s in steps), pairs.write()], pairs.bytes)


def _doubling(low: int, high: int) -> list[int]:
    return [low << k for k in range((high // low).bit_length())]


def _key(lines: Lines, w: FunctionWriter, point: Point, into: str) -> None:
    """Writes the key of the value at a point."""
    x = point.value(lines.nodes[0])
    if x.dtype.is_float:
        wide = point.s.cast(x, x.dtype, FLOAT64).text
        w.line(f"long long key = __double_as_longlong({wide} + 0.0);")  # both zeros are one
        w.line("key ^= (key >> 63) & 0x7fffffffffffffffLL;")
    else:
        w.line(f"long long key = {point.s.cast(x, x.dtype, INT64).text};")
    if lines.op.descending:
        w.line("key = ~key;")
    if x.dtype.is_float:
        w.line(f"if ({wide} != {wide}) key = {LAST};")
    w.line(f"{into} = key;")


def _results(lines: Lines, w: FunctionWriter, place: tuple[str, str], at: str, came: str) -> None:
    """Writes both results at a place of a line: the value that came from another place, and that place."""
    value = lines.point(w, place, came).value(lines.nodes[0])
    target = lines.point(w, place, at)
    lines.store(w, target, 0, value.text)
    lines.store(w, target, 1, Val(came, INT32).text)


def _in_shared_memory(lines: Lines, size: int) -> Function:
    w = FunctionWriter(lines.request)
    w.line(f"__shared__ long long keys[{size}];")
    w.line(f"__shared__ int places[{size}];")
    w.line(f"const {lines.integer} line = blockIdx.x;")
    place = lines.place(w, "line")
    threads = max(32, min(THREADS, size // 2))
    with w.block(f"for (int i = threadIdx.x; i < {size}; i += {threads})"):
        w.line("places[i] = i;")
        w.line(f"keys[i] = {LAST};")
        with w.block(f"if (i < {lines.length})"):
            _key(lines, w, lines.point(w, place, "i"), "keys[i]")
    w.line("__syncthreads();")
    with w.block(f"for (int run = 2; run <= {size}; run *= 2)"), w.block("for (int reach = run / 2; reach > 0; reach /= 2)"):
        with w.block(f"for (int p = threadIdx.x; p < {size // 2}; p += {threads})"):
            _exchange(w, "keys", "places")
        w.line("__syncthreads();")
    with w.block(f"for (int i = threadIdx.x; i < {lines.length}; i += {threads})"):
        w.line("const int came = places[i];")
        _results(lines, w, place, "i", "came")
    return w.function((lines.count,), (threads,), schedule=f"a block a line of {lines.length}, in shared memory")


def _exchange(w: FunctionWriter, keys: str, places: str) -> None:
    """Writes one comparison of the network: pair p, of `run` and `reach`, both powers of two."""
    w.line("const int low = 2 * p - (p & (reach - 1));")
    w.line("const int high = low + reach;")
    w.line(f"const long long a = {keys}[low], b = {keys}[high];")
    w.line(f"const int at_a = {places}[low], at_b = {places}[high];")
    w.line("const bool later = a > b || (a == b && at_a > at_b);")
    with w.block("if (later == ((p & (run / 2)) == 0))"):
        w.line(f"{keys}[low] = b;")
        w.line(f"{keys}[high] = a;")
        w.line(f"{places}[low] = at_b;")
        w.line(f"{places}[high] = at_a;")


class _Pairs:
    """Lines of pairs in the workspace, each `size` long."""

    def __init__(self, lines: Lines, size: int) -> None:
        self.lines, self.size, self.total = lines, size, lines.count * size
        self.places_at = self.total * 8
        self.bytes = self.total * 12

    def _buffers(self, w: FunctionWriter) -> tuple[str, str]:
        keys = w.workspace("keys", 0, TensorType(INT64, (self.total,)))
        places = w.workspace("places", self.places_at, TensorType(INT32, (self.total,)))
        return keys.name, places.name

    def fill(self) -> Function:
        lines, w = self.lines, FunctionWriter(self.lines.request, "_fill")
        keys, places = self._buffers(w)
        w.line(f"const long long p = (long long)blockIdx.x * {THREADS} + threadIdx.x;")
        w.line(f"if (p >= {self.total}) return;")
        w.line(f"const {lines.integer} line = p / {self.size};")
        w.line(f"const int i = p % {self.size};")
        w.line(f"{places}[p] = i;")
        w.line(f"{keys}[p] = {LAST};")
        with w.block(f"if (i < {lines.length})"):
            _key(lines, w, lines.point(w, lines.place(w, "line"), "i"), f"{keys}[p]")
        return w.function((-(-self.total // THREADS),), (THREADS,), schedule="keys of all lines")

    def step(self, run: int, reach: int) -> Function:
        w = FunctionWriter(self.lines.request, "_step")
        keys, places = self._buffers(w)
        w.number("run", run)
        w.number("reach", reach)
        w.line(f"const long long q = (long long)blockIdx.x * {THREADS} + threadIdx.x;")
        w.line(f"if (q >= {self.total // 2}) return;")
        w.line(f"const long long first = q / {self.size // 2} * {self.size};")
        w.line(f"const int p = q % {self.size // 2};")
        w.line(f"long long* const own_keys = {keys} + first;")
        w.line(f"int* const own_places = {places} + first;")
        _exchange(w, "own_keys", "own_places")
        return w.function((-(-self.total // 2 // THREADS),), (THREADS,), schedule="one step of the network")

    def write(self) -> Function:
        lines, w = self.lines, FunctionWriter(self.lines.request, "_write")
        _, places = self._buffers(w)
        w.line(f"const long long p = (long long)blockIdx.x * {THREADS} + threadIdx.x;")
        w.line(f"if (p >= {lines.count * lines.length}LL) return;")
        w.line(f"const {lines.integer} line = p / {lines.length};")
        w.line(f"const int i = p % {lines.length};")
        w.line(f"const int came = {places}[(long long)line * {self.size} + i];")
        _results(lines, w, lines.place(w, "line"), "i", "came")
        return w.function((-(-lines.count * lines.length // THREADS),), (THREADS,), schedule="values at the sorted places")
