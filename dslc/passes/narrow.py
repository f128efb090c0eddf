"""narrow: products of which a box is read, and of operands that are 0 around a box, become products of the box: a loss that looks one token ahead."""

from __future__ import annotations

from typing import Any

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import type_of

from .prune import remove_dead


def narrow(block: ir.Block) -> None:
    """Slices of products are products of slices. Slices come before casts, paddings with 0 behind casts, sums and products.

    before: %l = contract %h, %w; slice %l; ...; %p = pad %g; %dw = contract %p, %h
    after:  %s = slice %h; %l = contract %s, %w; ...; %dw = contract %g, %s
    """
    for op in reversed(list(block.operations)):
        if isinstance(op, ops.Cast):
            _slice_first(op)
        elif isinstance(op, ops.Contract):
            _slice_operands(op)
    for op in list(block.operations):
        if isinstance(op, (ops.Cast, ops.Add, ops.Sub)):
            _pad_last(op)
        elif isinstance(op, ops.Contract):
            _without_padding(op)
    remove_dead(block)


def _unit_view(x: ir.Value, offsets: Any, shape: Any) -> ir.Value:
    rank = len(shape)
    return ops.view(x, [[int(a == k) for k in range(rank)] for a in range(rank)], offsets, shape)


def _is_unit(view: ops.View) -> bool:
    """Every axis is read along itself."""
    return len(view.shape) == len(view.offsets) and all(f == (a == k) for a, row in enumerate(view.matrix) for k, f in enumerate(row))


def _slices(value: ir.Value) -> list[ops.View]:
    """The readers of a value, if all of them are slices of the same box of it."""
    views = [use.owner.opview for use in value.uses]
    if not views or not all(isinstance(v, ops.View) and _is_unit(v) and v.inside for v in views):
        return []
    return views if len({(v.offsets, v.shape) for v in views}) == 1 else []


def _slice_first(op: ops.Cast) -> None:
    for view in _slices(op.results[0])[:1]:
        with ir.InsertionPoint(op), op.location:
            made = ops.cast(_unit_view(op.operands[0], view.offsets, view.shape), op.dtype)
        _replace_slices(op, made)


def _replace_slices(op: Any, made: ir.Value) -> None:
    for view in _slices(op.results[0]):
        view.results[0].replace_all_uses_with(made)
        view.operation.erase()


def _slice_operands(op: ops.Contract) -> None:
    for view in _slices(op.results[0])[:1]:
        box = dict(zip(op.out, zip(view.offsets, view.shape)))
        with ir.InsertionPoint(op), op.location:
            operands = [_box_of(v, mine, box) for v, mine in zip(op.operands, (op.lhs, op.rhs))]
            made = ops.Contract.of(*operands, **op.values())
        _replace_slices(op, made)


def _box_of(value: ir.Value, indices: Any, box: dict[int, tuple[int, int]]) -> ir.Value:
    """The part of an operand of a contraction where its indices lie in a box: (start, size) of some of them."""
    pairs = [box.get(i, (0, n)) for i, n in zip(indices, type_of(value).shape)]
    return _unit_view(value, [start for start, _ in pairs], [size for _, size in pairs])


def _padding(value: ir.Value) -> ops.View | None:
    """The view that made a value by putting 0 around another."""
    op = None if isinstance(value.owner, ir.Block) else value.owner.opview
    if not isinstance(op, ops.View) or not _is_unit(op) or op.outside != 0 or op.inside:
        return None
    inner = zip(op.offsets, type_of(op.x).shape, op.shape)
    return op if all(offset <= 0 and n - offset <= whole for offset, n, whole in inner) else None


def _pad_last(op: Any) -> None:
    """What is 0 of zeros, of values with 0 around the same box."""
    pads = [_padding(v) for v in op.operands]
    known = [pad for pad in pads if pad is not None]
    if len(known) == len(pads) and len({(pad.offsets, type_of(pad.x).shape) for pad in known}) == 1:
        with ir.InsertionPoint(op), op.location:
            inner = type(op).of(*(pad.x for pad in known), **op.values())
            made = _unit_view(inner, known[0].offsets, known[0].shape)
        op.results[0].replace_all_uses_with(made)


def _without_padding(op: ops.Contract) -> None:
    for k in (0, 1):
        pad = _padding(op.operands[k])
        if pad is None:
            continue
        mine, other = (op.lhs, op.rhs) if k == 0 else (op.rhs, op.lhs)
        box = {i: (-offset, n) for i, offset, n in zip(mine, pad.offsets, type_of(pad.x).shape)}
        with ir.InsertionPoint(op), op.location:
            operands = [pad.x, _box_of(op.operands[1 - k], other, box)]
            made = ops.Contract.of(*(operands if k == 0 else operands[::-1]), **op.values())
            made = _unit_view(made, [-box[i][0] if i in box else 0 for i in op.out], op.type.shape)
        op.results[0].replace_all_uses_with(made)
        return
