"""Sums of products as the best op that fits: scalings pulled out, contractions in a good order, convolutions where the reads have that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

from dslc.core import dtypes
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of

from .values import Point, number


@dataclass(eq=False)
class IndexVar:
    """An index of an equation. `number` is its dim in index expressions, `place` its place in the equation's order: left side first."""

    name: str
    number: int
    size: int = -1
    place: int = 1 << 20

    def __repr__(self) -> str:
        return f"{self.name}<{self.size}"


@dataclass(frozen=True)
class ReadInfo:
    """An affine read: the tensor, an expression for each of its axes, the value outside."""

    base: ir.Value
    entries: tuple[index.Expr, ...]
    outside: float


def ordered(axes: Sequence[IndexVar]) -> tuple[IndexVar, ...]:
    """In the equation's order, each once."""
    return tuple(sorted(set(axes), key=lambda v: (v.place, v.number)))


def aligned(point: Point, axes: Sequence[IndexVar]) -> ir.Value:
    """The point's tensor over exactly these indices, in this order; indices it lacks repeat it."""
    place = {v: k for k, v in enumerate(axes)}
    return ops.broadcast(point.value, [v.size for v in axes], [place[v] for v in point.axes])


def multiply(a: Point, b: Point) -> Point:
    axes = ordered([*a.axes, *b.axes])
    return Point(ops.Mul.of(aligned(a, axes), aligned(b, axes)), axes)


def scale(a: Point, factor: float | int) -> Point:
    return a if factor == 1 else Point(ops.Mul.of(a.value, number(factor, a.type.dtype, a.type.shape)), a.axes)


def sum_out(a: Point, reduced: Sequence[IndexVar]) -> Point:
    """a summed over those of the indices that it has."""
    axes = [k for k, v in enumerate(a.axes) if v in reduced]
    if not axes:
        return a
    return Point(ops.Reduce.of(a.value, kind="sum", axes=axes), tuple(v for v in a.axes if v not in reduced))


def sum_of_product(factors: list[Point], number: float | int, reduced: Sequence[IndexVar], varying: bool = False) -> Point | float | int:
    """The sum over `reduced` of the product of the factors and a number. Factors have one dtype. `varying`: of a model with bounded dimensions."""
    inside = {v for f in factors for v in f.axes}
    number *= prod(v.size for v in reduced if v not in inside)
    if not factors:
        return number
    left = [f for f in factors if not set(f.axes) & set(reduced)]
    work = [f for f in factors if set(f.axes) & set(reduced)]
    work = _merged(work)
    while work:
        work = [sum_out(f, [v for v in reduced if not any(v in g.axes for g in work if g is not f)]) for f in work]
        if len(work) == 1:
            break
        a, b = _best_pair(work, left, reduced)
        others = [f for f in work if f is not a and f is not b]
        gone = [v for v in reduced if not any(v in f.axes for f in others)]
        work = [*others, pair(a, b, gone, varying)]
    result: Point | None = None
    for f in sorted([*work, *left], key=lambda f: len(f.axes)):
        result = f if result is None else multiply(result, f)
    assert result is not None
    return scale(result, number)


def _merged(factors: list[Point]) -> list[Point]:
    """Factors over the same indices become one by elementwise products, and so does, while there are more than two, a factor over some of another's
    with that one: the smallest products first, for they are made point by point."""
    out: list[Point] = []
    for f in sorted(factors, key=lambda f: f.read is not None):
        host = next((k for k, g in enumerate(out) if set(f.axes) == set(g.axes)), None)
        if host is None:
            out.append(f)
        else:
            out[host] = multiply(out[host], f)
    while len(out) > 2:
        held = [(prod(v.size for v in g.axes), f, g) for f in out for g in out if f is not g and set(f.axes) <= set(g.axes)]
        if not held:
            break
        _, f, g = min(held, key=lambda h: h[0])
        out = [multiply(g, f) if h is g else h for h in out if h is not f]
    return out


def _best_pair(factors: list[Point], left: list[Point], reduced: Sequence[IndexVar]) -> tuple[Point, Point]:
    """The two whose product costs least: the size of their joint index space, then of the result."""

    def cost(pair: tuple[Point, Point]) -> tuple[int, int]:
        a, b = pair
        joint = {*a.axes, *b.axes}
        others = {v for f in factors if f is not a and f is not b for v in f.axes}
        kept = [v for v in joint if v not in reduced or v in others]
        return prod(v.size for v in joint), prod(v.size for v in kept)

    return min(combinations(factors, 2), key=cost)


def pair(a: Point, b: Point, gone: Sequence[IndexVar], varying: bool) -> Point:
    """The product of two factors summed over `gone`."""
    shared = [v for v in gone if v in a.axes and v in b.axes]
    a, b = sum_out(a, [v for v in gone if v not in b.axes]), sum_out(b, [v for v in gone if v not in a.axes])
    if not shared:
        return multiply(a, b)
    for x, w in ((a, b), (b, a)):
        made = convolution(x, w, shared, varying)
        if made is not None:
            return made
    out = ordered([v for v in (*a.axes, *b.axes) if v not in shared])
    ids = {v: k for k, v in enumerate(ordered([*a.axes, *b.axes]))}
    if not a.type.dtype.is_float and not a.type.dtype.is_integer:
        raise AssertionError("a product of truth values")
    value = ops.contract(a.value, b.value, [ids[v] for v in a.axes], [ids[v] for v in b.axes], [ids[v] for v in out])
    return Point(value, out)


# --- convolutions ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Space:
    """A space axis of a convolution: x is read at i*stride + u*dilation - low; `reversed`, u counts the taps from the last one."""

    axis: int
    i: IndexVar
    u: IndexVar
    stride: int
    dilation: int
    low: int
    reversed: bool


@dataclass(frozen=True)
class _Group:
    """The channels of x in groups: output channel o reads x at o // each * (channels of a group) + c, or, where every group has one, at o // each."""

    axis: int
    o: IndexVar
    c: IndexVar | None
    each: int


def convolution(x: Point, w: Point, shared: Sequence[IndexVar], varying: bool) -> Point | None:
    """Sum over `shared` of x's window read times w as one `Conv`, where it has the form of one; else None. Taps that go backwards are none where
    summed channels lie last, since products of windows as they lie are faster, nor where lengths vary and there are as many taps as places: padding
    would follow from the length."""
    info = x.read
    if not isinstance(info, ReadInfo) or info.outside != 0 or not x.type.dtype.is_float:
        return None
    base = type_of(info.base)
    by_number = {v.number: v for v in (*x.axes, *w.axes)}
    rank = max(by_number) + 1
    spaces: list[_Space] = []
    batch: list[tuple[int, IndexVar]] = []
    single: list[int] = []  # axes of one element, which no index names
    channel: tuple[int, IndexVar] | None = None
    group: _Group | None = None
    for axis, entry in enumerate(info.entries):
        found = index.coefficients(entry, rank)
        if found is None:
            made = _grouped(axis, entry, base.shape[axis], by_number, w, shared)
            if made is None or group is not None:
                return None
            group = made
            continue
        terms = [(by_number[k], f) for k, f in enumerate(found[0]) if f]
        if not terms and found[1] == 0 and base.shape[axis] == 1:
            single.append(axis)
            continue
        kind = _kind(terms, found[1], base.shape[axis], w, shared)
        if kind == "space":
            spaces.append(_space(axis, terms, found[1], w, shared))
        elif kind == "batch":
            batch.append((axis, terms[0][0]))
        elif kind == "channel" and channel is None:
            channel = (axis, terms[0][0])
        elif kind == "group" and group is None:
            group = _Group(axis, terms[0][0], None, 1)
        else:
            return None
    channels = [v for v in (channel[1] if channel else None, group.c if group else None) if v is not None]
    used = {v for s in spaces for v in (s.i, s.u)} | {v for _, v in batch} | set(channels) | ({group.o} if group else set())
    if not spaces or len(spaces) > 3 or len(channels) > 1 or {s.u for s in spaces} | set(channels) != set(shared):
        return None
    outs = [v for v in w.axes if v not in used]
    last = channel is not None and channel[0] > max(s.axis for s in spaces)
    if any(s.reversed and (last or (varying and s.u.size == s.i.size)) for s in spaces):
        return None
    if set(x.axes) - used or len({s.i for s in spaces}) < len(spaces) or any(s.i in w.axes for s in spaces):
        return None
    return _build(info.base, w, spaces, single, batch, channel, group, outs)


def _grouped(axis: int, entry: index.Expr, size: int, by_number: dict[int, IndexVar], w: Point, shared: Sequence[IndexVar]) -> _Group | None:
    """`o // each * per + c` with c the channels of a group; None where the entry is something else."""
    terms = dict(entry.terms) if isinstance(entry, index.Sum) and entry.constant == 0 else {entry: 1}
    quotients = [(t, f) for t, f in terms.items() if isinstance(t, index.FloorDiv) and isinstance(t.dividend, index.Dim)]
    others = [(t, f) for t, f in terms.items() if not isinstance(t, index.FloorDiv)]
    if len(quotients) != 1 or len(others) > 1:
        return None
    (quotient, per), o = quotients[0], by_number[quotients[0][0].dividend.axis]
    c = by_number[others[0][0].axis] if others and isinstance(others[0][0], index.Dim) and others[0][1] == 1 else None
    if o in shared or o not in w.axes or o.size % quotient.divisor or per * (o.size // quotient.divisor) != size:
        return None
    if (c is None and (others or per != 1)) or (c is not None and (c.size != per or c not in shared or c not in w.axes)):
        return None
    return _Group(axis, o, c, quotient.divisor)


def _kind(terms: list, constant: int, size: int, w: Point, shared: Sequence[IndexVar]) -> str:
    """What an axis of x is, from the index terms of its read."""
    inner = [v for v, _ in terms if v in shared and v in w.axes]
    outer = [v for v, _ in terms if v not in shared]
    if len(terms) == 2 and len(inner) == 1 and len(outer) == 1:
        stride = next(f for v, f in terms if v in outer)
        dilation = next(f for v, f in terms if v in inner)
        return "space" if stride > 0 and dilation and outer[0] not in w.axes else "none"
    if len(terms) == 1 and terms[0][1] == 1 and constant == 0 and terms[0][0].size == size:
        if inner:
            return "channel"
        return "group" if outer[0] in w.axes else "batch"
    return "none"


def _space(axis: int, terms: list, constant: int, w: Point, shared: Sequence[IndexVar]) -> _Space:
    (i, stride) = next((v, f) for v, f in terms if v not in shared)
    (u, dilation) = next((v, f) for v, f in terms if v in shared)
    before = (u.size - 1) * max(0, -dilation)
    return _Space(axis, i, u, stride, abs(dilation), before - constant, dilation < 0)


def _build(
    base: ir.Value, w: Point, spaces: list[_Space], single: list[int], batch: list, channel: Any, group: _Group | None, outs: list[IndexVar]
) -> Point:
    """The convolution: x as [batch, group, channel, space...], w as [group, out, channel, taps...]."""
    order = single + [a for a, _ in batch] + ([group.axis] if group else []) + ([channel[0]] if channel else []) + [s.axis for s in spaces]
    x = ops.transpose(base, order)
    sizes = type_of(x).shape
    n = prod(sizes[: len(single) + len(batch)])
    c = channel[1] if channel else group.c if group else None
    groups, each, channels = (group.o.size // group.each if group else 1), (group.each if group else 1), (c.size if c else 1)
    x = ops.reshape(x, (n, groups, channels, *sizes[len(order) - len(spaces) :]))
    w_order = ([group.o] if group else []) + outs + ([c] if c else []) + [s.u for s in spaces]
    kernel = ops.transpose(w.value, [w.axes.index(v) for v in w_order])
    for s in spaces:
        kernel = ops.reverse(kernel, w_order.index(s.u)) if s.reversed else kernel
    kernel = ops.reshape(kernel, (groups, each * prod(v.size for v in outs), channels, *(s.u.size for s in spaces)))
    y = ops.Conv.of(x, kernel, stride=[s.stride for s in spaces], dilation=[s.dilation for s in spaces], spacing=[1] * len(spaces),
                    low=[s.low for s in spaces], size=[s.i.size for s in spaces], dtype=type_of(x).dtype)  # fmt: skip
    axes = [v for _, v in batch] + ([group.o] if group else []) + outs + [s.i for s in spaces]
    y = ops.reshape(y, [v.size for v in axes])
    final = ordered(axes)
    return Point(ops.transpose(y, [axes.index(v) for v in final]), final)


def index_value(v: IndexVar) -> Point:
    """The index as an integer tensor."""
    return Point(ops.Iota.of(axis=0, shape=[v.size], dtype=dtypes.INT32), (v,))
