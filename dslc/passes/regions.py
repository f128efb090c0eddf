"""Moving ops: cloning a body with other arguments, what a set of ops uses from outside, the order of a block."""

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


def sort(block: ir.Block) -> None:
    """Puts the ops of a block in an order in which values are made before they are read, near to the one they have."""
    done: set[ir.Operation] = set()
    *ops_in, end = block.operations

    def place(op: ir.OpView) -> None:
        stack = [op]
        while stack:
            current = stack[-1]
            if current.operation in done:
                stack.pop()
                continue
            waiting = [v.owner.opview for v in current.operands if not isinstance(v.owner, ir.Block) and v.owner not in done]
            if waiting:
                stack += waiting
                continue
            done.add(stack.pop().operation)
            current.operation.move_before(end.operation)

    for op in ops_in:
        place(op)
