"""Gradients inside scans: what lies before a scan and depends on what such a gradient is taken by is computed again in the body, where the gradient
sees it. So a turn's gradient is that of the same lines unrolled, but for what the carries hold, which a turn takes as given.

before: %q = mul %w, %w; scan { grad(sum(%q), %w) }      after: scan { %q = mul %w, %w; grad(sum(%q), %w) }
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dslc.ir import ops
from dslc.ir.mlir import ir

Slices = Mapping[ir.Value, tuple[ir.Value, ir.Value]]  # a turn's slice: the stack that it is of, and the turn


def bring_in(block: ir.Block, slices: Slices) -> None:
    """Changes the body of a scan whose ops still read from outside; `slices`: its own and those of the scans around it."""
    grads = [op for op in block.operations if isinstance(op, ops.Grad)]
    if not grads:
        return
    by = {v for op in grads for v in list(op.operands)[1:]}
    wanted = list(_behind([op.operands[0] for op in grads], by, slices))
    late, swap = set(by), dict[ir.Value, ir.Value]()
    with ir.InsertionPoint.at_block_begin(block):
        for value in wanted:
            if value in by or value in swap or not any(v in late for v in _read(value, slices)):
                continue
            late.add(value)
            owner = value.owner
            if isinstance(owner, ir.Block):
                stack, turn = slices[value]
                swap[value] = ops.Gather.of(swap.get(stack, stack), turn, batch=0, outside=0.0)
            elif owner.operation.block != block:
                copy = owner.operation.clone()
                late.update(owner.results)
                swap.update(zip(owner.results, copy.results))
                for k, operand in enumerate(copy.operands):
                    copy.operands[k] = swap.get(operand, operand)
    for op in block.operations if swap else ():
        for k, operand in enumerate(op.operands):
            op.operands[k] = swap.get(operand, operand)


def _read(value: ir.Value, slices: Slices) -> list[ir.Value]:
    """What a value is made from."""
    if value in slices:
        return [slices[value][0]]
    owner = value.owner
    return [] if isinstance(owner, ir.Block) or isinstance(owner.opview, ops.StopGradient) else list(owner.operands)


def _behind(values: Iterable[ir.Value], by: set[ir.Value], slices: Slices) -> Iterator[ir.Value]:
    """All that values are made from and themselves, each after what it is made from; nothing that `by` is made from."""
    seen: set[ir.Value] = set()
    stack = [(v, False) for v in values]
    while stack:
        value, ready = stack.pop()
        if ready:
            yield value
        elif value not in seen:
            seen.add(value)
            stack.append((value, True))
            stack += [(v, False) for v in _read(value, slices) if value not in by]
