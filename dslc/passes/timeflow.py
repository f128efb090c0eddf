"""How values depend on a time axis and on the rows of a batch, and what masks leave of the past: what `incrementalize` rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.core.errors import UnsupportedOp
from dslc.ir import index, ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.types import spans_of, type_of

STATIC_LIMIT = 1 << 25  # elements of a mask that is evaluated to see what it leaves


class Flow:
    """The axes of every value along which an input's axis runs: through index maps, by one forward walk; bodies of scans included."""

    def __init__(self, block: ir.Block, seeds: dict[ir.Value, int]) -> None:
        self._axes: dict[ir.Value, frozenset[int]] = {v: frozenset((a,)) for v, a in seeds.items()}
        self._touched: set[ir.Value] = set(seeds)
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
                    found |= {d for d in index.dims_of(read[axis]) if d < rank}
            self._axes[op.results[0]] = frozenset(found)

    def _whole(self, op: Op) -> None:
        """Softmax and its like keep all axes, an argreduce drops one."""
        common = frozenset().union(*(self.axes(v) for v in op.operands))
        for result in op.results:
            if isinstance(op, ops.ArgReduce):
                self._axes[result] = frozenset(a - (a > op.axis) for a in common if a != op.axis)
            elif type_of(result).rank == type_of(op.operands[0]).rank:
                self._axes[result] = common

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


@dataclass(frozen=True)
class Region:
    """A value at (i, j) is `value` wherever j > i or j <= i - reach."""

    value: float | int | bool
    reach: int


class Masks:
    """What masks prove: on which part of the past a value is not one constant."""

    def __init__(self) -> None:
        self._known: dict[tuple[ir.Value, int, int], Region | None] = {}
        self._arrays: dict[ir.Value, np.ndarray | None] = {}

    def region(self, value: ir.Value, i: int, j: int) -> Region | None:
        """The region of a value with the query's time on axis i and the key's on axis j; None where nothing is proved."""
        key = (value, i, j)
        if key not in self._known:
            self._known[key] = self._found(value, i, j)
        return self._known[key]

    def _found(self, value: ir.Value, i: int, j: int) -> Region | None:
        owner = value.owner
        if isinstance(owner, ir.Block) or not isinstance(owner.opview, Op):
            return None
        op = owner.opview
        if isinstance(op, ops.Constant) and op.uniform is not None:
            return Region(op.uniform, 0)
        rule = _RULES.get(type(op))
        found = rule(self, op, i, j) if rule else None
        if found is None and op.structure == "elementwise":
            found = self._elementwise(op, i, j)
        return found or self._evaluated(value, i, j)

    def _elementwise(self, op: Op, i: int, j: int) -> Region | None:
        parts = [self.region(v, i, j) for v in op.operands]
        if any(p is None for p in parts):
            return None
        known = [p for p in parts if p is not None]
        with np.errstate(all="ignore"):
            value = np.asarray(op.reference(*(np.asarray(p.value).astype(type_of(v).dtype.numpy) for p, v in zip(known, op.operands))))
        return Region(value.item(), max(p.reach for p in known))

    def _evaluated(self, value: ir.Value, i: int, j: int) -> Region | None:
        array = self._array(value)
        if array is None or i >= array.ndim or j >= array.ndim or i == j:
            return None
        moved = np.moveaxis(array, (i, j), (0, 1))
        gap = np.arange(moved.shape[0])[:, None] - np.arange(moved.shape[1])[None, :]
        future = moved[gap < 0]
        if not future.size or not (future == future.reshape(-1)[0]).all():
            return None
        same = (moved == future.reshape(-1)[0]).reshape(*gap.shape, -1).all(axis=2)
        open_ = gap[~same]
        return Region(future.reshape(-1)[0].item(), int(open_.max()) + 1 if open_.size else 0)

    def _array(self, value: ir.Value) -> np.ndarray | None:
        """The value where it depends on constants and indices alone, and is small enough."""
        if value not in self._arrays:
            self._arrays[value] = None
            owner = value.owner
            op = None if isinstance(owner, ir.Block) else owner.opview
            if isinstance(op, Op) and not op.regions and len(op.results) == 1 and type_of(value).size <= STATIC_LIMIT:
                parts = [self._array(v) for v in op.operands]
                if all(p is not None for p in parts) and not isinstance(op, ops.Random):
                    with np.errstate(all="ignore"):
                        self._arrays[value] = np.asarray(op.reference(*parts)).astype(type_of(value).dtype.numpy)
        return self._arrays[value]


def _select(masks: Masks, op: Op, i: int, j: int) -> Region | None:
    condition = masks.region(op.operands[0], i, j)
    if condition is None:
        return None
    chosen = masks.region(op.operands[1 if condition.value else 2], i, j)
    return chosen and Region(chosen.value, max(condition.reach, chosen.reach))


def _absorbing(*values: float | bool) -> Any:
    """A rule for ops whose result is one of `values` as soon as an operand is it, whatever the other (finite) one is."""

    def rule(masks: Masks, op: Op, i: int, j: int) -> Region | None:
        parts = [p for v in op.operands if (p := masks.region(v, i, j)) is not None and p.value in values]
        return min(parts, key=lambda p: p.reach) if parts else None

    return rule


def _first(value: float) -> Any:
    """A rule for ops that keep `value` of their first operand."""

    def rule(masks: Masks, op: Op, i: int, j: int) -> Region | None:
        part = masks.region(op.operands[0], i, j)
        return part if part is not None and part.value == value else None

    return rule


def _softmax(masks: Masks, op: Op, i: int, j: int) -> Region | None:
    part = masks.region(op.operands[0], i, j)
    if part is None or part.value != -np.inf or op.axis != j:
        return None
    return Region(0.0 if isinstance(op, ops.Softmax) else -np.inf, part.reach)


def _view(masks: Masks, op: Op, i: int, j: int) -> Region | None:
    reads = op.maps().reads[0]
    inner = [next((k for k, e in enumerate(reads) if e == index.Dim(a)), None) for a in (i, j)]
    if None in inner or (isinstance(op, ops.View) and not op.inside):
        return None
    sizes = type_of(op.operands[0]).shape
    if any(sizes[k] != op.type.shape[a] for k, a in zip(inner, (i, j)) if k is not None):
        return None
    return masks.region(op.operands[0], inner[0], inner[1])  # type: ignore[arg-type]


def _reduce(masks: Masks, op: Op, i: int, j: int) -> Region | None:
    kept = [k for k in range(type_of(op.operands[0]).rank) if k not in op.axes]
    part = masks.region(op.operands[0], kept[i], kept[j])
    return part if part is not None and (op.kind in ("max", "min", "any", "all") or part.value == 0) else None


def _contract(masks: Masks, op: Op, i: int, j: int) -> Region | None:
    for value, axes in zip(op.operands, (op.lhs, op.rhs)):
        if op.out[i] in axes and op.out[j] in axes:
            part = masks.region(value, axes.index(op.out[i]), axes.index(op.out[j]))
            if part is not None and part.value == 0:
                return part
    return None


_RULES: dict[type[Op], Any] = {
    ops.Select: _select,
    ops.Mul: _absorbing(0.0),
    ops.And: _absorbing(False),
    ops.Or: _absorbing(True),
    ops.Add: _absorbing(-np.inf),
    ops.Sub: _first(-np.inf),
    ops.Div: _first(0.0),
    ops.Softmax: _softmax,
    ops.LogSoftmax: _softmax,
    ops.View: _view,
    ops.Reshape: _view,
    ops.Reduce: _reduce,
    ops.Contract: _contract,
}  # fmt: skip


def looks_ahead(op: Op, what: str) -> UnsupportedOp:
    """The error for an op that needs what comes later."""
    return UnsupportedOp(
        f"this looks ahead: {what}", spans_of(op.location)[:1], help="a decoder that keeps its past needs a model that is causal in time"
    )


def cannot_follow(op: Op, what: str) -> UnsupportedOp:
    """The error for an op that may be causal, which is not proved or has no rule."""
    return UnsupportedOp(f"no step by step form: {what}", spans_of(op.location)[:1])


def exact(reads: Sequence[index.Expr], axis: int) -> int | None:
    """The operand axis that is read at result axis `axis` alone."""
    return next((k for k, e in enumerate(reads) if e == index.Dim(axis)), None)


def seeds_of(program: func.FuncOp, names: dict[str, int], slots: Sequence[Any]) -> dict[ir.Value, int]:
    """The arguments of these names, each with its axis."""
    return {v: names[s.name] for s, v in zip(slots, program.entry_block.arguments) if s.name in names}
