"""Ops that move elements: `view` (any affine read: slices, transposes, broadcasts, windows, ...), its adjoint `fold`, reshape, concat."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dslc.core.errors import ShapeError, TypeError_

from .. import index
from ..mlir import ir
from ..op import Float, Int, Ints, Maps, Op, Operand, Operands, Result
from ..types import TensorType, type_of
from .constant import full


class View(Op, name="view"):
    """y[i, j, ...] = x[e0, e1, ...] with e_a = offset_a + sum_k strides[a, k] * (index k); `outside` where that is not in x.

    `strides` is the matrix (rank of x) x (rank of y), row-major; `shape` is the result's. A transpose permutes unit rows, a broadcast has a zero
    column, a slice or padding an offset, a window two entries in a row.
    """

    x: Operand
    y: Result
    strides: Ints
    offsets: Ints
    shape: Ints
    outside: Float
    structure = "view"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        x, shape = operands[0], tuple(attributes["shape"])
        if len(attributes["offsets"]) != x.rank or len(attributes["strides"]) != x.rank * len(shape):
            raise ShapeError(f"view of {x} as {list(shape)} needs {x.rank} offsets and {x.rank} x {len(shape)} strides")
        return [x.with_shape(shape)]

    @property
    def matrix(self) -> list[tuple[int, ...]]:
        """A row of strides for each axis of x."""
        flat, rank = self.strides, len(self.shape)
        return [flat[a * rank : (a + 1) * rank] for a in range(len(self.offsets))]

    def maps(self) -> Maps:
        reads = []
        for row, offset in zip(self.matrix, self.offsets):
            e: index.Expr = index.Const(offset)
            for k, f in enumerate(row):
                if f:
                    e = e + index.Dim(k) * f
            reads.append(e)
        return Maps(self.shape, (tuple(reads),), outside=self.outside)

    @property
    def inside(self) -> bool:
        """True where no read falls outside x."""
        return self.maps().in_bounds(0, type_of(self.x).shape)

    @property
    def unused(self) -> list[int]:
        """Result axes on which the element does not depend (broadcast axes)."""
        rows = self.matrix
        return [k for k in range(len(self.shape)) if all(row[k] == 0 for row in rows)]

    def reference(self, x: np.ndarray) -> np.ndarray:
        shape = self.shape
        valid: Any = np.ones([1] * len(shape), bool)
        where = []
        for row, offset, n in zip(self.matrix, self.offsets, x.shape):
            at: Any = np.full([1] * len(shape), offset, np.int64)
            for k, f in enumerate(row):
                if f:
                    at = at + f * np.arange(shape[k]).reshape([-1 if q == k else 1 for q in range(len(shape))])
            if n == 0 or (at < 0).any() or (at >= n).any():
                valid = valid & (at >= 0) & (at < n)
                at = np.clip(at, 0, max(n - 1, 0))
            where.append(at)
        if x.size == 0:
            return np.full(shape, self.outside).astype(x.dtype)
        y = np.broadcast_to(x[tuple(where)] if where else x, shape)
        if valid.all():
            return np.array(y)
        return np.where(np.broadcast_to(valid, shape), y, np.asarray(self.outside).astype(x.dtype))

    def gradient(self, g: ir.Value) -> list:
        """Sums over broadcast axes, then the inverse view where one exists, else `fold`."""
        from .reduction import Reduce

        x, rows, offsets = type_of(self.x), self.matrix, self.offsets
        unused = self.unused
        if unused:
            g = Reduce.of(g, kind="sum", axes=unused)
            used = [k for k in range(len(self.shape)) if k not in unused]
            rows = [tuple(row[k] for k in used) for row in rows]
        shape = type_of(g).shape
        inverse = _inverse(rows, offsets, x.shape, shape)
        if inverse is None:
            return [Fold.of(g, strides=[f for row in rows for f in row], offsets=offsets, shape=x.shape)]
        strides, back, fixed = inverse
        if fixed:  # x was read at one place along these axes: the gradient has a unit axis there
            g = reshape(g, shape + (1,) * len(fixed))
        return [View.of(g, strides=strides, offsets=back, shape=x.shape, outside=0.0)]


def _inverse(rows: Sequence[Sequence[int]], offsets: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> tuple | None:
    """(strides, offsets, axes of x read at one place) of the view that undoes one with factors +-1, each axis used once; None where there is none."""
    source: dict[int, tuple[int, int, int]] = {}
    fixed = []
    for a, (row, offset) in enumerate(zip(rows, offsets)):
        terms = [(k, f) for k, f in enumerate(row) if f]
        if not terms:
            fixed.append(a)
        elif len(terms) == 1 and abs(terms[0][1]) == 1 and terms[0][0] not in source:
            source[terms[0][0]] = (a, terms[0][1], offset)
        else:
            return None
    if len(source) != len(y_shape):
        return None
    strides = [0] * ((len(y_shape) + len(fixed)) * len(x_shape))
    back = []
    for k in range(len(y_shape)):
        a, f, offset = source[k]  # position in x = offset + f * k, so k = f * (position - offset)
        strides[k * len(x_shape) + a] = f
        back.append(-f * offset)
    for q, a in enumerate(fixed):
        strides[(len(y_shape) + q) * len(x_shape) + a] = 1
        back.append(-offsets[a])
    return strides, back, fixed


class Fold(Op, name="fold"):
    """The adjoint of `view`: x[e0, e1, ...] += g[i, j, ...] over all i, j, ... with e_a = offset_a + sum_k strides[a, k] * (index k), from zeros.

    What falls outside is dropped. `shape` is the result's; `strides` is the matrix (rank of the result) x (rank of g).
    """

    g: Operand
    x: Result
    strides: Ints
    offsets: Ints
    shape: Ints
    structure = "reduce"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        g, shape = operands[0], tuple(attributes["shape"])
        if len(attributes["offsets"]) != len(shape) or len(attributes["strides"]) != len(shape) * g.rank:
            raise ShapeError(f"fold of {g} into {list(shape)} needs {len(shape)} offsets and {len(shape)} x {g.rank} strides")
        return [g.with_shape(shape)]

    @property
    def matrix(self) -> list[tuple[int, ...]]:
        flat, rank = self.strides, type_of(self.g).rank
        return [flat[a * rank : (a + 1) * rank] for a in range(len(self.offsets))]

    def pivots(self) -> list[int | None]:
        """For each axis of the result the axis of g that is solved for; the other axes of g are summed over (the taps of a window).

        The axis with the largest extent wins, so that the sum runs over the fewest points. None: the axis has one place only.
        """
        g = type_of(self.g).shape
        taken: set[int] = set()
        out: list[int | None] = []
        for row in self.matrix:
            terms = sorted((k for k, f in enumerate(row) if f and k not in taken), key=lambda k: -g[k])
            alone = [k for k in terms if sum(bool(other[k]) for other in self.matrix) == 1]
            pick = (alone or [None])[0]  # type: ignore[list-item]
            if pick is not None:
                taken.add(pick)
            out.append(pick)
        return out

    def maps(self) -> Maps:
        """As a gather: the points of g that reach an element, one for each value of the axes that are not solved for."""
        g, rows, pivots = type_of(self.g).shape, self.matrix, self.pivots()
        free = [k for k in range(len(g)) if k not in pivots]
        rank = len(self.shape)
        reads: list[index.Expr | None] = [None] * len(g)
        for q, k in enumerate(free):
            reads[k] = index.Dim(rank + q)
        guards = []
        for a, (row, offset, pivot) in enumerate(zip(rows, self.offsets, pivots)):
            rest: index.Expr = index.Dim(a) - offset
            for k in free:
                rest = rest - index.Dim(rank + free.index(k)) * row[k]
            if pivot is None:
                guards.append((0, rest))
            else:
                factor = row[pivot]
                if factor < 0:
                    rest, factor = -rest, -factor
                reads[pivot] = rest // factor
                if factor > 1:
                    guards.append((0, rest % factor))
        assert all(e is not None for e in reads)
        return Maps(tuple(self.shape) + tuple(g[k] for k in free), (tuple(reads),), outside=0.0, guards=tuple(guards))  # type: ignore[arg-type]

    def reference(self, g: np.ndarray) -> np.ndarray:
        out = np.zeros(self.shape, g.dtype)
        where = []
        valid: Any = np.ones([1] * g.ndim, bool)
        for row, offset, n in zip(self.matrix, self.offsets, self.shape):
            at: Any = np.full([1] * g.ndim, offset, np.int64)
            for k, f in enumerate(row):
                if f:
                    at = at + f * np.arange(g.shape[k]).reshape([-1 if q == k else 1 for q in range(g.ndim)])
            valid = valid & (at >= 0) & (at < n)
            where.append(np.clip(at, 0, max(n - 1, 0)))
        if out.size and g.size:
            np.add.at(out, tuple(np.broadcast_to(at, g.shape) for at in where), np.where(np.broadcast_to(valid, g.shape), g, 0).astype(g.dtype))
        return out

    def gradient(self, grad: ir.Value) -> list:
        return [View.of(grad, strides=self.strides, offsets=self.offsets, shape=type_of(self.g).shape, outside=0.0)]


class Reshape(Op, name="reshape"):
    """The same elements in row-major order under another shape"""

    x: Operand
    y: Result
    shape: Ints
    structure = "view"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        y = operands[0].with_shape(attributes["shape"])
        if y.size != operands[0].size:
            raise ShapeError(f"{operands[0]} has {operands[0].size} elements, {list(y.shape)} has {y.size}")
        return [y]

    def maps(self) -> Maps:
        shape, x = self.shape, type_of(self.x).shape
        position = index.linearize([index.Dim(k) for k in range(len(shape))], shape)
        reads = tuple(index.simplify(e, shape) for e in index.delinearize(position, x))
        return Maps(shape, (reads,))

    def reference(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(self.shape)

    def gradient(self, g: ir.Value) -> list:
        return [Reshape.of(g, shape=type_of(self.x).shape)]


class Concat(Op, name="concat"):
    """The operands one after the other along `axis`"""

    xs: Operands
    y: Result
    axis: Int
    structure = "join"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        axis, first = attributes["axis"], operands[0]
        if not 0 <= axis < first.rank:
            raise ShapeError(f"concat along axis {axis} of {first}")
        for t in operands[1:]:
            if t.dtype != first.dtype:
                raise TypeError_(f"concat of {first} and {t}", help="cast one of them")
            if t.rank != first.rank or any(a != b for k, (a, b) in enumerate(zip(t.shape, first.shape)) if k != axis):
                raise ShapeError(f"concat of {first} and {t} along axis {axis}")
        total = sum(t.shape[axis] for t in operands)
        return [first.with_shape(total if k == axis else n for k, n in enumerate(first.shape))]

    def maps(self) -> Maps:
        shape, start, reads = self.type.shape, 0, []
        for t in self.types():
            reads.append(tuple(index.Dim(k) - start if k == self.axis else index.Dim(k) for k in range(len(shape))))
            start += t.shape[self.axis]
        return Maps(shape, tuple(reads))

    def reference(self, *xs: np.ndarray) -> np.ndarray:
        return np.concatenate(xs, axis=self.axis)

    def gradient(self, g: ir.Value) -> list:
        out, start = [], 0
        for t in self.types():
            out.append(slice_axis(g, self.axis, start, t.shape[self.axis]))
            start += t.shape[self.axis]
        return out


# ---- common views ------------------------------------------------------------------------------------------------------------------


def view(x: ir.Value, rows: Sequence[Sequence[int]], offsets: Sequence[int], shape: Sequence[int], outside: float = 0.0) -> ir.Value:
    """`View` from a row of strides for each axis of x; x itself where nothing moves."""
    t = type_of(x)
    shape = tuple(shape)
    if shape == t.shape and not any(offsets) and all(f == (a == k) for a, row in enumerate(rows) for k, f in enumerate(row)):
        return x
    return View.of(x, strides=[f for row in rows for f in row], offsets=offsets, shape=shape, outside=outside)


def broadcast(x: ir.Value, shape: Sequence[int], axes: Sequence[int]) -> ir.Value:
    """x spread over `shape`: axis a of x becomes axis `axes[a]`; the other axes repeat it."""
    return view(x, [[int(k == axis) for k in range(len(shape))] for axis in axes], [0] * len(axes), shape)


def spread(x: ir.Value, like: TensorType) -> ir.Value:
    """A rank-0 tensor over a shape."""
    return broadcast(x, like.shape, [])


def transpose(x: ir.Value, order: Sequence[int]) -> ir.Value:
    """Axis k of the result is axis `order[k]` of x."""
    shape = type_of(x).shape
    return view(x, [[int(order[k] == a) for k in range(len(shape))] for a in range(len(shape))], [0] * len(shape), [shape[a] for a in order])


def slice_axis(x: ir.Value, axis: int, start: int, size: int, step: int = 1) -> ir.Value:
    """x[..., start : start + size * step : step, ...]"""
    shape = type_of(x).shape
    rows = [[(step if a == axis else 1) if a == k else 0 for k in range(len(shape))] for a in range(len(shape))]
    return view(x, rows, [start if a == axis else 0 for a in range(len(shape))], [size if a == axis else n for a, n in enumerate(shape)])


def pick(x: ir.Value, axis: int, at: int) -> ir.Value:
    """x[..., at, ...]: the axis is gone."""
    shape = type_of(x).shape
    kept = [a for a in range(len(shape)) if a != axis]
    rows = [[int(a == k) for k in kept] for a in range(len(shape))]
    return view(x, rows, [at if a == axis else 0 for a in range(len(shape))], [shape[a] for a in kept])


def reverse(x: ir.Value, axis: int) -> ir.Value:
    shape = type_of(x).shape
    return slice_axis(x, axis, shape[axis] - 1, shape[axis], -1)


def reshape(x: ir.Value, shape: Sequence[int]) -> ir.Value:
    return x if type_of(x).shape == tuple(shape) else Reshape.of(x, shape=shape)


def expand_axes(x: ir.Value, axes: Sequence[int], sizes: Sequence[int]) -> ir.Value:
    """x with new axes of the given sizes, at these places of the result, over which it repeats."""
    t = type_of(x)
    shape: list[int] = []
    kept: list[int] = []
    old = iter(t.shape)
    for k in range(t.rank + len(axes)):
        if k in axes:
            shape.append(sizes[list(axes).index(k)])
        else:
            shape.append(next(old))
            kept.append(k)
    return broadcast(x, shape, kept)


def zeros(t: TensorType) -> ir.Value:
    return full(t, 0)
