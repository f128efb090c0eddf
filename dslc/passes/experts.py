"""experts: rows that each choose a matrix are multiplied in groups of one choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

from dslc.core.dtypes import FLOAT32, INT32
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import functions_of
from dslc.ir.types import TensorType, type_of

from .precision import rounding, through_rounding
from .prune import remove_dead

LEAST = 8  # terms and columns of the matrices
MOST_ROWS = 4  # of a product before: where each choice has more rows of its own, these are a group already
BLOCKS = (1, 2, 4, 8, 16, 32, 64)  # rows of a block
MATRIX_ROWS = 4  # reading a block's matrix costs as much as the products of so many rows


@dataclass(frozen=True)
class Experts:
    """A product with gathered matrices (a mixture of experts) lays the rows of each choice side by side, in blocks that are filled up with zeros:
    one matrix a block, read where it lies. The number of blocks is a bound: `choices` blocks more than the rows fill, less one row each. An index
    outside the matrices gives zeros, as the gather does. Where the product sums over rows too (a token's choices), their products are added then.

    before: %1 = gather %w, %ids [n, k, m]; %2 = contract %x [n, k], %1
    after: %1 = gather %x, %source [blocks * b, k]; %2 = gather %w, %choice [blocks, k, m]; %3 = contract %1, %2; %4 = gather %3, %place
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            _Walk().block(program.entry_block)


class _Routes(NamedTuple):
    """`place[t]`: the laid out row of row t, -1: none; `source[p]`: the row at p, -1: none; `choice[b]`: the matrix of block b."""

    place: ir.Value
    source: ir.Value
    choice: ir.Value


@dataclass
class _Walk:
    routes: dict[tuple[ir.Value, int, int], _Routes] = field(default_factory=dict)
    laid: dict[tuple, ir.Value] = field(default_factory=dict)  # rows that several products read

    def block(self, block: ir.Block) -> None:
        for op in list(block.operations):
            for region in op.regions:
                _Walk().block(region.blocks[0])
            if isinstance(op, ops.Contract):
                side = next((k for k in (0, 1) if _chooses(op, k)), None)
                if side is not None:
                    with ir.InsertionPoint(op), op.location:
                        op.results[0].replace_all_uses_with(self.grouped(op, side))
        remove_dead(block)

    def grouped(self, op: ops.Contract, side: int) -> ir.Value:
        """The product at `op`, whose operand at `side` is gathered."""
        gather, x, stored = through_rounding(op.operands[side]).owner.opview, op.operands[1 - side], type_of(op.operands[side]).dtype
        w_axes, x_axes = (op.lhs, op.rhs) if side == 0 else (op.rhs, op.lhs)
        table, ids = gather.operands
        chosen, sizes = list(w_axes[: type_of(ids).rank]), op.sizes
        count, choices = type_of(ids).size, type_of(table).shape[0]
        x_rest, w_rest, out_rest = ([i for i in axes if i not in chosen] for axes in (x_axes, w_axes, op.out))
        order = [*chosen, *x_rest]
        rows = ops.broadcast(x, [sizes[i] for i in order], [order.index(i) for i in x_axes])
        rows = ops.reshape(rows, (count, *(sizes[i] for i in x_rest)))
        b, blocks = block_rows(count, choices)
        first = max(sizes) + 1
        batch, row = (first, first + 1)
        shape = [sizes[i] for i in out_rest]
        summed = [k for k, i in enumerate(chosen) if i not in op.out]
        dtype = FLOAT32 if summed and op.dtype.bits < 32 else op.dtype
        if b == 1:
            flat = ops.reshape(ids, (count,))
            matrices = rounding(ops.Gather.of(table, flat, batch=0, outside=0.0), stored)
            y = ops.contract(rows, matrices, [batch, *x_rest], [batch, *w_rest], [batch, *out_rest], dtype, op.tf32)
        else:
            key = (ids, choices, b)
            if key not in self.routes:
                self.routes[key] = routes(ids, choices, b, blocks)
            to = self.routes[key]
            known = (x, tuple(order.index(i) for i in x_axes), *key)
            if known not in self.laid:
                gathered = ops.Gather.of(rows, to.source, batch=0, outside=0.0)
                self.laid[known] = ops.reshape(gathered, (blocks, b, *(sizes[i] for i in x_rest)))
            laid = self.laid[known]
            matrices = rounding(ops.Gather.of(table, to.choice, batch=0, outside=0.0), stored)
            y = ops.contract(laid, matrices, [batch, row, *x_rest], [batch, *w_rest], [batch, row, *out_rest], dtype, op.tf32)
            y = ops.Gather.of(ops.reshape(y, (blocks * b, *shape)), to.place, batch=0, outside=0.0)
        y = ops.reshape(y, [*(sizes[i] for i in chosen), *shape])
        if summed:
            y = ops.cast(ops.Reduce.of(y, kind="sum", axes=summed), op.dtype)
        now = [*(i for i in chosen if i in op.out), *out_rest]
        return ops.transpose(y, [now.index(i) for i in op.out])


def _chooses(op: ops.Contract, side: int) -> bool:
    """Whether the operand is a matrix for each of few rows, gathered by one index, of which the result has an axis."""
    value = through_rounding(op.operands[side])
    if isinstance(value.owner, ir.Block) or not isinstance(value.owner.opview, ops.Gather) or value.owner.opview.batch or op.type.size == 0:
        return False
    gather = value.owner.opview
    if len(gather.operands) != 2 or gather.outside != 0:
        return False
    axes, others = (op.lhs, op.rhs) if side == 0 else (op.rhs, op.lhs)
    rank, sizes = type_of(gather.operands[1]).rank, op.sizes
    chosen, rest = axes[:rank], axes[rank:]
    if not any(i in op.out for i in chosen):
        return False
    terms = prod(sizes[i] for i in rest if i not in op.out)
    columns = prod(sizes[i] for i in rest if i in op.out and i not in others)
    own = prod(sizes[i] for i in others if i in op.out and i not in axes)
    return terms >= LEAST and columns >= LEAST and own <= MOST_ROWS


def block_rows(rows: int, choices: int) -> tuple[int, int]:
    """(rows of a block, number of blocks) that cost least: a block costs its rows and reading its matrix."""

    def blocks(b: int) -> int:
        return min(rows, (rows + choices * (b - 1)) // b)

    b = min(BLOCKS, key=lambda b: (blocks(b) * (b + MATRIX_ROWS), b))
    return b, blocks(b)


def routes(ids: ir.Value, choices: int, b: int, blocks: int) -> _Routes:
    """Where rows go: those of one choice side by side in their order, from a multiple of b on."""
    count = type_of(ids).size
    flat = ops.as_int32(ops.reshape(ids, (count,)))
    shape = (count, choices)
    chosen = ops.cast(ops.Compare.of(ops.broadcast(flat, shape, [0]), ops.Iota.of(axis=1, shape=shape, dtype=INT32), predicate="eq"), INT32)
    running = _running(chosen, exclusive=False)
    number = ops.pick(running, 0, count - 1)
    taken = ops.FloorDiv.of(ops.Add.of(number, ops.full_like(number, b - 1)), ops.full_like(number, b))
    first = _running(taken, exclusive=True)
    start = ops.broadcast(ops.Mul.of(first, ops.full_like(first, b)), shape, [1])
    place = ops.Reduce.of(ops.Mul.of(chosen, ops.Add.of(start, running)), kind="sum", axes=[1])
    place = ops.Sub.of(place, ops.full_like(place, 1))
    rows = ops.Iota.of(axis=0, shape=(count,), dtype=INT32)
    source = ops.Scatter.of(ops.Add.of(rows, ops.full_like(rows, 1)), place, kind="sum", batch=0, sizes=[blocks * b])
    source = ops.Sub.of(source, ops.full_like(source, 1))
    of_block = (blocks, choices)
    begun = ops.Compare.of(ops.broadcast(first, of_block, [1]), ops.Iota.of(axis=0, shape=of_block, dtype=INT32), predicate="le")
    choice = ops.Reduce.of(ops.cast(begun, INT32), kind="sum", axes=[1])
    return _Routes(place, source, ops.Sub.of(choice, ops.full(TensorType(INT32, (blocks,)), 1)))


def _running(x: ir.Value, exclusive: bool) -> ir.Value:
    return ops.Cumulative.of(x, kind="sum", axis=0, reverse=False, exclusive=exclusive)
