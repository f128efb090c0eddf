"""prepare: what depends on parameters alone is computed once, not at every run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, functions_of, name_of, program_of, results_of, start_program
from dslc.ir.types import TensorType, type_of

from .kernel_rules import widens_bytes
from .prune import remove_dead

NAME = "prepare"  # of the second function


@dataclass(frozen=True)
class Prepare:
    """Values that follow from parameters and from states that the program does not change (weights in 16 bits, a normalization's factors) become
    arguments of role `prepared`; a second function, `prepare`, makes them. The runtime runs it when a parameter has changed.

    before: main(w, x) { %1 = cast %w to bf16; contract %x, %1 }      after: main(prepared.0, x) { contract %x, prepared.0 }, prepare(w) { cast }
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        block, fixed = program.entry_block, fixed_arguments(program)
        kept = _kept(block, behind_each(block, fixed))
        if not kept:
            return
        slots = [Slot(f"prepared.{n}", "state", type_of(v)) for n, v in enumerate(kept)]
        needed = _needed(kept)
        sources = [v for v in fixed if v in needed]
        made = start_program(module, NAME, [*(fixed[v] for v in sources), *slots])
        swap: dict[ir.Value, ir.Value] = dict(zip(sources, made.entry_block.arguments))
        with ir.InsertionPoint(made.entry_block):
            for op in list(block.operations)[:-1]:
                if any(r in needed for r in op.results):
                    copy = op.operation.clone()
                    for k, operand in enumerate(copy.operands):
                        copy.operands[k] = swap[operand]
                    swap.update(zip(op.results, copy.results))
        finish_program(made, [(slot, swap[v]) for slot, v in zip(slots, kept)])
        for slot, value in zip(slots, kept):
            value.replace_all_uses_with(add_argument(program, Slot(slot.name, "prepared", slot.type)))
        remove_dead(block)


def fixed_arguments(program: func.FuncOp) -> dict[ir.Value, Slot]:
    """The parameters and states that the program does not change."""
    changed = {s.name for s, _ in results_of(program) if s.role in ("param", "state")}
    slots = zip(arguments_of(program), program.entry_block.arguments)
    return {v: slot for slot, v in slots if slot.role in ("param", "state") and slot.name not in changed}


Behind = dict[ir.Value, frozenset[ir.Value]]  # of values that are the same in every run, the parameters that each is made from; none: constants


def behind_each(block: ir.Block, fixed: Iterable[ir.Value]) -> Behind:
    """The values that follow from `fixed`, constants and indices alone."""
    behind: Behind = {v: frozenset((v,)) for v in fixed}
    for op in block.operations:
        if isinstance(op, Op) and not op.regions and not isinstance(op, ops.Random) and all(v in behind for v in op.operands):
            behind |= dict.fromkeys(op.results, frozenset().union(*(behind[v] for v in op.operands)))
    return behind


def is_small(t: TensorType, parameters: Iterable[ir.Value]) -> bool:
    """Whether a value is no larger than the parameters it is made from, but for a sixteenth of padding: then it is kept."""
    return t.bytes * 16 <= sum(type_of(v).bytes for v in parameters) * 17


def _kept(block: ir.Block, behind: Behind) -> list[ir.Value]:
    """The last values on every way from parameters that ops which depend on the inputs read, and that are no larger than those parameters."""
    found: dict[ir.Value, None] = {}
    seen: set[ir.Value] = set()
    for op in block.operations:
        if not isinstance(op, func.ReturnOp) and not all(v in behind for v in op.results):
            for value in op.operands:
                _roots(value, behind, bool(op.regions), found, seen)
    return list(found)


def _roots(value: ir.Value, behind: Behind, stored: bool, found: dict[ir.Value, None], seen: set[ir.Value]) -> None:
    """Finds what is worth keeping of a value that follows from parameters: itself, what it is a view or a wider form of (unless it has to be
    `stored`, for a loop), or where it is larger than its parameters what it is computed from."""
    if not behind.get(value) or isinstance(value.owner, ir.Block) or (value in seen and not stored):
        return
    seen.add(value)
    op = value.owner.opview
    if is_small(type_of(value), behind[value]) and (stored or not (isinstance(op, (ops.View, ops.Reshape)) or widens(op))):
        found[value] = None
        return
    for operand in op.operands:
        _roots(operand, behind, False, found, seen)


def widens(op: Op) -> bool:
    """A cast to a wider type, or of bytes less a zero point: who reads less memory makes it as it reads."""
    return (isinstance(op, ops.Cast) and op.types()[0].dtype.bits < op.type.dtype.bits) or widens_bytes(op)


def _needed(values: list[ir.Value]) -> set[ir.Value]:
    """The values and all that they are computed from."""
    seen: set[ir.Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            stack += [] if isinstance(value.owner, ir.Block) else list(value.owner.operands)
    return seen


def split(module: ir.Module) -> ir.Module | None:
    """The second function in a module of its own; None where there is none."""
    second = next((op for op in functions_of(module) if name_of(op) == NAME), None)
    if second is None:
        return None
    alone = ir.Module.create(ir.Location.unknown())
    with ir.InsertionPoint(alone.body):
        second.operation.clone()
    second.operation.erase()
    return alone
