"""How values depend on a time axis and on the rows of a batch, and what masks leave of the past: what `incrementalize` rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dslc.core.errors import UnsupportedOp
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.types import spans_of, type_of

STATIC_LIMIT = 1 << 25  # elements of a mask that is evaluated to see what it leaves
# Scores that masks set so low get no weight in a softmax, as -inf does: exp(HIDDEN - x) is 0 in float32 for a row's greatest x >= -196. Masks of
# -1e4, -1e9 or the type's least number are as usual as those of -inf.
HIDDEN = -300.0


class Flow:
    """The axes of every value along which an input's axis runs: through index maps, by one forward walk; bodies of scans included.

    With `masks` a sum over the axis still runs along another axis i where a mask leaves of it what lies before i: sum[j](where(j <= i, x[j], 0)).
    """

    def __init__(self, block: ir.Block, seeds: dict[ir.Value, int], masks: Masks | None = None) -> None:
        self._masks = masks
        self._axes: dict[ir.Value, frozenset[int]] = {v: frozenset((a,)) for v, a in seeds.items()}
        self._touched: set[ir.Value] = set(seeds)
        self._length = min((type_of(v).shape[a] for v, a in seeds.items()), default=0)
        self._walk(block)

    def axes(self, value: ir.Value) -> frozenset[int]:
        """The axes of the value along which the input's axis runs."""
        return self._axes.get(value, frozenset())

    def touched(self, value: ir.Value) -> bool:
        """True where the value depends on the input at all."""
        return value in self._touched

    def _walk(self, block: ir.Block) -> None:
        for op in block.operations:
            if isinstance(op, Op) and any(v in self._touched for v in op.operands):
                self._touched.update(op.results)
                self._pass(op)

    def _pass(self, op: Op) -> None:
        if isinstance(op, ops.Scan):
            self._scan(op)
        elif op.structure in ("whole", "control"):
            self._whole(op)
        else:
            maps, rank = op.maps(), op.type.rank
            found: set[int] = set()
            for read, value in zip(maps.reads, op.operands):
                for axis in self.axes(value):
                    found |= self._along(read[axis], maps.domain, rank)
            self._axes[op.results[0]] = frozenset(found or self._masked(op))

    def _along(self, read: index.Expr, domain: Sequence[int], rank: int) -> set[int]:
        """The result axes that run along what is read: of a window t - u the axis t, the first one that is as long as the input's."""
        dims = {d for d in index.dims_of(read) if d < rank}
        factors = index.coefficients(read, len(domain))
        long = sorted(d for d in dims if factors and factors[0][d] == 1 and domain[d] >= self._length)
        return {long[0]} if long else dims

    def _masked(self, op: Op) -> set[int]:
        """The result axis i of a fold over the input's axis j that a mask over (i, j) proves to read no j > i."""
        if isinstance(op, ops.ArgReduce):
            kept = [k for k in range(type_of(op.x).rank) if k != op.axis]
            return self._proved(op.x, op.axis, kept, -np.inf if op.kind == "max" else np.inf)
        if not isinstance(op, (ops.Reduce, ops.Contract)):
            return set()
        reads = op.maps().reads
        lost = {d for read, v in zip(reads, op.operands) for axis in self.axes(v) for d in index.dims_of(read[axis])}
        for read, value in zip(reads, op.operands):
            axis_of = {d: k for k, e in enumerate(read) for d in index.dims_of(e)}
            neutral = float(ops.identity(op.kind, type_of(value).dtype)) if isinstance(op, ops.Reduce) else 0.0
            for j in sorted(lost & axis_of.keys()):
                if found := self._proved(value, axis_of[j], [axis_of.get(d) for d in range(op.type.rank)], neutral):
                    return found
        return set()

    def _proved(self, value: ir.Value, j: int, kept: Sequence[int | None], neutral: float) -> set[int]:
        """`kept`: the axis of the value at each axis of the result."""
        for result, axis in enumerate(kept):
            if self._masks is None or axis is None or type_of(value).shape[axis] != self._length:
                continue
            if self._masks.reach(value, axis, j, neutral) is not None:
                return {result}
        return set()

    def _whole(self, op: Op) -> None:
        """Softmax and its like keep all axes, an argreduce drops one, a scatter those that are scattered."""
        if isinstance(op, ops.Scatter):
            self._axes[op.results[0]] = self._scattered(op)
            return
        common = frozenset().union(*(self.axes(v) for v in op.operands))
        for result in op.results:
            if isinstance(op, ops.ArgReduce):
                self._axes[result] = frozenset(a - (a > op.axis) for a in common if a != op.axis) or frozenset(self._masked(op))
            elif type_of(result).rank == type_of(op.operands[0]).rank:
                self._axes[result] = common

    def _scattered(self, op: ops.Scatter) -> frozenset[int]:
        """The axes beside those that are scattered; none where the input's is among these, for each result then needs all of it."""
        rank, kept = type_of(op.operands[1]).rank, set()
        for n, value in enumerate(op.operands):
            for axis in self.axes(value):
                if op.batch <= axis and (n or axis < rank):
                    return frozenset()
                kept.add(axis if axis < op.batch else axis - rank + op.batch + len(op.sizes))
        return frozenset(kept)

    def _scan(self, op: ops.Scan) -> None:
        c, k = op.constants, op.carries
        inner = list(op.regions[0].blocks[0].arguments)[1:]
        for n, (value, argument) in enumerate(zip(op.operands, inner)):
            if self.touched(value):
                self._touched.add(argument)
                self._join(argument, (a - (n >= c + k) for a in self.axes(value) if n < c + k or a))
        for _ in range(k + 1):  # what a carry gets in one turn it has in the next
            self._walk(op.regions[0].blocks[0])
            ends = list(list(op.regions[0].blocks[0].operations)[-1].operands)
            for argument, end in zip(inner[c : c + k], ends):
                if self.touched(end):
                    self._touched.add(argument)
                    self._join(argument, self.axes(end))
        along = any(0 in self.axes(v) for v in list(op.operands)[c + k :])
        for n, (result, end) in enumerate(zip(op.results, ends)):
            axes = set(self.axes(end)) if n < k else {a + 1 for a in self.axes(end)} | ({0} if along else set())
            self._axes[result] = frozenset(axes)

    def _join(self, value: ir.Value, axes: Iterable[int]) -> None:
        self._axes[value] = self.axes(value) | frozenset(axes)


class Masks:
    """What masks prove: where, over pairs of positions, a value is a given constant whatever the data is."""

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Value, int, int, float], np.ndarray | None] = {}
        self._arrays: dict[ir.Value, np.ndarray | None] = {}

    def reach(self, value: ir.Value, i: int, j: int, constant: float) -> int | None:
        """How many positions back, itself included, the value at (i, j) may be another than `constant`, with the query's time on axis i and the
        key's on axis j; None where it may be for a j > i."""
        sure = self.sure(value, i, j, constant)
        if sure is None:
            return None
        gap = np.arange(sure.shape[0])[:, None] - np.arange(sure.shape[1])[None, :]
        open_ = gap[~sure]
        if open_.size and open_.min() < 0:
            return None
        return int(open_.max()) + 1 if open_.size else 0

    def sure(self, value: ir.Value, i: int, j: int, constant: float) -> np.ndarray | None:
        """bool [size of axis i, size of axis j]: where the value is the constant at all other axes; of a negative one, where it is that or less, and
        of -inf, where it is `HIDDEN` or less."""
        constant = HIDDEN if constant == -np.inf else constant
        key = (value, i, j, constant)
        if key not in self._known:
            self._known[key] = self._found(value, i, j, constant)
        return self._known[key]

    def _found(self, value: ir.Value, i: int, j: int, constant: float) -> np.ndarray | None:
        owner = value.owner
        op = None if isinstance(owner, ir.Block) else owner.opview
        if not isinstance(op, Op) or i == j:
            return None
        if isinstance(op, ops.Constant) and op.uniform is not None:
            shape = op.type.shape
            return np.full((shape[i], shape[j]), _is(op.uniform, constant))
        rule = _RULES.get(type(op))
        found = rule(self, op, i, j, constant) if rule else None
        return found if found is not None else self._evaluated(value, i, j, constant)

    def _evaluated(self, value: ir.Value, i: int, j: int, constant: float) -> np.ndarray | None:
        array = self._array(value)
        if array is None:
            return None
        moved = np.moveaxis(_is(array, constant), (i, j), (0, 1))
        return moved.reshape(*moved.shape[:2], -1).all(axis=2)

    def _array(self, value: ir.Value) -> np.ndarray | None:
        """The value where it depends on constants and indices alone, and is small enough."""
        if value not in self._arrays:
            self._arrays[value] = None
            owner = value.owner
            op = None if isinstance(owner, ir.Block) else owner.opview
            if isinstance(op, Op) and not op.regions and len(op.results) == 1 and type_of(value).size <= STATIC_LIMIT:
                parts = [a for v in op.operands if (a := self._array(v)) is not None]
                if len(parts) == len(op.operands) and not isinstance(op, ops.Random):
                    with np.errstate(all="ignore"):
                        self._arrays[value] = np.asarray(op.reference(*parts)).astype(type_of(value).dtype.numpy)
        return self._arrays[value]

    def positive(self, value: ir.Value) -> tuple[float, float] | None:
        """The least and the greatest of a value that is known, positive and finite everywhere."""
        owner = value.owner
        op = None if isinstance(owner, ir.Block) else owner.opview
        if isinstance(op, ops.Constant) and op.uniform is not None:
            return (op.uniform, op.uniform) if 0 < op.uniform < np.inf else None
        if isinstance(op, (ops.Reshape, ops.View)) and (isinstance(op, ops.Reshape) or op.inside):
            return self.positive(op.operands[0])
        array = self._array(value)
        return (float(array.min()), float(array.max())) if array is not None and array.size and ((array > 0) & (array < np.inf)).all() else None


def _is(x: Any, constant: float) -> Any:
    return x <= constant if constant < 0 else x == constant


def _either(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a | b


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return None if a is None or b is None else a & b


def _select(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    condition, yes, no = op.operands
    a, b = masks.sure(yes, i, j, constant), masks.sure(no, i, j, constant)
    chosen = _either(_both(masks.sure(condition, i, j, True), a), _both(masks.sure(condition, i, j, False), b))
    return _either(chosen, _both(a, b))


def _absorbing(value: bool) -> Any:
    """A rule for ops that are `value` as soon as an operand is it, and otherwise need both."""

    def rule(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
        a, b = (masks.sure(v, i, j, constant) for v in op.operands)
        return _either(a, b) if constant == value else _both(a, b)

    return rule


def _sum(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    """Zeros add up to zero; what is far below zero stays there whatever a score is, of a difference on its left."""
    a, b = (masks.sure(v, i, j, constant) for v in op.operands)
    return _both(a, b) if constant == 0 else _either(a, b if isinstance(op, ops.Add) else None) if constant < 0 else None


def _product(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    """Zero stays whatever the other (finite) factor is, of a quotient above; what is far below zero is as far as a known factor leaves it."""
    a, b = op.operands
    if constant == 0:
        return _either(masks.sure(a, i, j, 0.0), masks.sure(b, i, j, 0.0) if isinstance(op, ops.Mul) else None)
    if constant >= 0:
        return None
    found = None
    for x, by in ((a, b), (b, a)) if isinstance(op, ops.Mul) else ((a, b),):
        if (known := masks.positive(by)) is not None:
            found = _either(found, masks.sure(x, i, j, scaled(op, constant, known, back=True)))
    return found


def scaled(op: Op, number: float, by: tuple[float, float], back: bool = False) -> float:
    """At most what a negative number becomes by a product with, or a quotient by, positive numbers of a range; `back`: what it must be to become so
    much at most."""
    factor = by[0] if isinstance(op, ops.Mul) else 1 / by[1]
    return number / factor if back else number * factor


def _carried(constant: float, operand: float) -> Any:
    """A rule for ops that give `constant` where their first operand is `operand`."""

    def rule(masks: Masks, op: Op, i: int, j: int, wanted: float) -> np.ndarray | None:
        return masks.sure(op.operands[0], i, j, operand) if wanted == constant else None

    return rule


def _same(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    """Ops whose result is the constant where all operands are it."""
    found = masks.sure(op.operands[0], i, j, constant)
    for v in list(op.operands)[1:]:
        found = _both(found, masks.sure(v, i, j, constant))
    return found


def _not(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    return masks.sure(op.operands[0], i, j, not constant)


def _softmax(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    zero = 0.0 if isinstance(op, ops.Softmax) else HIDDEN
    return masks.sure(op.operands[0], i, j, HIDDEN) if constant == zero and op.axis == j else None


def _view(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    reads = op.maps().reads[0]
    first, second = exact(reads, i), exact(reads, j)
    if first is None or second is None or (isinstance(op, ops.View) and not op.inside):
        return None
    sizes, shape = type_of(op.operands[0]).shape, op.type.shape
    if (sizes[first], sizes[second]) != (shape[i], shape[j]):
        return None
    return masks.sure(op.operands[0], first, second, constant)


def _reduce(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    kept = [k for k in range(type_of(op.operands[0]).rank) if k not in op.axes]
    return masks.sure(op.operands[0], kept[i], kept[j], constant) if op.kind in ("max", "min", "any", "all") or constant == 0 else None


def _contract(masks: Masks, op: Op, i: int, j: int, constant: float) -> np.ndarray | None:
    found = None
    for value, axes in zip(op.operands, (op.lhs, op.rhs)):
        if constant == 0 and op.out[i] in axes and op.out[j] in axes:
            found = _either(found, masks.sure(value, axes.index(op.out[i]), axes.index(op.out[j]), 0.0))
    return found


_RULES: dict[type[Op], Any] = {
    ops.Select: _select, ops.Mul: _product, ops.Div: _product, ops.And: _absorbing(False), ops.Or: _absorbing(True), ops.Add: _sum, ops.Sub: _sum,
    ops.Exp: _carried(0.0, HIDDEN), ops.Sigmoid: _carried(0.0, HIDDEN),
    ops.Not: _not, ops.Cast: _same, ops.StopGradient: _same, ops.Max: _same, ops.Min: _same, ops.Sqrt: _carried(0.0, 0.0),
    ops.Abs: _carried(0.0, 0.0),
    ops.Tanh: _carried(0.0, 0.0), ops.Neg: _carried(0.0, 0.0), ops.Softmax: _softmax, ops.LogSoftmax: _softmax, ops.View: _view, ops.Reshape: _view,
    ops.Reduce: _reduce, ops.Contract: _contract,
}  # fmt: skip


def looks_ahead(op: Op, what: str) -> UnsupportedOp:
    """The error for an op that needs what comes later."""
    help = "a decoder with caches needs a model that is causal in time, the second axis of its inputs"
    return UnsupportedOp(f"this looks ahead: {what}", spans_of(op.location)[:1], help=help)


def all_of_time(time: Flow, op: Op) -> UnsupportedOp:
    """The error for an op that depends on time without having it, at the op that lost the axis."""
    for value in op.operands:
        if time.touched(value) and not time.axes(value) and not isinstance(value.owner, ir.Block):
            return all_of_time(time, value.owner.opview)
    return looks_ahead(op, "this depends on every position of time")


def cannot_follow(op: Op, what: str) -> UnsupportedOp:
    """The error for an op that may be causal, which is not proved or has no rule."""
    return UnsupportedOp(f"no step by step form: {what}", spans_of(op.location)[:1])


def exact(reads: Sequence[index.Expr], axis: int) -> int | None:
    """The operand axis that is read at result axis `axis` alone."""
    return next((k for k, e in enumerate(reads) if e == index.Dim(axis)), None)
