"""hoist: products of inputs with weights leave the scan, results stay the same."""

import numpy as np

import dslc
from dslc.compiler import lower
from dslc.ir import ops, reference
from dslc.ir.program import program_of
from dslc.ir.types import type_of
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


def taken_in(text, program="run"):
    """The shapes of what each scan is given after the pass."""
    lowered = lower(dslc.load(text), program, TARGETS["reference"], after="hoist")
    with lowered.context:
        scans = [op for op in program_of(lowered.module).entry_block.operations if isinstance(op, ops.Scan)]
        return [[type_of(v).shape for v in op.operands] for op in scans]


def test_a_scan_is_given_what_its_body_reads_alone():
    """Not the inputs, nor their weights, once the product of both is made outside; of the bias what there is, not a row for each of the batch."""
    (lstm, leaky) = taken_in(TEXT)
    assert sorted(lstm) == sorted([(4, 4, 4), (4, 4), (2, 4), (2, 4), (5, 2, 4, 4)])
    assert (4,) in leaky or (2, 4) in leaky
    assert (4, 4) not in leaky


def test_a_repeated_constant_that_moved_work_reads_is_outside_too():
    """tanh of a bias for each row is made once; the body reads the bias itself where it adds it."""
    text = """
model M:
    input x[5, 6]
    param b[4], w[6, 4] ~ normal()
    big[n, u] = x[n, 0] * b[u]
    scan t < 3 carry s[5, 4] = 0:
        s[n, u] = s[n, u] * tanh(b[u] * big[n, u]) + b[u]
    output s
"""
    (given,) = taken_in(text)
    assert (5, 4) in given and (4,) in given
    model = dslc.load(text)
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    got, expected = (dslc.compile(model, target=t)(x=x)["s"] for t in ("cpu", "reference"))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
