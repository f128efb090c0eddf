"""Sums of a tile over its batch, or over heads that share keys, go last, and what is added into the places of a table becomes a fold of the tile: the
gradients of relative tables, buckets and slopes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dslc.core.dtypes import INT32
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.streams import is_table, permutation
from dslc.ir.types import TensorType, type_of

if TYPE_CHECKING:
    from .tile_space import Space

SMALLER = 2  # times that the tables of all points of the batch must be smaller than the tile


def sums_last(space: Space) -> bool:
    """sum_ij w_ij (sum_b t_bij) is sum_bij w_ij t_bij, and a table of sums over the batch the sum of tables; whether anything changed."""
    changed = False
    for value in list(space.tiles):
        for use in list(value.uses):
            user = use.owner.opview
            if _is_adjoint(user) and user.operands[0] == value:
                changed |= _table(space, value, range(type_of(value).rank), user)
            elif isinstance(user, ops.Reduce) and user.kind == "sum" and space.leaves_tiles(value, user.axes) and _ends_in_folds(user.results[0]):
                kept = [p for p in range(type_of(value).rank) if p not in user.axes]
                changed |= _push(space, value, kept, user.results[0])
    return changed


def _users(value: ir.Value) -> list[Op]:
    return [use.owner.opview for use in value.uses]


def _is_adjoint(op: Op) -> bool:
    """Whether an op adds into the places of a table."""
    return isinstance(op, ops.Fold) or (isinstance(op, ops.Scatter) and op.kind == "sum" and not is_table(op))


def _is_turn(op: Op) -> bool:
    return isinstance(op, ops.View) and None not in (permutation(op) or [None])


def _ends_in_folds(value: ir.Value) -> bool:
    """Whether sums alone read a value, through factors and turned views."""
    users = _users(value)
    return bool(users) and all(
        (isinstance(u, ops.Reduce) and u.kind == "sum")
        or (_is_adjoint(u) and u.operands[0] == value)
        or ((isinstance(u, ops.Mul) or _is_turn(u)) and _ends_in_folds(u.results[0]))
        for u in users
    )


def _push(space: Space, x: ir.Value, place: Sequence[int], value: ir.Value) -> bool:
    """Makes what reads `value`, the sum of x over all axes but `place`, of x itself."""
    changed = False
    t = type_of(x)
    for user in _users(value):
        if isinstance(user, ops.Mul):
            other = user.operands[1 if user.operands[0] == value else 0]
            rows = [[int(place[a] == k) for k in range(t.rank)] for a in range(len(place))]
            with ir.InsertionPoint(user), user.location:
                product = ops.Mul.of(x, ops.view(other, rows, [0] * len(rows), t.shape))
            changed |= _push(space, product, place, user.results[0])
        elif isinstance(user, ops.View):
            order = permutation(user)
            assert order is not None
            changed |= _push(space, x, [place[a] for a in order if a is not None], user.results[0])
        elif isinstance(user, ops.Reduce):
            kept = [place[p] for p in range(len(place)) if p not in user.axes]
            with ir.InsertionPoint(user), user.location:
                made = ops.Reduce.of(x, kind="sum", axes=[p for p in range(t.rank) if p not in kept])
                made = ops.transpose(made, [sorted(kept).index(p) for p in kept])
            _replace(user, made)
            changed = True
        else:
            changed |= _table(space, x, place, user)
    return changed


def _replace(op: Op, value: ir.Value) -> None:
    op.results[0].replace_all_uses_with(value)
    _erase(op)


def _erase(op: Op) -> None:
    """Takes an op away, and the sums, factors and views that it alone has read: they would be readers of the tile."""
    operands = list(op.operands)
    op.operation.erase()
    for value in dict.fromkeys(operands):
        maker = None if isinstance(value.owner, ir.Block) else value.owner.opview
        if isinstance(maker, (ops.Reduce, ops.Mul, ops.View)) and not list(value.uses):
            _erase(maker)


# --- tables ----------------------------------------------------------------------------------------------------------------------------------


def _table(space: Space, x: ir.Value, place: Sequence[int], op: Op) -> bool:
    """Makes a table for each point of the batch and their sum of an op that adds the sum of x over all axes but `place` into places."""
    t = type_of(x)
    batch = space.table_batch(x)
    if batch is None:
        return False
    own = [_axis_of(op, r, place, batch) for r in range(op.type.rank)]  # the axis of the batch that each axis of the result is
    width = math.prod(n for n, a in zip(op.type.shape, own) if a is None)
    if SMALLER * math.prod(t.shape[p] for p in batch) * width > t.size:
        return False
    order = [*batch, *(p for p in range(t.rank) if p not in batch)]
    turned = [order.index(p) for p in place]
    shape = tuple(t.shape[p] for p in order)
    with ir.InsertionPoint(op), op.location:
        ids = _places(op, turned, shape, [r for r, a in enumerate(own) if a is None])
        tables = ops.Scatter.of(ops.transpose(x, order), ids, kind="sum", batch=len(batch), sizes=[width])
        free = [n for n, a in zip(op.type.shape, own) if a is None]
        tables = ops.reshape(tables, (*(t.shape[p] for p in batch), *free))
        summed = [k for k, p in enumerate(batch) if p not in own]
        left = [p for p in batch if p in own]
        total = ops.Reduce.of(tables, kind="sum", axes=summed) if summed else tables
        rest = iter(range(len(left), len(left) + len(free)))
        made = ops.transpose(total, [left.index(a) if a is not None else next(rest) for a in own])
    _replace(op, made)
    return True


def _axis_of(op: Op, r: int, place: Sequence[int], batch: Sequence[int]) -> int | None:
    """The axis of the batch that axis `r` of the result is, one to one."""
    if isinstance(op, ops.Fold):
        row, n = op.matrix[r], op.type.shape[r]
        used = [k for k, f in enumerate(row) if f]
        alone = len(used) == 1 and row[used[0]] == 1 and not op.offsets[r] and type_of(op.g).shape[used[0]] == n
        k = used[0] if alone and sum(bool(line[used[0]]) for line in op.matrix) == 1 else None
    else:
        k = _column(op, r)
    return place[k] if k is not None and place[k] in batch else None


def _column(op: Op, r: int) -> int | None:
    """The axis of a scatter's updates that axis `r` of its result is; None: one of the places."""
    if r < op.batch:
        return r
    return r - op.batch - len(op.sizes) + type_of(op.operands[1]).rank if r >= op.batch + len(op.sizes) else None


def _places(op: Op, place: Sequence[int], shape: tuple[int, ...], axes: Sequence[int]) -> ir.Value:
    """The number of the place among these axes of the result, for every point; -1: none. `place`: where the op's axes are in `shape`."""
    full = TensorType(INT32, shape)
    total, inside = ops.full(full, 0), None
    for r in axes:
        n = op.type.shape[r]
        at, known = _index(op, r, place, full)
        if not known:
            limits = (("ge", 0), ("lt", n))
            for predicate, limit in limits:
                test = ops.Compare.of(at, ops.full_like(at, limit), predicate=predicate)
                inside = test if inside is None else ops.And.of(inside, test)
        at = ops.cast(at, INT32)
        total = ops.Add.of(ops.Mul.of(total, ops.full(full, n)), at) if r != axes[0] else at
    return total if inside is None else ops.Select.of(inside, total, ops.full(full, -1))


def _index(op: Op, r: int, place: Sequence[int], full: TensorType) -> tuple[ir.Value, bool]:
    """(the index along axis `r` of the result for every point, whether it is always one)."""
    if isinstance(op, ops.Fold):
        terms, offset = [(place[k], f) for k, f in enumerate(op.matrix[r]) if f], op.offsets[r]
    elif (k := _column(op, r)) is not None:
        terms, offset = [(place[k], 1)], 0
    else:
        ids = op.operands[1 + r - op.batch]
        rows = [[int(place[a] == k) for k in range(full.rank)] for a in range(type_of(ids).rank)]
        return ops.view(ids, rows, [0] * len(rows), full.shape), False
    at = ops.full(full, offset)
    for axis, factor in terms:
        step = ops.Iota.of(axis=axis, shape=full.shape, dtype=INT32)
        at = ops.Add.of(at, step if factor == 1 else ops.Mul.of(step, ops.full(full, factor)))
    ends = list(_ends([(full.shape[axis], factor) for axis, factor in terms], offset))
    return at, min(ends) >= 0 and max(ends) < op.type.shape[r]


def _ends(terms: Sequence[tuple[int, int]], offset: int) -> Iterator[int]:
    """The least and the greatest value of a sum."""
    yield offset + sum(min(0, f * (n - 1)) for n, f in terms)
    yield offset + sum(max(0, f * (n - 1)) for n, f in terms)
