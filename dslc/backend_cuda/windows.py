"""Operands of a contraction as boxes that the copy engine reads from tensors: the windows of a convolution, shifted, with steps, and zeros where they
hang over the edge.

Each class of the contraction's axes (rows, columns, terms) is walked in units of up to 64 positions, which are a box over its axes: 8 x 8 pixels, or
64 channels of one tap. A unit of one class by a unit of another is one copy: 64 lines of 128 bytes.

In tf32, where wgmma reads both operands along the terms alone, a unit of terms is 32 channels of one tap. An operand that lies otherwise, as the
filters of an input's gradient do, is packed along the terms first. The terms of a filter's gradient are places, and neither operand lies along them:
packed as windows the pictures would be as large as those of all taps together, and boxes along rows of pictures, from places of any parity on,
cannot have steps and would end where the rows do, seldom at a multiple of 32. So `tiles` make that product: they turn operands in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from dslc.core.dtypes import TF32
from dslc.core.executable import TensorMap
from dslc.ir import index
from dslc.ir.contractions import BATCH, COLUMNS, ROWS, TERMS, Contraction
from dslc.ir.index import Dim, Expr
from dslc.ir.trace import Read, Trace

from .stage import Request

SPAN = 128  # bytes of a line
UNIT = 64  # positions of a class, lines of a copy
MOST_AXES = 5  # of a tensor map
LARGEST_BOX = 256  # elements that a box spans along an axis
LARGEST_STEP = 8


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor: `extent` elements, `stride` apart; the place along it is `start` plus the sum of factor * index over `factors`, (dim of
    the contraction's domain, factor)."""

    extent: int
    stride: int
    start: int
    factors: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Walk:
    """A class of axes walked in units. `dims`: of the contraction's domain, outermost first."""

    dims: tuple[int, ...]
    extents: tuple[int, ...]
    box: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Boxes along each dim."""
        return tuple(-(-n // b) for n, b in zip(self.extents, self.box))

    @property
    def units(self) -> int:
        return prod(self.counts)

    @property
    def lines(self) -> int:
        """Positions of a unit."""
        return prod(self.box)

    def chunk(self, width: int) -> int:
        """The most positions up to `width` that always lie side by side in a unit."""
        while self.dims and (self.extents[-1] % width or self.box[-1] % width):
            width //= 2
        return width if self.dims else 1


@dataclass(frozen=True)
class Window:
    """One operand. `axes`: densest first, each with the extent and the step of its box; `lines`: that a copy writes."""

    operand: int | None  # of the kernel; None: it is packed in the workspace
    element: str
    offset: int  # elements before the first
    along_terms: bool
    axes: tuple[tuple[Axis, int, int], ...]
    lines: int

    @property
    def bytes(self) -> int:
        """Of an element."""
        return 4 if self.element == TF32 else 2

    def tensor_map(self, _: int) -> TensorMap:
        """The same for tiles of any size."""
        axes = list(self.axes)
        if len(axes) == 1:
            axes.append((Axis(1, 8, 0, ()), 1, 1))
        dims, strides = tuple(a.extent for a, _, _ in axes), tuple(a.stride * self.bytes for a, _, _ in axes[1:])
        box, steps = tuple(n for _, n, _ in axes), tuple(s for _, _, s in axes)
        return TensorMap(("offset", self.offset * self.bytes), self.element, dims, strides, box, SPAN, steps)


@dataclass(frozen=True)
class Windows:
    """Both operands, the walks of rows, columns and terms, and the extents of the batch's dims."""

    sides: tuple[Window, Window]
    walks: dict[int, Walk]
    batch: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Packed:
    """How an operand lies once it is packed along the terms: elements of a line, and whether each point of the batch has its own."""

    dense: int
    batched: bool


def windows_of(request: Request, contraction: Contraction, packed: Sequence[Packed] = ()) -> Windows | None:
    """How the copy engine reads both operands, of 16-bit elements or in tf32, in boxes; None where it cannot. `packed`: in tf32 of each side, how it
    would lie; one of them may be packed."""
    op, roles = contraction.op, contraction.roles
    maps = op.maps()
    domain = maps.domain
    tensors = [_tensor(request, contraction, op, maps, number) for number in (roles.rows_of, 1 - roles.rows_of)]
    classes = {c: [d for d in roles.classes[c] if domain[d] > 1] for c in range(4)}
    units = {ROWS: UNIT, COLUMNS: UNIT, TERMS: SPAN // (4 if op.tf32 else 2)}
    dense = [t and _dense_dim(t[1][0], classes, own, domain, units) for t, own in zip(tensors, (ROWS, COLUMNS))]
    if op.tf32:
        ready = [d for d in dense if d in classes[TERMS]]
        for k, own in enumerate((ROWS, COLUMNS)):
            if ready and dense[k] not in classes[TERMS]:
                tensors[k], dense[k] = _as_packed(packed[k], classes, own, ready[0], domain), ready[0]
    if None in dense or None in tensors or (op.tf32 and not ready):
        return None
    walks: dict[int, Walk] = {}
    for c, sides in ((ROWS, (0,)), (COLUMNS, (1,)), (TERMS, (0, 1))):
        fixed = {d for d in dense if d in classes[c]}
        if len(fixed) > 1:
            return None
        axes = [tensors[k][1] for k in sides]  # type: ignore[index]
        walks[c] = _along(classes[c], domain, fixed.pop(), units[c]) if fixed else _boxed(classes[c], domain, axes, units[c])
    made = []
    for t, d, own in zip(tensors, dense, (ROWS, COLUMNS)):
        window = _window(t, TF32 if op.tf32 else op.types()[0].dtype.name, d in classes[TERMS], walks[own], walks[TERMS])  # type: ignore[arg-type]
        if window is None:
            return None
        made.append(window)
    return Windows((made[0], made[1]), walks, tuple((d, domain[d]) for d in classes[BATCH]))


Tensor = tuple[int | None, list[Axis], int]  # the operand, its axes, elements before the first


def _tensor(request: Request, contraction: Contraction, op: Any, maps: Any, number: int) -> Tensor | None:
    """The operand as a tensor with axes that each index of the domain moves along evenly: those of the tests, outside of which lie zeros, and those
    of the memory."""
    trace = Trace(request.body, maps.domain)
    dims: list[Expr] = [trace.tidy(Dim(k)) for k in range(len(maps.domain))]
    node, extra = trace.operand_at(op, maps, number, tuple(dims), ())
    if not isinstance(node, Read) or node.dtype.bytes != (4 if op.tf32 else 2) or not request.operand_aligned(node.operand):
        return None
    chunk = 16 // node.dtype.bytes
    affine = index.coefficients(node.address, len(dims))
    if affine is None or any(t not in node.tests for t in extra):
        return None
    factors, offset = affine
    axes: list[Axis] = []
    left = {d: f for d, f in enumerate(factors) if f and maps.domain[d] > 1}
    for test in node.tests:
        place = index.coefficients(test.expr, len(dims))
        moving = {d: f for d, f in enumerate(place[0]) if f} if place else {}
        strides = {left.get(d, 0) / f for d, f in moving.items()}
        if place is None or len(strides) != 1 or (stride := strides.pop()) < 1 or stride != int(stride):
            return None
        reached = index.bounds(test.expr, maps.domain)[1] + 1  # a box that hangs over the windows reads zeros there, as 0 times infinity is NaN
        axes.append(Axis(max(1, min(test.size, reached)), int(stride), place[1], tuple(moving.items())))
        offset -= int(stride) * place[1]
        left = {d: f for d, f in left.items() if d not in moving}
    for stride, group in _by_memory_axis(left, request.operands[node.operand].shape if node.operand < len(request.operands) else ()):
        low, high = index.bounds(sum((Dim(d) * f for d, f in group.items()), start=index.Const(0)), maps.domain)
        axes.append(Axis(high - low + 1, stride, -low, tuple(group.items())))
        offset += stride * low
    axes.sort(key=lambda a: a.stride)
    if not axes or axes[0].stride != 1 or axes[0].start % chunk or len(axes) > MOST_AXES or offset < 0 or offset % chunk:
        return None
    if any(a.stride % chunk for a in axes[1:]):
        return None
    return node.operand, axes, offset


def _as_packed(packed: Packed, classes: dict[int, list[int]], own: int, dense: int, domain: Sequence[int]) -> Tensor | None:
    """An operand packed along the terms, of which the `dense` ones must be the last, in whole chunks."""
    if classes[TERMS][-1] != dense or domain[dense] % 4:
        return None
    axes = []
    groups = [(classes[TERMS], 1), (classes[own], packed.dense)]
    if packed.batched:
        groups.append((classes[BATCH], packed.dense * prod(domain[d] for d in classes[own])))
    for dims, stride in groups:
        for d in reversed(dims):
            axes.append(Axis(domain[d], stride, 0, ((d, 1),)))
            stride *= domain[d]
    return (None, axes, 0) if len(axes) <= MOST_AXES else None


def _by_memory_axis(factors: dict[int, int], shape: Sequence[int]) -> list[tuple[int, dict[int, int]]]:
    """(stride, factor of each index along it): indices that move along the same axis of the memory are one axis."""
    groups: dict[int, dict[int, int]] = {}
    strides = [prod(shape[k + 1 :]) for k in range(len(shape))] or [1]
    for d, f in factors.items():
        axis = max((s for s in strides if s <= abs(f) and f % s == 0), default=1)
        groups.setdefault(axis, {})[d] = f
    out = []
    for group in groups.values():
        step = gcd(*group.values())
        out.append((step, {d: f // step for d, f in group.items()}))
    return out


def _dense_dim(axis: Axis, classes: dict[int, list[int]], own: int, domain: Sequence[int], units: dict[int, int]) -> int | None:
    """The index, of the side's own class or the terms, of which a unit of neighbours is one line; None where there is none. Next to another group's
    channels only whole lines are its own."""
    moving = dict(axis.factors)
    found = [(d, units[c]) for c in (own, TERMS) for d in classes[c] if moving.get(d) == 1]
    if len(found) != 1 or any(d not in classes[BATCH] for d in moving if d != found[0][0]):
        return None
    ((dense, unit),) = found
    return dense if len(moving) == 1 or domain[dense] % unit == 0 else None


def _along(dims: Sequence[int], domain: Sequence[int], dense: int, unit: int) -> Walk:
    """A unit of neighbours of one dim at a time."""
    return Walk(tuple(dims), tuple(domain[d] for d in dims), tuple(unit if d == dense else 1 for d in dims))


def _boxed(dims: Sequence[int], domain: Sequence[int], tensors: Sequence[Sequence[Axis]], unit: int) -> Walk:
    """The boxes of up to a unit of positions that are fewest, the longest along the inner dims."""
    extents = [domain[d] for d in dims]
    if len(dims) == 1 and _largest_box(dims[0], unit, tensors) == unit:
        return Walk(tuple(dims), tuple(extents), (unit,))
    most = [_largest_box(d, domain[d], tensors) for d in dims]
    best: tuple[int, ...] = tuple(1 for _ in dims)
    fewest = prod(extents)

    def search(k: int, chosen: tuple[int, ...]) -> None:
        nonlocal best, fewest
        if k < 0:
            count = prod(-(-n // b) for n, b in zip(extents, chosen))
            if count < fewest:
                best, fewest = chosen, count
            return
        for b in range(min(most[k], unit // prod(chosen)), 0, -1):
            if -(-extents[k] // b) < -(-extents[k] // max(b - 1, 1)) or b == 1:  # fewer positions than this would do with as many boxes
                search(k - 1, (b, *chosen))

    search(len(dims) - 1, ())
    return Walk(tuple(dims), tuple(extents), best)


def _largest_box(d: int, extent: int, tensors: Sequence[Sequence[Axis]]) -> int:
    """How many neighbours of an index a box may hold."""
    most = min(extent, UNIT)
    for axes in tensors:
        for factor in (f for a in axes for e, f in a.factors if e == d):
            most = min(most, LARGEST_BOX // factor) if 1 <= factor <= LARGEST_STEP else 1
    return most


def _window(tensor: Tensor, element: str, along_terms: bool, own: Walk, terms: Walk) -> Window | None:
    """The operand in boxes of a unit of its own class by a unit of the terms; None where such a box is none of its tensor."""
    operand, axes, offset = tensor
    box = dict(zip((*own.dims, *terms.dims), (*own.box, *terms.box)))
    found = []
    for axis in axes:
        wide = [(d, f) for d, f in axis.factors if box.get(d, 1) > 1]
        if len(wide) > 1 or any(not 1 <= f <= LARGEST_STEP or box[d] * f > LARGEST_BOX for d, f in wide):
            return None
        found.append((axis, box[wide[0][0]] if wide else 1, wide[0][1] if wide else 1))
    lines = own if along_terms else terms
    strides = [next((a.stride for a in axes if d in dict(a.factors)), 0) for d, b in zip(lines.dims, lines.box) if b > 1]
    if strides != sorted(strides, reverse=True) or 0 in strides or len(set(strides)) < len(strides):
        return None
    return Window(operand, element, offset, along_terms, tuple(found), lines.lines)
