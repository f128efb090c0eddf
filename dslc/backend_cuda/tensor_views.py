"""Operands of a contraction as the copy engine sees them: the axes of a tensor map, and where a tile begins in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dslc.core.dtypes import TF32
from dslc.core.executable import TensorMap
from dslc.ir import index
from dslc.ir.contractions import BATCH, TERMS, Contraction
from dslc.ir.index import Dim, Expr
from dslc.ir.trace import Read, Trace

from .stage import Request

SPAN = 128  # bytes of a tile's dense rows: the span of a swizzle


@dataclass(frozen=True)
class Axis:
    """`extent` neighbours, `stride` elements apart, of a class of the contraction (BATCH, TERMS or the side's own); `below`: neighbours that one
    step in it skips in the class."""

    dim: int
    extent: int
    stride: int
    below: int


@dataclass(frozen=True)
class View:
    """An operand that lies in memory as it is used. `element`: the type of a tensor map; `along_terms`: it is dense along the terms, else along its
    own dim."""

    operand: int | None  # of the kernel; None: it lies in the workspace
    element: str
    offset: int  # elements before the first
    along_terms: bool
    own: tuple[Axis, ...]  # innermost first, as the others
    terms: tuple[Axis, ...]
    batch: tuple[Axis, ...]

    @property
    def bytes(self) -> int:
        """Of an element."""
        return 4 if self.element == TF32 else 2

    @property
    def depth(self) -> int:
        """Terms of a tile."""
        return SPAN // self.bytes

    def axes(self, tile: int) -> list[tuple[Axis, int]] | None:
        """The axes of the tensor map, densest first, each with the extent of its box, for tiles of `tile` of the side's own dim by `depth` terms;
        None where such a tile is no box. Tiles that are dense along their own dim are copied in slabs of 64."""
        inner, outer = (self.terms, self.own) if self.along_terms else (self.own, self.terms)
        depth = self.depth
        first = _boxes(inner, depth)
        rest = _boxes(outer, tile if self.along_terms else depth)
        if first is None or rest is None or (len(inner) > 1 and first[0] != depth):
            return None
        found = [(inner[0], depth), *zip(outer, rest), *((a, 1) for a in inner[1:]), *((a, 1) for a in self.batch)]
        if len(found) == 1:
            found.append((Axis(BATCH, 1, inner[0].extent, 1), 1))
        return found if len(found) <= 5 and all(box <= 256 for _, box in found) else None

    def tensor_map(self, tile: int) -> TensorMap:
        """`place` is how many bytes behind the address of the operand, or of the workspace, the tensor begins."""
        axes = self.axes(tile)
        assert axes is not None
        dims, box = tuple(a.extent for a, _ in axes), tuple(n for _, n in axes)
        return TensorMap(("offset", self.offset * self.bytes), self.element, dims, tuple(a.stride * self.bytes for a, _ in axes[1:]), box, SPAN)


def _boxes(axes: Sequence[Axis], count: int) -> list[int] | None:
    """How many of each axis `count` neighbours in a class are, from a multiple of `count` on; None where they are no box."""
    out = []
    for k, axis in enumerate(axes):
        if k == len(axes) - 1 or axis.extent % count == 0:
            out.append(count)
            count = 1
        elif count % axis.extent == 0:
            out.append(axis.extent)
            count //= axis.extent
        else:
            return None
    return out


def view_of(request: Request, contraction: Contraction, side: int) -> View | None:
    """How the copy engine reads the operand with the rows (side 0) or the columns (side 1), in tf32 along the terms alone; None where it cannot."""
    op, roles = contraction.op, contraction.roles
    maps = op.maps()
    number = roles.rows_of if side == 0 else 1 - roles.rows_of
    trace = Trace(request.body, maps.domain)
    dims: list[Expr] = [Dim(k) for k in range(len(maps.domain))]
    node, extra = trace.operand_at(op, maps, number, tuple(trace.tidy(d) for d in dims), ())
    if not isinstance(node, Read) or extra or node.tests or node.dtype.bytes != (4 if op.tf32 else 2) or not request.operand_aligned(node.operand):
        return None
    affine = index.coefficients(node.address, len(maps.domain))
    if affine is None:
        return None
    factors, offset = affine
    own = side + 1
    classes = {d: _merged(d, [(maps.domain[a], factors[a]) for a in roles.classes[d]]) for d in (BATCH, own, TERMS)}
    batch = tuple(a for a in classes[BATCH] if a.stride and a.extent > 1)
    view = [a for d in (own, TERMS) for a in classes[d]] + list(batch)
    dense = [d for d in ((TERMS,) if op.tf32 else (TERMS, own)) if classes[d][0].stride == 1]
    chunk = 16 // node.dtype.bytes
    if not dense or any(a.stride <= 0 for a in view) or sum(a.stride % chunk != 0 for a in view) != 1 or offset % chunk:
        return None
    if view[0].extent == 1 and len(view) == 1:
        return None
    return View(node.operand, TF32 if op.tf32 else node.dtype.name, offset, dense[0] == TERMS, tuple(classes[own]), tuple(classes[TERMS]), batch)


def _merged(dim: int, axes: Sequence[tuple[int, int]]) -> list[Axis]:
    """Axes of a class (extent, stride), outermost first, as few as may be, innermost first."""
    out: list[Axis] = []
    below = 1
    for extent, stride in reversed(axes):
        if extent == 1:
            continue
        if out and out[-1].extent * out[-1].stride == stride:
            last = out[-1]
            out[-1] = Axis(dim, last.extent * extent, last.stride, last.below)
        else:
            out.append(Axis(dim, extent, stride, below))
        below *= extent
    return out or [Axis(dim, 1, 8, 1)]
