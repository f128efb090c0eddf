"""The reference target computes with the numbers that a model names, not with what float32 makes of them."""

import numpy as np
import pytest

import dslc


def run(text, target="reference", **fed):
    return dslc.compile(dslc.load(text), target=target)(**fed)


@pytest.mark.parametrize(("near", "far"), [(4, 8), (8, 128), (10, 90), (5, 125)])
def test_buckets_of_logarithms(near, far):
    """Where a distance is a bound between two buckets the quotient of logarithms is a whole number (Raffel et al. 2020)."""
    text = f"""model M:
    let n = {near}, far = {far}
    input zero[140]: int32
    d[i] = max(i, n) + zero[i]
    bucket[i] = n + int32(log(d[i] / n) / log(far / n) * n)
    output bucket
"""
    distance = np.maximum(np.arange(140), near)
    wanted = near + np.array([sum(int(d) ** near * near**k >= far**k * near**near for k in range(1, 30)) for d in distance])  # in integers
    for target in ("reference", "cpu"):
        np.testing.assert_array_equal(run(text, target, zero=np.zeros(140, np.int32))["bucket"], wanted)


def test_numbers_are_those_of_the_model():
    """Alone, computed at compile time, and where ops of constants are folded."""
    text = """model M:
    input x[2]: float64
    c[i < 2] = 0.1
    o[i] = x[i] * 0.3 + 1 / 3 + float64(c[i] / 7)
    output o
"""
    np.testing.assert_allclose(run(text, x=np.ones(2))["o"], 0.3 + 1 / 3 + 0.1 / 7, rtol=1e-15)


def test_data_is_compared_with_a_number_of_its_type():
    """0.1 and 0.7 as float32 lie above and below the numbers; both are what they are compared with."""
    text = "model M:\n    input x[2], y[2]\n    a = x <= 0.1 and x >= 0.1\n    b = y <= 0.7 and y >= 0.7\n    output a, b\n"
    for target in ("reference", "cpu"):
        out = run(text, target, x=np.full(2, 0.1, np.float32), y=np.full(2, 0.7, np.float32))
        assert out["a"].all()
        assert out["b"].all()
