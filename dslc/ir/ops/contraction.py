"""Sums of products: `contract` (matrix products of any kind) and `conv` (n-dimensional convolution, closed under its own gradients)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dslc.core.dtypes import FLOAT32, DType, rounded_to_tf32
from dslc.core.errors import ShapeError, TypeError_

from .. import index
from ..mlir import ir
from ..op import DTypeOf, Ints, Maps, Mark, Op, Operand, Result
from ..types import TensorType, type_of
from .movement import reverse, transpose


def _check_floats(name: str, operands: Sequence[TensorType], attributes: dict[str, Any]) -> None:
    a, b = operands
    if a.dtype != b.dtype:
        raise TypeError_(f"{name} of {a} and {b}", help="cast one of them")
    if a.dtype.is_bool:
        raise TypeError_(f"{name} of truth values: {a}")
    if attributes.get("tf32") and (a.dtype, attributes["dtype"]) != (FLOAT32, FLOAT32):
        raise TypeError_(f"{name} in tf32 of {a} to {attributes['dtype']}", help="tf32 is for float32 alone")


class Contract(Op, name="contract"):
    """out[O] = sum over the indices that O lacks of a[A] * b[B].

    `lhs`, `rhs`, `out` give each axis of a, b and the result an index, a small integer; equal integers are one index. An index stands once in an
    operand and in at least two of the three. In both operands and the result: a batch index; in both operands alone: summed. `dtype` is the
    result's type; sums are kept in float32 for narrower floats. `tf32`: the operands, float32, are rounded to 10 bits before they are multiplied.
    """

    a: Operand
    b: Operand
    y: Result
    lhs: Ints
    rhs: Ints
    out: Ints
    dtype: DTypeOf
    tf32: Mark
    structure = "contract"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        _check_floats("contraction", operands, attributes)
        lhs, rhs, out = (tuple(attributes[k]) for k in ("lhs", "rhs", "out"))
        sizes: dict[int, int] = {}
        for t, axes in zip(operands, (lhs, rhs)):
            if len(axes) != t.rank:
                raise ShapeError(f"contraction gives {len(axes)} indices for {t}")
            for i, n in zip(axes, t.shape):
                if sizes.setdefault(i, n) != n:
                    raise ShapeError(f"an index of a contraction is {sizes[i]} in {operands[0]} but {n} in {operands[1]}")
        for axes in (lhs, rhs, out):
            if len(set(axes)) != len(axes):
                raise ShapeError(f"a contraction repeats an index: {list(axes)}")
        for i in {*lhs, *rhs, *out}:
            if (i in lhs) + (i in rhs) + (i in out) < 2:
                raise ShapeError(f"index {i} of a contraction stands in one operand only")
        return [TensorType(attributes["dtype"], tuple(sizes[i] for i in out))]

    @property
    def summed(self) -> list[int]:
        """The indices that are summed over, in the order of `lhs`."""
        return [i for i in self.lhs if i not in self.out]

    @property
    def sizes(self) -> dict[int, int]:
        """The size of each index."""
        a, b = self.types()
        return dict(zip(self.lhs, a.shape)) | dict(zip(self.rhs, b.shape))

    def maps(self) -> Maps:
        order, sizes = list(self.out) + self.summed, self.sizes
        place = {i: index.Dim(k) for k, i in enumerate(order)}
        reads = tuple(tuple(place[i] for i in axes) for axes in (self.lhs, self.rhs))
        return Maps(tuple(sizes[i] for i in order), reads)

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        wide = np.promote_types(a.dtype, np.float32 if self.dtype.is_float else self.dtype.numpy)
        a, b = (rounded_to_tf32(x) if self.tf32 else x for x in (a, b))
        order = sorted({*self.lhs, *self.rhs})
        letter = {i: k for k, i in enumerate(order)}
        y = np.einsum(a.astype(wide), [letter[i] for i in self.lhs], b.astype(wide), [letter[i] for i in self.rhs],
                      [letter[i] for i in self.out], optimize=True)  # fmt: skip
        return y.astype(self.dtype.numpy) if y.dtype != np.float64 else y

    def gradient(self, g: ir.Value) -> list:
        a, b = self.types()
        from .elementwise import cast

        g = cast(g, a.dtype)
        da = contract(g, self.b, self.out, self.rhs, self.lhs, a.dtype, self.tf32)
        db = contract(self.a, g, self.lhs, self.out, self.rhs, b.dtype, self.tf32)
        return [da, db]


def contract(
    a: ir.Value, b: ir.Value, lhs: Sequence[int], rhs: Sequence[int], out: Sequence[int], dtype: DType | None = None, tf32: bool = False
) -> ir.Value:
    """`Contract` for any einsum of two operands: an index in one operand alone is summed there first."""
    from .reduction import Reduce

    def alone(x: ir.Value, mine: Sequence[int], other: Sequence[int]) -> tuple[ir.Value, list[int]]:
        lost = [k for k, i in enumerate(mine) if i not in other and i not in out]
        return (Reduce.of(x, kind="sum", axes=lost) if lost else x), [i for k, i in enumerate(mine) if k not in lost]

    a, lhs = alone(a, lhs, rhs)
    b, rhs = alone(b, rhs, lhs)
    return Contract.of(a, b, lhs=lhs, rhs=rhs, out=out, dtype=dtype or type_of(a).dtype, tf32=tf32)


class Conv(Op, name="conv"):
    """y[n, g, o, i...] = sum over c, u... of x[n, g, c, (i*stride + u*dilation - low) / spacing ...] * w[g, o, c, u...].

    A read outside x, or between its elements where `spacing` > 1 (a transposed convolution), is 0. The group axis is explicit, which makes the two
    gradients convolutions again: that of x has stride and spacing exchanged and w turned round, that of w has stride and dilation exchanged and
    the batch as its channels. All of `stride`, `dilation`, `spacing`, `low` and `size` (the result's extents) have one entry a space axis.
    `tf32` as in `Contract`.
    """

    x: Operand
    w: Operand
    y: Result
    stride: Ints
    dilation: Ints
    spacing: Ints
    low: Ints
    size: Ints
    dtype: DTypeOf
    tf32: Mark
    structure = "contract"

    @classmethod
    def infer(cls, operands: Sequence[TensorType], **attributes: Any) -> list[TensorType]:
        _check_floats("convolution", operands, attributes)
        x, w = operands
        space = x.rank - 3
        if space < 1 or w.rank != x.rank or x.shape[1] != w.shape[0] or x.shape[2] != w.shape[2]:
            raise ShapeError(f"convolution of {x} [n, g, c, ...] with {w} [g, o, c, ...]")
        for k in ("stride", "dilation", "spacing", "low", "size"):
            if len(attributes[k]) != space:
                raise ShapeError(f"convolution over {space} axes with {len(attributes[k])} entries of {k}")
        return [TensorType(attributes["dtype"], (x.shape[0], x.shape[1], w.shape[1], *attributes["size"]))]

    def maps(self) -> Maps:
        x, w = self.types()
        space = x.rank - 3
        n, g, o = index.Dim(0), index.Dim(1), index.Dim(2)
        c = index.Dim(3 + space)
        taps = [index.Dim(4 + space + k) for k in range(space)]
        at: list[index.Expr] = []
        guards = []
        for k in range(space):
            e = index.Dim(3 + k) * self.stride[k] + taps[k] * self.dilation[k] - self.low[k]
            if self.spacing[k] > 1:
                guards.append((0, e % self.spacing[k]))
                e = e // self.spacing[k]
            at.append(e)
        domain = (*self.type.shape, w.shape[2], *w.shape[3:])
        return Maps(domain, ((n, g, c, *at), (g, o, c, *taps)), outside=0.0, guards=tuple(guards))

    def reference(self, x: np.ndarray, w: np.ndarray) -> np.ndarray:
        wide = np.promote_types(x.dtype, np.float32)
        x, w = (rounded_to_tf32(v) if self.tf32 else v.astype(wide) for v in (x, w))
        space = x.ndim - 3
        spaced = np.zeros([*x.shape[:3], *((n - 1) * s + 1 if n else 0 for n, s in zip(x.shape[3:], self.spacing))], wide)
        spaced[(Ellipsis, *[slice(None, None, s) for s in self.spacing])] = x  # type: ignore[index]
        y = np.zeros((x.shape[0], x.shape[1], w.shape[1], *self.size), wide)
        for tap in np.ndindex(*w.shape[3:]):
            into: list[Any] = []
            source: list[Any] = []
            for k in range(space):  # i with 0 <= i*stride + offset < length
                offset = tap[k] * self.dilation[k] - self.low[k]
                first = max(0, -(offset // self.stride[k]))
                last = min(self.size[k] - 1, (spaced.shape[3 + k] - 1 - offset) // self.stride[k])
                into.append(slice(first, last + 1))
                source.append(slice(first * self.stride[k] + offset, last * self.stride[k] + offset + 1, self.stride[k]))
                if last < first:
                    break
            else:
                part = spaced[(..., *source)]
                y[(..., *into)] += np.einsum("ngc...,goc->ngo...", part, w[(..., *tap)], optimize=True)
        return y.astype(self.dtype.numpy) if wide != np.float64 else y

    def gradient(self, g: ir.Value) -> list:
        from .elementwise import cast

        x, w = self.types()
        space, g = x.rank - 3, cast(g, x.dtype)
        turned = transpose(self.w, [0, 2, 1, *range(3, x.rank)])
        for k in range(space):
            turned = reverse(turned, 3 + k)
        reach = [(n - 1) * d for n, d in zip(w.shape[3:], self.dilation)]
        dx = Conv.of(g, turned, stride=self.spacing, dilation=self.dilation, spacing=self.stride,
                     low=[r - low for r, low in zip(reach, self.low)], size=x.shape[3:], dtype=x.dtype, tf32=self.tf32)  # fmt: skip
        swapped = transpose(self.x, [2, 1, 0, *range(3, x.rank)])  # [c, g, n, ...]: the batch is summed over
        kernels = transpose(g, [1, 2, 0, *range(3, x.rank)])  # [g, o, n, ...]
        dw = Conv.of(swapped, kernels, stride=self.dilation, dilation=self.stride, spacing=self.spacing,
                     low=self.low, size=w.shape[3:], dtype=w.dtype, tf32=self.tf32)  # fmt: skip
        return [dx, transpose(dw, [1, 2, 0, *range(3, x.rank)])]
