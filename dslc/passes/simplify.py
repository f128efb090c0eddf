"""simplify: constants, common subexpressions, algebra, dead code. Merged ops keep the places of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from dslc.core import dtypes
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.ops.reduction import identity
from dslc.ir.program import functions_of
from dslc.ir.types import TensorType, fuse_locations, type_of

from .prune import remove_dead

FOLD_LIMIT = 4096  # elements of a constant that folding may make


@dataclass(frozen=True)
class Simplify:
    """One forward walk: each op is rewritten by the algebra of its kind, folded if its operands are constants, merged with an equal op before it;
    then dead code goes. x * 0 stays, because of NaN.

    before: %2 = mul %x, 1; %3 = exp %2; %4 = exp %x      after: %3 = exp %x
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            simplify_block(program.entry_block)


def simplify_block(block: ir.Block) -> None:
    """Also the bodies of scans and conds."""
    seen: dict[tuple, Op] = {}
    for op in list(block.operations):
        if not isinstance(op, Op) or isinstance(op, ops.Yield):
            continue
        if isinstance(op, ops.Scan) and op.trip == 0:
            _without_turns(op)
            continue
        if op.regions:
            for region in op.regions:
                simplify_block(region.blocks[0])
            continue
        with ir.InsertionPoint(op), op.location:
            better = _algebra(op) or _folded(op)
        if better is None:
            _merge(op, seen)
            continue
        op.results[0].replace_all_uses_with(better)
        op.operation.erase()
        made = maker(better)
        if made is not None and made.operation.block == block and not made.regions:
            _merge(made, seen)
    remove_dead(block)
    for op in list(block.operations):
        if isinstance(op, ops.View) and isinstance(product := maker(op.operands[0]), ops.Contract):
            _turn_product(op, product)


def _without_turns(scan: ops.Scan) -> None:
    """Of no turns: what is carried into it, and stacks of nothing."""
    with ir.InsertionPoint(scan), scan.location:
        stacks = [ops.zeros(type_of(v)) for v in list(scan.results)[scan.carries :]]
    starts = list(scan.operands)[scan.constants : scan.constants + scan.carries]
    for old, new in zip(scan.results, [*starts, *stacks]):
        old.replace_all_uses_with(new)
    scan.operation.erase()


def _merge(op: Op, seen: dict[tuple, Op]) -> None:
    """One op for two that compute the same from the same."""
    tag = op.attributes.get(PRECISION)
    key = (op.operation.name, tag, *op.operands, *((k, op.attributes.get(k)) for k in op._codecs), *(r.type for r in op.results))
    first = seen.setdefault(key, op)
    if first.operation == op.operation:
        return
    if not isinstance(op, (ops.Constant, ops.Iota, ops.View, ops.Reshape)):  # which all layers may share: not the lines that anything comes from
        first.operation.location = fuse_locations([first.location, op.location])
    for old, new in zip(op.results, first.results):
        old.replace_all_uses_with(new)
    op.operation.erase()


def maker(value: ir.Value) -> Op | None:
    """The op that made a value; None for an argument."""
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner.opview


def uniform(value: ir.Value) -> float | int | bool | None:
    """The one value of a uniform constant, seen through views that only repeat it."""
    op = _constant(value)
    return None if op is None else op.uniform


def _constant(value: ir.Value) -> ops.Constant | None:
    """A constant, seen through views that only repeat it where it is uniform."""
    op = maker(value)
    if isinstance(op, ops.Constant):
        return op
    through = isinstance(op, ops.Reshape) or (isinstance(op, ops.View) and not any(op.offsets) and op.inside)
    return _constant(op.operands[0]) if through and op is not None else None


def _again(value: ir.Value, t: TensorType, times: int = 1) -> ir.Value:
    """A uniform constant, or a multiple of it, as a tensor of another shape."""
    op = _constant(value)
    assert op is not None and op.uniform is not None and op.exact is not None
    return ops.full(t, op.uniform * times, op.exact * times)


def _algebra(op: Op) -> ir.Value | None:
    rule = _RULES.get(type(op))
    better = rule(op) if rule else None
    return _squeezed(op) or _narrowed(op) if better is None and op.structure == "elementwise" else better


def _squeezed(op: Op) -> ir.Value | None:
    """Elementwise work without an axis of one element that its operands are only shown with: it has the points of what makes them."""
    t = type_of(op.results[0])
    unused = [set(m.unused) if isinstance(m := maker(v), ops.View) else set() for v in op.operands if uniform(v) is None]
    dropped = {a for a in set.intersection(*unused) if t.shape[a] == 1} if unused else set()
    if not dropped or PRECISION in op.attributes:
        return None
    kept = [a for a in range(t.rank) if a not in dropped]
    rows = [[int(a == k) for k in kept] for a in range(t.rank)]
    shape = [t.shape[a] for a in kept]
    made = type(op).of(*[_composed_view(v, rows, shape) for v in op.operands], **op.values())
    return ops.broadcast(made, t.shape, kept)


def _composed_view(x: ir.Value, rows: list[list[int]], shape: list[int]) -> ir.Value:
    """A view of x, through the view or the uniform constant that makes it."""
    view = ops.view(x, rows, [0] * len(rows), shape)
    op = maker(view)
    return (_view(op) if isinstance(op, ops.View) and view != x else None) or view


def _mul(op: Op) -> ir.Value | None:
    a, b = op.operands
    return a if uniform(b) == 1 else b if uniform(a) == 1 else None


def _add(op: Op) -> ir.Value | None:
    a, b = op.operands
    return a if uniform(b) == 0 and type_of(a).size else b if uniform(a) == 0 else None


def _sub(op: Op) -> ir.Value | None:
    a, b = op.operands
    return a if uniform(b) == 0 else None


def _div(op: Op) -> ir.Value | None:
    a, b = op.operands
    return a if uniform(b) == 1 else None


def _neg(op: Op) -> ir.Value | None:
    inner = maker(op.operands[0])
    return inner.operands[0] if isinstance(inner, ops.Neg) else None


def _select(op: Op) -> ir.Value | None:
    condition, a, b = op.operands
    known = uniform(condition)
    return None if known is None else a if known else b


def _compare(op: Op) -> ir.Value | None:
    """Of one of two numbers with a third: what chose between them, or its opposite, or one answer."""
    chosen, limit = maker(op.operands[0]), uniform(op.operands[1])
    if isinstance(chosen, ops.Select):
        condition, two = chosen.condition, [uniform(v) for v in list(chosen.operands)[1:]]
    elif isinstance(chosen, ops.Cast) and type_of(chosen.x).dtype.is_bool:
        condition, two = chosen.x, [1, 0]
    else:
        return None
    if limit is None or None in two:
        return None
    yes, no = (bool(op.reference(np.asarray(v), np.asarray(limit))) for v in two)
    return ops.full(op.type, yes) if yes == no else condition if yes else ops.Not.of(condition)


def _cast(op: Op) -> ir.Value | None:
    x = op.operands[0]
    if type_of(x) == type_of(op.results[0]):
        return x
    inner = maker(x)
    if isinstance(inner, ops.Cast) and type_of(x).dtype in _WIDER.get(type_of(inner.operands[0]).dtype, ()):
        return ops.cast(inner.operands[0], op.dtype)
    return None


def _reshape(op: Op) -> ir.Value | None:
    x = op.operands[0]
    t = type_of(op.results[0])
    if type_of(x) == t:
        return x
    if uniform(x) is not None:
        return _again(x, t)
    inner = maker(x)
    return ops.reshape(inner.operands[0], t.shape) if isinstance(inner, ops.Reshape) else None


def _view(op: Op) -> ir.Value | None:
    x, t = op.operands[0], type_of(op.results[0])
    known = uniform(x)
    if known is not None and (op.inside or known == op.outside):
        return _again(x, t)
    if ops.view(x, op.matrix, op.offsets, op.shape, op.outside) == x:
        return x
    inner = maker(x)
    if isinstance(inner, ops.Reshape) and op.inside and _same_but_units(inner):
        return _without_units(op, inner)
    return _composed(op, inner) if isinstance(inner, ops.View) else None


def _composed(outer: ops.View, inner: ops.View) -> ir.Value | None:
    """One view for two, where the outer one stays inside, or the inner one only moves axes about: else two things could be outside."""
    if not outer.inside and not _permutes(inner):
        return None
    rank = len(outer.shape)
    through = outer.maps().reads[0]
    rows, offsets = [], []
    for e in inner.maps().reads[0]:
        found = index.coefficients(index.substitute(e, list(through)), rank)
        assert found is not None
        rows.append(found[0])
        offsets.append(found[1])
    return ops.view(inner.operands[0], rows, offsets, outer.shape, inner.outside if outer.inside else outer.outside)


def _turn_product(view: ops.View, product: ops.Contract) -> None:
    """A transposed product of two matrices, which nothing reads otherwise, is made in that order: weights' gradients lie as the weights do."""
    rows, columns = (set(axes) & set(product.out) for axes in (product.lhs, product.rhs))
    if len(list(product.results[0].uses)) > 1 or rows & columns or not _permutes(view):
        return
    places = [row.index(1) for row in view.matrix]  # of each axis of the product, in the view
    out = [i for _, i in sorted(zip(places, product.out))]
    if sum((a in rows) != (b in rows) for a, b in pairwise(out)) > 1:
        return  # rows and columns would be mixed
    with ir.InsertionPoint(product), fuse_locations([product.location, view.location]):
        turned = ops.Contract.of(*product.operands, lhs=product.lhs, rhs=product.rhs, out=out, dtype=product.dtype, tf32=product.tf32)
    if PRECISION in product.attributes:
        turned.owner.attributes[PRECISION] = product.attributes[PRECISION]
    view.results[0].replace_all_uses_with(turned)
    view.operation.erase()
    product.operation.erase()


def _permutes(view: ops.View) -> bool:
    """True where a view only puts the axes, each in its whole length, into another order: a slice would let reads back in that were outside it."""
    shape = type_of(view.operands[0]).shape
    rows = view.matrix
    used = [[k for k, f in enumerate(row) if f] for row in rows]
    return (
        not any(view.offsets)
        and all(len(u) == 1 and row[u[0]] == 1 for u, row in zip(used, rows))
        and sorted(u[0] for u in used) == list(range(len(view.shape)))
        and len(shape) == len(view.shape)
        and all(view.shape[u[0]] == n for u, n in zip(used, shape))
    )


# --- axes of extent 1 -------------------------------------------------------------------------------------------------------------------
# A fold that keeps its axes leaves them at 1. Without them its value is one of a row, which a reduction's kernel computes on.


def _same_but_units(op: ops.Reshape) -> bool:
    """Only axes of extent 1 come or go."""
    before, after = type_of(op.operands[0]).shape, type_of(op.results[0]).shape
    return [n for n in before if n != 1] == [n for n in after if n != 1]


def only_units(op: Op) -> bool:
    """A reshape, or a view, by which only axes of extent 1 come or go."""
    if isinstance(op, ops.Reshape):
        return _same_but_units(op)
    if not isinstance(op, ops.View) or not op.inside:
        return False
    shape = type_of(op.operands[0]).shape
    wide = [k for k, n in enumerate(op.shape) if n != 1]
    rows = [[row[k] for k in wide] for row, n in zip(op.matrix, shape) if n != 1]
    same = [n for n in shape if n != 1] == [op.shape[k] for k in wide] and not any(op.offsets)
    return same and all(row[k] == 1 and sum(map(bool, row)) == 1 for k, row in enumerate(rows))


def _without_units(outer: ops.View, inner: ops.Reshape) -> ir.Value:
    """One view for a reshape and a view of it."""
    x = inner.operands[0]
    kept = iter([(row, o) for row, o, n in zip(outer.matrix, outer.offsets, type_of(inner.results[0]).shape) if n != 1])
    unit = ([0] * len(outer.shape), 0)
    rows, offsets = zip(*[unit if n == 1 else next(kept) for n in type_of(x).shape]) if type_of(x).rank else ((), ())
    return ops.view(x, rows, offsets, outer.shape)


def _narrowed(op: Op) -> ir.Value | None:
    """An elementwise op of tensors that have got axes of extent 1: the axes come behind it."""
    if PRECISION in op.attributes:
        return None
    t = type_of(op.results[0])
    makers = [maker(v) for v in op.operands]
    sources = [m.operands[0] for m in makers if isinstance(m, ops.Reshape) and _same_but_units(m)]
    if not sources or type_of(sources[0]).rank >= t.rank or any(type_of(v).shape != type_of(sources[0]).shape for v in sources):
        return None
    known = [None if isinstance(m, ops.Reshape) else uniform(v) for m, v in zip(makers, op.operands)]
    if sum(k is not None for k in known) + len(sources) < len(makers):
        return None
    rest = iter(sources)
    shape = type_of(sources[0]).shape
    values = [next(rest) if k is None else _again(v, type_of(v).with_shape(shape)) for k, v in zip(known, op.operands)]
    return ops.reshape(type(op).of(*values, **op.values()), t.shape)


def _reduce(op: Op) -> ir.Value | None:
    t = type_of(op.results[0])
    if not op.axes:
        return op.operands[0]
    if uniform(op.operands[0]) is not None and op.kind == "sum":
        return _again(op.operands[0], t, type_of(op.operands[0]).size // t.size) if t.size else None
    return _reduce_of_broadcast(op)


def _reduce_of_broadcast(op: ops.Reduce) -> ir.Value | None:
    """A fold over axes that only repeat: a sum is a multiple, the others leave the value; no axis is made that is folded away at once."""
    inner = maker(op.operands[0])
    if not isinstance(inner, ops.View) or op.kind == "prod":
        return None
    lost = [a for a in inner.unused if a in op.axes]
    repeats = prod(inner.shape[a] for a in lost)
    if not lost or not repeats:
        return None
    kept = [k for k in range(len(inner.shape)) if k not in lost]
    rows = [[row[k] for k in kept] for row in inner.matrix]
    x = ops.view(inner.operands[0], rows, inner.offsets, [inner.shape[k] for k in kept], inner.outside)
    axes = [i for i, k in enumerate(kept) if k in op.axes]
    y = ops.Reduce.of(x, kind=op.kind, axes=axes) if axes else x
    return ops.Mul.of(y, ops.full_like(y, repeats)) if op.kind == "sum" and repeats > 1 else y


def _gather(op: Op) -> ir.Value | None:
    """Places that are known and lie evenly: a view."""
    x, *ids = op.operands
    shape, batch = type_of(op.results[0]).shape, op.batch
    found = [evenly(i) for i in ids]
    if not type_of(op.results[0]).size:
        return None
    if None in found:
        return _gather_in_step(op, found[0])
    rank, extra = type_of(ids[0]).rank, len(shape) - type_of(ids[0]).rank
    rows = [[int(k == a) for k in range(len(shape))] for a in range(batch)]
    rows += [[*steps, *[0] * extra] for _, steps in found]  # type: ignore[misc]
    rows += [[int(k == a) for k in range(len(shape))] for a in range(rank, len(shape))]
    offsets = [*[0] * batch, *(start for start, _ in found), *[0] * extra]  # type: ignore[misc]
    return ops.view(x, rows, offsets, shape, op.outside)


def _gather_in_step(op: ops.Gather, first: tuple[int, list[int]] | None) -> ir.Value | None:
    """Where the first of several places goes along with the points themselves, `x[b, t, ids[b, t]]` for some of all t, it is one more batch axis of a
    slice."""
    x, *ids = op.operands
    t, batch, shape = type_of(x), op.batch, type_of(ids[0]).shape
    if first is None or len(ids) < 2 or len(shape) <= batch or first[1] != [int(a == batch and n > 1) for a, n in enumerate(shape)]:
        return None
    rows = [[int(a == k) for k in range(t.rank)] for a in range(t.rank)]
    offsets = [first[0] if a == batch else 0 for a in range(t.rank)]
    part = ops.view(x, rows, offsets, [shape[batch] if a == batch else n for a, n in enumerate(t.shape)], op.outside)
    return ops.Gather.of(part, *ids[1:], batch=batch + 1, outside=op.outside)


def evenly(value: ir.Value) -> tuple[int, list[int]] | None:
    """(first, steps along the axes) of constant integers that grow evenly along each axis."""
    op, t = maker(value), type_of(value)
    if isinstance(op, ops.Iota):
        return 0, [int(a == op.axis and n > 1) for a, n in enumerate(t.shape)]
    if isinstance(op, ops.View) and op.inside and (inner := evenly(op.x)) is not None:
        first, steps = inner
        moved = [sum(step * row[k] for step, row in zip(steps, op.matrix)) if n > 1 else 0 for k, n in enumerate(t.shape)]
        return first + sum(step * offset for step, offset in zip(steps, op.offsets)), moved
    if isinstance(op, ops.Add):
        known = [(uniform(a), evenly(b)) for a, b in (op.operands, [*op.operands][::-1])]
        return next(((even[0] + int(by), even[1]) for by, even in known if by is not None and even is not None), None)
    if not isinstance(op, ops.Constant) or not 0 < t.size <= FOLD_LIMIT:
        return None
    numbers = np.asarray(op.reference()).astype(np.int64)
    first = int(numbers.reshape(-1)[0])
    steps = [int(numbers[tuple(int(k == a) for k in range(t.rank))]) - first if n > 1 else 0 for a, n in enumerate(t.shape)]
    even = first + np.tensordot(steps, np.indices(t.shape), 1) if t.rank else numbers
    return (first, steps) if np.array_equal(numbers, even) else None


def _scatter(op: Op) -> ir.Value | None:
    """Where each point has one element, which goes to a place by its indices: a selection by index, which whoever reads it computes itself."""
    u, *ids = op.operands
    t, batch = type_of(op.results[0]), op.batch
    if type_of(ids[0]).rank != batch:
        return None
    here: ir.Value | None = None
    for axis, i in enumerate(ids, batch):
        place = ops.Iota.of(shape=[t.shape[axis]], axis=0, dtype=type_of(i).dtype)
        same = ops.Compare.of(ops.broadcast(place, t.shape, [axis]), ops.broadcast(i, t.shape, range(batch)), predicate="eq")
        here = same if here is None else ops.And.of(here, same)
    kept = [*range(batch), *range(batch + len(ids), t.rank)]
    return ops.Select.of(here, ops.broadcast(u, t.shape, kept), ops.full(t, identity(op.kind, t.dtype)))


# Types that hold every value of a type, so that a cast through them changes nothing.
_WIDER = {
    dtypes.FLOAT16: (dtypes.FLOAT32, dtypes.FLOAT64),
    dtypes.BFLOAT16: (dtypes.FLOAT32, dtypes.FLOAT64),
    dtypes.FLOAT32: (dtypes.FLOAT64,),
    dtypes.INT8: (dtypes.INT16, dtypes.INT32, dtypes.INT64),
    dtypes.INT16: (dtypes.INT32, dtypes.INT64),
    dtypes.INT32: (dtypes.INT64,),
}
_RULES: dict[type, Callable[[Op], ir.Value | None]] = {
    ops.Mul: _mul, ops.Add: _add, ops.Sub: _sub, ops.Div: _div, ops.Neg: _neg, ops.Select: _select, ops.Compare: _compare, ops.Cast: _cast,
    ops.Reshape: _reshape, ops.View: _view, ops.Reduce: _reduce, ops.Gather: _gather, ops.Scatter: _scatter,
}  # fmt: skip
_NEVER = (ops.Constant, ops.Random, ops.Iota, ops.Grad, ops.Scan, ops.Cond, ops.Kernel)


def _exact(op: Op) -> float | None:
    """What an op of uniform constants gives in float64; None where that is no float."""
    if not type_of(op.results[0]).dtype.is_float:
        return None
    constants = [v.owner.opview for v in op.operands]
    return float(op.reference(*(np.asarray(c.exact, np.float64 if c.type.dtype.is_float else c.type.dtype.numpy) for c in constants)))


def _folded(op: Op) -> ir.Value | None:
    """The constant that an op of constants gives; larger results only where they are uniform."""
    if isinstance(op, _NEVER) or len(op.results) != 1:
        return None
    t = type_of(op.results[0])
    makers = [maker(v) for v in op.operands]
    if t.dtype.extension or not makers or not all(isinstance(m, ops.Constant) for m in makers):
        return None
    if op.structure == "elementwise":
        known = [uniform(v) for v in op.operands]
        if all(k is not None for k in known):
            scalars = [np.asarray(k).astype(type_of(v).dtype.numpy) for k, v in zip(known, op.operands)]
            if any(type_of(v).dtype.extension for v in op.operands):
                return None
            with np.errstate(all="ignore"):
                return ops.full(t, np.asarray(op.reference(*scalars)).item(), _exact(op))
    if t.size > FOLD_LIMIT or any(type_of(v).size > FOLD_LIMIT or type_of(v).dtype.extension for v in op.operands):
        return None
    with np.errstate(all="ignore"):
        value = np.asarray(op.reference(*[m.reference() for m in makers]))  # type: ignore[union-attr]
    return ops.constant(value.reshape(t.shape), t.dtype)
