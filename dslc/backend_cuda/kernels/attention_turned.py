"""Operands of a stream's products in tf32, written along the stream, as wgmma reads operands of 4 bytes.

Turned within a block, a tile would pass through shared memory, 8 bytes an element at 128 bytes a cycle, once for every 128 rows of x, beside the 24
bytes that the products read. Turned once before, it costs 8 bytes of memory an element, at 13 bytes a cycle: less from 1260 rows on (of all query
heads that share it), nothing waits for it, and the copy engine rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dslc.core.dtypes import FLOAT32
from dslc.ir import index
from dslc.ir.index import Const, Expr
from dslc.ir.streams import Stream
from dslc.ir.trace import Read, factor_of

from ..stage import Function, FunctionWriter, Request, index_type
from .attention_hopper_tiles import Box, rest_of
from .attention_mma_tiles import Tile

THREADS = 256
GROUP = 8  # places along the stream that a thread writes, and that one product takes


@dataclass(frozen=True)
class Turned:
    """An operand [y, feature] as [feature, y] in the workspace, at an offset in bytes. `batch`: terms of its address, (term, factor, extent)."""

    operand: int
    offset: int
    features: int
    count: int  # along y
    strides: tuple[int, int]  # of y, of a feature
    constant: int
    batch: tuple[tuple[Expr, int, int], ...]

    @staticmethod
    def of(request: Request, stream: Stream, tile: Tile, offset: int) -> Turned | None:
        """How a tile's operand is turned; None where it is none."""
        node = tile.node
        if not isinstance(node, Read) or node.tests or node.operand >= len(request.operands):
            return None
        address = index.coarse(node.address, stream.sizes)
        strides = factor_of(address, stream.y), factor_of(address, tile.dim)
        rest = rest_of(stream, address, (stream.y, tile.dim))
        if rest is None or any(s is None or s < 0 for s in strides):
            return None
        bounds = [index.bounds(t, stream.sizes) for t, _ in rest[0]]
        if any(low < 0 for low, _ in bounds):
            return None
        batch = tuple((t, f, high + 1) for (t, f), (_, high) in zip(rest[0], bounds))
        return Turned(node.operand, offset, tile.size, stream.sizes[stream.y], (strides[0] or 0, strides[1] or 0), rest[1], batch)

    @property
    def groups(self) -> int:
        return -(-self.count // GROUP)

    @property
    def batches(self) -> int:
        return prod(n for _, _, n in self.batch)

    @property
    def elements(self) -> int:
        return self.batches * self.features * self.groups * GROUP

    @property
    def bytes(self) -> int:
        return -(-self.elements * FLOAT32.bytes // 256) * 256

    def box(self) -> Box:
        """How it then lies."""
        base: Expr | None = None
        below = self.batches
        for t, _, n in self.batch:
            below //= n
            base = t * below + (base or Const(0))
        padded = self.groups * GROUP
        return Box(None, FLOAT32, padded, self.features, padded, self.features * padded, self.batches, base, self.offset)

    def function(self, request: Request, number: int) -> Function:
        """The function that writes it. Of each 8 places those of even number come first: see `pack_weights`."""
        w = FunctionWriter(request, f"_turn{number}")
        total = self.elements // GROUP
        integer = index_type(request.operands[self.operand].size, self.elements)
        w.line(f"const {integer} p = {'' if integer == 'int' else f'({integer})'}blockIdx.x * {THREADS} + threadIdx.x;")
        w.line(f"if (p >= {total}) return;")
        w.line(f"const int f = p % {self.features}u, first = p / {self.features}u % {self.groups}u * {GROUP};")
        w.line(f"const {integer} batch = p / {self.features * self.groups}u;")
        parts, below = [], self.batches
        for _, f, n in self.batch:
            below //= n
            parts.append(f"batch{f' / {below}' if below > 1 else ''} % {n} * {f}")
        start = " + ".join([*parts, str(self.constant)])
        w.line(f"const float* const from = {w.operand(self.operand).name} + ({start}) + f * ({integer}){self.strides[1]};")
        w.line(f"float turned[{GROUP}];")
        with w.unrolled("j", GROUP):
            value = f"from[(first + j) * ({integer}){self.strides[0]}]"
            inside = f"first + j < {self.count} ? {value} : 0.0f" if self.count % GROUP else value
            w.line(f"turned[j % 2 * 4 + j / 2] = {inside};")
        to = w.workspace_of("along", self.offset, "float")
        w.line(f"store<{GROUP}>({to} + ((batch * {self.features} + f) * {self.groups * GROUP} + first), turned);")
        return w.function((-(-total // THREADS),), (THREADS,), schedule=f"an operand written along the stream, {GROUP} elements a thread")
