"""Compile time against depth: passes are near linear in a program's length, and deeper models have no more kernels to generate."""

from __future__ import annotations

import time
from pathlib import Path

import dslc
from dslc.compiler import lower
from dslc.ir.bodies import body_key
from dslc.ir.plan import Call
from dslc.ir.program import program_of
from dslc.ir.trace import Body
from dslc.passes.plan import make_plan
from dslc.targets import target_of

SPEC = Path(__file__).parent.parent.parent / "examples" / "char_gpt.dsl"
SHALLOW, DEEP = 4, 16


def lowered(depth: int) -> tuple[float, int, set]:
    """(seconds of the passes for each op of the largest module, steps of the plan, distinct kernels)"""
    model = dslc.load(str(SPEC), depth=depth)
    sizes: list[int] = []
    marks: list[float] = []

    def observe(_: str, module: object) -> None:
        sizes.append(len(program_of(module).entry_block.operations))
        marks.append(time.process_time())

    elaborated = lower(model, "step", target_of("cpu"), observe)
    with elaborated.context, elaborated.location:
        plan = make_plan(elaborated.module)
        kernels = {body_key(Body.of(step.kernel.regions[0].blocks[0])) for step in plan.steps if isinstance(step, Call)}
    return (marks[-1] - marks[0]) / max(sizes), len(plan.steps), kernels


def test_passes_are_near_linear_and_kernels_are_shared() -> None:
    """A fourfold depth may double the time for each op, which a quadratic pass would make four times as long; every layer's kernels are the same but
    for the update of all parameters and those at the ends."""
    shallow, deep = lowered(SHALLOW), lowered(DEEP)
    assert deep[0] <= 2 * shallow[0], f"{shallow[0] * 1e3:.2f} ms an op with {SHALLOW} layers, {deep[0] * 1e3:.2f} with {DEEP}"
    assert deep[1] > 3 * shallow[1]
    assert len(deep[2]) <= len(shallow[2]) + 4
