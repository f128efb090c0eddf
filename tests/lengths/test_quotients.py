"""Sizes that are quotients of a length (strided windows, pooling, `t // 2`): a program of any length does what those of fixed lengths do."""

import numpy as np
import pytest

import dslc
from dslc.core.lengths import Length, fitted, quotient, size_of

HEAD = "model M:\n    dims    batch=2, time<=40\n"
TRAIN = "train:\n    optimizer sgd(lr=0.1)\n    steps 1\n"
BODIES = {
    "conv": """
    input x[batch, 3, time]
    output y = conv1d(x, 4, kernel=3, stride=2, pad=1)
    loss mean(y ** 2)
""",
    "pool": """
    input x[batch, 3, time]
    h = maxpool1d(conv1d(x, 4, kernel=3, pad=1))
    output y[b, c] = mean[t](h[b, c, t] ** 2)
    loss mean(y)
""",
    "three": """
    input x[batch, 3, time]
    h = relu(conv1d(x, 4, kernel=4, stride=2, pad=1))
    h = relu(conv1d(h, 4, kernel=4, stride=2, pad=1))
    output y = conv1d(h, 4, kernel=4, stride=2, pad=1)
    loss mean(y ** 2)
""",
    "pairs": """
    input x[batch, time]
    param w[time] ~ normal()
    let n = time // 2
    output y[b, i < n] = x[b, 2 * i] * w[i] + x[b, 2 * i + 1]
    loss mean(y ** 2)
""",
    "twice": """
    input x[batch, time]
    param w[time] ~ normal()
    let n = 2 * time
    z[b, t] = x[b, t] * w[t]
    output y[b, t < n] = z[b, t // 2]
    p[b, t] = softmax[t](y[b, t])
    loss mean(y ** 2 + p)
""",
    "halves": """
    input x[batch, time]
    param w[time] ~ normal()
    z[b, t] = x[b, t] * w[t]
    output y[b, t < time] = z[b, t // 2] * x[b, t]
    loss mean(y ** 2)
""",
    "keys": """
    input x[batch, time, 4]
    param w[4] ~ normal()
    let n = (time + 2) // 3
    k[b, t < n, d] = x[b, 3 * t, d] * w[d]
    s[b, i, j] = sum[d](x[b, i, d] * k[b, j, d])
    p[b, i, j] = softmax[j](s[b, i, j])
    output y[b, i, d] = sum[j](p[b, i, j] * k[b, j, d])
    loss mean(y ** 2)
""",
}


def shape(body, n):
    return (2, 3, n) if "3, time" in body else (2, n, 4) if "time, 4" in body else (2, n)


@pytest.mark.parametrize("name", BODIES)
def test_any_length_is_its_fixed_length(name):
    body = BODIES[name]
    model = dslc.load(HEAD + body + TRAIN)
    program, trainer = dslc.compile(model, target="reference"), dslc.Trainer(model, target="reference")
    kept = {path: np.array(model.params[path]) for path in model.params}
    for n in (40, 38, 37, 20, 11, 16):
        fixed = dslc.load(HEAD.replace("<=40", f"={n}") + body + TRAIN)
        for path in fixed.params:
            fixed.params[path] = kept[path][tuple(slice(0, k) for k in fixed.params[path].shape)]
        x = np.random.default_rng(n).standard_normal(shape(body, n)).astype(np.float32)
        want = dslc.compile(fixed, target="reference")(x=x)["y"]
        np.testing.assert_allclose(program(x=x)["y"], want, rtol=1e-5, atol=1e-6, err_msg=str(n), strict=True)
        assert trainer.step(x=x) == pytest.approx(dslc.Trainer(fixed, target="reference").step(x=x), rel=1e-5)
        for path in fixed.params:
            changed = np.array(model.params[path])[tuple(slice(0, k) for k in fixed.params[path].shape)]
            np.testing.assert_allclose(changed, fixed.params[path], rtol=1e-5, atol=1e-6, err_msg=f"{n} {path}")
            model.params[path] = kept[path]
    assert len(program.programs) < 6


def test_both_sides_of_a_picture():
    body = "    input x[batch, 3, tall, wide]\n    output y = maxpool2d(conv2d(x, 2, kernel=3, stride=2, pad=1))\n"
    model = dslc.load("model M:\n    dims batch=1, tall<=24, wide<=20\n" + body)
    program = dslc.compile(model, target="reference")
    for tall, wide in ((23, 13), (17, 20), (18, 18)):
        fixed = dslc.load(f"model M:\n    dims batch=1, tall={tall}, wide={wide}\n" + body)
        for path in fixed.params:
            fixed.params[path] = np.array(model.params[path])
        x = np.random.default_rng(tall).standard_normal((1, 3, tall, wide)).astype(np.float32)
        want = dslc.compile(fixed, target="reference")(x=x)["y"]
        np.testing.assert_allclose(program(x=x)["y"], want, rtol=1e-5, atol=1e-6, strict=True)


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated"])
def test_native_programs(target):
    model = dslc.load(HEAD + BODIES["conv"] + TRAIN)
    program, meant = (dslc.compile(model, target=t) for t in (target, "reference"))
    for n in (31, 12):
        x = np.random.default_rng(n).standard_normal((2, 3, n)).astype(np.float32)
        np.testing.assert_allclose(program(x=x)["y"], meant(x=x)["y"], rtol=1e-4, atol=1e-5, strict=True)


def test_a_quotient_has_a_name_that_tells_it():
    name = quotient("time", 3, 4)
    assert name == "(time+3)//4" and [size_of(name, {"time": n}) for n in (1, 5, 8)] == [1, 2, 2]
    found = fitted({name: 1}, {name: 5}, lambda sizes: 2 * sizes[name] - 1)
    assert found.at({"time": 9}) == 5 and found == Length((((), -1), ((name,), 2)))
    assert found.least({"time": 1}, {"time": 17}) == 1


def test_sizes_that_step_in_no_even_way_are_an_error_with_their_line():
    body = "    input x[batch, time]\n    let n = time // 2 * (time // 3)\n    output y[b, i < n] = x[b, i % 2]\n"
    with pytest.raises(dslc.Error, match="the length of 'time' cannot vary here") as raised:
        dslc.compile(dslc.load(HEAD + body), target="reference")
    assert raised.value.spans[0].line == 5
