"""The library's layers against torch, forward and the gradients of inputs and parameters through one step of plain gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dslc

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """`body` computes y from the inputs; `oracle(inputs, params)` is the same in torch."""

    name: str
    inputs: str  # declarations: "x[3, 4], ids[3]: int32"
    body: str
    oracle: Callable[[Tensors, Tensors], torch.Tensor]
    ids: int = 5  # integer inputs are below this
    parameters: int | None = None  # how many there are, where that is worth a check
    smooth: bool = True  # compare gradients too
    params: dict[str, Callable[[np.random.Generator, tuple], np.ndarray]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return f"model Case:\n    input {self.inputs}\n    y = {self.body}\n    output y\n    loss mean(y ** 2)\n\ntrain:\n    optimizer sgd(lr=1.0)\n    steps 1\n"


def attention(i: Tensors, p: Tensors, heads: int, kv: int, causal: bool = False, memory: str = "x", layer: str = "self_attention") -> torch.Tensor:
    q = torch.einsum("btd,dhc->bhtc", i["x"], p[f"{layer}.wq"])
    k = torch.einsum("btd,dhc->bhtc", i[memory], p[f"{layer}.wk"]).repeat_interleave(heads // kv, 1)
    v = torch.einsum("btd,dhc->bhtc", i[memory], p[f"{layer}.wv"]).repeat_interleave(heads // kv, 1)
    o = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return torch.einsum("bhtc,hcd->btd", o, p[f"{layer}.wo"])


def recurrent(kind: str) -> Callable[[Tensors, Tensors], torch.Tensor]:
    """torch's own cell with the weights of the model file; torch orders an LSTM's gates input, forget, cell, output and a GRU's reset, update, new."""

    def run(i: Tensors, p: Tensors) -> torch.Tensor:
        x = i["x"]
        wx, wh, bias = p[f"{kind}.wx"], p[f"{kind}.wh"], p[f"{kind}.bias"]
        h = torch.zeros(x.shape[0], wh.shape[0], dtype=x.dtype)
        c = torch.zeros_like(h)
        out = []
        for t in range(x.shape[1]):
            if kind == "rnn":
                h = torch.tanh(x[:, t] @ wx + h @ wh + bias)
            elif kind == "lstm":
                z = torch.einsum("bi,igu->bgu", x[:, t], wx) + torch.einsum("bv,vgu->bgu", h, wh) + bias
                c = torch.sigmoid(z[:, 1]) * c + torch.sigmoid(z[:, 0]) * torch.tanh(z[:, 2])
                h = torch.sigmoid(z[:, 3]) * torch.tanh(c)
            else:
                a = torch.einsum("bi,igu->bgu", x[:, t], wx) + bias
                r = torch.einsum("bv,vgu->bgu", h, wh) + p["gru.hbias"]
                z, reset = torch.sigmoid(a[:, 0] + r[:, 0]), torch.sigmoid(a[:, 1] + r[:, 1])
                h = (1 - z) * torch.tanh(a[:, 2] + reset * r[:, 2]) + z * h
            out.append(h)
        return torch.stack(out, 1)

    return run


def cell_by_torch(i: Tensors, p: Tensors) -> torch.Tensor:
    net = torch.nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    flat = {"weight_ih_l0": p["lstm.wx"].permute(1, 2, 0).reshape(16, 3), "weight_hh_l0": p["lstm.wh"].permute(1, 2, 0).reshape(16, 4),
            "bias_ih_l0": p["lstm.bias"].reshape(16), "bias_hh_l0": torch.zeros(16, dtype=torch.float64)}  # fmt: skip
    return torch.func.functional_call(net, flat, (i["x"],))[0]


def rotated(x: torch.Tensor) -> torch.Tensor:
    c = x.shape[-1]
    angle = torch.arange(x.shape[2])[:, None] / 10000.0 ** (2 * (torch.arange(c) % (c // 2)) / c)
    turned = torch.cat([-x[..., c // 2 :], x[..., : c // 2]], -1)
    return x * torch.cos(angle) + turned * torch.sin(angle)


CASES = [
    Case("linear", "x[3, 4]", "linear(x, 5)", lambda i, p: i["x"] @ p["linear.w"] + p["linear.b"], parameters=2),
    Case("linear_no_bias", "x[2, 3, 4]", "linear(x, 5, bias=false)", lambda i, p: i["x"] @ p["linear.w"], parameters=1),
    Case("bilinear", "x[3, 4], z[3, 2]", "bilinear(x, z, 5)", lambda i, p: F.bilinear(i["x"], i["z"], p["bilinear.w"].permute(2, 0, 1), p["bilinear.b"])),
    Case("embedding", "ids[2, 3]: int32", "embedding(ids, 5, 4)", lambda i, p: p["embedding.table"][i["ids"].long()]),
    Case("layernorm", "x[3, 8]", "layernorm(x)", lambda i, p: F.layer_norm(i["x"], (8,), p["layernorm.scale"], p["layernorm.shift"])),
    Case("rmsnorm", "x[3, 8]", "rmsnorm(x)", lambda i, p: F.rms_norm(i["x"], (8,), p["rmsnorm.scale"], 1e-6)),
    Case("groupnorm", "x[2, 6, 3, 3]", "groupnorm(x, 3)", lambda i, p: F.group_norm(i["x"], 3, p["groupnorm.gain"], p["groupnorm.bias"])),
    Case("instancenorm", "x[2, 3, 4, 4]", "instancenorm(x)", lambda i, p: F.instance_norm(i["x"], weight=p["instancenorm.groupnorm.gain"], bias=p["instancenorm.groupnorm.bias"])),
    Case("batchnorm_eval", "x[4, 3, 2]", "batchnorm(x)", lambda i, p: i["x"] / (1 + 1e-5) ** 0.5 * p["batchnorm.gain"][:, None] + p["batchnorm.bias"][:, None], smooth=False),
    Case("mlp", "x[3, 4]", "mlp(x, 8)", lambda i, p: F.gelu(i["x"] @ p["mlp.linear.w"] + p["mlp.linear.b"]) @ p["mlp.linear_2.w"] + p["mlp.linear_2.b"]),
    Case("swiglu", "x[3, 4]", "swiglu(x, 8)", lambda i, p: (F.silu(i["x"] @ p["swiglu.glu.linear.w"]) * (i["x"] @ p["swiglu.glu.linear_2.w"])) @ p["swiglu.glu.linear_3.w"]),
    Case("conv1d", "x[2, 4, 9]", "conv1d(x, 6, kernel=3, stride=2, pad=1, groups=2)", lambda i, p: F.conv1d(i["x"], p["conv1d.w"], stride=2, padding=1, groups=2)),
    Case("conv2d", "x[2, 3, 7, 6]", "conv2d(x, 4, kernel=3, stride=2, pad=1, bias=true)", lambda i, p: F.conv2d(i["x"], p["conv2d.w"], p["conv2d.b"], stride=2, padding=1)),
    Case("conv2d_dilated", "x[1, 4, 9, 9]", "conv2d(x, 4, kernel=3, pad=2, dilation=2, groups=2)", lambda i, p: F.conv2d(i["x"], p["conv2d.w"], padding=2, dilation=2, groups=2)),
    Case("conv3d", "x[1, 2, 5, 5, 5]", "conv3d(x, 3, kernel=3, pad=1)", lambda i, p: F.conv3d(i["x"], p["conv3d.w"], padding=1)),
    Case("depthwise", "x[2, 4, 6, 6]", "depthwise_conv2d(x, kernel=3, pad=1)", lambda i, p: F.conv2d(i["x"], p["depthwise_conv2d.w"][:, None], padding=1, groups=4)),
    Case("conv_transpose1d", "x[2, 3, 5]", "conv_transpose1d(x, 4, kernel=4, stride=2, pad=1)", lambda i, p: F.conv_transpose1d(i["x"], p["conv_transpose1d.w"], stride=2, padding=1)),
    Case("conv_transpose2d", "x[2, 3, 4, 5]", "conv_transpose2d(x, 4, kernel=3, stride=2, pad=1)", lambda i, p: F.conv_transpose2d(i["x"], p["conv_transpose2d.w"], stride=2, padding=1)),
    Case("conv_transpose2d_dilated", "x[2, 3, 4, 5]", "conv_transpose2d(x, 4, kernel=3, stride=2, pad=1, dilation=2, extra=1, bias=true)", lambda i, p: F.conv_transpose2d(i["x"], p["conv_transpose2d.w"], p["conv_transpose2d.b"], stride=2, padding=1, dilation=2, output_padding=1)),
    Case("conv_transpose3d", "x[1, 2, 3, 4, 3]", "conv_transpose3d(x, 3, kernel=3, stride=2, pad=1)", lambda i, p: F.conv_transpose3d(i["x"], p["conv_transpose3d.w"], stride=2, padding=1)),
    Case("maxpool1d", "x[2, 3, 8]", "maxpool1d(x, 3, stride=2, pad=1)", lambda i, p: F.max_pool1d(i["x"], 3, 2, 1)),
    Case("maxpool2d", "x[2, 3, 6, 6]", "maxpool2d(x, 3, stride=2, pad=1)", lambda i, p: F.max_pool2d(i["x"], 3, 2, 1)),
    Case("maxpool3d", "x[1, 2, 4, 4, 4]", "maxpool3d(x, 2)", lambda i, p: F.max_pool3d(i["x"], 2)),
    Case("avgpool1d", "x[2, 3, 8]", "avgpool1d(x, 2)", lambda i, p: F.avg_pool1d(i["x"], 2)),
    Case("avgpool2d", "x[2, 3, 6, 6]", "avgpool2d(x, 3, stride=2, pad=1)", lambda i, p: F.avg_pool2d(i["x"], 3, 2, 1)),
    Case("avgpool3d", "x[1, 2, 4, 4, 4]", "avgpool3d(x, 2)", lambda i, p: F.avg_pool3d(i["x"], 2)),
    Case("global_mean", "x[2, 3, 4, 5]", "global_mean(x)", lambda i, p: i["x"].mean((2, 3))),
    Case("global_max", "x[2, 3, 4, 5]", "global_max(x)", lambda i, p: i["x"].amax((2, 3))),
    Case("adaptive_avgpool2d", "x[2, 3, 7, 5]", "adaptive_avgpool2d(x, 3)", lambda i, p: F.adaptive_avg_pool2d(i["x"], 3)),
    Case("adaptive_maxpool2d", "x[2, 3, 7, 5]", "adaptive_maxpool2d(x, 3)", lambda i, p: F.adaptive_max_pool2d(i["x"], 3)),
    Case("self_attention", "x[2, 5, 8]", "self_attention(x, 2)", lambda i, p: attention(i, p, 2, 2)),
    Case("causal", "x[2, 5, 8]", "self_attention(x, 2, causal=true)", lambda i, p: attention(i, p, 2, 2, causal=True)),
    Case("grouped_queries", "x[2, 5, 8]", "self_attention(x, 4, kv_heads=2, causal=true)", lambda i, p: attention(i, p, 4, 2, causal=True)),
    Case("cross_attention", "x[2, 5, 8], m[2, 3, 8]", "cross_attention(x, m, 2)", lambda i, p: attention(i, p, 2, 2, memory="m", layer="cross_attention")),
    Case("rotary", "x[2, 2, 5, 4]", "rotary(x)", lambda i, p: rotated(i["x"])),
    Case("rnn", "x[2, 5, 3]", "rnn(x, 4)", recurrent("rnn")),
    Case("lstm", "x[2, 5, 3]", "lstm(x, 4)", recurrent("lstm")),
    Case("lstm_by_torch", "x[2, 5, 3]", "lstm(x, 4)", cell_by_torch, smooth=False),
    Case("gru", "x[2, 5, 3]", "gru(x, 4)", recurrent("gru")),
    Case("elu", "x[3, 4]", "elu(x)", lambda i, p: F.elu(i["x"])),
    Case("selu", "x[3, 4]", "selu(x)", lambda i, p: F.selu(i["x"])),
    Case("celu", "x[3, 4]", "celu(x, 0.7)", lambda i, p: F.celu(i["x"], 0.7)),
    Case("mish", "x[3, 4]", "mish(x)", lambda i, p: F.mish(i["x"])),
    Case("gelu_tanh", "x[3, 4]", "gelu_tanh(x)", lambda i, p: F.gelu(i["x"], approximate="tanh")),
    Case("prelu", "x[3, 4]", "prelu(x)", lambda i, p: F.prelu(i["x"], p["prelu.slope"])),
    Case("hard_swish", "x[3, 4]", "hard_swish(3 * x)", lambda i, p: F.hardswish(3 * i["x"])),
    Case("softplus", "x[3, 4]", "softplus(x)", lambda i, p: F.softplus(i["x"])),
    Case("silu", "x[3, 4]", "silu(x)", lambda i, p: F.silu(i["x"])),
    Case("gelu", "x[3, 4]", "gelu(x)", lambda i, p: F.gelu(i["x"])),
    Case("leaky_relu", "x[3, 4]", "leaky_relu(x, 0.2)", lambda i, p: F.leaky_relu(i["x"], 0.2)),
    Case("log_sigmoid", "x[3, 4]", "log_sigmoid(x)", lambda i, p: F.logsigmoid(i["x"])),
]  # fmt: skip


def draw(ports, ids, rng):
    values = {}
    for port in ports:
        if port.role == "input":
            values[port.name] = (
                rng.integers(0, ids, port.shape).astype(np.int32) if port.dtype.is_integer else rng.standard_normal(port.shape).astype(np.float32)
            )
    return values


AT_ZERO = {
    "relu": F.relu, "leaky_relu": F.leaky_relu, "softplus": F.softplus, "log_sigmoid": F.logsigmoid, "abs": torch.abs, "elu": F.elu, "selu": F.selu,
    "celu": F.celu, "mish": F.mish, "relu6": F.relu6, "hard_tanh": F.hardtanh, "hard_swish": F.hardswish, "softsign": F.softsign, "gelu": F.gelu,
    "silu": F.silu, "squared_relu": lambda x: F.relu(x) ** 2, "logaddexp": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_with_logits(x, 0 * x + 0.25, reduction="none") / x.numel(),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_ZERO)
def test_gradients_at_zero(name):
    """Where weights start at zero, and in padding, the argument is exactly 0."""
    second = {"logaddexp": ", 0.0", "binary_cross_entropy": ", 0 * x + 0.25"}.get(name, "")
    program = dslc.compile(dslc.load(f"model M:\n    input x[2, 3]\n    y = {name}(x{second})\n    output g = grad(sum(y), x)\n"), target="reference")
    x = np.array([[0.0, -0.0, 1.5], [-1.5, 0.0, 7]], np.float32)
    wide = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    AT_ZERO[name](wide).sum().backward()
    np.testing.assert_allclose(program(x=x)["g"], wide.grad.numpy(), rtol=1e-6, atol=1e-7)


SIZES = [(3, 7, 7), (2, 9, 4), (1, 5, 8), (2, 8, 9), (1, 1, 1)]  # rows, times, taps


@pytest.mark.parametrize(("batch", "time", "taps", "target"), [*((*s, "cpu") for s in SIZES), (3, 7, 7, "reference"), (3, 7, 7, "cuda-emulated")])
def test_long_convolution(batch, time, taps, target):
    """Equal to the sum that it stands for, with the gradients of signal and filter."""
    text = f"""model M:
    input x[{batch}, {time}, 3], target[{batch}, {time}, 3]
    param signal[{batch}, {time}, 3], filter[{taps}, 3] ~ normal()
    y = long_convolution(x * signal, filter)
    output y
    loss mean((y - target) ** 2)
train:
    optimizer sgd(lr=1.0)
"""
    rng = np.random.default_rng(0)
    fed = {name: rng.standard_normal((batch, time, 3)).astype(np.float32) for name in ("x", "target")}
    model = dslc.load(text)
    before = torch_of(dict(model.params), grad=True)
    inputs = torch_of(fed)
    wide = F.pad((inputs["x"] * before["signal"]).mT, (taps - 1, 0))
    expected = F.conv1d(wide, before["filter"].T.flip(1)[:, None], groups=3).mT
    found = dslc.compile(model, target=target)(**fed)["y"]
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    ((expected - inputs["target"]) ** 2).mean().backward()
    dslc.Trainer(model, target=target).step(**fed)
    for path, tensor in before.items():
        np.testing.assert_allclose(tensor.detach().numpy() - model.params[path], tensor.grad.numpy(), rtol=1e-5, atol=1e-5, err_msg=path)


def torch_of(values, grad=False):
    return {
        k: torch.tensor(np.array(v, np.float64 if v.dtype.kind == "f" else None), requires_grad=grad and v.dtype.kind == "f")
        for k, v in values.items()
    }


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_layer(case):
    rng = np.random.default_rng(0)
    model = dslc.load(case.text)
    for path in model.params:
        model.params[path] = (
            rng.standard_normal(model.params[path].shape).astype(np.float32) * 0.5 if "var" not in path and "mean" not in path else model.params[path]
        )
    program = dslc.compile(model, target="reference")
    inputs = draw(program.executable.ports, case.ids, rng)
    params = torch_of(dict(model.params), grad=True)
    expected = case.oracle(torch_of(inputs), params)
    found = program(**inputs)["y"]
    assert found.shape == tuple(expected.shape)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-6, atol=2e-6)  # results are rounded to float32
    if case.parameters is not None:
        assert len(list(model.params)) == case.parameters
    if case.smooth and any(p.requires_grad for p in params.values()):
        before = {k: np.array(v, np.float64) for k, v in model.params.items()}
        (expected**2).mean().backward()
        dslc.Trainer(model, target="reference").step(**inputs)
        for path, tensor in params.items():
            if tensor.grad is not None:
                np.testing.assert_allclose(before[path] - model.params[path], tensor.grad.numpy(), rtol=1e-5, atol=1e-6, err_msg=path)


def test_batchnorm_trains_as_torch_does():
    text = "model M:\n    input x[6, 3, 4]\n    y = batchnorm(x)\n    output y\n    loss mean(y ** 3)\n\ntrain:\n    optimizer sgd(lr=0.5)\n    steps 1\n"
    rng = np.random.default_rng(1)
    model = dslc.load(text)
    trainer = dslc.Trainer(model, target="reference")
    net = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(3):
        x = rng.standard_normal((6, 3, 4)).astype(np.float32)
        loss = (net(torch.from_numpy(x).double()) ** 3).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert trainer.step(x=x) == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    for ours, theirs in {"gain": net.weight, "bias": net.bias, "mean": net.running_mean, "var": net.running_var}.items():
        np.testing.assert_allclose(model.params[f"batchnorm.{ours}"], theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    text = "model M:\n    input x[100, 100]\n    y = dropout(x, 0.25)\n    output y\n"
    model = dslc.load(text)
    x = np.ones((100, 100), np.float32)
    np.testing.assert_array_equal(dslc.compile(model, target="reference")(x=x)["y"], x)
    kept = dslc.compile(model, target="reference", program="train")(x=x)["y"]
    assert set(np.unique(kept).round(5)) == {0.0, np.float32(1 / 0.75).round(5)}
    assert abs((kept == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / 10_000) ** 0.5  # four standard deviations
