"""prepare: what depends on parameters alone is computed once, not at every run."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, program_of, results_of, start_program
from dslc.ir.types import type_of

from .prune import remove_dead

NAME = "prepare"  # of the second function
GROWTH = 4  # times the bytes of the parameters that it is made from, above which a value is not kept


@dataclass(frozen=True)
class Prepare:
    """Values that follow from parameters and from states that the program does not change (weights in 16 bits, a normalization's factors) become
    arguments of role `prepared`; a second function, `prepare`, makes them. The runtime runs it when a parameter has changed.

    before: main(w, x) { %1 = cast %w to bf16; contract %x, %1 }      after: main(prepared.0, x) { contract %x, prepared.0 }, prepare(w) { cast }
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        changed = {s.name for s, _ in results_of(program) if s.role in ("param", "state")}
        block = program.entry_block
        fixed = {v: slot for slot, v in zip(arguments_of(program), block.arguments) if slot.role in ("param", "state") and slot.name not in changed}
        kept = _kept(block, set(fixed))
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


def _kept(block: ir.Block, fixed: set[ir.Value]) -> list[ir.Value]:
    """The last values on every way from parameters that are more than a view of another and that ops which depend on the inputs read."""
    weight = dict.fromkeys(fixed, 0) | {v: type_of(v).bytes for v in fixed}  # bytes of the parameters behind a value that follows from them
    still: set[ir.Value] = set(fixed)  # also values of no parameter: constants, indices
    found: dict[ir.Value, None] = {}
    for op in list(block.operations):
        if isinstance(op, Op) and not op.regions and not isinstance(op, ops.Random) and all(v in still for v in op.operands):
            still.update(op.results)
            behind = sum(weight.get(v, 0) for v in set(op.operands))
            if behind:
                weight |= dict.fromkeys(op.results, behind)
            continue
        if not isinstance(op, func.ReturnOp):
            for value in op.operands:
                root = (
                    value if op.regions and not isinstance(value.owner, ir.Block) and value in weight else _root(value, weight)
                )  # loops need memory
                if root is not None and type_of(root).bytes <= GROWTH * weight[root]:
                    found[root] = None
    return list(found)


def _root(value: ir.Value, weight: dict[ir.Value, int]) -> ir.Value | None:
    """What a value is a view of, where that is computed from parameters."""
    while value in weight:
        if isinstance(value.owner, ir.Block):
            return None
        op = value.owner.opview
        if not isinstance(op, (ops.View, ops.Reshape)):
            return value
        value = op.operands[0]
    return None


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
    second = next(
        (op for op in module.body.operations if isinstance(op, func.FuncOp) and ir.StringAttr(op.attributes["sym_name"]).value == NAME), None
    )
    if second is None:
        return None
    alone = ir.Module.create(ir.Location.unknown())
    with ir.InsertionPoint(alone.body):
        second.operation.clone()
    second.operation.erase()
    return alone
