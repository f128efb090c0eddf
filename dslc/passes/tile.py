"""tile: schedules that were measured on the device take the place of the cost model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dslc.ir.bodies import kernel_hash, kernels_in
from dslc.ir.mlir import func, ir
from dslc.ir.ops import Kernel, Scan
from dslc.ir.program import Slot, arguments_of, finish_program, start_program
from dslc.ir.trace import Body
from dslc.ir.types import type_of


@dataclass(frozen=True)
class Tile:
    """Writes a kernel's tuned schedule into it; a kernel that was never tuned keeps `{}`, for which its generator's cost model chooses.

    `tuned`: schedules by `kernel_hash`, each the text of one that the kernel's generator knows (`ir.schedules`).
    before: kernel {kind = "contract", schedule = "{}"}      after: kernel {kind = "contract", schedule = "{\\"Schedule\\": {\\"mc\\": 96, ...}}"}
    """

    tuned: Mapping[str, str]

    def run(self, module: ir.Module) -> None:
        for kernel in kernels_in(module) if self.tuned else ():
            found = self.tuned.get(kernel_hash(kernel.kind, Body.of(kernel.regions[0].blocks[0])))
            if found is not None:
                kernel.operation.attributes["schedule"] = ir.StringAttr.get(found)


def alone(kernel: Kernel, schedule: str, lengths: Mapping[str, int]) -> ir.Module:
    """A program of one kernel with that schedule, in a module of its own: the operands are its inputs, the results its outputs. Integers are told to
    be 0, which is in range of whatever they may index, but for lengths of the run (`longest`)."""
    bounds = [_bounds(v, lengths) for v in kernel.operands]
    module = ir.Module.create(ir.Location.unknown())
    program = start_program(module, "kernel", [Slot(f"x{k}", "input", type_of(v), 0, b) for k, (v, b) in enumerate(zip(kernel.operands, bounds))])
    with ir.InsertionPoint(program.entry_block):
        copy = kernel.operation.clone()
    for k, argument in enumerate(program.entry_block.arguments):
        copy.operands[k] = argument
    copy.attributes["schedule"] = ir.StringAttr.get(schedule)
    finish_program(program, [(Slot(f"y{k}", "output", type_of(v)), v) for k, v in enumerate(copy.results)])
    return module


def _bounds(operand: ir.Value, lengths: Mapping[str, int]) -> tuple[int, int] | None:
    if not type_of(operand).dtype.is_integer or type_of(operand).dtype.is_bool:
        return None
    while isinstance(operand.owner, ir.Block) and isinstance(operand.owner.owner.opview, Scan):  # what a scan is given stands before it
        scan, number = operand.owner.owner.opview, ir.BlockArgument(operand).arg_number - 1
        if not 0 <= number < scan.constants:
            return 0, 1
        operand = scan.operands[number]
    if isinstance(operand.owner, ir.Block) and isinstance(operand.owner.owner.opview, func.FuncOp):
        n = lengths.get(arguments_of(operand.owner.owner.opview)[ir.BlockArgument(operand).arg_number].name, 0)
        return n, n + 1
    return 0, 1
