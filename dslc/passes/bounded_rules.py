"""How each op is made for lengths of the run: what of its operands does not count is replaced by what changes nothing. See `bounded`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from math import inf, isfinite, nan
from typing import Any

from dslc.core import dtypes
from dslc.core.lengths import Length, length, parts_of
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.types import TensorType, type_of

from .bounded import ALIKE, ANYTHING, OTHERS, Axis, Emitter, Value

Made = Value | list[Value]


def _axes(shape: Sequence[Length]) -> tuple[Axis, ...]:
    return tuple(Axis((n,)) for n in shape)


def _free(shape: Sequence[Length]) -> tuple[Axis, ...]:
    return tuple(Axis((n,), free=True) for n in shape)


def _common(e: Emitter, op: Op, axes: Sequence[Axis]) -> Axis:
    """The axis that operands share at one place."""
    bound = [a for a in axes if not a.free] or list(axes)
    if not all(a.like(bound[0]) for a in bound if not a.fixed):
        raise e.unsupported(op, "an axis joins dimensions in another order than the one it meets")
    return bound[0]


def _together(e: Emitter, op: Op, xs: Sequence[Value]) -> tuple[Axis, ...]:
    """The axes of operands of one shape."""
    return tuple(_common(e, op, at) for at in zip(*(x.axes for x in xs)))


def _plain(e: Emitter, op: Op, axis: Axis, what: str) -> None:
    if not axis.plain:
        raise e.unsupported(op, f"{what} an axis that joins dimensions")


# --- elementwise, generators ------------------------------------------------------------------------------------------------------------


# Ops whose slopes are numbers of their own; those of all others hang on their operands' values.
STRAIGHT = (ops.Add, ops.Sub, ops.Neg, ops.Select, ops.Cast, ops.StopGradient, ops.Max, ops.Min)
# Operands for which some numbers have no finite value or slope, and a number that is none of these.
SINGULAR: dict[type[Op], dict[int, float]] = {
    ops.Log: {0: 1}, ops.Sqrt: {0: 1}, ops.Rsqrt: {0: 1}, ops.Pow: {0: 1, 1: 1}, ops.Div: {1: 1}, ops.Atan2: {0: 1}, ops.Log1p: {0: 0},
    ops.Exp: {0: 0}, ops.Expm1: {0: 0}, ops.Sinh: {0: 0}, ops.Cosh: {0: 0}, ops.Asin: {0: 0}, ops.Acos: {0: 0}, ops.Acosh: {0: 2},
    ops.Atanh: {0: 0}, ops.FloorDiv: {1: 1}, ops.Mod: {1: 1},
}  # fmt: skip


def _others(e: Emitter, *xs: Value) -> int:
    """What lies behind where it is made of operands in another way than what counts."""
    return min([OTHERS, *(e.behind(x) for x in xs)])


def _pairs(xs: Sequence[Value]) -> bool:
    """Whether elements of one axis meet those of another. Inputs repeat their last element, which may be in none of the pairs that count."""
    moving = [{k for k in x.varying if not x.axes[k].free} for x in xs]
    return any(a - b and b - a for a, b in combinations(moving, 2))


def elementwise(e: Emitter, op: Op, *xs: Value) -> Made:
    dtype = type_of(op.results[0]).dtype
    if dtype.is_float and not isinstance(op, STRAIGHT):
        poles = SINGULAR.get(type(op), {})
        xs = tuple(e.tamed(x, ALIKE, poles[k]) if k in poles else e.tamed(x) for k, x in enumerate(xs))
        behind = min(e.behind(x) if e.gradients or k not in poles or e.behind(x) == ALIKE else ANYTHING for k, x in enumerate(xs))
    else:
        behind = ALIKE if dtype.is_bool else min(e.behind(x) for x in xs)
    if dtype.is_integer:
        behind = max(behind, OTHERS)
    elif dtype.is_float and _pairs(xs):
        behind = min(behind, OTHERS)
    zero = xs[0].zero if isinstance(op, (ops.Cast, ops.StopGradient)) else frozenset[int]()
    return Value(e.again(op, *(x.value for x in xs))[0], _together(e, op, xs), zero, behind)


def _constant(e: Emitter, op: ops.Constant) -> Made:
    number = e.varying.attributes.get(op.results[0], {}).get("value")
    shape = e.shape(op.results[0])
    t = op.type.with_shape(e.at(shape))
    if op.uniform is None:
        raise e.unsupported(op, "a table of numbers has a size of its own")
    value = ops.full(t, op.uniform, op.exact) if number is None else ops.spread(e.number(number, t.dtype), t)
    return Value(value, _free(shape), behind=ALIKE if not t.dtype.is_float or number is not None or isfinite(op.uniform) else ANYTHING)


def _iota(e: Emitter, op: ops.Iota) -> Made:
    shape = e.shape(op.results[0])
    axes = tuple(Axis((n,), free=k != op.axis) for k, n in enumerate(shape))
    return Value(e.again(op, shape=e.at(shape))[0], axes, behind=ALIKE if shape[op.axis].fixed else OTHERS)


def _random(e: Emitter, op: ops.Random, *xs: Value) -> Made:
    """Draws are counted in the shape that the bounds give, whatever part of it is made."""
    from .bounded import resized

    shape = e.shape(op.results[0])
    whole = e.again(op, *(x.value for x in xs), shape=tuple(n.at(e.bounds) for n in shape))[0]
    return Value(resized(whole, e.at(shape)), _axes(shape))


# --- movement ---------------------------------------------------------------------------------------------------------------------------


def _view(e: Emitter, op: ops.View, x: Value) -> Made:
    rows, offsets, shape = op.matrix, e.attribute(op, "offsets"), e.shape(op.results[0])
    axes = [Axis((n,), free=all(row[k] == 0 for row in rows)) for k, n in enumerate(shape)]
    cut: list[int] = []
    zero: set[int] = set()
    beyond = False
    for a, (row, offset, axis) in enumerate(zip(rows, offsets, x.axes)):
        used = [k for k, f in enumerate(row) if f]
        if used and row[used[0]] == 1 and len(used) == 1 and offset == length(0) and shape[used[0]] == axis.length:
            axes[used[0]] = _common(e, op, [axis, axes[used[0]]]) if any(r[used[0]] for r in rows[:a]) else axis
            zero |= {used[0]} if a in x.zero and op.outside == 0 else set()
        elif not axis.fixed:
            if used or offset != length(0):
                _plain(e, op, axis, "this reads other places of")
            if not e.fits(_top(row, offset, shape), axis.length):
                cut.append(a)
        beyond = beyond or not offset.fixed or any(not shape[k].fixed and shape[k] != axis.length for k in used)
    value = e.masked(x, cut, op.outside)
    fixed = list(offsets)
    for a, offset in enumerate(offsets):
        if not offset.fixed:
            value, fixed[a] = _shifted(e, value, a, rows[a], offset, shape, op.outside)
    made = e.again(op, value, offsets=e.at(fixed), shape=e.at(shape))[0]
    return _read(Value(made, tuple(axes), frozenset(zero)), e.behind(x), bool(cut) or beyond, op.outside)


def _read(y: Value, behind: int, beyond: bool, outside: float) -> Value:
    """What a read gives: where it does not count it may lie outside."""
    return replace(y, behind=min(behind, ALIKE if not beyond else OTHERS if isfinite(outside) else ANYTHING))


def _top(row: Sequence[int], offset: Length, shape: Sequence[Length]) -> Length:
    """The last place that a row of strides reads."""
    top = offset
    for f, n in zip(row, shape):
        if f > 0:
            top = top + (n - 1) * f
    return top


def _shifted(
    e: Emitter, x: ir.Value, axis: int, row: Sequence[int], offset: Length, shape: Sequence[Length], outside: float
) -> tuple[ir.Value, Length]:
    """x moved along an axis so that a read whose offset follows from the length has a fixed one; (what is read, that offset)."""
    sizes = e.at(shape)
    ends = [sorted((0, f * (n - 1))) for f, n in zip(row, sizes)]
    low, high = sum(a for a, _ in ends), sum(b for _, b in ends)
    place = ops.Iota.of(axis=0, shape=[high - low + 1], dtype=dtypes.INT32)
    ids = ops.Add.of(place, ops.spread(e.extent(offset + low), type_of(place)))
    return _picked(x, axis, ids, outside), length(-low)


def _picked(x: ir.Value, axis: int, ids: ir.Value, outside: float) -> ir.Value:
    """The elements of x at `ids` along an axis."""
    rank = type_of(x).rank
    order = [axis, *(k for k in range(rank) if k != axis)]
    found = ops.Gather.of(ops.transpose(x, order), ids, batch=0, outside=outside)
    return ops.transpose(found, [order.index(k) for k in range(rank)])


def _reshape(e: Emitter, op: ops.Reshape, x: Value) -> Made:
    """Blocks stay whole: each axis of the result is a product of blocks of the operand's axes, of which fixed ones may be split."""
    shape = e.shape(op.results[0])
    rest = [(part, axis.free) for axis in x.axes for part in axis.parts if part != length(1)]
    axes = []
    for n in shape:
        parts: list[Length] = []
        frees: list[bool] = []
        have = length(1)
        while have != n:
            taken = _taken(have, n, rest)
            if taken is None:
                raise e.unsupported(op, "a dimension is cut up")
            part, free = taken
            parts.append(part)
            frees.append(free)
            have = have * part
        axes.append(Axis(tuple(parts) or (length(1),), free=bool(frees) and all(frees)))
    return Value(e.again(op, x.value, shape=e.at(shape))[0], tuple(axes))


def _taken(have: Length, want: Length, rest: list[tuple[Length, bool]]) -> tuple[Length, bool] | None:
    """The next block, or as much of a fixed one as is missing; taken from `rest`."""
    if not rest:
        return None
    part, free = rest.pop(0)
    if part.dims & have.dims:
        return None
    grown = have * part
    if part.fixed and len(want.terms) == len(have.terms):
        missing = want.terms[0][1] / have.terms[0][1]
        n = part.terms[0][1] if part.terms else 0
        if have * int(missing) == want and n > missing >= 1 and n % missing == 0:
            rest.insert(0, (length(int(n // missing)), free))
            return length(int(missing)), free
    return (part, free) if grown.dims <= want.dims else None


def _concat(e: Emitter, op: ops.Concat, *xs: Value) -> Made:
    axis, shape = op.axis, e.shape(op.results[0])
    axes = [_common(e, op, [x.axes[k] for x in xs]) if k != axis else Axis((shape[k],)) for k in range(len(shape))]
    for x in xs:
        _plain(e, op, x.axes[axis], "this joins")
    starts = [length(0)]
    for x in xs[:-1]:
        starts.append(starts[-1] + x.axes[axis].length)
    if all(s.fixed for s in starts):
        return Value(e.again(op, *(x.value for x in xs))[0], tuple(axes))
    sizes = e.at(shape)
    place = ops.Iota.of(axis=0, shape=[sizes[axis]], dtype=dtypes.INT32)
    out = None
    for x, start, end in reversed(list(zip(xs, starts, [*starts[1:], None]))):
        ids = ops.Sub.of(place, ops.spread(e.extent(start), type_of(place)))
        moved = _picked(x.value, axis, ids, 0.0)
        if out is not None and end is not None:
            before = ops.Compare.of(place, ops.spread(e.extent(end), type_of(place)), predicate="lt")
            moved = ops.Select.of(ops.broadcast(before, sizes, [axis]), moved, out)
        out = moved
    assert out is not None
    return Value(out, tuple(axes), behind=_others(e, *xs))


def _gather(e: Emitter, op: ops.Gather, x: Value, *ids: Value) -> Made:
    batch, k = op.batch, len(ids)
    for axis in x.axes[batch : batch + k]:
        _plain(e, op, axis, "this looks up places of")
    where = list(_together(e, op, ids))
    where[:batch] = [_common(e, op, [a, b]) for a, b in zip(where, x.axes[:batch])]
    value = e.masked(x, range(batch, batch + k), op.outside)
    y = Value(e.again(op, value, *(i.value for i in ids))[0], (*where, *x.axes[batch + k :]))
    return _read(y, e.behind(x), bool(Value(x.value, tuple(where)).varying), op.outside)


def _scatter(e: Emitter, op: ops.Scatter, u: Value, *ids: Value) -> Made:
    batch, rank, sizes = op.batch, len(ids[0].axes), e.attribute(op, "sizes")
    where = _together(e, op, ids)
    first = Value(ids[0].value, tuple(_common(e, op, [a, b]) for a, b in zip(where, u.axes)))
    dropped = e.masked(first, range(batch, rank), -1)
    made = e.again(op, u.value, dropped, *(i.value for i in ids[1:]), sizes=e.at(sizes))[0]
    return Value(made, (*first.axes[:batch], *_axes(sizes), *u.axes[rank:]), behind=_others(e, u))


# --- folds ------------------------------------------------------------------------------------------------------------------------------


def _reduce(e: Emitter, op: ops.Reduce, x: Value) -> Made:
    value = e.masked(x, op.axes, ops.identity(op.kind, x.type.dtype))
    kept = [k for k in range(len(x.axes)) if k not in op.axes]
    zero = {n for n, k in enumerate(kept) if k in x.zero and op.kind == "sum"}
    return e.tamed(Value(e.again(op, value)[0], tuple(x.axes[k] for k in kept), frozenset(zero), e.behind(x)))


def _argreduce(e: Emitter, op: ops.ArgReduce, x: Value) -> Made:
    _plain(e, op, x.axes[op.axis], "this gives a place of")
    value = e.masked(x, [op.axis], ops.identity(op.kind, x.type.dtype))
    return Value(e.again(op, value)[0], tuple(a for k, a in enumerate(x.axes) if k != op.axis))


def _softmax(e: Emitter, op: ops.Softmax | ops.LogSoftmax, x: Value) -> Made:
    value = e.masked(x, [op.axis], -inf)
    if isinstance(op, ops.LogSoftmax):
        return Value(e.again(op, value)[0], x.axes)
    return Value(e.again(op, value)[0], x.axes, frozenset([op.axis]), OTHERS)


def _cumulative(e: Emitter, op: ops.Cumulative, x: Value) -> Made:
    """Forwards, what does not count comes last and changes nothing; but products of ever more numbers may be infinite."""
    axis = x.axes[op.axis]
    late = not op.reverse and (len(axis.parts) == 1 or axis.free) and op.kind != "prod"
    value = x.value if late else e.masked(x, [op.axis], ops.identity(op.kind, x.type.dtype))
    return Value(e.again(op, value)[0], _settled(x.axes), behind=_others(e, x))


def _sort(e: Emitter, op: ops.Sort, x: Value) -> Made:
    """What does not count comes last: NaN does, and the greatest integer, since equal elements keep their order."""
    axis, count = x.axes[op.axis], e.attribute(op, "count")
    _plain(e, op, axis, "this orders")
    dtype = x.type.dtype
    last = nan if dtype.is_float else ops.identity("max" if op.descending else "min", dtype)
    values, order = e.again(op, e.masked(x, [op.axis], last), count=e.at([count])[0])
    made = Value(values, tuple(Axis((count,) if k == op.axis and count != axis.length else a.parts) for k, a in enumerate(x.axes)))
    return [Value(e.masked(made, [op.axis], 0), made.axes, frozenset({op.axis}), OTHERS), Value(order, made.axes)]


def _contract(e: Emitter, op: ops.Contract, a: Value, b: Value) -> Made:
    axes: dict[int, list[Axis]] = {}
    for x, indices in ((a, op.lhs), (b, op.rhs)):
        for i, axis in zip(indices, x.axes):
            axes.setdefault(i, []).append(axis)
    common = {i: _common(e, op, found) for i, found in axes.items()}
    a, b = (replace(e.tamed(x), axes=tuple(common[i] for i in indices)) for x, indices in ((a, op.lhs), (b, op.rhs)))
    values = _nothing_more(e, [(a, [k for k, i in enumerate(op.lhs) if i in op.summed]), (b, [k for k, i in enumerate(op.rhs) if i in op.summed])])
    return Value(e.again(op, *values)[0], tuple(common[i] for i in op.out))


def _nothing_more(e: Emitter, factors: Sequence[tuple[Value, Sequence[int]]]) -> list[ir.Value]:
    """Factors of products that are summed over some of their axes: one is 0 where they do not count, and the other then, unless it is finite there,
    since 0 times infinity is no zero."""
    cut = [[k for k in axes if not x.axes[k].fixed and k not in x.zero] for x, axes in factors]
    first = min((0, 1), key=lambda n: (len(cut[n]), factors[n][0].type.size))
    return [x.value if n != first and e.behind(x) > ANYTHING else e.masked(x, cut[n], 0) for n, (x, _) in enumerate(factors)]


def _conv(e: Emitter, op: ops.Conv, x: Value, w: Value) -> Made:
    x, w = e.tamed(x), e.tamed(w)
    shape = e.shape(op.results[0])
    space = len(op.stride)
    for axis in (*x.axes[2:], *w.axes[2:]):
        _plain(e, op, axis, "this is a window over")
    cut = []
    for k in range(space):
        at = 3 + k
        top = (shape[at] - 1) * op.stride[k] + (w.axes[at].length - 1) * op.dilation[k] - op.low[k]
        if op.spacing[k] > 1 or not e.fits(top, x.axes[at].length):
            cut.append(at)
    taps = range(3, 3 + space)
    x, w = replace(x, value=e.masked(x, cut, 0)), replace(w, value=e.masked(w, taps, 0))
    made = e.again(op, *_nothing_more(e, [(x, [2]), (w, [2])]), size=e.at(e.attribute(op, "size")))[0]
    group = _common(e, op, [x.axes[1], w.axes[0]])
    return Value(made, (x.axes[0], group, w.axes[1], *_axes(shape[3:])), behind=_others(e, x, w))


# --- regions ----------------------------------------------------------------------------------------------------------------------------


def _grad(e: Emitter, op: ops.Grad, loss: Value, *wrt: Value) -> Made:
    made = e.again(op, loss.value, *(x.value for x in wrt))
    return [Value(g, _settled(x.axes), behind=min(e.behind(x), OTHERS)) for g, x in zip(made, wrt)]


def _settled(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """Axes of what changes: no more alike along them."""
    return tuple(Axis(a.parts) for a in axes)


def _scan(e: Emitter, op: ops.Scan, *xs: Value) -> Made:
    """All turns of the greatest size; a turn that does not count is one more like the last that does, and leaves the carries as they are."""
    trip = e.attribute(op, "trip")
    c, k = op.constants, op.carries
    constants, carries, slices = list(xs[:c]), [Value(x.value, _settled(x.axes)) for x in xs[c : c + k]], list(xs[c + k :])
    for x in slices:
        _plain(e, op, x.axes[0], "this runs over")
    if not trip.fixed and e.gradients:
        slices = [_lasting(e, x, trip) for x in slices]
    dims = sorted({*(parts_of(name)[0] for name in trip.dims), *e.dims_in(op)})
    old = op.regions[0].blocks[0]
    emits = list(list(old.operations)[-1].operands)[k:]
    types = [TensorType(type_of(v).dtype, e.at(e.shape(v))) for v in emits]
    given = [*(x.value for x in constants), *(e.extents[d] for d in dims)]
    made = ops.Scan.build(given, [x.value for x in carries], [x.value for x in slices], types, e.at([trip])[0], op.backward)
    block = made.regions[0].blocks[0]
    turn, *inner = block.arguments
    shown = [*constants, *carries, *(Value(x.value, x.axes[1:]) for x in slices)]
    places = [*inner[:c], *inner[c + len(dims) :]]
    behind = min((e.behind(x) for x in (*constants, *carries, *slices)), default=ALIKE)
    for argument, place, x in zip(list(old.arguments)[1:], places, shown):
        e.env[argument] = Value(place, x.axes, behind=behind)
    with ir.InsertionPoint(block), e.region(dict(zip(dims, inner[c : c + len(dims)]))):
        e.env[old.arguments[0]] = Value(turn if trip.fixed else ops.Min.of(turn, e.extent(trip - 1)), ())
        ends = e.block(old)
        yielded = [x.value for x in ends]
        for n, (x, carry) in enumerate(zip(ends, carries)):
            _together(e, op, [carry, x])
            if not trip.fixed:
                now = ops.Compare.of(turn, e.extent(trip), predicate="lt")
                yielded[n] = ops.Select.of(ops.spread(now, x.type.with_dtype(dtypes.BOOL)), x.value, inner[c + len(dims) + n])
        ops.Yield.of(*yielded)
    results = list(made.results)
    behind = min([behind, *(e.behind(x) for x in ends)])
    stacks = [Value(v, (Axis((trip,)), *_settled(x.axes)), behind=behind) for v, x in zip(results[k:], ends[k:])]
    return [*(Value(v, x.axes, behind=behind) for v, x in zip(results, carries)), *stacks]


def _lasting(e: Emitter, x: Value, trip: Length) -> Value:
    """x with the last element that counts of its first axis in the place of all behind it, where others lie there."""
    if e.behind(x) == ALIKE or x.axes[0].fixed or not x.type.dtype.is_float:
        return x
    place = ops.Iota.of(axis=0, shape=[x.type.shape[0]], dtype=dtypes.INT32)
    last = ops.Min.of(place, ops.spread(e.extent(trip - 1), type_of(place)))
    return replace(x, value=_picked(x.value, 0, last, 0.0), behind=e.behind(x) if len(x.varying) > 1 else ALIKE)


def _cond(e: Emitter, op: ops.Cond, condition: Value, *xs: Value) -> Made:
    dims = sorted(e.dims_in(op))
    types = [TensorType(type_of(r).dtype, e.at(e.shape(r))) for r in op.results]
    made = ops.Cond.build(condition.value, [*(x.value for x in xs), *(e.extents[d] for d in dims)], types)
    axes: list[tuple[Axis, ...]] = []
    for region, source in zip(made.regions, op.regions):
        block, old = region.blocks[0], source.blocks[0]
        inner = list(block.arguments)
        for argument, place, x in zip(old.arguments, inner, xs):
            e.env[argument] = replace(x, value=place)
        with ir.InsertionPoint(block), e.region(dict(zip(dims, inner[len(xs) :]))):
            ends = e.block(old)
            ops.Yield.of(*(x.value for x in ends))
        axes = [_settled(_together(e, op, [x, Value(x.value, a)])) for x, a in zip(ends, axes)] if axes else [x.axes for x in ends]
    return [Value(r, a) for r, a in zip(made.results, axes)]


# The attributes that may follow from a length.
VARYING: dict[type[Op], tuple[str, ...]] = {
    ops.Constant: ("value",), ops.Iota: ("shape",), ops.Random: ("shape",), ops.View: ("offsets", "shape"), ops.Reshape: ("shape",),
    ops.Scatter: ("sizes",), ops.Sort: ("count",), ops.Conv: ("size",), ops.Scan: ("trip",),
}  # fmt: skip
RULES: dict[type[Op], Callable[..., Any]] = {
    ops.Constant: _constant, ops.Iota: _iota, ops.Random: _random, ops.View: _view, ops.Reshape: _reshape, ops.Concat: _concat,
    ops.Gather: _gather, ops.Scatter: _scatter, ops.Reduce: _reduce, ops.ArgReduce: _argreduce, ops.Softmax: _softmax,
    ops.LogSoftmax: _softmax, ops.Cumulative: _cumulative, ops.Sort: _sort, ops.Contract: _contract, ops.Conv: _conv, ops.Grad: _grad,
    ops.Scan: _scan, ops.Cond: _cond,
}  # fmt: skip
