"""prune: keeps the results of some roles and drops what they do not need."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from dslc.ir.mlir import func, ir
from dslc.ir.program import arguments_of, finish_program, program_of, results_of, set_arguments


@dataclass(frozen=True)
class Prune:
    """Keeps the results whose role or name is listed, removes the ops that nothing kept needs, and the inputs and scalars that nothing reads.

    before: f(tokens, targets) -> (output logits, loss loss)      after Prune(roles=("output",)): f(tokens) -> (output logits)
    """

    roles: tuple[str, ...] = ("output",)
    names: tuple[str, ...] = ()

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        kept = [(slot, v) for slot, v in results_of(program) if slot.role in self.roles or slot.name in self.names]
        finish_program(program, kept)
        remove_dead(program.entry_block)
        drop_arguments(program)


def remove_dead(block: ir.Block) -> None:
    """Erases the ops of a block whose results nothing uses; table ops have no side effects."""
    for op in reversed(list(block.operations)):
        if op.operation.name.startswith("nn.") and op.results and not any(list(r.uses) for r in op.results):
            op.operation.erase()


def drop_arguments(program: func.FuncOp, keep: Container[str] = ()) -> None:
    """Removes every argument that is read nowhere and whose name is not one to keep."""
    slots = arguments_of(program)
    block = program.entry_block
    kept = []
    for i in range(len(slots) - 1, -1, -1):
        if slots[i].name in keep or list(block.arguments[i].uses):
            kept.append(slots[i])
        else:
            block.erase_argument(i)
    kept.reverse()
    program.attributes["function_type"] = ir.TypeAttr.get(ir.FunctionType.get([s.type.to_mlir() for s in kept], list(program.type.results)))
    set_arguments(program, kept)
