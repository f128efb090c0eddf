"""hoist: products of inputs with weights leave the scan, results stay the same."""

import numpy as np

import dslc
from dslc.compiler import lower
from dslc.ir import ops, reference
from dslc.ir.program import program_of
from dslc.targets import TARGETS

TEXT = """
model M:
    input x[2, 5, 3]
    param decay[4] ~ normal()
    y = lstm(x, 4)
    scan t < 5 carry s[2, 4] = 0:
        s[b, u] = exp(-exp(decay[u])) * s[b, u] + y[b, t, u]
        emit z[b, t, u] = s[b, u]
    output z
    loss mean(z ** 2)

train:
    optimizer sgd(lr=1.0)
    steps 1
"""


def bodies(elaborated):
    with elaborated.context:
        scans = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Scan)]
        return [[type(o) for o in op.regions[0].blocks[0].operations] for op in scans]


def test_products_with_inputs_and_constants_leave_the_loop():
    model = dslc.load(TEXT)
    before = bodies(lower(model, "run", TARGETS["reference"], after="simplify"))
    after = bodies(lower(model, "run", TARGETS["reference"], after="hoist"))
    assert before[0].count(ops.Contract) == 2 and after[0].count(ops.Contract) == 1
    assert ops.Exp in before[1] and ops.Exp not in after[1]


def test_results_and_gradients_stay_the_same():
    model = dslc.load(TEXT)
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((2, 5, 3)), **{k: np.array(v) for k, v in model.params.items()}}
    found = []
    for after in ("simplify", "hoist"):
        elaborated = lower(model, "run", TARGETS["reference"], after=after)
        with elaborated.context:
            found.append(reference.run(elaborated.module, given)["z"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)
