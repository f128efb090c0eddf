"""The tiles of a streaming kernel on Hopper: which sums a thread of a warpgroup holds, and how the copy engine brings operands."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from dslc.core.dtypes import FLOAT32, TF32, DType
from dslc.core.executable import TensorMap
from dslc.ir import index
from dslc.ir.index import Const, Dim, Expr, Sum
from dslc.ir.streams import Stream
from dslc.ir.trace import Read, factor_of

from ..stage import Request
from .attention_mma_tiles import Plan, Tile

SPAN = 128  # bytes of a row that lie together: the span of a swizzle
FEATURES = {2: (64, 128, 192, 256), 4: (32, 64, 96, 128, 192, 256)}  # of a product, by the bytes of an element
WARPGROUP = 128


@dataclass(frozen=True)
class HopperPlan(Plan):
    """Warpgroups of 64 rows each. Elements lie as wgmma leaves sums (see wgmma.cuh). `beside`: the scores of one tile are made beside the products of
    the one before, for which registers hold both the scores and the weights."""

    beside: bool = True

    @property
    def groups(self) -> int:
        return self.bx // 64

    def feature_registers(self, n: int) -> int:
        return self.padded(n) // 2

    def padded(self, n: int) -> int:
        """The features that the product of n has."""
        return next((w for w in FEATURES[self.type.bytes] if w >= n), -(-n // 64) * 64)

    @property
    def turned(self) -> bool:
        """wgmma reads operands of 4 bytes along the terms alone."""
        return self.type == FLOAT32

    @property
    def steps(self) -> int:
        """Products with the weights of a tile, of 32 bytes of terms each."""
        return self.by * self.type.bytes // 32

    def fragment(self, name: str) -> str:
        return f"{name}[{self.by // 2}]"

    def sums(self, name: str, n: int) -> str:
        return f"{name}[{self.feature_registers(n)}]"

    def element(self, name: str, i: str = "i", j: str = "j") -> str:
        return f"{name}[{j} / 2 * 4 + {i} * 2 + {j} % 2]"

    def feature_groups(self, n: int) -> int:
        return self.padded(n) // 8


@dataclass(frozen=True)
class Box:
    """How the copy engine reads a tile: elements of a row, rows, and where the batch begins in steps of `step` elements (None: at 0). `operand`: None
    where it lies in the workspace, at an offset in bytes."""

    operand: int | None
    type: DType
    size: int
    count: int
    stride: int
    step: int
    batches: int
    base: Expr | None
    offset: int = 0

    def tensor_map(self, rows: int) -> TensorMap:
        outer = self.base is not None
        dims = (self.size, self.count, self.batches)[: 2 + outer]
        strides = (self.stride * self.type.bytes, self.step * self.type.bytes)[: 1 + outer]
        element = TF32 if self.type == FLOAT32 else self.type.name
        return TensorMap(("offset", self.offset), element, dims, strides, (SPAN // self.type.bytes, rows, 1)[: 2 + outer], SPAN)


def box_of(request: Request, stream: Stream, tile: Tile) -> Box | None:
    """The box of a tile; None where it is not an operand as it lies in memory."""
    node, along = tile.node, stream.x if tile.name.startswith("own") else stream.y
    if not isinstance(node, Read) or node.tests or node.operand >= len(request.operands) or not request.operand_aligned(node.operand):
        return None
    address = index.coarse(node.address, stream.sizes)
    stride = factor_of(address, along)
    chunk = 16 // node.dtype.bytes
    if factor_of(address, tile.dim) != 1 or not stride or stride < 0 or stride % chunk:
        return None
    found = rest_of(stream, address, (along, tile.dim))
    if found is None:
        return None
    rest, constant = found
    step = gcd(constant, *(f for _, f in rest))
    if step % chunk:
        return None
    base: Expr | None = None
    for t, f in rest:
        base = t * (f // step) + (base or Const(0))
    if constant:
        base = (base or Const(0)) + constant // step
    size = request.operands[node.operand].size
    batches = -(-size // step) if step else 1
    return Box(node.operand, node.dtype, tile.size, stream.sizes[along], stride, step, batches, base)


def rest_of(stream: Stream, address: Expr, moving: tuple[int, int]) -> tuple[list[tuple[Expr, int]], int] | None:
    """What an address is beside its terms in two dims: (term, factor) of the batch's dims, and a constant, none of them negative; None where it is
    more than that."""
    terms, constant = (address.terms, address.constant) if isinstance(address, Sum) else (((address, 1),), 0)
    rest = [(t, f) for t, f in terms if t not in [Dim(d) for d in moving]]
    if any(f < 0 or any(d >= stream.x for d in index.dims_of(t)) or not index.dims_of(t) for t, f in rest) or constant < 0:
        return None
    return rest, constant
