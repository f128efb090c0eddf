"""Random draws have their distributions, differ by place, turn and step, and are the same for the same seed."""

import numpy as np
import pytest
from scipy import stats

import dslc

N = 20_000


def drawn(expression, seed=0, step=0):
    model = dslc.load(f"model M:\n    output y[i < {N}] = {expression}\n")
    return np.asarray(dslc.compile(model, target="reference")(seed=seed, step=step)["y"], np.float64)


@pytest.mark.parametrize(
    ("expression", "distribution"),
    [
        ("uniform()", stats.uniform()),
        ("normal()", stats.norm()),
        ("beta(2, 3)", stats.beta(2, 3)),
        ("beta(1, 1)", stats.uniform()),
        ("beta(0.2, 0.2)", stats.beta(0.2, 0.2)),
        ("beta(0.5, 7.5)", stats.beta(0.5, 7.5)),
    ],
)
def test_distribution(expression, distribution):
    y = drawn(expression)
    assert np.isfinite(y).all()
    edges = np.concatenate([[-np.inf], distribution.ppf(np.linspace(0, 0.98, 25)[1:]), [np.inf]])  # float32 cannot tell what is close to 1 apart
    assert stats.chisquare(np.histogram(y, edges)[0], N * np.diff(distribution.cdf(edges))).pvalue > 1e-3


def test_integers_and_categories():
    y = drawn("randint(3, 7)")
    assert stats.chisquare(np.bincount(y.astype(int))[3:]).pvalue > 1e-3
    y = drawn("categorical[k < 3](log(k + 1.0))")
    assert stats.chisquare(np.bincount(y.astype(int)), N * np.array([1, 2, 3]) / 6).pvalue > 1e-3


def test_streams():
    assert (drawn("uniform()") == drawn("uniform()")).all()
    assert (drawn("uniform()") != drawn("uniform()", seed=1)).any()
    assert (drawn("uniform()") != drawn("uniform()", step=1)).any()
    model = dslc.load("""
layer noise(x[n]):
    return y[n] = x[n] + uniform()

model M:
    x[i < 4] = 0.0
    repeat 2:
        x = noise(x)
    a = noise(x)
    b[i < 4] = uniform();  c[i < 4] = uniform()
    scan t < 3 carry h[4] = 0:
        emit turn[t, i < 4] = uniform()
    output x, a, b, c, turn, one = uniform(), other = uniform()
""")
    out = dslc.compile(model, target="reference")()
    rows = np.concatenate([out["a"][None] - out["x"], [out["b"], out["c"]], out["turn"]])
    assert len(np.unique(np.round(rows, 6))) == rows.size
    assert out["one"].shape == () and out["one"] != out["other"]


@pytest.mark.parametrize("call", ["beta(0, 1)", "beta(1)", "randint(3, 3)", "randint(0.5, 2)", "uniform(1)", "normal(0, 1)"])
def test_errors(call):
    with pytest.raises(dslc.Error, match="takes"):
        dslc.load(f"model M:\n    output y[i < 2] = {call}\n")


@pytest.mark.parametrize("first", ["z = x + uniform()\n    state counter: int32 = 5", "state counter: int32 = 5\n    z = x + uniform()"])
def test_a_state_may_be_called_counter(first):
    """The number that draws count by is no value of the model."""
    model = dslc.load(f"model M:\n    input x\n    {first}\n    counter <- counter + 1\n    output z, c = counter\n")
    run = dslc.compile(model, target="reference")
    one, two = run(x=np.float32(0), seed=3, step=1), run(x=np.float32(0), seed=3, step=2)
    assert one["c"] == 6 and 0 <= one["z"] < 1 and one["z"] != two["z"]
