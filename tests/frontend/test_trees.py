"""Trees of parameters, gradients inside a model, parameters that the model changes itself: against torch."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dslc

PROGRAMS = Path(__file__).parent / "programs"
MAML = """
model Maml:
    input x[4, 3], y[4, 1], x2[4, 3], y2[4, 1]
    net = use linear(1)
    inner = mean((net(x) - y) ** 2)
    g = grad(inner, net.params)
    fast = net.params - 0.1 * g
    outer = mean((net(x2, params=fast) - y2) ** 2)
    output inner, outer, again = net(x2), norm = sqrt(sum(g * g)), small = sum(clip(g, -0.01, 0.01))
    loss outer
train:
    steps 3
    optimizer sgd(lr=0.5)
"""


def tensors(model):
    return {k: torch.tensor(np.array(v, np.float64), requires_grad=True) for k, v in model.params.items()}


def data(**shapes):
    rng = np.random.default_rng(0)
    return {k: rng.standard_normal(n).astype(np.float32) for k, n in shapes.items()}


def test_meta_learning():
    model = dslc.load(MAML)
    assert [p.path for p in model.checked.parameters] == ["net.w", "net.b"]
    fed = data(x=(4, 3), y=(4, 1), x2=(4, 3), y2=(4, 1))
    p, t = tensors(model), {k: torch.tensor(v).double() for k, v in fed.items()}
    out = dslc.compile(model, target="reference")(**fed)

    def net(x, p):
        return x @ p["net.w"] + p["net.b"]

    inner = ((net(t["x"], p) - t["y"]) ** 2).mean()
    g = dict(zip(p, torch.autograd.grad(inner, list(p.values()), create_graph=True)))
    outer = ((net(t["x2"], {k: v - 0.1 * g[k] for k, v in p.items()}) - t["y2"]) ** 2).mean()
    wanted = {
        "inner": inner,
        "outer": outer,
        "again": net(t["x2"], p),
        "norm": sum((v**2).sum() for v in g.values()).sqrt(),
        "small": sum(v.clamp(-0.01, 0.01).sum() for v in g.values()),
    }
    for name, value in wanted.items():
        np.testing.assert_allclose(out[name], value.detach(), rtol=1e-5, err_msg=name)
    grads = torch.autograd.grad(outer, list(p.values()))  # through the inner step
    dslc.Trainer(model, target="reference").step(**fed)
    for (k, v), grad in zip(p.items(), grads):
        np.testing.assert_allclose(model.params[k], (v - 0.5 * grad).detach(), rtol=1e-5, atol=1e-6)


OTHERS = """
layer net(x[n, d], act):
    hidden = act(linear(x, 4))
    param w[4, 2] ~ normal()
    return y[n, k] = sum[c](hidden[n, c] * w[c, k])

model Others:
    input x[3, 5]
    one = use net(tanh)
    other = use net(sin)
    y = one(x)
    z = other(x, params=one.params)
    output z, twice = other(x, params=2 * one.params)
    loss mean(z ** 2) + 0 * mean(y)
train:
    steps 1
    optimizer sgd(lr=1.0)
"""


def test_an_instance_called_with_the_parameters_of_another_has_none_of_its_own():
    model = dslc.load(OTHERS)
    assert [p.path for p in model.checked.parameters] == ["one.linear.w", "one.linear.b", "one.w"]
    p, x = tensors(model), data(x=(3, 5))["x"]

    def net(scale):
        hidden = torch.sin(torch.tensor(x).double() @ (scale * p["one.linear.w"]) + scale * p["one.linear.b"])
        return hidden @ (scale * p["one.w"])

    out = dslc.compile(model, target="reference")(x=x)
    np.testing.assert_allclose(out["z"], net(1).detach(), rtol=1e-5)
    np.testing.assert_allclose(out["twice"], net(2).detach(), rtol=1e-5)
    (net(1) ** 2).mean().backward()
    dslc.Trainer(model, target="reference").step(x=x)
    for path, v in p.items():
        np.testing.assert_allclose(model.params[path], (v - v.grad).detach(), rtol=1e-4, atol=1e-6, err_msg=path)


def test_gradient_by_an_input():
    model = dslc.load("""
model Penalty:
    input x[4, 3]
    critic = use linear(1)
    score = tanh(critic(x))
    slope = grad(sum(score), x)
    length[n] = sqrt(sum[k](slope[n, k] ** 2))
    output slope
    loss mean((length - 1) ** 2)
train:
    steps 1
    optimizer sgd(lr=1.0)
""")
    fed = data(x=(4, 3))
    p, x = tensors(model), torch.tensor(fed["x"]).double().requires_grad_()
    (slope,) = torch.autograd.grad(torch.tanh(x @ p["critic.w"] + p["critic.b"]).sum(), x, create_graph=True)
    np.testing.assert_allclose(dslc.compile(model, target="reference")(**fed)["slope"], slope.detach(), rtol=1e-5)
    grads = torch.autograd.grad(((slope.norm(dim=1) - 1) ** 2).mean(), list(p.values()))
    dslc.Trainer(model, target="reference").step(**fed)
    for (k, v), grad in zip(p.items(), grads):
        np.testing.assert_allclose(model.params[k], (v - grad).detach(), rtol=1e-5, atol=1e-6)


def test_teacher_follows():
    model = dslc.load(PROGRAMS / "sharing.dsl")
    assert {p.path: p.trainable for p in model.checked.parameters} == {"enc.w": True, "enc.b": True, "teacher.w": False, "teacher.b": False}
    before = model.params.copy_values()
    dslc.Trainer(model, target="reference").step(**data(a=(4, 6), p=(4, 6), n=(4, 6)))
    for k in ("w", "b"):
        wanted = 0.99 * before[f"teacher.{k}"] + 0.01 * before[f"enc.{k}"]
        np.testing.assert_allclose(model.params[f"teacher.{k}"], wanted, rtol=1e-5)
        assert np.abs(model.params[f"enc.{k}"] - before[f"enc.{k}"]).max() > 0


def test_state_that_is_a_tree():
    model = dslc.load("""
model Slow:
    input x[4, 3]
    net = use linear(2)
    y = net(x)
    state slow = net.params
    old = net(x, params=slow)
    slow <- 0.5 * slow + 0.5 * net.params
    output y, old
    loss mean((y - 1) ** 2)
train:
    steps 1
    optimizer sgd(lr=0.1)
""")
    first = model.params.copy_values()
    np.testing.assert_array_equal(first["slow.w"], first["net.w"])
    trainer, fed = dslc.Trainer(model, target="reference"), data(x=(4, 3))
    trainer.step(**fed)
    second = model.params.copy_values()
    trainer.step(**fed)
    np.testing.assert_allclose(model.params["slow.w"], 0.5 * second["slow.w"] + 0.5 * second["net.w"], rtol=1e-6)
    out = dslc.compile(model, target="reference")(**fed)
    assert np.abs(out["old"] - out["y"]).max() > 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("g = grad(net(x), x)", "grad takes one number"),
        ("g = grad(1.0, x)", "grad takes a tensor"),
        ("g = grad(sum(net(x)), ids)", "grad is taken by a tensor of floats or a tree"),
        ("g = other.params", "has no parameters yet"),
        ("g = net.params + wide.params", "linear"),
        ("net.params <- 1", "takes a tree"),
        ("net.parms <- net.params", "no tree of parameters"),
        ("y2 = net(x, params=1)", "takes a tree"),
        ("y2 = net(x, params=two.params)", "net.w is float32[3, 2]"),
        ("z = softmax(net.params)", "softmax takes tensors"),
        ("z[n] = net.params[n]", "the tree of net"),
    ],
)
def test_errors(line, message):
    text = """model M:
    input x[4, 3], ids[4]: int32
    net = use linear(2);  other = use linear(2);  two = use linear(5)
    wide = use linear(2, false)
    y = net(x) + wide(x)
    y5 = two(x)
    LINE
    output y
"""
    with pytest.raises(dslc.Error) as found:
        dslc.load(text.replace("LINE", line))
    if message != "linear":
        assert message in str(found.value)
    else:
        assert "the trees of net and wide differ" in str(found.value)


OWN = """model M:
    input x[5, 6], t[5]: int32
    f = use linear(4)
    l = cross_entropy(f(x), t)
{line}
    loss l

train:
    steps 5
"""


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_model_may_be_its_own_optimizer(target):
    """Without an optimizer in the block; what it changes no optimizer trains."""
    rng = np.random.default_rng(0)
    fed = {"x": rng.standard_normal((5, 6)).astype(np.float32), "t": rng.integers(0, 4, 5).astype(np.int32)}
    own = OWN.format(line="    f.params <- f.params - 0.1 * grad(l, f.params)")
    found = []
    for text in (own, OWN.format(line="") + "    optimizer sgd(lr=0.1)\n"):
        trainer = dslc.Trainer(dslc.load(text), target=target)
        found.append([trainer.step(**fed) for _ in range(3)])
    np.testing.assert_allclose(*found, rtol=1e-6)
    with pytest.raises(dslc.Error, match=r"the model changes f\.w, f\.b itself"):
        dslc.Trainer(dslc.load(own + "    optimizer sgd(lr=0.1)\n"), target=target)
    with pytest.raises(dslc.Error, match="no train block with an optimizer"):
        dslc.Trainer(dslc.load(OWN.format(line="")), target=target)


def test_states_alone_learn():
    """k-means, whose centers are states."""
    text = """model M:
    input x[30, 2]
    state c[3, 2] ~ normal()
    d[n, k] = sum[j]((x[n, j] - c[k, j]) ** 2)
    at[n] = argmin[k](d[n, k])
    size[k < 3] = sum[n](where(at[n] == k, 1.0, 0))
    new[k < 3, j] = sum[n](where(at[n] == k, x[n, j], 0)) / max(size[k], 1)
    c[k, j] <- where(size[k] > 0, new[k, j], c[k, j])
    loss mean[n](min[k](d[n, k]))

train:
    steps 10
"""
    x = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    model = dslc.load(text)
    center = np.array(model.params["c"], np.float64)
    trainer = dslc.Trainer(model)
    for _ in range(4):
        d = ((x[:, None] - center) ** 2).sum(-1)
        at = d.argmin(1)
        assert trainer.step(x=x) == pytest.approx(d.min(1).mean(), rel=1e-5)
        center = np.stack([x[at == k].mean(0) if (at == k).any() else center[k] for k in range(3)])
    np.testing.assert_allclose(model.params["c"], center, rtol=1e-5, atol=1e-6)
