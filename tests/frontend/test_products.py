"""Sums of products become the op that fits: contractions, convolutions with strides, dilations and groups, scatters."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dslc
from dslc.compiler import lower
from dslc.targets import target_of


def ops_of(model):
    """How often each op stands in the simplified program."""
    elaborated = lower(model, "run", target_of("reference"))
    with elaborated.context:
        return Counter(op.operation.name.removeprefix("nn.") for op in elaborated.module.body.operations[0].entry_block.operations)


def program(equation, inputs):
    return dslc.load(f"model M:\n    input {inputs}\n    output {equation}\n")


CONVOLUTIONS = {
    "conv2d(x, 4)": {},
    "conv2d(x, 8, pad=1, groups=2)": {"padding": 1, "groups": 2},
    "conv2d(x, 6, groups=6)": {"groups": 6},
    "conv2d(x, 12, stride=2, groups=6)": {"stride": 2, "groups": 6},
    "conv2d(x, 6, dilation=2, groups=3)": {"dilation": 2, "groups": 3},
    "conv2d(x, 6, kernel=1, groups=2)": {"groups": 2},
}


@pytest.mark.parametrize("call", CONVOLUTIONS)
def test_convolution_is_one_op(call):
    model = program(f"y = {call}", "x[2, 6, 7, 7]")
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 7)).astype(np.float32)
    wanted = F.conv2d(torch.tensor(x), torch.tensor(np.array(model.params["conv2d.w"])), **CONVOLUTIONS[call])
    np.testing.assert_allclose(dslc.compile(model, target="reference")(x=x)["y"], wanted, rtol=1e-5, atol=1e-5)
    found = ops_of(model)
    if "kernel=1" not in call:
        assert found["conv"] == 1 and not found["mul"] and not found["reduce"] and not found["contract"]


FORMS = [
    ("y[n, k] = sum[d](x[n, d] * w[d, k])", "x[4, 3], w[3, 5]", {"contract": 1}),
    ("y[n] = sum[d, e](x[n, d] * w[d, e] * z[e])", "x[4, 3], w[3, 5], z[5]", {"contract": 1, "reduce": 1}),
    ("y[n, k] = -sum[d](x[n, d] * w[d, k] * 2) / 3", "x[4, 3], w[3, 5]", {"contract": 1}),
    ("y[n, k] = sum[d](x[n, d] * w[d, k] + z[d])", "x[4, 3], w[3, 5], z[3]", {"contract": 1, "reduce": 1}),
    ("y[n, i < 5, k] = sum[u, c](x[n, i + u - 1, c] * w[u, c, k])", "x[2, 5, 3], w[3, 3, 4]", {"conv": 1}),
    ("y[n, i < 5] = sum[u](x[n, i + u - 1] * w[u])", "x[2, 5], w[3]", {"conv": 1}),
    ("y[i < 3, j < 3] = sum[u, v](x[2*i + u, 2*j + v] * w[u, v])", "x[7, 7], w[3, 3]", {"conv": 1}),
    ("y[n < 4, k] = sum[e](where(ids[e] == n, x[e, k], 0))", "ids[6]: int32, x[6, 2]", {"scatter": 1}),
    ("y[n < 4, k] = max[e](where(ids[e] == n, x[e, k], -inf))", "ids[6]: int32, x[6, 2]", {"scatter": 1}),
    ("y[n < 4, k] = max[e](where(ids[e] == n, x[e, k], 0))", "ids[6]: int32, x[6, 2]", {"scatter": 2}),
    ("y[n < 4] = sum[e](ids[e] == n)", "ids[6]: int32", {"scatter": 1}),
    ("y[n < 4, m < 3] = any[e](ids[e] == n and to[e] == m)", "ids[6]: int32, to[6]: int32", {"scatter": 1}),
    ("y[n < 4] = logsumexp[e](where(ids[e] == n, x[e], -inf))", "ids[6]: int32, x[6]", {"scatter": 2, "gather": 1}),
    ("y[n, c, i < 9] = sum[u](x[n, c, i - 2*u] * w[u])", "x[2, 5, 9], w[3]", {"conv": 1}),
    ("y[n, i < 9, c] = sum[u](x[n, i - u, c] * w[u, c])", "x[2, 9, 5], w[3, 5]", {"conv": 1}),
    ("y[n, i < 9, o] = sum[u, c](x[n, i - u, c] * w[u, c, o])", "x[2, 9, 5], w[3, 5, 4]", {"contract": 1}),  # windows as they lie
    ("y[n, i < 9, c] = sum[j](where(j <= i, x[n, i - j, c] * w[j, c], 0))", "x[2, 9, 5], w[9, 5]", {"conv": 1}),
    ("y[b, i, c] = sum[j](where(j <= i, s[b, i, j] * v[b, j, c], 0))", "s[2, 3, 3], v[2, 3, 5]", {"contract": 1}),
    ("y[e, k] = x[ids[e], k]", "ids[6]: int32, x[5, 2]", {"gather": 1}),
    ("y[b, h, i, c] = sum[j](softmax[j](s[b, h, i, j]) * v[b, h // 2, j, c])", "s[2, 4, 3, 3], v[2, 2, 3, 5]", {"contract": 1, "softmax": 1}),
    ("y[b, h, i, c] = sum[j](s[b, h, i, j] * v[b, h // (4 // 2), j, c])", "s[2, 4, 3, 3], v[2, 2, 3, 5]", {"contract": 1}),
    ("y[b, h < 6, i] = s[b, h % (6 / 2), i] + s[b, 7 // 4, i]", "s[2, 3, 4]", {}),
]


@pytest.mark.parametrize(("equation", "inputs", "wanted"), FORMS)
def test_form(equation, inputs, wanted):
    found = ops_of(program(equation, inputs))
    assert {k: found[k] for k in ("contract", "conv", "reduce", "scatter", "gather", "softmax") if found[k]} == wanted
