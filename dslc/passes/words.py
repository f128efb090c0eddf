"""words: weights of products of bytes lie as their instructions read them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dslc.core.dtypes import INT32
from dslc.ir import index, ops
from dslc.ir.contractions import LINE, roles_of
from dslc.ir.mlir import ir
from dslc.ir.program import program_of
from dslc.ir.types import TensorType, type_of

from .kernel_rules import widens_bytes
from .prepare import Behind, behind_each, fixed_arguments, is_small

WORD = 4  # terms side by side


@dataclass(frozen=True)
class Words:
    """8-bit weights of an integer product that `prepare` will keep lie as words of four terms, which is what one instruction multiplies (vpdpbusd),
    those of 16 columns side by side; what is behind the last term and column is 0.

    before: contract %x, cast %w [k, n]      after: %1 = copy (view %w) [n / 16, k / 4, 16, 4]; contract %x, cast (view %1) [k, n]
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        behind = behind_each(program.entry_block, fixed_arguments(program))
        for op in list(program.entry_block.operations):
            if isinstance(op, ops.Contract) and op.type.dtype == INT32 and op.type.size:
                _lay_out(op, behind)


def _lay_out(op: ops.Contract, behind: Behind) -> None:
    roles = roles_of(op)
    side = 1 - roles.rows_of
    widened = op.operands[side]
    if isinstance(widened.owner, ir.Block) or not widens_bytes(widened.owner.opview):
        return
    cast = widened.owner.opview
    if isinstance(cast, ops.Sub):
        cast = cast.a.owner.opview
    bytes_, maps = cast.x, op.maps()
    place = {e.axis: k for k, e in enumerate(maps.reads[side]) if isinstance(e, index.Dim)}  # of the product's dims: axes of the operand
    batch, _, columns, terms = ([place[d] for d in members if d in place] for members in roles.classes)
    shape = type_of(bytes_).shape
    b, n, k = (prod(shape[a] for a in axes) for axes in (batch, columns, terms))
    words, lines = -(-k // WORD), -(-n // LINE)
    laid = TensorType(type_of(bytes_).dtype, (b, lines, words, LINE, WORD))
    if not behind.get(bytes_) or not is_small(laid, behind[bytes_]):
        return
    with ir.InsertionPoint(cast), op.location:
        flat = ops.reshape(ops.transpose(bytes_, [*batch, *columns, *terms]), (b, n, k))
        padded = ops.slice_axis(ops.slice_axis(flat, 1, 0, lines * LINE), 2, 0, words * WORD)
        kept = ops.StopGradient.of(ops.transpose(ops.reshape(padded, (b, lines, LINE, words, WORD)), [0, 1, 3, 2, 4]))  # a copy
        whole = ops.reshape(ops.transpose(kept, [0, 1, 3, 2, 4]), (b, lines * LINE, words * WORD))
        back = ops.slice_axis(ops.slice_axis(whole, 1, 0, n), 2, 0, k)
        axes = [*batch, *columns, *terms]
        cast.operands[0] = ops.transpose(ops.reshape(back, [shape[a] for a in axes]), [axes.index(a) for a in range(len(shape))])
