"""greedy: a program that gives logits tells their greatest too, so that the host needs nothing else to go on with it."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.executable import BEST, GREATEST
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import Slot, finish_program, program_of, results_of
from dslc.ir.types import type_of

from .simplify import maker


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
            if slot.role == "output" and t.dtype.is_float and t.rank == 2 and t.shape[1]:
                made = maker(value)
                with ir.InsertionPoint(end), made.location if made is not None else ir.Location.unknown():
                    found = _greatest(value)
                added += [(Slot(slot.name + name, "output", type_of(v), slot.line), v) for name, v in found.items()]
        finish_program(program, [*results, *added])


def _greatest(value: ir.Value) -> dict[str, ir.Value]:
    """Both, in one pass over the value as it was before it got the shape of the output: what is read again is not copied."""
    rows = type_of(value).shape[:1]
    shaped = maker(value)
    x = shaped.x if isinstance(shaped, ops.Reshape) and type_of(shaped.x).shape[-1:] == type_of(value).shape[1:] else value
    last = type_of(x).rank - 1
    best = ops.ArgReduce.of(x, kind="max", axis=last)
    return {BEST: ops.reshape(best, rows), GREATEST: ops.reshape(ops.Reduce.of(x, kind="max", axes=(last,)), rows)}
