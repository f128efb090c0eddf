"""A product too large to lie in memory, made for some of its tokens at a time: what is made of it goes into a loop over pieces of the tokens.

The logits of a language model are such a product: tokens times vocabulary. What depends on them ends in rows (a loss and a gradient for each token)
and in totals (sums over tokens: the gradient of the weights). A turn of the loop makes a piece's rows, which are stacked, and adds to the totals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dslc.core.dtypes import FLOAT32, DType
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import POINTWISE, Op
from dslc.ir.rows import Unsuited
from dslc.ir.types import type_of

from .kernel_rules import CONTROL, is_placement
from .tile_space import line_of
from .tokens import TOTALS, Axes, Numbered, extent


@dataclass
class Loss:
    """A product and what is made of it: `axes` of all values that depend on it (a str: why they are not followed), `members` the ops that a loop over
    the tokens would hold, `rows` and `totals` what others read of it."""

    root: Any
    side: int  # the operand of the product that has the tokens
    numbered: Numbered
    axes: dict[ir.Value, Axes | str] = field(default_factory=dict)
    members: dict[ir.Operation, Op] = field(default_factory=dict)
    rows: list[ir.Value] = field(default_factory=list)
    totals: list[ir.Value] = field(default_factory=list)

    @staticmethod
    def start(root: Any, side: int) -> Loss:
        mine = (root.lhs, root.rhs)[side]
        shape = root.type.shape
        order = sorted((p for p, n in enumerate(shape) if n > 1), key=lambda p: root.out[p] not in mine)
        number = {p: a for a, p in enumerate(order)}
        axes: Axes = tuple((number[p], number[p]) if p in number else None for p in range(len(shape)))
        numbered = Numbered(tuple(shape[p] for p in order), sum(root.out[p] in mine for p in order))
        return Loss(root, side, numbered, {root.results[0]: axes})

    def follow(self, block: ir.Block) -> None:
        """Finds what the loop holds. Raises Unsuited, with the op that stands in the way."""
        if not 0 < self.numbered.tokens < len(self.numbered.sizes):
            raise Unsuited("it has no tokens, or nothing else")
        self._follow(block)
        self._collect(block)

    # --- what depends on the product

    def _follow(self, block: ir.Block) -> None:
        for op in block.operations:
            given = [self.axes.get(v) for v in op.operands]
            if op.operation == self.root.operation or not op.results or not any(g is not None for g in given):
                continue
            axes: Axes | str
            try:
                followed = [g if not isinstance(g, str) else None for g in given]
                axes = self.numbered.after(op, followed) if any(g is not None for g in followed) else "it is not followed"
                if not isinstance(axes, str) and not self.numbered.free(axes) and not self.numbered.complete(axes):
                    axes = "it has some of the token axes"
            except Unsuited as why:
                axes = str(why)
            self.axes.update(dict.fromkeys(op.results, axes))

    def is_wide(self, value: ir.Value) -> bool:
        """Whether a value has as many points as the product."""
        axes = self.axes.get(value)
        if axes is None or isinstance(axes, str):
            return False
        return any(self.numbered.is_token(p) for p in axes) and any(p is not None and not self.numbered.is_token(p) for p in axes)

    def _collect(self, block: ir.Block) -> None:
        order = list(block.operations)
        wanted = [op for op in order if any(map(self.is_wide, (*op.operands, *op.results)))]
        held: set[ir.Operation] = set()
        while wanted:
            op = wanted.pop()
            if op.operation in held:
                continue
            self._check(op)
            held.add(op.operation)
            wanted += [v.owner.opview for v in op.operands if v in self.axes]
        self.members = {op.operation: op for op in order if op.operation in held}
        for op in self.members.values():
            for r in op.results:
                if any(use.owner.operation not in held for use in r.uses):
                    (self.totals if self.numbered.free(self.axes[r]) else self.rows).append(r)  # type: ignore[arg-type]

    def _check(self, op: Any) -> None:
        if not isinstance(op, Op) or isinstance(op, CONTROL):
            raise Unsuited("the program returns it" if not isinstance(op, Op) else f"{_named(op)} reads it")
        for made in (*op.operands, op.results[0]):
            axes = self.axes.get(made)
            if isinstance(axes, str):
                raise Unsuited(f"{_named(made.owner.opview)}: {axes}")
            if axes is not None and made != op.results[0] and self.numbered.free(axes):
                raise Unsuited(f"{_named(op)} needs all tokens of {_named(made.owner.opview)}")

    def has_softmax(self) -> bool:
        """Whether exponentials of the product are summed over what is no token."""
        found = [use.owner.opview for v in self.axes if self.is_wide(v) for use in v.uses]
        if any(isinstance(op, (ops.Softmax, ops.LogSoftmax)) for op in found):
            return True
        return any(isinstance(op, ops.Exp) for op in found) and any(isinstance(op, ops.Reduce) and self._keeps_tokens(op) for op in found)

    def _keeps_tokens(self, op: Any) -> bool:
        axes = self.axes[op.results[0]]
        return op.kind == "sum" and not isinstance(axes, str) and not self.numbered.free(axes)


def _named(op: Any) -> str:
    return f"{op.operation.name.removeprefix('nn.')} at {line_of(op)}"


# --- pieces


@dataclass(frozen=True)
class Piece:
    """A box of tokens and its turns: along the token axis `axis` from `start` on, in `counts[axis]` steps of `sizes[axis]`; the axes before it one by
    one, those behind it whole."""

    axis: int
    start: int
    counts: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def turns(self) -> int:
        return math.prod(self.counts)

    @property
    def tokens(self) -> int:
        """Of one turn."""
        return math.prod(self.sizes)


def pieces(extents: Sequence[int], most: int) -> list[Piece]:
    """Boxes of at most `most` tokens a turn, all equal where a divisor is near; else a smaller one follows."""
    axis, inner = len(extents) - 1, 1
    while axis > 0 and inner * extents[axis] <= most:
        inner *= extents[axis]
        axis -= 1
    n = extents[axis]
    size = max(1, min(n, most // inner))
    divisor = next(c for c in range(size, 0, -1) if n % c == 0)
    if 2 * divisor > size:
        size = divisor
    else:
        size = -(-n // -(-n // size))

    def piece(start: int, count: int, size: int) -> Piece:
        return Piece(axis, start, (*extents[:axis], count, *(1,) * (len(extents) - axis - 1)), (*(1,) * axis, size, *extents[axis + 1 :]))

    whole = n // size
    return [piece(0, whole, size), *([piece(whole * size, 1, n % size)] if n % size else [])]


# --- the loop


def rewrite(block: ir.Block, loss: Loss, most: int) -> list[Piece]:
    """Puts what belongs to a product into loops of turns of at most `most` tokens."""
    end = list(block.operations)[-1]
    found = pieces(loss.numbered.sizes[: loss.numbered.tokens], most)
    with ir.InsertionPoint(end), loss.root.location:
        totals = [_start(loss, v) for v in loss.totals]
        stacks: list[list[ir.Value]] = []
        for piece in found:
            totals, rows = _Loop(loss, piece).build(totals)
            stacks.append(rows)
        for old, new in zip(loss.totals, totals):
            _replace(loss, old, ops.cast(new, type_of(old).dtype))
        for old, *parts in zip(loss.rows, *stacks):
            _replace(loss, old, _joined(loss, old, found, parts))
    return found


def _replace(loss: Loss, old: ir.Value, new: ir.Value) -> None:
    for use in list(old.uses):
        if use.owner.operation not in loss.members:
            use.owner.operands[use.operand_number] = new


def _wide_type(dtype: DType) -> DType:
    """What a total is kept in from turn to turn: sums of 16-bit values are not rounded before the end."""
    return FLOAT32 if dtype.is_float and dtype.bits < 32 else dtype


def _start(loss: Loss, total: ir.Value) -> ir.Value:
    op, t = total.owner.opview, type_of(total)
    kind = op.kind if isinstance(op, ops.Reduce) else "sum"
    return ops.full(t.with_dtype(_wide_type(t.dtype)), ops.identity(kind, t.dtype))


@dataclass
class _Loop:
    """One scan. `inner`: the values of its body, by what they are outside and with which axes."""

    loss: Loss
    piece: Piece
    inner: dict[tuple[ir.Value, Axes], ir.Value] = field(default_factory=dict)
    constants: dict[ir.Value, None] = field(default_factory=dict)
    slices: dict[tuple[ir.Value, Axes], ir.Value] = field(default_factory=dict)

    @property
    def numbered(self) -> Numbered:
        return self.loss.numbered

    def build(self, totals: Sequence[ir.Value]) -> tuple[list[ir.Value], list[ir.Value]]:
        """The loop, which goes on from these totals; (the totals, the stacked rows) after it."""
        loss = self.loss
        for op in loss.members.values():
            for k, axes in self._reads(op).items():
                self._find(op.operands[k], axes)
        emits = [type_of(v).with_shape(self._shape(v, loss.axes[v])) for v in loss.rows]  # type: ignore[arg-type]
        scan = ops.Scan.build(list(self.constants), totals, list(self.slices.values()), emits, self.piece.turns)
        body = scan.regions[0].blocks[0]
        _, *given = body.arguments
        constants, carries = given[: len(self.constants)], given[len(self.constants) : len(self.constants) + len(totals)]
        self.inner = {(v, ()): a for v, a in zip(self.constants, constants)}
        with ir.InsertionPoint(body):
            for (v, axes), a in zip(self.slices, given[len(constants) + len(carries) :]):
                self.inner[v, axes] = ops.reshape(a, self._shape(v, axes))
            for op in loss.members.values():
                self._member(op)
            made = [self.inner[v, loss.axes[v]] for v in loss.rows]  # type: ignore[index]
            nexts = [self._added(v, carry) for v, carry in zip(loss.totals, carries)]
            ops.Yield.of(*nexts, *made)
        results = list(scan.results)
        return results[: len(totals)], results[len(totals) :]

    def _shape(self, value: ir.Value, axes: Axes) -> list[int]:
        return extent(type_of(value).shape, axes, self.piece.sizes, self.numbered.tokens)

    def _reads(self, op: Any) -> dict[int, Axes]:
        """Of an op of the loop: the operands that come from outside it, with the token axes that they must have."""
        axes = self.loss.axes
        if op.operation == self.loss.root.operation:
            parts = dict(zip(op.out, axes[op.results[0]]))
            return {k: self.numbered.of_tokens(tuple(parts.get(i) for i in mine)) for k, mine in enumerate((op.lhs, op.rhs))}  # type: ignore[misc]
        given: list[Any] = [axes.get(v) for v in op.operands]
        need = {k: self.numbered.before(op, k, axes[op.results[0]], given) for k, g in enumerate(given) if g is None}  # type: ignore[arg-type]
        return {k: self.numbered.of_tokens(found) for k, found in need.items()}

    def _find(self, value: ir.Value, axes: Axes) -> None:
        """Notes what a value from outside needs: itself whole, slices of it, or what it is computed from again."""
        for v, mine in self._sources(value, axes):
            self._find(v, mine)

    def _sources(self, value: ir.Value, axes: Axes) -> list[tuple[ir.Value, Axes]]:
        """The operands of a value that the body computes itself; of one that it gets, none (and that is noted)."""
        op = None if isinstance(value.owner, ir.Block) else value.owner.opview
        if op is not None and self._is_made(op, axes):
            try:
                return [(v, self.numbered.before(op, k, axes, [])) for k, v in enumerate(op.operands)]
            except Unsuited:
                pass
        if self.numbered.free(axes):
            self.constants.setdefault(value)
        elif (value, axes) not in self.slices:
            self.slices[value, axes] = self._taken_apart(value, axes)
        return []

    def _is_made(self, op: Any, axes: Axes) -> bool:
        """Whether the body computes a value itself: what costs nothing, and what has as many points as the product."""
        if isinstance(op, ops.Constant):
            return op.uniform is not None or self.numbered.free(axes)
        if isinstance(op, ops.Iota):
            return not self.numbered.is_token(axes[op.axis])
        if is_placement(op):
            return True
        return op.structure in POINTWISE and not isinstance(op, ops.Random) and not self.numbered.free(axes) and 2 * op.type.size >= self._points

    @property
    def _points(self) -> int:
        return math.prod(self.numbered.sizes)

    def _value(self, value: ir.Value, axes: Axes) -> ir.Value:
        """A value from outside within the body."""
        free = self.numbered.free(axes)
        for key in ((value, axes), (value, ())) if free else ((value, axes),):
            if key in self.inner:
                return self.inner[key]
        op = value.owner.opview
        made = self._again(op, [self._value(v, mine) for v, mine in self._sources(value, axes)], axes)
        self.inner.update({(r, axes): m for r, m in zip(op.results, made)})
        return self.inner[value, axes]

    def _member(self, op: Op) -> None:
        outside = self._reads(op)
        operands = [
            self._value(v, outside[k]) if k in outside else self.inner[v, self.loss.axes[v]]  # type: ignore[index]
            for k, v in enumerate(op.operands)
        ]
        axes = self.loss.axes[op.results[0]]
        assert not isinstance(axes, str)
        made = self._again(op, operands, axes)
        self.inner.update({(r, axes): m for r, m in zip(op.results, made)})

    def _again(self, op: Any, operands: Sequence[ir.Value], axes: Axes) -> list[ir.Value]:
        """An op on a piece of the tokens."""
        if isinstance(op, ops.Constant):  # of which `values` would make the whole array
            uniform, t = op.uniform, op.type.with_shape(self._shape(op.results[0], axes))
            return [ops.full(t, uniform, op.exact) if uniform is not None else op.operation.clone().results[0]]
        values = op.values()
        if "shape" in values:
            values["shape"] = self._shape(op.results[0], axes)
        if op.results[0] in self.loss.totals and isinstance(op, ops.Contract):
            values["dtype"] = _wide_type(values["dtype"])
        if op.results[0] in self.loss.totals and isinstance(op, ops.Reduce):
            operands = [ops.cast(v, _wide_type(type_of(v).dtype)) for v in operands]
        with op.location:
            made = type(op).of(*operands, **values)
        made = made if isinstance(made, list) else [made]
        for name in op.attributes:
            if name not in values:
                made[0].owner.attributes[name] = op.attributes[name]
        return made

    def _added(self, total: ir.Value, carry: ir.Value) -> ir.Value:
        op = total.owner.opview
        with op.location:
            return TOTALS[op.kind if isinstance(op, ops.Reduce) else "sum"].of(carry, self.inner[total, self.loss.axes[total]])  # type: ignore[index]

    def _taken_apart(self, value: ir.Value, axes: Axes) -> ir.Value:
        """A value with the turns as a first axis, behind which its token axes have the sizes of one turn. It repeats over turns along axes that it
        lacks."""
        piece, looped = self.piece, range(self.piece.axis + 1)
        split, own = _each_apart(type_of(value).shape, axes, self.numbered.sizes)
        whole = ops.reshape(value, split)
        if piece.axis in own:
            whole = ops.slice_axis(whole, own.index(piece.axis), piece.start, piece.counts[piece.axis] * piece.sizes[piece.axis])
        shape: list[int] = []
        front: dict[int, int] = {}  # where the turns along a token axis are
        rest: list[int] = []
        for a, n in zip(own, type_of(whole).shape):
            if a in looped:
                front[a] = len(shape)
                shape.append(piece.counts[a])
            rest.append(len(shape))
            shape.append(piece.sizes[a] if a in looped else n)
        moved = ops.transpose(ops.reshape(whole, shape), [*(front[a] for a in looped if a in front), *rest])
        missing = [a for a in looped if a not in front]
        moved = ops.expand_axes(moved, missing, [piece.counts[a] for a in missing]) if missing else moved
        alone = [n for n, part in zip(self._shape(value, axes), axes) if part is None or n > 1]  # axes of one token are left out
        return ops.reshape(moved, [piece.turns, *alone])


def _each_apart(shape: Sequence[int], axes: Axes, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """A shape in which each token axis is one of its own, and the token axis that each of its axes is (-1: none)."""
    split: list[int] = []
    own: list[int] = []
    for n, part in zip(shape, axes):
        tokens = range(part[0], part[1] + 1) if part is not None else ()
        split += [sizes[a] for a in tokens] or [n]
        own += list(tokens) or [-1]
    return split, own


def _joined(loss: Loss, old: ir.Value, found: Sequence[Piece], parts: Sequence[ir.Value]) -> ir.Value:
    """The stacked rows of all pieces as the value that they were."""
    axes = loss.numbered.of_tokens(loss.axes[old])  # type: ignore[arg-type]
    shape = type_of(old).shape
    whole = []
    for piece, stack in zip(found, parts):
        one, own = _each_apart(shape, axes, piece.sizes)
        order = [k for at, a in enumerate(own) for k in ([a] if a >= 0 else []) + [len(piece.counts) + at]]
        apart = ops.transpose(ops.reshape(stack, [*piece.counts, *one]), order)
        whole.append(ops.reshape(apart, [n * piece.counts[a] if a >= 0 else n for n, a in zip(one, own)]))
    return ops.reshape(whole[0] if len(whole) == 1 else ops.Concat.of(*whole, axis=own.index(found[0].axis)), shape)
