"""hoist: moves out of a scan's body what does not need the carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.program import blocks_of, functions_of
from dslc.ir.types import type_of

INVARIANT = ("elementwise", "contract", "reduce", "view")  # structures that move out whole where all operands are constants


@dataclass(frozen=True)
class Hoist:
    """What depends on a scan's constants alone is computed once before it; a product of a slice with a constant becomes one product of the whole
    stack, with the turn as one more axis, of which each turn gets its slice. It runs before `differentiate`, so gradients of weights that meet the
    inputs only are whole products too. What a gradient inside the body is taken through stays there.

    before: scan { z = contract x_t, w; ... }      after: %z = contract %x, %w; scan over %z { ... }
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):
                for op in list(block.operations):
                    if isinstance(op, ops.Scan):
                        _hoist_scan(op)


def _hoist_scan(scan: ops.Scan) -> None:
    c, k = scan.constants, scan.carries
    operands, block = list(scan.operands), scan.regions[0].blocks[0]
    arguments = list(block.arguments)
    constant = dict(zip(arguments[1 : 1 + c], operands[:c]))  # inner value: the same outside
    stacked = dict(zip(arguments[1 + c + k :], operands[c + k :]))  # inner value: all turns' values outside
    new_constants: dict[ir.Value, ir.Value] = {}
    new_slices: dict[ir.Value, ir.Value] = {}
    moved: list[Op] = []
    held = {v for op in block.operations if isinstance(op, ops.Grad) for v in list(op.operands)[1:]}  # and what is made from them
    with ir.InsertionPoint(scan):
        for op in list(block.operations):
            if any(v in held for v in op.operands):
                held.update(op.results)
                continue
            if not isinstance(op, Op) or len(op.results) != 1 or not op.operands:
                continue
            if op.structure in INVARIANT and all(v in constant or _is_constant(v) for v in op.operands):
                value = _clone_outside(op, constant)
                constant[op.results[0]] = new_constants[op.results[0]] = value
            elif isinstance(op, ops.Contract) and any(v in stacked for v in op.operands) and all(v in stacked or v in constant for v in op.operands):
                with op.location:
                    value = _stacked_product(op, constant, stacked)
                stacked[op.results[0]] = new_slices[op.results[0]] = value
            else:
                continue
            moved.append(op)
    moved = _without_repeats(moved, arguments, new_constants)
    gone = {op.operation for op in moved}
    if any(_used_elsewhere(op, gone) for op in moved):
        _rebuild(scan, moved, new_constants, new_slices)
    else:
        for value in reversed([*new_constants.values(), *new_slices.values()]):
            value.owner.erase()


def _without_repeats(moved: list[Op], arguments: list[ir.Value], new_constants: dict[ir.Value, ir.Value]) -> list[Op]:
    """Less the views that only repeat a constant of the scan, a bias for each row say: the body's kernels read the constant at less cost."""
    left = []
    for op in moved:
        if isinstance(op, ops.View) and op.operands[0] in arguments and type_of(op.operands[0]).size < op.type.size:
            outside = new_constants.pop(op.results[0])
            if not list(outside.uses):
                outside.owner.erase()
        else:
            left.append(op)
    return left


def _is_constant(value: ir.Value) -> bool:
    owner = value.owner
    return not isinstance(owner, ir.Block) and isinstance(owner.opview, ops.Constant)


def _clone_outside(op: Op, constant: dict[ir.Value, ir.Value]) -> ir.Value:
    copy = op.operation.clone()
    for i, operand in enumerate(op.operands):
        if operand in constant:
            copy.operands[i] = constant[operand]
        else:
            inner = operand.owner.clone()
            inner.move_before(copy)
            copy.operands[i] = inner.results[0]
    return copy.results[0]


def _stacked_product(op: ops.Contract, constant: dict[ir.Value, ir.Value], stacked: dict[ir.Value, ir.Value]) -> ir.Value:
    """The product for all turns at once: the turn is one more index of the result, and of the operands that change with it."""
    turn = max([*op.lhs, *op.rhs]) + 1
    sides = []
    for value, axes in zip(op.operands, (op.lhs, op.rhs)):
        sides.append((stacked[value], [turn, *axes]) if value in stacked else (constant[value], list(axes)))
    (a, lhs), (b, rhs) = sides
    made = ops.contract(a, b, lhs, rhs, [turn, *op.out], op.dtype, op.tf32)
    if PRECISION in op.attributes:
        made.owner.attributes[PRECISION] = op.attributes[PRECISION]
    return made


def _used_elsewhere(op: Op, gone: set[ir.Operation]) -> bool:
    """By something that stays in the body."""
    return any(use.owner.operation not in gone for use in op.results[0].uses)


def _kept(moved: list[Op], outside: dict[ir.Value, ir.Value]) -> Iterator[tuple[ir.Value, ir.Value]]:
    """(inner value, outer value) of what the body still needs."""
    gone = {op.operation for op in moved}
    for op in moved:
        value = op.results[0]
        if value in outside and _used_elsewhere(op, gone):
            yield value, outside[value]


def _read(values: Iterable[tuple[ir.Value, ir.Value]], gone: set[ir.Operation]) -> list[tuple[ir.Value, ir.Value]]:
    """Those of (inner value, outer value) that something reads which stays in the body."""
    return [(inner, outer) for inner, outer in values if any(use.owner.operation not in gone for use in inner.uses)]


def _rebuild(scan: ops.Scan, moved: list[Op], new_constants: dict[ir.Value, ir.Value], new_slices: dict[ir.Value, ir.Value]) -> None:
    """The scan with the moved values as further constants and slices, and without those that only these have read."""
    c, k = scan.constants, scan.carries
    operands, old = list(scan.operands), scan.regions[0].blocks[0]
    turn, *arguments = list(old.arguments)
    gone = {m.operation for m in moved}
    constants = [*_read(zip(arguments[:c], operands[:c]), gone), *_kept(moved, new_constants)]
    slices = [*_read(zip(arguments[c + k :], operands[c + k :]), gone), *_kept(moved, new_slices)]
    emits = [type_of(v).with_shape(type_of(v).shape[1:]) for v in list(scan.results)[k:]]
    with ir.InsertionPoint(scan), scan.location:
        carried = operands[c : c + k]
        made = ops.Scan.build([v for _, v in constants], carried, [v for _, v in slices], emits, scan.trip, scan.backward)
    new = made.regions[0].blocks[0]
    inner = [turn, *(v for v, _ in constants), *arguments[c : c + k], *(v for v, _ in slices)]
    swap = dict(zip(inner, new.arguments))
    for op in list(old.operations):
        if op.operation in gone:
            continue
        op.operation.detach_from_parent()
        new.append(op.operation)
        for i, operand in enumerate(op.operands):
            if operand in swap:
                op.operands[i] = swap[operand]
    for before, after in zip(scan.results, made.results):
        before.replace_all_uses_with(after)
    scan.operation.erase()
