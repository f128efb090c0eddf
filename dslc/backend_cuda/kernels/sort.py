"""Sort kernels: a bitonic network on pairs (key, place), all of which differ, so that the order is stable.

A key is a 64-bit integer in the order of the values; NaN has the largest. A block sorts a short line in shared memory; long lines lie in the
workspace, where every step of the network is a launch over all of them. Where few of a long line are wanted, blocks sort pieces of it in shared
memory, and of the first of every piece pieces are made again, until there is one. Values are read again at the sorted places.
"""

from __future__ import annotations

from collections.abc import Callable

from dslc.core.dtypes import FLOAT64, INT32, INT64
from dslc.ir.types import TensorType

from ..pull import Point
from ..scalars import Val
from ..stage import Function, FunctionWriter, Generated, Request
from .lines import Lines

SHARED = 2048  # places of a line that a block sorts in its shared memory, 12 bytes each
THREADS = 256
LAST, NOWHERE = "0x7fffffffffffffffLL", "0x7fffffff"


def generate(request: Request) -> Generated:
    """One function, or for long lines one that fills the workspace, one that is launched for every step, and one that writes the results."""
    lines = Lines(request, "nn.sort")
    if request.results[0].size == 0:
        return Generated(())
    size = _power(lines.length)
    if size <= SHARED:
        return Generated((_in_shared_memory(lines, size),))
    if 2 * lines.op.count <= SHARED:
        rounds = _Rounds(lines)
        return Generated(rounds.functions(), rounds.bytes)
    pairs = _Pairs(lines, size)
    steps = [(run, reach) for run in _doubling(2, size) for reach in reversed(list(_doubling(1, run // 2)))]
    return Generated([pairs.fill(), *(pairs.step(*s) for s in steps), pairs.write()], pairs.bytes)


def _power(n: int) -> int:
    """The least power of two that is not less."""
    return 1 << (n - 1).bit_length() if n > 1 else 1


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
    w.line(f"const {lines.integer} line = blockIdx.x;")
    place = lines.place(w, "line")

    def read() -> None:
        w.line("places[i] = i;")
        with w.block(f"if (i < {lines.length})"):
            _key(lines, w, lines.point(w, place, "i"), "keys[i]")

    threads = _sorted_by_a_block(w, size, read)
    _write_sorted(lines, w, place, threads)
    return w.function((lines.count,), (threads,), schedule=f"a block a line of {lines.length}, in shared memory")


def _sorted_by_a_block(w: FunctionWriter, size: int, read: Callable[[], None]) -> int:
    """Writes the sort of `keys` and `places` in shared memory, a power of two of them; `read` writes what sets those at i, where there is something.
    The number of threads."""
    w.line(f"__shared__ long long keys[{size}];")
    w.line(f"__shared__ int places[{size}];")
    threads = max(32, min(THREADS, size // 2))
    with w.block(f"for (int i = threadIdx.x; i < {size}; i += {threads})"):
        w.line(f"keys[i] = {LAST};")
        w.line(f"places[i] = {NOWHERE};")
        read()
    w.line("__syncthreads();")
    with w.block(f"for (int run = 2; run <= {size}; run *= 2)"), w.block("for (int reach = run / 2; reach > 0; reach /= 2)"):
        with w.block(f"for (int p = threadIdx.x; p < {size // 2}; p += {threads})"):
            _exchange(w, "keys", "places")
        w.line("__syncthreads();")
    return threads


def _write_sorted(lines: Lines, w: FunctionWriter, place: tuple[str, str], threads: int) -> None:
    with w.block(f"for (int i = threadIdx.x; i < {lines.op.count}; i += {threads})"):
        w.line("const int came = places[i];")
        _results(lines, w, place, "i", "came")


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


class _Rounds:
    """The first few of lines that are longer than a block sorts: in a round each block sorts a piece of a line and keeps its first few pairs, in the
    workspace, in two halves by turns."""

    def __init__(self, lines: Lines) -> None:
        self.lines, self.count = lines, lines.op.count
        self.lengths = [lines.length]  # of a line in each round
        while self.lengths[-1] > SHARED:
            self.lengths.append(-(-self.lengths[-1] // SHARED) * self.count)
        self.total = -(-lines.count * self.lengths[1] // 2) * 2  # pairs of a half: keys lie at multiples of 8 bytes
        self.bytes = 2 * self.total * 12

    def functions(self) -> list[Function]:
        return [self._round(k) for k in range(len(self.lengths))]

    def _half(self, w: FunctionWriter, k: int) -> tuple[str, str]:
        """(keys, places) of what round k writes."""
        first = k % 2 * self.total * 12
        keys = w.workspace(f"keys{k % 2}", first, TensorType(INT64, (self.total,)))
        return keys.name, w.workspace(f"places{k % 2}", first + self.total * 8, TensorType(INT32, (self.total,))).name

    def _round(self, k: int) -> Function:
        lines, length, last = self.lines, self.lengths[k], k == len(self.lengths) - 1
        w = FunctionWriter(lines.request, "" if last else f"_round{k}")
        pieces = -(-length // SHARED)
        before = self._half(w, k - 1) if k else None
        w.line(f"const {lines.integer} line = blockIdx.x / {pieces}u;")
        w.line(f"const int first = blockIdx.x % {pieces}u * {SHARED};")
        place = lines.place(w, "line")

        def read() -> None:
            with w.block(f"if (first + i < {length})"):
                if before is None:
                    w.line("places[i] = first + i;")
                    _key(lines, w, lines.point(w, place, "(first + i)"), "keys[i]")
                else:
                    w.line(f"const long long at = (long long)line * {length} + first + i;")
                    w.line(f"keys[i] = {before[0]}[at];")
                    w.line(f"places[i] = {before[1]}[at];")

        threads = _sorted_by_a_block(w, _power(min(length, SHARED)), read)
        if last:
            _write_sorted(lines, w, place, threads)
        else:
            keys, places = self._half(w, k)
            with w.block(f"for (int i = threadIdx.x; i < {self.count}; i += {threads})"):
                w.line(f"const long long at = (long long)blockIdx.x * {self.count} + i;")
                w.line(f"{keys}[at] = keys[i];")
                w.line(f"{places}[at] = places[i];")
        words = f"a block each {SHARED} of a line's {length}, in shared memory, the first {self.count} of each are kept"
        return w.function((lines.count * pieces,), (threads,), schedule=words)


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
        count = lines.op.count
        w.line(f"if (p >= {lines.count * count}LL) return;")
        w.line(f"const {lines.integer} line = p / {count};")
        w.line(f"const int i = p % {count};")
        w.line(f"const int came = {places}[(long long)line * {self.size} + i];")
        _results(lines, w, lines.place(w, "line"), "i", "came")
        return w.function((-(-lines.count * count // THREADS),), (THREADS,), schedule="values at the sorted places")
