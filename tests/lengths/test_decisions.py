"""Comparisons at compile time: lengths at which a model decides otherwise have programs of their own, or the line is told."""

import numpy as np
import pytest

import dslc
from dslc.compiler import sized_up_to_bounds

HEAD = "model M:\n    dims batch=2, time<=40\n    input x[batch, time]\n"


@pytest.mark.parametrize(
    "body, alone",
    [
        ("    output y[b, t] = x[b, t] * (3 if time == 9 else 1)\n", {9}),
        ("    if 2 * time - 1 == 33:\n        y = 2 * x\n    else:\n        y = x * 5\n    output y\n", {17}),
        ("    output y[b, t] = x[b, t] * (3 if time // 2 == 9 else 1)\n", {18, 19}),
        ("    let tall = time != 23\n    output y[b, t] = x[b, t] + (1 if tall and time > 1 else 0)\n", {23}),
    ],
)
def test_single_lengths_that_decide_otherwise(body, alone):
    program = dslc.compile(dslc.load(HEAD + body), target="reference")
    for n in sorted({1, 2, 8, 10, 16, 22, 24, 33, 39, 40, *alone}):
        x = np.ones((2, n), np.float32)
        fixed = dslc.compile(dslc.load(HEAD.replace("<=40", f"={n}") + body), target="reference")
        np.testing.assert_array_equal(program(x=x)["y"], fixed(x=x)["y"], err_msg=str(n))
    assert {f"time={n}" for n in alone} <= set(program.programs) and {"time<=16", "time<=32"} <= set(program.programs)


def test_a_decision_that_cannot_be_followed_is_told_with_its_line():
    body = "    output y[b, t] = x[b, t] * (3 if time % 7 == 3 else 1)\n"
    with pytest.raises(dslc.Error.ShapeError, match="the length of 'time' cannot vary here: what is compared here follows from it") as raised:
        dslc.compile(dslc.load(HEAD + body), target="reference")
    assert raised.value.spans[0].line == 4


def test_two_lengths_that_are_compared():
    text = "model M:\n    dims a<=20, b<=30\n    input x[a], z[b]\n    output y = sum(x) + (1 if a == b + 7 else 0) * sum(z)\n"
    with pytest.raises(dslc.Error.ShapeError, match="it is compared with another length"):
        dslc.compile(dslc.load(text), target="reference")


def test_no_one_program_takes_all_lengths_then():
    model = dslc.load(HEAD + "    output y[b, t] = x[b, t] * (3 if time == 9 else 1)\n")
    with pytest.raises(dslc.Error.ShapeError, match="no one program takes all lengths of 'time': the model decides otherwise for 9"):
        sized_up_to_bounds(model, "run")
