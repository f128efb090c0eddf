"""Ops whose places depend on data: gather, scatter, put, sort."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import ShapeError, TypeError_

from .. import index
from ..mlir import ir
from ..op import Flag, Float, Int, Ints, Maps, Op, Operand, Operands, Result, Str
from ..types import TensorType, type_of
from .constant import Iota, full, full_like
from .elementwise import Compare, Div, Max, Min, Mul, Select, cast


def as_int32(ids: ir.Value) -> ir.Value:
    """Integers as int32, those beyond its range as its least or greatest: a place outside of an axis of fewer than 2^31 elements stays outside."""
    t = type_of(ids)
    if t.dtype.bits == 64:
        ids = Max.of(Min.of(ids, full(t, 2**31 - 1)), full(t, -(2**31)))
    return cast(ids, dtypes.INT32)


def _check_ids(name: str, x: TensorType, ids: Sequence[TensorType], batch: int) -> None:
    if not ids:
        raise ShapeError(f"{name} of {x} without indices")
    for t in ids:
        if not t.dtype.is_integer:
            raise TypeError_(f"an index must be an integer, this is {t}")
        if t.shape != ids[0].shape:
            raise ShapeError(f"{name} with indices {ids[0]} and {t}")
    if batch > ids[0].rank or x.shape[:batch] != ids[0].shape[:batch]:
        raise ShapeError(f"{name} of {x} by {ids[0]} over {batch} batch axes")


class Gather(Op, name="gather"):
    """y[b..., i..., w...] = x[b..., ids0[b..., i...], ids1[b..., i...], ..., w...]; `outside` where an index is not in x.

    x has `batch` batch axes, then an axis for each operand of ids, then the rest; all ids have the shape [b..., i...].
    """

    x: Operand
    ids: Operands
    y: Result
    batch: Int
    outside: Float
    structure = "gather"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        x, ids, batch = operands[0], operands[1:], attributes["batch"]
        _check_ids("gather", x, ids, batch)
        if x.rank < batch + len(ids):
            raise ShapeError(f"gather of {x} by {len(ids)} indices after {batch} batch axes")
        return [x.with_shape(ids[0].shape + x.shape[batch + len(ids) :])]

    def maps(self) -> Maps:
        x, ids, batch = type_of(self.operands[0]), self.types()[1:], self.batch
        where = tuple(index.Dim(k) for k in range(ids[0].rank))
        rest = tuple(index.Dim(ids[0].rank + k) for k in range(x.rank - batch - len(ids)))
        first = where[:batch] + tuple(index.Symbol(1 + k) for k in range(len(ids))) + rest
        return Maps(self.type.shape, (first, *(where for _ in ids)), outside=self.outside)

    def reference(self, x: np.ndarray, *ids: np.ndarray) -> np.ndarray:
        batch, k = self.batch, len(ids)
        sizes = x.shape[batch : batch + k]
        inside = np.ones(ids[0].shape, bool)
        at = []
        for i, n in zip(ids, sizes):
            inside &= (i >= 0) & (i < n)
            at.append(np.clip(i, 0, max(n - 1, 0)))
        y_shape = ids[0].shape + x.shape[batch + k :]
        if x.size == 0:
            return np.full(y_shape, self.outside).astype(x.dtype)
        lead = [np.arange(n).reshape([-1 if q == d else 1 for q in range(ids[0].ndim)]) for d, n in enumerate(x.shape[:batch])]
        y = x[(*lead, *at)]
        inside = inside.reshape(inside.shape + (1,) * (y.ndim - inside.ndim))
        return np.where(inside, y, np.asarray(self.outside).astype(x.dtype))

    def gradient(self, g: ir.Value) -> list:
        x, ids = type_of(self.operands[0]), list(self.operands)[1:]
        sizes = x.shape[self.batch : self.batch + len(ids)]
        return [Scatter.of(g, *ids, kind="sum", batch=self.batch, sizes=sizes), *(None for _ in ids)]


class Scatter(Op, name="scatter"):
    """y[b..., ids0[b..., i...], ids1[b..., i...], ..., w...] folds u[b..., i..., w...] by `kind` (sum, max, min, prod) over all i...

    Points that nothing reaches have the fold's empty value (0, -inf, inf, 1); indices outside `sizes` are dropped. Sums are made in the order of i.
    """

    u: Operand
    ids: Operands
    y: Result
    kind: Str
    batch: Int
    sizes: Ints
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        u, ids, batch = operands[0], operands[1:], attributes["batch"]
        _check_ids("scatter", u, ids, batch)
        if u.shape[: ids[0].rank] != ids[0].shape or len(ids) != len(attributes["sizes"]):
            raise ShapeError(f"scatter of {u} by {ids[0]} into {list(attributes['sizes'])}")
        if attributes["kind"] not in ("sum", "max", "min", "prod") or u.dtype.is_bool:
            raise TypeError_(f"scatter {attributes['kind']} of {u}")
        return [u.with_shape(u.shape[:batch] + tuple(attributes["sizes"]) + u.shape[ids[0].rank :])]

    def reference(self, u: np.ndarray, *ids: np.ndarray) -> np.ndarray:
        from .reduction import KINDS, identity

        shape, batch = self.type.shape, self.batch
        y = np.full(shape, identity(self.kind, self.type.dtype)).astype(u.dtype)
        lead = np.indices(ids[0].shape)[:batch]
        inside = np.ones(ids[0].shape, bool)
        for i, n in zip(ids, self.sizes):
            inside &= (i >= 0) & (i < n)
        where = tuple(a[inside] for a in (*lead, *ids))
        KINDS[self.kind][0].at(y, where, u[inside])
        return y

    def gradient(self, g: ir.Value) -> list:
        u, ids, batch = self.operands[0], list(self.operands)[1:], self.batch
        if not self.type.dtype.is_float:
            return [None] * (1 + len(ids))
        back = Gather.of(g, *ids, batch=batch, outside=0.0)
        if self.kind == "sum":
            return [back, *(None for _ in ids)]
        if self.kind == "prod":
            return [Mul.of(back, self._product_of_others()), *(None for _ in ids)]
        y = Gather.of(self.results[0], *ids, batch=batch, outside=0.0)
        hit = cast(Compare.of(u, y, predicate="eq"), self.type.dtype)
        count = Gather.of(Scatter.of(hit, *ids, kind="sum", batch=batch, sizes=self.sizes), *ids, batch=batch, outside=1.0)
        one = full_like(count, 1)
        count = Select.of(Compare.of(count, one, predicate="lt"), one, count)
        return [Div.of(Mul.of(back, hit), count), *(None for _ in ids)]

    def _product_of_others(self) -> ir.Value:
        """For each element of u the product of all others of its point: zeros are counted, and left out of what is divided by."""
        u, ids = self.operands[0], list(self.operands)[1:]
        zero, one = full_like(u, 0), full_like(u, 1)
        is_zero = Compare.of(u, zero, predicate="eq")
        safe, count = Select.of(is_zero, one, u), Select.of(is_zero, one, zero)

        def of_point(x: ir.Value, kind: str) -> ir.Value:
            return Gather.of(Scatter.of(x, *ids, kind=kind, batch=self.batch, sizes=self.sizes), *ids, batch=self.batch, outside=0.0)

        other_zeros = Compare.of(of_point(count, "sum"), count, predicate="gt")
        return Select.of(other_zeros, zero, Div.of(of_point(safe, "prod"), safe))


class Put(Op, name="put"):
    """y = base, but y[..., at, ...] = row[..., 0, ...] along `axis`; a place outside of base is dropped.

    at is int32 [1], or with a `lane` (an axis of base; -1: none) int32 [size of the lane]: a place for each. A kernel of it writes into base's
    memory, and the row is all that it touches.
    """

    base: Operand
    row: Operand
    at: Operand
    y: Result
    axis: Int
    lane: Int
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        base, row, at = operands
        axis, lane = attributes["axis"], attributes["lane"]
        if not (0 <= axis < base.rank and -1 <= lane < base.rank and lane != axis):
            raise ShapeError(f"put along axis {axis} of {base}, with lane {lane}")
        if row != base.with_shape([1 if k == axis else n for k, n in enumerate(base.shape)]):
            raise ShapeError(f"put of {row} into {base} along axis {axis}")
        if at != TensorType(dtypes.INT32, (1 if lane < 0 else base.shape[lane],)):
            raise ShapeError(f"put at {at} into {base} with lane {lane}")
        return [base]

    def reference(self, base: np.ndarray, row: np.ndarray, at: np.ndarray) -> np.ndarray:
        places = np.arange(base.shape[self.axis]).reshape([-1 if k == self.axis else 1 for k in range(base.ndim)])
        wanted = at.reshape([-1 if k == self.lane else 1 for k in range(base.ndim)])
        return np.where(places == wanted, row, base)

    def gradient(self, g: ir.Value) -> list:
        from .movement import broadcast, reshape
        from .reduction import Reduce

        t = self.type
        places = Iota.of(axis=self.axis, shape=t.shape, dtype=dtypes.INT32)
        wanted = broadcast(self.at, t.shape, [self.lane]) if self.lane >= 0 else broadcast(reshape(self.at, ()), t.shape, [])
        here, nothing = Compare.of(places, wanted, predicate="eq"), full_like(g, 0)
        row = Reduce.of(Select.of(here, g, nothing), kind="sum", axes=[self.axis])
        return [Select.of(here, nothing, g), reshape(row, type_of(self.row).shape), None]


class Sort(Op, name="sort"):
    """the first `count` (values, int32 order) along `axis`, ascending or `descending`, stable: equal elements keep their order; NaN comes last"""

    x: Operand
    ordered: Result
    order: Result
    axis: Int
    descending: Flag
    count: Int
    structure = "whole"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        x, axis, count = operands[0], attributes["axis"], attributes["count"]
        if not 0 <= axis < x.rank or x.dtype.is_bool:
            raise ShapeError(f"sort of {x} along axis {axis}")
        if not 0 <= count <= x.shape[axis]:
            raise ShapeError(f"the first {count} of a sort of {x} along axis {axis}")
        made = TensorType(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
        return [made, made.with_dtype(dtypes.INT32)]

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = self.axis
        key = x
        if self.descending:  # a stable descending order: sort the negated key (integers: complemented, which cannot overflow)
            key = -x if x.dtype.kind == "f" else ~x
        order = np.take(np.argsort(key, axis=axis, kind="stable"), range(self.count), axis)
        return np.take_along_axis(x, order, axis), order.astype(np.int32)

    def gradient(self, g: ir.Value | None, *rest: ir.Value | None) -> list:
        """The gradient goes back to where each element came from."""
        if g is None or not type_of(self.x).dtype.is_float:
            return [None]
        from .movement import transpose

        rank, axis = type_of(self.x).rank, self.axis
        to_last = [k for k in range(rank) if k != axis] + [axis]
        back = [to_last.index(k) for k in range(rank)]
        g, order = transpose(g, to_last), transpose(self.results[1], to_last)
        moved = Scatter.of(g, order, kind="sum", batch=rank - 1, sizes=[type_of(self.x).shape[axis]])
        return [transpose(moved, back)]


def sort(x: ir.Value, axis: int, *, descending: bool = False, count: int | None = None) -> list[ir.Value]:
    """`Sort`; of all elements where no `count` is given."""
    return Sort.of(x, axis=axis, descending=descending, count=type_of(x).shape[axis] if count is None else count)
