"""Moving ops between blocks: cloning a body with other arguments, and what a set of ops uses from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dslc.ir.mlir import ir


def clone_into(source: ir.Block, arguments: Sequence[ir.Value]) -> list[ir.Value]:
    """Copies the ops of a block to the insertion point with other values for its arguments; the values that its terminator would yield."""
    swap = dict(zip(source.arguments, arguments))
    for op in source.operations:
        if op.operation.name == "nn.yield":
            return [swap.get(v, v) for v in op.operands]
        copy = op.operation.clone()
        for k, operand in enumerate(copy.operands):
            if operand in swap:
                copy.operands[k] = swap[operand]
        swap.update(zip(op.results, copy.results))
    return []


def values_used(operations: Iterable[ir.Operation]) -> list[ir.Value]:
    """What ops use that none of them makes, in order of first use."""
    made: set[ir.Value] = set()
    used: dict[ir.Value, None] = {}
    for op in operations:
        for value in op.operands:
            if value not in made:
                used.setdefault(value)
        made.update(op.results)
    return list(used)
