"""`wrap`: low-rank additions, adapters, quantization with a straight-through gradient, against numpy and torch."""

import numpy as np
import pytest
import torch

import dslc

LAYERS = """
layer lora(w[i, ...], rank=2, alpha=4.0):
    param a[i, rank] ~ normal(std=0.02)
    param b[rank, ...] ~ zeros()
    return y[i, ...] = stop_gradient(w[i, ...]) + alpha / rank * sum[r](a[i, r] * b[r, ...])

layer fake_quant(w[...], bits=3):
    s = max(abs(w)) / (2 ** (bits - 1) - 1)
    return w + stop_gradient(round(w / s) * s - w)

layer adapter(x[..., d], hidden=3):
    return x + linear(gelu(linear(x, hidden)), size(d))

layer block(x[n, d]):
    h = linear(x, d)
    return tanh(h)

layer net(x[n, d]):
    repeat 2:
        x = block(x)
    return linear(x, 1)
"""


def load(wraps):
    return dslc.load(f"""{LAYERS}
model M:
    input x[4, 3]
    net = use net()
    {wraps}
    y = net(x)
    output y
    loss mean(y ** 2)
train:
    steps 2
    optimizer sgd(lr=0.1)
""")


def run(model, seed=0):
    x = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)
    p = {k: torch.tensor(np.array(v, np.float64), requires_grad=True) for k, v in model.params.items()}
    y = dslc.compile(model, target="reference")(x=x)["y"]
    return x, p, y, torch.tensor(x).double()


def plain(p, x, weight=lambda p, path: p[path], after=lambda p, path, h: h):
    for k in range(2):
        x = after(p, f"net.block.{k}", torch.tanh(x @ weight(p, f"net.block.{k}.linear.w") + p[f"net.block.{k}.linear.b"]))
    return x @ weight(p, "net.linear.w") + p["net.linear.b"]


def test_low_rank():
    model = load('wrap "net.block.*.w" with lora(rank=1)')
    rng = np.random.default_rng(1)
    for k, v in model.params.items():
        if k.endswith("lora.b"):
            model.params[k] = rng.standard_normal(v.shape).astype(np.float32)
    x, p, y, t = run(model)
    assert {k for k in p if "lora" in k} == {f"net.block.{k}.linear.w.lora.{n}" for k in (0, 1) for n in "ab"}

    def weight(p, path):
        return p[path].detach() + 4 * p[f"{path}.lora.a"] @ p[f"{path}.lora.b"] if "block" in path else p[path]

    wanted = plain(p, t, weight)
    np.testing.assert_allclose(y, wanted.detach(), rtol=1e-5, atol=1e-6)
    (wanted**2).mean().backward()
    dslc.Trainer(model, target="reference").step(x=x)
    for k, v in p.items():
        moved = v.detach() - 0.1 * (v.grad if v.grad is not None else 0)
        np.testing.assert_allclose(model.params[k], moved, rtol=1e-5, atol=1e-6, err_msg=k)
    np.testing.assert_array_equal(model.params["net.block.0.linear.w"], p["net.block.0.linear.w"].detach().numpy().astype(np.float32))


def test_quantization():
    model = load("wrap all with fake_quant()")
    _, p, y, t = run(model)

    def quantized(v):
        s = v.abs().max() / 3
        return torch.round(v / s) * s if s > 0 else v * float("nan")

    q = {k: quantized(v) for k, v in p.items()}
    assert not any("quant" in k for k in p)
    biases = {k: v for k, v in q.items() if k.endswith(".b")}
    assert all(torch.isnan(v).all() for v in biases.values()) and np.isnan(y).all()  # 0 / 0: biases start at zero
    model = load('wrap "*.w" with fake_quant(bits=4)')
    _, p, y, t = run(model)

    def weight(p, path):
        s = p[path].abs().max() / 7
        return torch.round(p[path] / s) * s

    np.testing.assert_allclose(y, plain(p, t, weight).detach(), rtol=1e-4, atol=1e-5)


def test_adapters():
    model = load("wrap net.block with adapter(hidden=5)")
    _, p, y, t = run(model)
    assert "net.block.1.adapter.linear_2.w" in p

    def after(p, path, h):
        inner = torch.nn.functional.gelu(h @ p[f"{path}.adapter.linear.w"] + p[f"{path}.adapter.linear.b"])
        return h + inner @ p[f"{path}.adapter.linear_2.w"] + p[f"{path}.adapter.linear_2.b"]

    np.testing.assert_allclose(y, plain(p, t, after=after).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        ("wrap net.blok with adapter()", 'pattern net.blok matches nothing that is made after it; nearest: "net.block"'),
        ('wrap "*.scale" with fake_quant()', 'pattern "*.scale" matches nothing'),
        ("wrap all with lorra()", "unknown name 'lorra'; did you mean 'lora'?"),
        ("wrap all with lora(rnk=2)", "lora has no option 'rnk'; did you mean 'rank'?"),
        ("wrap net.linear.w with linear(7)", "net.linear.w is float32[3, 1], linear makes it float32[3, 7]"),
    ],
)
def test_errors(wrap, message):
    with pytest.raises(dslc.Error) as found:
        load(wrap)
    assert message in str(found.value)
