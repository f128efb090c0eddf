"""lines: weights of products lie as their inner loops read them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dslc.ir import index, ops
from dslc.ir.contractions import LINE, Roles, roles_of
from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.ir.types import TensorType, type_of

from .prepare import Behind, behind_each, fixed_arguments, is_small

ROWS = 16  # from which on weights in rows of columns would be packed at each run, at a cost that shows
MOST_ROWS = 1024  # beyond, the products take so much longer than the packing that the memory is worth more, where any would be taken
ROWS_ALONG = 5  # and those in rows of terms: fewer rows are multiplied along these


@dataclass(frozen=True)
class Lines:
    """Weights of a product of floats with many rows lie in lines of 16 columns, term after term, what is behind the last column being 0: `prepare`
    will lay them out, where each run would pack them. Few columns stay as they are, where padding would be much of the memory. Weights of products
    of one column, as filters of one channel each are, lie term after term, those of all products side by side.

    before: contract %x, %w [k, n]      after: %1 = copy (view %w) [n / 16, k, 16]; contract %x, (view %1)
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        behind = behind_each(program.entry_block, fixed_arguments(program))
        laid: dict[tuple[object, ...], ir.Value] = {}
        for op in list(program.entry_block.operations):
            if isinstance(op, ops.Contract) and op.type.size:
                _lay_out(op, behind, laid)
                _lay_abreast(op, behind, laid)


def _lay_out(op: ops.Contract, behind: Behind, laid: dict[tuple[object, ...], ir.Value]) -> None:
    """`laid`: what was laid out before, by the value and its axes: products may share weights."""
    roles = roles_of(op)
    side = 1 - roles.rows_of
    weights, axes = op.operands[side], _axes(op, roles, side)
    t, (batch, columns, terms) = type_of(weights), axes
    shape = t.shape
    b, n, k = (prod(shape[a] for a in members) for members in axes)
    lines = -(-n // LINE)
    kept = TensorType(t.dtype, (b, lines, k, LINE))
    rows = prod(op.maps().domain[d] for d in roles.classes[1])
    if (
        rows < (ROWS_ALONG if _innermost(weights) in terms else ROWS)
        or (rows > MOST_ROWS and not _is_made(weights))
        or not t.dtype.is_float
        or not behind.get(weights)
        or behind.get(op.results[0])
        or not is_small(kept, behind[weights])
    ):
        return
    order = [*batch, *columns, *terms]
    key = weights, tuple(map(tuple, axes))
    with ir.InsertionPoint(op), op.location:
        if key not in laid:
            flat = ops.slice_axis(ops.reshape(ops.transpose(weights, order), (b, n, k)), 1, 0, lines * LINE)
            copy = ops.StopGradient.of(ops.transpose(ops.reshape(flat, (b, lines, LINE, k)), [0, 1, 3, 2]))
            whole = ops.reshape(ops.transpose(copy, [0, 1, 3, 2]), (b, lines * LINE, k))
            back = ops.reshape(ops.slice_axis(whole, 1, 0, n), [shape[a] for a in order])
            laid[key] = ops.transpose(back, [order.index(a) for a in range(len(shape))])
        op.operands[side] = laid[key]


def _lay_abreast(op: ops.Contract, behind: Behind, laid: dict[tuple[object, ...], ir.Value]) -> None:
    roles = roles_of(op)
    side = next((side for side in (0, 1) if behind.get(op.operands[side])), None)
    places = prod(op.maps().domain[d] for c in (1, 2) for d in roles.classes[c])
    if side is None or behind.get(op.results[0]) or places < ROWS:
        return
    weights, (batch, own, terms) = op.operands[side], _axes(op, roles, side)
    shape = type_of(weights).shape
    alone = prod(shape[a] for a in own) == 1 and prod(shape[a] for a in batch) > 1 and prod(shape[a] for a in terms) > 1
    if not alone or not type_of(weights).dtype.is_float or _innermost(weights) in batch:
        return
    order = [*terms, *own, *batch]
    key = weights, tuple(order)
    with ir.InsertionPoint(op), op.location:
        if key not in laid:
            laid[key] = ops.transpose(ops.StopGradient.of(ops.transpose(weights, order)), [order.index(a) for a in range(len(shape))])
        op.operands[side] = laid[key]


def _is_made(value: ir.Value) -> bool:
    """Whether a value is no parameter's view: then `prepare` keeps it, in whatever order."""
    while not isinstance(value.owner, ir.Block) and isinstance(value.owner.opview, (ops.View, ops.Reshape)):
        value = value.owner.opview.operands[0]
    return not isinstance(value.owner, ir.Block)


def _innermost(value: ir.Value) -> int | None:
    """The axis along which a value's elements are neighbours, seen through views; None where that is no axis."""
    if isinstance(value.owner, ir.Block) or not isinstance(value.owner.opview, ops.View):
        return type_of(value).rank - 1
    view = value.owner.opview
    axis = _innermost(view.operands[0])
    read = view.maps().reads[0][axis] if axis is not None and axis >= 0 else None
    return read.axis if isinstance(read, index.Dim) else None


def _axes(op: ops.Contract, roles: Roles, side: int) -> list[list[int]]:
    """An operand's axes that are the product's batches, its own (columns or rows), and terms."""
    place = {e.axis: k for k, e in enumerate(op.maps().reads[side]) if isinstance(e, index.Dim)}
    return [[place[d] for d in roles.classes[c] if d in place] for c in (0, 1 if side == roles.rows_of else 2, 3)]
