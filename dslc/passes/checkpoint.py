"""checkpoint: a program keeps within a budget of bytes by running some of its kernels again where their results are used late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dslc.core.errors import BudgetError, Span
from dslc.ir.mlir import func, ir
from dslc.ir.program import program_of

from .certificate import certify
from .plan import ROOM
from .rematerialize import Choice
from .scan_schedules import KEPT_ALL
from .scan_schedules import NOTE as SCANS
from .searched import Searched
from .timeline import Timeline

LINES = 5  # that an error names
NOTE = "nn.checkpoint"  # the module's attribute with what reports tell


@dataclass(frozen=True)
class Checkpoint:
    """The budget counts all that a program's call touches: its ports (parameters, states, the optimizer's among them, inputs and results), the
    arena, and `aside`: what a backend puts behind the arena for its kernels. A repeat is a clone of a whole kernel, so it is the same code and gives
    the same bits, random draws too; what it writes beside what is wanted of it goes nowhere. `searched`: what was found of this program before.
    Raises BudgetError, with the least budget that was found, where no plan fits.

    before: %1 = kernel A; %2 = kernel B %1; ...; %9 = kernel Z %1, %8
    after:  %1 = kernel A; %2 = kernel B %1; ...; %1b = kernel A; %9 = kernel Z %1b, %8
    """

    budget: int
    aside: int = 0
    span: Span | None = None
    searched: Searched = field(default_factory=Searched)

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        line = Timeline.of(program)
        room = self.budget - self.aside - line.slots
        choice = self.searched.choose(line, room)
        if choice is None:
            raise self._refusal(line)
        self.searched.planned = line.slots + choice.packing.total
        certify(line, choice.plan, choice.packing)
        rewrite(program, line, choice.plan)
        module.operation.attributes[ROOM] = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), room)
        _note(module, self.budget, line, choice)

    def _refusal(self, line: Timeline) -> BudgetError:
        plan, packing = self.searched.least(line)
        held = line.held(plan)
        fullest = max(range(len(held)), key=held.__getitem__)
        by_line: dict[str, int] = {}
        for b, size, first, last in line.lives(plan):
            if first <= fullest <= last and b >= 0:
                by_line[line.origins[b]] = by_line.get(line.origins[b], 0) + size
        most = sorted(by_line.items(), key=lambda item: -item[1])[:LINES]
        notes = [f"{size_text(line.slots)} are parameters, states, inputs and results"]
        notes += [f"{Path(place).name} holds {size_text(size)} at the fullest moment" for place, size in most]
        needed = size_text(line.slots + self.aside + packing.total, up=True)
        error = BudgetError(f"{size_text(self.budget)} is not enough; the least that is possible is {needed}", self.span, notes=notes,
                            help="make the batch, or the model, smaller: --set batch=N")  # fmt: skip
        error.least = line.slots + packing.total
        return error


def rewrite(program: func.FuncOp, line: Timeline, plan: Sequence[int]) -> None:
    """Puts the plan's repeats into the program as clones, and lets every reader read the latest run."""
    originals = list(program.entry_block.operations)
    reads = [list(op.operands) for op in originals]
    latest: dict[ir.Value, ir.Value] = {}
    done = 0
    for n in plan:
        again = n < done
        op = originals[n]
        if again:
            with ir.InsertionPoint(originals[done]):
                op = originals[n].operation.clone().opview
        for k, operand in enumerate(reads[n]):
            op.operands[k] = latest.get(operand, operand)
        if again:
            latest.update((a, b) for a, b, placed in zip(originals[n].results, op.results, line.tasks[n].placed) if placed)
        else:
            done += 1


def _note(module: ir.Module, budget: int, line: Timeline, choice: Choice) -> None:
    """What reports tell of the plan. Turns of scans that are made again count as added."""
    repeats = len(choice.plan) - len(line.tasks)
    attributes = module.operation.attributes
    base, least_of_all = ir.DenseF64ArrayAttr(attributes[KEPT_ALL]) if KEPT_ALL in attributes else (line.seconds, line.seconds + choice.bound)
    added, bound = line.seconds + choice.extra - base, least_of_all - base
    scans = f"; scans: {attributes[SCANS].value}" if SCANS in attributes else ""
    order = "with the schedules of scans that were tried no plan" if KEPT_ALL in attributes else "in this order no plan"
    text = (
        f"budget {size_text(budget)}; {size_text(choice.packing.total + line.slots)} are taken, {size_text(line.slots)} of them by parameters, "
        f"states, inputs and results; {repeats} kernels run again, which adds {100 * added / base:.2f}% by the cost model; "
        f"{order} adds less than {100 * bound / base:.2f}%{scans}"
    )
    attributes[NOTE] = ir.StringAttr.get(text)


def size_text(size: int, up: bool = False) -> str:
    """Bytes for people, to three decimals; `up` never tells less than there is, so that it can be given as a budget."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{(-(-size * 1000 // scale) if up else round(size * 1000 / scale)) / 1000:g} {unit}"
    return f"{size} B"
