"""chunk: products too large to lie in memory, the logits of a language model, are made and used up for some of their tokens at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.rows import Unsuited

from .attention import is_parameter
from .chunked import Loss, rewrite
from .notes import note
from .prune import remove_dead
from .regions import sort
from .tile_space import line_of


@dataclass(frozen=True)
class Chunk:
    tokens: int = 0

    def run(self, module: ir.Module) -> None:
        for op in module.body.operations:
            if isinstance(op, func.FuncOp):
                chunk(op.entry_block, self.tokens)


def chunk(block, tokens):
    for loss in losses(block, []):
        print([str(v.owner.opview.operation.name) for v in loss.rows], [str(v.owner.opview.operation.name) for v in loss.totals], len(loss.members))
        print(rewrite(block, loss, tokens))
        sort(block)
        remove_dead(block)
        return


def losses(block: ir.Block, notes: list[str]) -> list[Loss]:
    """The largest products with a softmax behind them that a loop over tokens can hold; notes what stands in the way of the others."""
    found = []
    for root in _largest(block):
        reasons = []
        for side in _sides(root):
            try:
                loss = Loss.of(block, root, side)
            except Unsuited as why:
                reasons.append(f"{line_of(root)}: not in chunks: {why}")
                continue
            if loss.tells():
                found.append(loss)
            break
        notes += reasons[-1:]
    return found


def _sides(root) -> list[int]:
    weights = [is_parameter(v) for v in root.operands]
    return [k for k in (0, 1) if not weights[k]] or [0, 1]


def _largest(block):
    found = [op for op in block.operations if isinstance(op, ops.Contract) and _is_large(op)]
    most = max((op.type.size for op in found), default=0)
    return [op for op in found if 2 * op.type.size >= most]


def _is_large(op):
    a, b = op.types()
    return op.type.size > max(a.size, b.size) and op.type.dtype.is_float
