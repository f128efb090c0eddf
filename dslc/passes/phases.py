"""phases: convolutions of spaced elements as products of what meets elements."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import blocks_of, functions_of

from .channels_last import keep_precision
from .conv_products import as_product, is_exact


@dataclass(frozen=True)
class Phases:
    """A convolution with zeros between its input's elements (a transposed one, the gradients of a strided one) multiplies with the taps that meet
    elements alone: contractions over windows, a few for all phases of its result. For targets whose `conv` would visit every tap.

    before: %y = conv %x, %w {spacing = [2]}      after: %y = reshape (contract (view %x), (view %w) [n, g, o, i, phase])
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):
                _block(block)


def _block(block: ir.Block) -> None:
    for op in list(block.operations):
        if isinstance(op, ops.Conv) and any(p > 1 for p in op.spacing) and is_exact(op):
            with ir.InsertionPoint(op), op.location:
                new = as_product(op, range(op.type.rank), joined=True)
            keep_precision(op, new)
            op.results[0].replace_all_uses_with(new)
            op.operation.erase()
