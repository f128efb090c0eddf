"""hidden: what masks hide is -inf, by indices, so that kernels leave it out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslc.core import dtypes
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.program import blocks_of, functions_of
from dslc.ir.types import TensorType, type_of

from .simplify import maker, simplify_block, uniform
from .timeflow import HIDDEN, STATIC_LIMIT, Masks, exact, scaled

SMALLEST = 4096  # elements of a matrix below which nothing is gained


@dataclass(frozen=True)
class Hidden:
    """Masks as graphs of other programs have them are written as those of equations. A matrix of two values that has one of them along some
    neighbouring diagonals becomes a comparison of indices. Scores set to a number that gets no weight beside any other (`timeflow.HIDDEN` or less)
    are set to -inf, where every row of the softmax has scores that no mask hides: no weight changes, and tiles that hold nothing else are left out.

    before: %m = constant [[false, true, ...], ...]; %s = select %m, -1e9, %x; softmax %s
    after:  %s = select (not (iota 1 - iota 0 <= 0)), -inf, %x; softmax %s
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            changed = False
            for block in blocks_of(program):
                for op in list(block.operations):
                    large = isinstance(op, ops.Constant) and op.uniform is None and SMALLEST <= op.type.size <= STATIC_LIMIT
                    changed |= large and _is_mask(op.results[0]) and _by_indices(op)
                changed |= _lower(block)
            if changed:
                simplify_block(program.entry_block)


# ---- diagonals


def _is_mask(value: ir.Value) -> bool:
    """Whether elementwise ops alone read a value, through views: what products read is better in memory."""
    readers = [use.owner.opview for use in value.uses]
    return all(
        isinstance(op, Op) and (op.structure == "elementwise" or (isinstance(op, (ops.View, ops.Reshape)) and _is_mask(op.results[0])))
        for op in readers
    )


def _by_indices(constant: ops.Constant) -> bool:
    """Makes a matrix anew of indices, where its values lie so."""
    shape, dtype = constant.type.shape, constant.type.dtype
    long = [n for n in shape if n > 1]
    if len(long) != 2 or dtype.extension:
        return False
    matrix = constant.reference().reshape(long)
    values = np.array([matrix[0, 0], matrix.flat[np.argmax(matrix != matrix[0, 0])]])
    chosen = matrix == values[1]
    if not (chosen | (matrix == values[0])).all():  # also where NaN is among them
        return False
    turned = False
    span = diagonals(chosen)
    if span is None:
        span, turned = diagonals(~chosen), True
    if span is None:
        return False
    yes, no = values[::-1] if not turned else values
    with ir.InsertionPoint(constant), constant.location:
        found = _between(span, (long[0], long[1]))
        if not dtype.is_bool:
            t = TensorType(dtype, tuple(long))
            found = ops.Select.of(found, ops.full(t, yes.item()), ops.full(t, no.item()))
        elif no:
            found = ops.Not.of(found)
        constant.results[0].replace_all_uses_with(ops.reshape(found, shape))
    return True


def diagonals(matrix: np.ndarray) -> tuple[int, int] | None:
    """The least and greatest j - i of a bool matrix that is true where j - i is between them, and only there."""
    n, m = matrix.shape
    count = matrix.sum(axis=1)
    rows = np.flatnonzero(count)
    if not rows.size:
        return None
    first, last = matrix.argmax(axis=1), m - 1 - matrix[:, ::-1].argmax(axis=1)
    low, high = int((first - np.arange(n))[rows].min()), int((last - np.arange(n))[rows].max())
    start, end = (np.clip(np.arange(n) + k, 0, m) for k in (low, high + 1))
    whole = (count == end - start) & ((count == 0) | ((first == start) & (last == end - 1)))
    return (low, high) if whole.all() else None


def _between(span: tuple[int, int], sizes: tuple[int, int]) -> ir.Value:
    """bool of these sizes: whether j - i is in the span; what holds everywhere is not asked."""
    i, j = (ops.Iota.of(axis=k, shape=sizes, dtype=dtypes.INT32) for k in (0, 1))
    gap = ops.Sub.of(j, i)
    tests = [
        ops.Compare.of(gap, ops.full_like(gap, bound), predicate=predicate)
        for bound, predicate, needed in ((span[0], "ge", span[0] > 1 - sizes[0]), (span[1], "le", span[1] < sizes[1] - 1))
        if needed
    ]
    if not tests:
        return ops.full(TensorType(dtypes.BOOL, sizes), True)
    return tests[0] if len(tests) == 1 else ops.And.of(*tests)


# ---- finite numbers


def _lower(block: ir.Block) -> bool:
    """Sets to -inf what selects hide that softmaxes alone read, of which all rows have something else; whether there is any."""
    masks, softmaxes = Masks(), set[Op]()
    hiding: dict[Op, tuple[int, float]] = {}  # selects, which operand hides, and with what
    for op in block.operations:
        if isinstance(op, ops.Softmax):
            fills = {s: fill for s in _selects(op.x) or () if (fill := _fill(s)) is not None}
            if fills and _rows_are_left(masks, op):
                softmaxes.add(op)
                hiding |= fills
    found = [(select, side) for select, (side, number) in hiding.items() if _hides_only(masks, select, number, softmaxes)]
    for select, side in found:
        with ir.InsertionPoint(select), select.location:
            select.operation.operands[side] = ops.full(type_of(select.results[0]), float("-inf"))
    return bool(found)


def _fill(select: ops.Select) -> tuple[int, float] | None:
    """Which operand of a select is a finite number that hides, and that."""
    for k in (1, 2):
        number = uniform(select.operands[k])
        if number is not None and -np.inf < number <= HIDDEN:
            return k, number
    return None


# What scores go through on their way to a softmax.
THROUGH = (ops.Add, ops.Mul, ops.Div, ops.Cast, ops.StopGradient, ops.View, ops.Reshape)


def _selects(value: ir.Value) -> list[ops.Select] | None:
    """The selects that scores are made by; None where something else may hide some of them."""
    op = maker(value)
    if isinstance(op, (ops.Select, *THROUGH)):
        parts = [_selects(v) for v in list(op.operands)[isinstance(op, ops.Select) :]]
        known = [s for part in parts if part is not None for s in part]
        return None if None in parts else [op, *known] if isinstance(op, ops.Select) else known
    return [] if isinstance(op, ops.Contract) or uniform(value) is not None else None


def _rows_are_left(masks: Masks, softmax: ops.Softmax) -> bool:
    """Whether in each row of a softmax a score stands that no mask hides."""
    j = softmax.axis
    found = (_open(masks, softmax.x, i, j) for i in range(softmax.type.rank) if i != j)
    return any(bool(o.any(axis=1).all()) for o in found if o is not None)


def _open(masks: Masks, value: ir.Value, i: int, j: int) -> np.ndarray | None:
    """bool [size of axis i, size of axis j]: where scores that `_selects` has seen are not hidden, at all other axes; None: not known."""
    op, shape = value.owner.opview, type_of(value).shape
    number = uniform(value)
    if isinstance(op, ops.Contract) or number is not None:
        return np.full((shape[i], shape[j]), number is None or number > HIDDEN)
    if isinstance(op, ops.Select):
        sides = [_open(masks, v, i, j) for v in (op.a, op.b)]
        chosen = [masks.sure(op.condition, i, j, wanted) for wanted in (True, False)]
        parts = [side & choice for side, choice in zip(sides, chosen) if side is not None and choice is not None]
        return np.logical_or.reduce(parts) if parts else None
    if isinstance(op, (ops.View, ops.Reshape)):
        reads, inner = op.maps().reads[0], type_of(op.operands[0]).shape
        first, second = exact(reads, i), exact(reads, j)
        if first is None or second is None or (inner[first], inner[second]) != (shape[i], shape[j]) or (isinstance(op, ops.View) and not op.inside):
            return None
        return _open(masks, op.operands[0], first, second)
    parts = [_open(masks, v, i, j) for v in op.operands]
    return None if any(p is None for p in parts) else np.logical_and.reduce(parts)


def _hides_only(masks: Masks, op: Op, number: float, softmaxes: set[Op]) -> bool:
    """Whether all that is made from a value goes into some softmaxes, and what is such a number there at most hides in all of them."""
    uses = list(op.results[0].uses)
    for use in uses:
        user, still = use.owner.opview, number
        if user in softmaxes:
            if number > HIDDEN:
                return False
            continue
        if isinstance(user, (ops.Mul, ops.Div)):
            by = masks.positive(user.operands[1 - use.operand_number])
            if by is None or (isinstance(user, ops.Div) and use.operand_number):
                return False
            still = scaled(user, number, by)
        if not isinstance(user, (ops.Select, *THROUGH)) or not _hides_only(masks, user, still, softmaxes):
            return False
    return bool(uses)
