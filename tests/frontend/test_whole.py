"""Bare expressions on whole tensors: broadcasting, types, reductions with axis=, functions of whole tensors, against numpy."""

import numpy as np
import pytest

import dslc

RNG = np.random.default_rng(0)
FED = {
    "x": RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "y": RNG.standard_normal((3, 1)).astype(np.float32),
    "z": RNG.standard_normal(4).astype(np.float32),
    "i": RNG.integers(-5, 6, (3, 4)).astype(np.int32),
    "m": RNG.random((3, 4)) < 0.5,
    "r": np.float32(0.7).reshape(()),
}
HEAD = "model M:\n    dims n=3\n    input x[2, 3, 4], y[3, 1], z[4], i[3, 4]: int32, m[3, 4]: bool, r[]\n"


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


CASES = {
    "x + y * z": lambda x, y, z, i, m, r: x + y * z,
    "(x - r) / 3": lambda x, y, z, i, m, r: (x - r) / 3,
    "i / 2": lambda x, y, z, i, m, r: i / 2,
    "i // 2 + i % 3": lambda x, y, z, i, m, r: i // 2 + i % 3,
    "-i // n": lambda x, y, z, i, m, r: -i // 3,
    "z // 0.3 + z % 0.3": lambda x, y, z, i, m, r: z // 0.3 + z % 0.3,
    "m + m": lambda x, y, z, i, m, r: m.astype(int) + m,
    "m * z": lambda x, y, z, i, m, r: m * z,
    "i + 0.5": lambda x, y, z, i, m, r: i + 0.5,
    "i ** 2 + z ** 2 + z ** 3 + abs(z) ** 0.5 + 2 ** z": lambda x, y, z, i, m, r: i**2 + z**2 + z**3 + abs(z) ** 0.5 + 2**z,
    "0 < i <= 3": lambda x, y, z, i, m, r: (i > 0) & (i <= 3),
    "m and i > 0 or not m": lambda x, y, z, i, m, r: (m & (i > 0)) | ~m,
    "where(m, x, y)": lambda x, y, z, i, m, r: np.where(m, x, y),
    "where(m, i, 0.5)": lambda x, y, z, i, m, r: np.where(m, i, 0.5),
    "where(n > 2, x, 0)": lambda x, y, z, i, m, r: x,
    "max(x, 0) + min(i, z)": lambda x, y, z, i, m, r: np.maximum(x, 0) + np.minimum(i, z),
    "clip(x, -1, y)": lambda x, y, z, i, m, r: np.minimum(np.maximum(x, -1), y),
    "sum(x)": lambda x, y, z, i, m, r: x.sum(),
    "mean(i)": lambda x, y, z, i, m, r: i.mean(),
    "mean(m)": lambda x, y, z, i, m, r: m.mean(),
    "sum(m)": lambda x, y, z, i, m, r: m.sum(),
    "max(x, axis=1) - min(x, axis=(0, 1))": lambda x, y, z, i, m, r: x.max(1) - x.min((0, 1)),
    "prod(x, axis=-1)": lambda x, y, z, i, m, r: x.prod(-1),
    "any(m, axis=0)": lambda x, y, z, i, m, r: m.any(0),
    "all(i > -9)": lambda x, y, z, i, m, r: True,
    "argmax(x, axis=1)": lambda x, y, z, i, m, r: x.argmax(1),
    "argmin(x)": lambda x, y, z, i, m, r: x.argmin(),
    "logsumexp(x, axis=-1)": lambda x, y, z, i, m, r: np.log(np.exp(x).sum(-1)),
    "softmax(x)": lambda x, y, z, i, m, r: softmax(x),
    "softmax(i, axis=0)": lambda x, y, z, i, m, r: softmax(i, 0),
    "log_softmax(x, axis=1)": lambda x, y, z, i, m, r: np.log(softmax(x, 1)),
    "cumsum(x, axis=1) + cumprod(x)": lambda x, y, z, i, m, r: x.cumsum(1) + x.cumprod(-1),
    "sort(i, axis=0)": lambda x, y, z, i, m, r: np.sort(i, 0),
    "argsort(x)": lambda x, y, z, i, m, r: x.argsort(-1, kind="stable"),
    "concat(x, x * 2, axis=1)": lambda x, y, z, i, m, r: np.concatenate([x, x * 2], 1),
    "concat(i, m, i + 0.5)": lambda x, y, z, i, m, r: np.concatenate([i, m, i + 0.5], -1),
    "topk(x, 2).values": lambda x, y, z, i, m, r: -np.sort(-x, -1)[..., :2],
    "topk(x, k=3).indices": lambda x, y, z, i, m, r: (-x).argsort(-1, kind="stable")[..., :3],
    "x * rank(x) + (z if rank(z) == 1 else x) + sum[k < rank(r)](y[k, 0])": lambda x, y, z, i, m, r: x * 3 + z,
    "fft(x).im": lambda x, y, z, i, m, r: np.fft.fft(x).imag,
    "fft(x, axis=1).re + fft(i, z).im": lambda x, y, z, i, m, r: np.fft.fft(x, axis=1).real + np.fft.fft(i + 1j * z).imag,
    "ifft(re=x, im=y, axis=0).im": lambda x, y, z, i, m, r: np.fft.ifft(x + 1j * y, axis=0).imag,
    "int32(x * 3) + int(z)": lambda x, y, z, i, m, r: (x * 3).astype(int) + z.astype(int),
    "float32(m) + bool(i)": lambda x, y, z, i, m, r: m.astype(float) + (i != 0),
    "round(x * 2) + floor(x) - ceil(x)": lambda x, y, z, i, m, r: np.round(x * 2) + np.floor(x) - np.ceil(x),
    "sum[k, j < 2](x[0, j, k] * z[k]) + r": lambda x, y, z, i, m, r: (x[0, :2] * z).sum() + r,
    "x[1, 2, 3] + y[0, 0]": lambda x, y, z, i, m, r: x[1, 2, 3] + y[0, 0],
    "relu(x) + leaky_relu(x, 0.2) + leaky_relu(x) + sign(x)": lambda x, y, z, i, m, r: np.maximum(x, 0) + np.where(x > 0, 2, 0.21) * x + np.sign(x),
    "sigmoid(x) - 1 / (1 + exp(-x)) + log1p(abs(x)) + expm1(z)": lambda x, y, z, i, m, r: np.log1p(abs(x)) + np.expm1(z),
    "rsqrt(abs(x)) * sqrt(abs(x)) + softplus(x) + log_sigmoid(-x)": lambda x, y, z, i, m, r: np.ones_like(x),
    "logaddexp(x, y) + tanh(z) + erf(0.0 * z) + silu(x) - x * sigmoid(x)": lambda x, y, z, i, m, r: np.logaddexp(x, y) + np.tanh(z),
    "gelu(0.5) + silu(1) + softplus(-2) + sigmoid(3) + r * 0": lambda x, y, z, i, m, r: 0.3457312 + 0.7310586 + 0.1269280 + 0.9525741,
    "7 // 2 + 7 / 2 + -7 % 3 + 2 ** 3 + (1 if n == 3 else 100) + r * 0": lambda x, y, z, i, m, r: 3 + 3.5 + 2 + 8 + 1,
}


@pytest.mark.parametrize("expression", CASES)
def test_expression(expression):
    program = dslc.compile(dslc.load(f"{HEAD}    output o = {expression}\n"), target="reference")
    found = program(**FED)["o"]
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in FED.items()}
    wanted = np.asarray(CASES[expression](**wide))
    assert found.shape == wanted.shape
    assert found.dtype.kind == wanted.dtype.kind
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_split():
    out = dslc.compile(dslc.load(f"{HEAD}    a, b = split(x, 2)\n    c, d, e = split(x, 3, axis=1)\n    output a, b, d\n"), target="reference")(**FED)
    x = FED["x"]
    for name, value in {"a": x[..., :2], "b": x[..., 2:], "d": x[:, 1:2]}.items():
        np.testing.assert_array_equal(out[name], value)


def test_reductions_of_a_number():
    """A number has no axis: it is its own sum and extreme, and stands at place 0."""
    text = f"{HEAD}    let k = 3, names = [sum(k), mean(k), max(k), argmax(k), argmin(k)]\n    output y = x * names[0] + names[1] + names[3]\n"
    out = dslc.compile(dslc.load(text), target="reference")(x=FED["x"])
    np.testing.assert_allclose(out["y"], FED["x"] * 3 + 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x + i[0]", "1 index for i, which has 2 axes [3, 4]"),
        ("x + concat(z, z)", "'+' of float32[2, 3, 4] and float32[8]"),
        ("sum(x, axis=3)", "axis=3 of a tensor with 3 axes"),
        ("sum(x, axes=1)", "sum has no option 'axes'; did you mean 'axis'?"),
        ("rank(x + 1)", "rank takes a tensor by its name"),
        ("rank(2)", "rank takes a tensor by its name"),
        ("fft(x)", "1 name on the left, fft(x) has 2 results"),
        ("fft(x, 0).re", "fft takes tensors, this is 0"),
        ("fft(x, concat(z, z)).re", "fft of float32[2, 3, 4] and float32[8]"),
        ("ifft(x, axis=3).re", "axis=3 of a tensor with 3 axes"),
        ("fft(r).re", "axis=-1 of a tensor with 0 axes"),
        ("fft(x, n=8).re", "fft has no option 'n'"),
        ("fft(x).real", "fft has no result 'real'; did you mean 're'?"),
        ("fft(x) + 1", "'+' takes numbers and tensors, fft(x) is 2 results of fft"),
        ("max(x, z, y)", "max takes 1 or 2 arguments, 3 given"),
        ("topk(x, 9)", "topk of float32[2, 3, 4] with k=9"),
        ("split(x, 2)", "1 name on the left, split(x, 2) has 2 results"),
        ("split(x, 3)", "split of an axis of 4 into 3"),
        ("concat(x, z)", "concat"),
        ('x + "a"', "'+' takes numbers and tensors"),
        ("x + relu", "relu is function relu"),
        ("x.values", "x is float32[2, 3, 4], and has no 'values'"),
        ("exp(x, y)", "exp takes 1 argument, 2 given"),
        ("max(x, z, axis=0)", "max of 2 arguments takes no 'axis'"),
        ("max([1, 2], axis=0)", "max of numbers takes no 'axis'"),
        ("argmax(3, axis=0)", "argmax of numbers takes no 'axis'"),
        ("clip(x, lo=0, 1)", "a value without a name stands after one with a name"),
        ("clip(x, 0, 1, lo=0)", "clip takes 3 arguments, 4 given"),
        ("leaky_relu(x, x=z)", "leaky_relu is given 'x' twice"),
        ("logaddexp(b=x, a=x, c=1)", "logaddexp has no option 'c'"),
        ("i * 3_000_000_000", "3000000000 does not fit int32"),
        ("uint8(i) - 256", "256 does not fit uint8"),
        ("sum[a, b](i[a, b] * 3_000_000_000)", "3000000000 does not fit int32"),
        ('max[a < 2]("a")', 'a number or tensor is needed, this is "a"'),
        ("dropout()", "dropout needs 'x'"),
        ("not_there(x)", "unknown name 'not_there'"),
        ("log(0)", "log(0) has no value"),
        ("1 / 0", "1 / 0 divides by zero"),
        ("x[0, 0]", "2 indices for x, which has 3 axes [2, 3, 4]"),
        ("x[k, 0, 0]", "unknown name 'k'"),
    ],
)
def test_errors(expression, message):
    with pytest.raises(dslc.Error) as found:
        dslc.load(f"{HEAD}    o = {expression}\n    output o\n")
    assert message in str(found.value)
