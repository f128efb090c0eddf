"""Reads `x[i, 2*j + u - 1, ids[b]]` inside equations: affine entries become one view, `//` and `%` split an index, data-dependent ones gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import TypeError_
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of

from . import syntax as s
from .products import IndexVar, ReadInfo, aligned, ordered
from .unparse import unparse
from .values import Point, Tensor, Turn, described

if TYPE_CHECKING:
    from .equations import Env, Equation


def read_tensor(eq: Equation, base: Tensor, node: s.Read, env: Env, outside: float) -> Point:
    """The elements of a tensor at these places, at every point of the indices that the entries use."""
    entries: list[index.Expr | Point] = []
    for entry in node.entries:
        if isinstance(entry, s.Rest):
            entries += [index.Dim(v.number) for v in eq.rest or ()]
            continue
        found = affine(eq, entry, env)
        if found is None:
            value = eq.value(entry, env)
            if not isinstance(value, Point):
                whole = _whole_number(value)
                if whole is None:
                    raise TypeError_(f"an index must be an integer, {unparse(entry)} is {described(value)}", entry.span)
                found = whole
            elif not value.type.dtype.is_integer:
                raise TypeError_(f"an index must be an integer, {unparse(entry)} is {described(value)}", entry.span)
            else:
                if isinstance(entry, (s.Read, s.Name)):
                    read = eq.base(entry) if isinstance(entry, s.Read) else eq.frame.find(entry.name)
                    eq.frame.used_as_index(read, base.type.shape[len(entries)])
                entries.append(value)
                continue
        entries.append(found)
    sizes = [v.size for v in eq.vars]
    plain = [index.simplify(e, sizes) if isinstance(e, index.Expr) else e for e in entries]
    turns = [scan for scan, k in eq.turns.items() if any(isinstance(e, index.Expr) and k in index.dims_of(e) for e in plain)]
    if turns:
        return _read_at_turn(eq, base, plain, outside, turns)
    if all(isinstance(e, index.Expr) for e in plain):
        return _read_affine(eq, base.value, plain, outside)  # type: ignore[arg-type]
    return _gather(eq, base.value, plain, outside)


def affine(eq: Equation, node: Any, env: Env) -> index.Expr | None:
    """An entry as an index expression over the equation's indices (and the scan's turn); None where it depends on data."""
    match node:
        case s.Number(value=int() as value):
            return _whole_number(value)
        case s.Name(name=name):
            if name in env:
                return index.Dim(env[name].number)
            value = eq.frame.find(name)
            if isinstance(value, Turn):
                return index.Dim(eq.turn_number(value.scan))
            return _whole_number(value)
        case s.Unary(op="-"):
            inner = affine(eq, node.operand, env)
            return -inner if inner is not None else None
        case s.Binary(op="+" | "-" as op):
            a, b = affine(eq, node.left, env), affine(eq, node.right, env)
            return None if a is None or b is None else (a + b if op == "+" else a - b)
        case s.Binary(op="*"):
            a, b = affine(eq, node.left, env), affine(eq, node.right, env)
            if isinstance(a, index.Const) and b is not None:
                return b * a.value
            return a * b.value if isinstance(b, index.Const) and a is not None else None
        case s.Binary(op="//" | "%" as op):
            a, b = affine(eq, node.left, env), affine(eq, node.right, env)
            if a is None or not isinstance(b, index.Const) or b.value <= 0:
                return None
            return a // b.value if op == "//" else a % b.value
        case s.Call() | s.Read() | s.Attribute() | s.Binary():
            return _static(eq, node, env)
    return None


def _whole_number(value: Any) -> index.Expr | None:
    """A compile-time integer of 64 bits, or a float that is one exactly."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) >= 2**63 or not float(value).is_integer():
        return None
    return index.Const(int(value))


def _static(eq: Equation, node: Any, env: Env) -> index.Expr | None:
    return _whole_number(eq.frame.static_in_equation(node, env, eq))


def _read_affine(eq: Equation, base: ir.Value, entries: list[index.Expr], outside: float) -> Point:
    rank = len(eq.vars)
    found = [index.coefficients(e, rank) for e in entries]
    if any(f is None for f in found):
        return _read_split(eq, base, entries, outside)
    used = ordered([eq.vars[k] for factors, _ in found for k, f in enumerate(factors) if f])  # type: ignore[misc]
    rows = [[factors[v.number] for v in used] for factors, _ in found]  # type: ignore[misc]
    value = ops.view(base, rows, [constant for _, constant in found], [v.size for v in used], outside)  # type: ignore[misc]
    return Point(value, used, ReadInfo(base, tuple(entries), outside))


def _read_split(eq: Equation, base: ir.Value, entries: list[index.Expr], outside: float) -> Point:
    """Entries with `//` or `%`: the index under them is taken apart into quotient and remainder, and put together again by a reshape."""
    divisors: dict[int, int] = {}
    for e in entries:
        for axis, divisor in _divisions(e):
            divisors[axis] = divisor if axis not in divisors else min(divisors[axis], divisor)
    sizes = [v.size for v in eq.vars]
    dims: list[index.Expr] = [index.Dim(k) for k in range(len(sizes))]
    extended = list(sizes)
    pieces: dict[int, tuple[int, int]] = {}
    for axis, divisor in divisors.items():
        pieces[axis] = (len(extended), len(extended) + 1)
        extended += [-(-sizes[axis] // divisor), divisor]
        dims[axis] = index.Dim(pieces[axis][0]) * divisor + index.Dim(pieces[axis][1])
    split = [index.simplify(index.substitute(e, dims), extended) for e in entries]
    found = [index.coefficients(e, len(extended)) for e in split]
    if any(f is None for f in found):
        return _gather(eq, base, list(entries), outside)
    used_old = ordered([eq.vars[k] for e in entries for k in index.dims_of(e)])
    order: list[int] = []
    for v in used_old:
        order += pieces.get(v.number, (v.number,))
    rows = [[factors[k] for k in order] for factors, _ in found]  # type: ignore[misc]
    value = ops.view(base, rows, [c for _, c in found], [extended[k] for k in order], outside)  # type: ignore[misc]
    merged = [extended[pieces[v.number][0]] * extended[pieces[v.number][1]] if v.number in pieces else v.size for v in used_old]
    value = ops.reshape(value, merged)
    for k, v in enumerate(used_old):
        if merged[k] != v.size:
            value = ops.slice_axis(value, k, 0, v.size)
    return Point(value, used_old, ReadInfo(base, tuple(entries), outside))


def _divisions(e: index.Expr) -> list[tuple[int, int]]:
    """(axis, divisor) of every `//` and `%` of a single index in an expression."""
    match e:
        case index.FloorDiv(dividend, divisor) | index.Mod(dividend, divisor):
            axes = index.dims_of(dividend)
            return [(axes.pop(), divisor)] if len(axes) == 1 else []
        case index.Sum(terms, _):
            return [d for t, _ in terms for d in _divisions(t)]
    return []


def index_tensor(eq: Equation, e: index.Expr) -> Point:
    """An index expression as an integer tensor."""
    axes = ordered([eq.vars[k] for k in index.dims_of(e)])
    shape = [v.size for v in axes]
    place = {v.number: k for k, v in enumerate(axes)}

    def build(e: index.Expr) -> ir.Value:
        match e:
            case index.Const(value):
                return _number(value, shape)
            case index.Dim(axis):
                return ops.Iota.of(axis=place[axis], shape=shape, dtype=dtypes.INT32)
            case index.Sum(terms, constant):
                out = _number(constant, shape)
                for t, f in terms:
                    out = ops.Add.of(out, ops.Mul.of(build(t), _number(f, shape)))
                return out
            case index.FloorDiv(dividend, divisor):
                return ops.FloorDiv.of(build(dividend), _number(divisor, shape))
            case index.Mod(dividend, divisor):
                return ops.Mod.of(build(dividend), _number(divisor, shape))
        raise AssertionError(e)

    return Point(build(e), axes)


def _number(value: int, shape: list[int]) -> ir.Value:
    from dslc.ir.types import TensorType

    return ops.full(TensorType(dtypes.INT32, tuple(shape)), value)


def _gather(eq: Equation, base: ir.Value, entries: list[index.Expr | Point], outside: float) -> Point:
    """Data-dependent entries: one gather, with batch axes where an index of the data also stands alone, the rest of the tensor behind."""
    shape = type_of(base).shape
    place = list(entries)
    while True:
        data = ordered([v for e in place if isinstance(e, Point) for v in e.axes])
        changed = False
        for k, e in enumerate(place):
            if isinstance(e, Point):
                continue
            alone = (
                isinstance(e, index.Dim)
                and eq.vars[e.axis].size == shape[k]
                and sum(_uses(other, e.axis) for other in place if not isinstance(other, Point)) == 1
            )
            if not alone:
                place[k] = index_tensor(eq, e)
                changed = True
        if not changed:
            break
    alone_vars = {k: eq.vars[e.axis] for k, e in enumerate(place) if isinstance(e, index.Dim)}
    batch = [k for k, v in alone_vars.items() if v in data]
    rest = [k for k in alone_vars if k not in batch]
    looked_up = [k for k, e in enumerate(place) if isinstance(e, Point)]
    moved = ops.transpose(base, [*batch, *looked_up, *rest])
    id_axes = [alone_vars[k] for k in batch] + [v for v in data if v not in {alone_vars[k] for k in batch}]
    ids = [_in_32_bits(eq, aligned(place[k], id_axes), shape[k]) for k in looked_up]  # type: ignore[arg-type]
    value = ops.Gather.of(moved, *ids, batch=len(batch), outside=outside)
    return Point(value, tuple(id_axes + [alone_vars[k] for k in rest]))


def _in_32_bits(eq: Equation, ids: ir.Value, size: int) -> ir.Value:
    """Indices into an axis as int32, where that counts its elements; what is outside stays outside."""
    builder = eq.frame.builder
    if size >= 2**31:
        return ids
    checked = builder.inputs.get(ids) in builder.bounds  # when it is fed
    return ops.cast(ids, dtypes.INT32) if checked else ops.as_int32(ids)


def _uses(e: index.Expr, axis: int) -> bool:
    return axis in index.dims_of(e)


def _read_at_turn(eq: Equation, base: Tensor, entries: list[index.Expr | Point], outside: float, turns: list[Any]) -> Point:
    """A read at a scan's turn: a view made before the scan, with the turn as its first axis, of which each turn gets a slice."""
    scan, turn = turns[0], eq.turns[turns[0]]
    if len(turns) > 1 or scan.is_inner(base.value) or not all(isinstance(e, index.Expr) for e in entries):
        numbers = {eq.turns[t]: t for t in turns}
        replaced = [_turn_tensor(eq, e, numbers) if isinstance(e, index.Expr) and index.dims_of(e) & set(numbers) else e for e in entries]
        return _gather(eq, base.value, replaced, outside)
    with scan.outside():
        whole = _read_affine(eq, base.value, entries, outside)  # type: ignore[arg-type]
        first = eq.vars[turn]
        order = [whole.axes.index(first)] + [k for k, v in enumerate(whole.axes) if v is not first]
        stacked = ops.transpose(whole.value, order)
    axes = tuple(v for v in whole.axes if v is not first)
    return Point(scan.slice(stacked), axes)


def _turn_tensor(eq: Equation, e: index.Expr, turns: dict[int, Any]) -> Point:
    """An index expression that turns take part in, as a tensor inside the body."""
    found = index.coefficients(e, len(eq.vars))
    if found is None:
        raise TypeError_("the scan's index stands under // or % in a read of a value that changes in the scan")
    factors, constant = found
    rest: index.Expr = index.Const(constant)
    for k, f in enumerate(factors):
        if k not in turns:
            rest = rest + index.Dim(k) * f
    others = index_tensor(eq, rest)
    shape = [v.size for v in others.axes]
    value = others.value
    for k, scan in turns.items():
        if factors[k]:
            moved = ops.broadcast(scan.turn, shape, [])
            value = ops.Add.of(value, ops.Mul.of(moved, _number(factors[k], shape)))
    return Point(value, others.axes)


__all__ = ["IndexVar", "affine", "index_tensor", "read_tensor"]
