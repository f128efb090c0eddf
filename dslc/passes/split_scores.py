"""split_scores: scores of which all readers take parts along an axis are made a part at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.program import blocks_of, functions_of
from dslc.ir.types import type_of

from .attention import is_score
from .prune import remove_dead


@dataclass(frozen=True)
class SplitScores:
    """The weights of two softmaxes that lie along one axis, and are subtracted from each other, are no tiles of one stream; made for each part of the
    axis they are, and no part is made twice. It runs before gradients are taken, so these come in parts too.

    before: %p = softmax (contract %q, %k); sub (view %p at [0]), (view %p at [1])
    after:  sub (softmax (contract (view %q at [0]), (view %k at [0]))), (softmax (contract (view %q at [1]), (view %k at [1])))
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):
                for op in list(block.operations):
                    if isinstance(op, ops.Contract) and is_score(op):
                        _split(op)
                remove_dead(block)


@dataclass(frozen=True)
class Part:
    """`extent` places of an axis: `first`, `first + step`, ..."""

    first: int
    step: int
    extent: int


def _split(score: ops.Contract) -> None:
    for axis in range(score.type.rank):
        found = _parts(score, axis)
        if found is not None:
            along, parts = found
            made: dict[tuple[ir.Value, Part], ir.Value] = {}
            for view, part in parts.items():
                with ir.InsertionPoint(view), view.location:
                    x = _made(view.x, part, along, made)
                    a = along[view.x]
                    rows = [[min(f, 1) for f in row] if k == a else row for k, row in enumerate(view.matrix)]
                    offsets = [0 if k == a else offset for k, offset in enumerate(view.offsets)]
                    view.results[0].replace_all_uses_with(ops.view(x, rows, offsets, view.shape))
            return


def _parts(score: ops.Contract, axis: int) -> tuple[dict[ir.Value, int], dict[ops.View, Part]] | None:
    """(the values made from the score, each with its place of the axis, the views that take parts of them); None where anything else reads them, no
    exponential is among them, or the parts are more than there is."""
    along = {score.results[0]: axis}
    stack, parts, exponential = [score.results[0]], dict[ops.View, Part](), False
    while stack:
        value = stack.pop()
        for use in value.uses:
            user = use.owner.opview
            place = _kept(user, along[value]) if isinstance(user, Op) else None
            if place is not None:
                exponential |= isinstance(user, (ops.Softmax, ops.LogSoftmax, ops.Exp))
                if along.setdefault(user.results[0], place) != place:
                    return None
                stack += [user.results[0]] if user.results[0] not in stack else []
            elif isinstance(user, ops.View) and (part := _part(user, along[value])):
                parts[user] = part
            else:
                return None
    size = score.type.shape[axis]
    fits = parts and sum(p.extent for p in set(parts.values())) <= size and all(p.extent < size for p in parts.values())
    return (along, parts) if fits and exponential else None


def _kept(op: Op, axis: int) -> int | None:
    """The place that an axis of what an op reads has in its result, where each point of it is made from the same point alone."""
    if op.structure == "elementwise":
        return axis
    if isinstance(op, (ops.Softmax, ops.LogSoftmax)):
        return axis if op.axis != axis else None
    if isinstance(op, ops.Reduce):
        return axis - sum(a < axis for a in op.axes) if axis not in op.axes else None
    if not isinstance(op, ops.View) or op.offsets[axis]:
        return None
    used = [k for k, f in enumerate(op.matrix[axis]) if f]
    alone = len(used) == 1 and op.matrix[axis][used[0]] == 1 and sum(bool(row[used[0]]) for row in op.matrix) == 1
    return used[0] if alone and op.shape[used[0]] == type_of(op.x).shape[axis] and op.inside else None


def _part(op: ops.View, axis: int) -> Part | None:
    """The part of an axis that a view reads; None where it does not step along an axis of its own."""
    used = [k for k, f in enumerate(op.matrix[axis]) if f]
    if len(used) > 1 or not op.inside:
        return None
    if not used:
        return Part(op.offsets[axis], 1, 1)
    k = used[0]
    step = op.matrix[axis][k]
    return Part(op.offsets[axis], step, op.shape[k]) if step > 0 and sum(bool(row[k]) for row in op.matrix) == 1 else None


def _made(value: ir.Value, part: Part, along: Mapping[ir.Value, int], made: dict[tuple[ir.Value, Part], ir.Value]) -> ir.Value:
    """A value at a part of its axis."""
    if (value, part) not in made:
        op = value.owner.opview
        with ir.InsertionPoint(op), op.location:
            made[value, part] = _again(op, part, along, made)
        if PRECISION in op.attributes:
            made[value, part].owner.attributes[PRECISION] = op.attributes[PRECISION]
    return made[value, part]


def _again(op: Op, part: Part, along: Mapping[ir.Value, int], made: dict[tuple[ir.Value, Part], ir.Value]) -> ir.Value:
    a = along[op.results[0]]
    if isinstance(op, ops.Contract):
        axes = [(v, ids.index(op.out[a]) if op.out[a] in ids else None) for v, ids in zip(op.operands, (op.lhs, op.rhs))]
        return ops.Contract.of(*(v if k is None else _taken(v, k, part) for v, k in axes), **op.values())
    operands = [_made(v, part, along, made) if v in along else _taken(v, a, part) for v in op.operands]
    if isinstance(op, ops.View):
        return ops.view(operands[0], op.matrix, op.offsets, [part.extent if k == a else n for k, n in enumerate(op.shape)])
    return type(op).of(*operands, **op.values())


def _taken(value: ir.Value, axis: int, part: Part) -> ir.Value:
    t = type_of(value)
    rows = [[(part.step if k == axis else 1) * (k == n) for n in range(t.rank)] for k in range(t.rank)]
    offsets = [part.first if k == axis else 0 for k in range(t.rank)]
    return ops.view(value, rows, offsets, [part.extent if k == axis else n for k, n in enumerate(t.shape)])
