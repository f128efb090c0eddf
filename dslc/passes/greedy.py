"""greedy: a program that gives logits tells their greatest too, so that the host needs nothing else to go on with it."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.executable import BEST, GREATEST
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import Slot, finish_program, program_of, results_of
from dslc.ir.types import type_of


@dataclass(frozen=True)
class Greedy:
    """Beside each output [rows, classes] of floats its greatest element in each row, and where the first of these is.

    before: f(tokens, position) -> (output logits: float32[2, 65])
    after:  f(tokens, position) -> (output logits, output logits.best: int32[2], output logits.greatest: float32[2])
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        results = results_of(program)
        end = list(program.entry_block.operations)[-1]
        added: list[tuple[Slot, ir.Value]] = []
        for slot, value in results:
            t = type_of(value)
            if slot.role != "output" or not t.dtype.is_float or t.rank != 2 or not t.shape[1]:
                continue
            with ir.InsertionPoint(end), value.owner.location if isinstance(value.owner, ir.Operation) else ir.Location.unknown():
                found = {BEST: ops.ArgReduce.of(value, kind="max", axis=1), GREATEST: ops.Reduce.of(value, kind="max", axes=[1])}
            added += [(Slot(slot.name + name, "output", type_of(v), slot.line), v) for name, v in found.items()]
        finish_program(program, [*results, *added])
