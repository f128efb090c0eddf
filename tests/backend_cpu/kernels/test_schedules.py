"""Every schedule that tuning may choose gives the right results, the same on one and two threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cpu.backend import schedules_of
from dslc.backend_cpu.gemm_schedule import Shape, Side, choose_whole, space
from dslc.backend_cpu.machine import host
from dslc.core.dtypes import FLOAT32 as F
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Mul, Neg, Reduce
from dslc.ir.schedules import BY_COST, choose, text_of

from .harness import Case, plan_of, run, sample
from .test_contract import I, J, K, product

CASES = [
    Case("plain", "contract", [(F, (37, 90)), (F, (90, 100))], product([I, K], [K, J], [I, J]), 5e-5),
    Case("transposed", "contract", [(F, (130, 21)), (F, (40, 130))], product([K, I], [J, K], [I, J]), 5e-5),
    Case("rows_of_terms", "contract", [(F, (30, 200)), (F, (45, 200))], product([I, K], [J, K], [I, J]), 5e-5),
    Case("computed", "contract", [(F, (9, 70)), (F, (70, 40))], lambda a, b: product([I, K], [K, J], [I, J])(Mul.of(a, a), Neg.of(b)), 5e-5),
    Case("long", "contract", [(F, (20, 2500)), (F, (2500, 33))], product([I, K], [K, J], [I, J]), 2e-4),
    Case("large", "contract", [(F, (300, 150)), (F, (150, 200))], product([I, K], [K, J], [I, J]), 1e-4),
    Case("columns", "reduce", [(F, (700, 50))], lambda x: Reduce.of(x, kind="sum", axes=[0]), 1e-4),
    Case("rows", "reduce", [(F, (12, 900))], lambda x: Reduce.of(x, kind="max", axes=[1])),
]  # fmt: skip


def schedules(case: Case) -> list[str]:
    case = replace(case, arrays=[sample(*operand, np.random.default_rng(0)) for operand in case.operands])
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, _ = plan_of(module, [case])
        return schedules_of(plan.steps[0].kernel, host())


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_schedule_is_right(case):
    texts = schedules(case)
    assert len(texts) == len(set(texts)) > 3
    step = max(1, len(texts) // 12)  # a dozen of each, among them all that differ in one thing only from the cost model's
    for made in run([replace(case, name=f"{case.name}{n}", schedule=text) for n, text in enumerate([*texts[:8], *texts[8::step]])]):
        for found, expected in zip(made.results, made.expected):
            bound = made.tolerance * (1 + np.abs(expected))
            assert (np.abs(found - expected) <= bound).all(), made.schedule


def test_the_cost_models_choice_comes_first():
    for shape, a, b in (
        (Shape(37, 100, 90), Side("k", stride=90), Side("x", stride=100)),
        (Shape(8, 384, 1536), Side("k", stride=1536), Side("k", stride=1536)),
        (Shape(512, 512, 512), Side("x", stride=512), Side("none", direct=False)),
        (Shape(1024, 1024, 1024), Side("k", stride=1024), Side("x", stride=1024)),
    ):
        found = space(shape, a, b, host())
        assert found[0] == choose_whole(shape, a, b, host()) and 3 < len(set(found)) == len(found) <= 48
        for s in found:
            assert s.nr % s.lanes == 0 or s.form == "dot"
            assert s.form == "dot" or (s.mr * s.nv + s.nv + 1 <= host().registers and s.mc % s.mr == 0 and s.nc % s.nr == 0)


def test_an_unknown_schedule_leaves_it_to_the_cost_model():
    known = [Shape(1, 2, 3), Shape(4, 5, 6)]

    def chosen(wanted: str):
        made, choice = choose(wanted, lambda: known[0], lambda: known)
        return made, choice.made, choice.texts()

    texts = [text_of(s) for s in known]
    assert chosen(texts[1]) == (known[1], texts[1], texts)
    for unknown in (BY_COST, "", '{"Shape": {"m": 3}}', texts[0].replace("Shape", "Side"), text_of(Shape(7, 8, 9))):
        assert chosen(unknown) == (known[0], BY_COST, texts)
