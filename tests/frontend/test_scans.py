"""Scans: order of statements, emitted axes, reads around the turn, nesting, gradients through time."""

import numpy as np
import pytest
import torch

import dslc

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 3)).astype(np.float32)


def run(body, **fed):
    shapes = ", ".join(f"{k}[{', '.join(map(str, v.shape))}]" + (": int32" if v.dtype.kind == "i" else "") for k, v in fed.items())
    text = f"model M:\n    input {shapes}\n" + "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    return dslc.compile(dslc.load(text), target="reference")(**fed)


def test_statements_run_in_order():
    out = run(
        """
scan t < 5 carry h[2, 3] = 0, old[2, 3] = 7:
    old[b, d] = h[b, d]
    h[b, d] = h[b, d] + x[b, t, d]
    h = h * 2
    emit both[b, t, d] = h[b, d] - old[b, d], before[t, b, d] = old[b, d], last[d, b, t] = h[b, d]
output both, before, last, h, old
""",
        x=X,
    )
    h, rows = np.zeros((2, 3)), []
    for t in range(5):
        old, h = h, (h + X[:, t]) * 2
        rows.append((h - old, old, h))
    both, before, last = (np.stack(r) for r in zip(*rows))
    for name, value in {"both": both.transpose(1, 0, 2), "before": before, "last": last.transpose(2, 1, 0), "h": h, "old": old}.items():
        np.testing.assert_allclose(out[name], value, rtol=1e-5, err_msg=name)


def test_the_range_is_the_axis_where_the_index_stands_alone():
    """Of what there is before the scan: not of what the body makes, nor where an equation or a reduction has an index of that name."""
    sums = np.cumsum(X, axis=1)
    body = """
scan t carry h[2, 3] = 0:
    whole = sum[t](long[t])
    turned[t, k] = short[k, t]
    h[b, d] = h[b, d] + x[b, t, d] + 0 * whole + 0 * turned[0, 0]
    emit y[b, t, d] = h[b, d]
output y
"""
    fed = {"x": X, "long": np.zeros(9, np.float32), "short": np.zeros((2, 3), np.float32)}
    np.testing.assert_allclose(run(body, **fed)["y"], sums, rtol=1e-5)
    behind = "scan t carry h = 0.0:\n    g[...] = sum[b](x[b, ..., t])\n    h = h + g[0]\noutput h"
    np.testing.assert_allclose(run(behind, **fed)["h"], X[:, 0].sum(), rtol=1e-5)
    with pytest.raises(dslc.Error.ShapeError, match=r"the scan index 't' is 5 in x\[b, t, d\] but 9 in long\[t\]"):
        run("scan t carry h[2, 3] = 0:\n    h[b, d] = h[b, d] + x[b, t, d] * long[t]\noutput h", **fed)
    with pytest.raises(dslc.Error.ShapeError, match="nothing gives the scan index 't' a range"):
        run("scan t carry h[2, 3] = 0:\n    h[b, d] = h[b, d] + x[b, 2 * t, d]\noutput h", **fed)


def test_reads_around_the_turn():
    out = run(
        """
y[b, t, d] = x[b, t, d] * 2
scan t < 5 carry n: int32 = 0:
    emit a[b, t, d] = y[b, size(t) - 1 - t, d], p[b, t, d] = x[b, t - 1, d], q[b, t, d] = x[b, t // 2, d]
    emit w[b, t, d] = sum[u < 3](x[b, t + u - 1, d]), g[b, t] = x[b, t, ids[t]], c[t, b < 2] = t * 10 + b, m[t] = n
    inner[k < 5] = t + k
    emit r[t] = inner[t]
    n = n + ids[t]
output a, p, q, w, g, c, m, r, n
""",
        x=X,
        ids=np.array([0, 2, 1, 2, 0], np.int32),
    )
    ids = np.array([0, 2, 1, 2, 0])
    padded = np.pad(X, ((0, 0), (1, 1), (0, 0)))
    t = np.arange(5)
    wanted = {
        "a": 2 * X[:, ::-1], "p": padded[:, :5], "q": X[:, t // 2], "w": padded[:, :5] + X + padded[:, 2:], "g": X[:, t, ids],
        "c": t[:, None] * 10 + np.arange(2), "m": np.cumsum(ids) - ids, "r": 2 * t, "n": ids.sum(),
    }  # fmt: skip
    for name, value in wanted.items():
        np.testing.assert_allclose(out[name], value, rtol=1e-5, err_msg=name)


def test_scans_nest():
    out = run(
        """
scan t < 5 carry total = 0.0:
    scan s < 3 carry inner = total:
        inner = inner + sum[b < 2](x[b, t, s] * (t + 1)) + s
        emit seen[s] = inner
    total = inner / 2
    emit all_seen[t, s] = seen[s]
output total, all_seen
""",
        x=X,
    )
    total, rows = 0.0, []
    for t in range(5):
        inner, seen = total, []
        for s in range(3):
            inner += X[:, t, s].sum() * (t + 1) + s
            seen.append(inner)
        total = inner / 2
        rows.append(seen)
    np.testing.assert_allclose(out["total"], total, rtol=1e-5)
    np.testing.assert_allclose(out["all_seen"], rows, rtol=1e-5)


def test_layers_and_repeats_inside():
    model = dslc.load("""
layer cell(x[b, d], h[b, u]):
    return tanh(linear(x, u) + linear(h, u))

model M:
    input x[2, 5, 3]
    scan t < 5 carry h[2, 4] = 0, g[2, 4] = 0:
        here[b, d] = x[b, t, d]
        h = cell(here, h)
        g = cell(h, g)
        repeat 2 as k:
            g = g + k
        emit y[b, t, u] = g[b, u]
    output y
    loss mean(y ** 2)

train:
    steps 1
    optimizer sgd(lr=0.5)
""")
    p = {k: torch.tensor(np.array(v, np.float64), requires_grad=True) for k, v in model.params.items()}
    assert [k for k in p if k.endswith(".w")] == ["cell.linear.w", "cell.linear_2.w", "cell_2.linear.w", "cell_2.linear_2.w"]

    def cell(name, x, h):
        return torch.tanh(x @ p[f"{name}.linear.w"] + p[f"{name}.linear.b"] + h @ p[f"{name}.linear_2.w"] + p[f"{name}.linear_2.b"])

    h = g = torch.zeros(2, 4).double()
    ys = []
    for t in range(5):
        h = cell("cell", torch.tensor(X[:, t]).double(), h)
        g = cell("cell_2", h, g) + 1
        ys.append(g)
    y = torch.stack(ys, 1)
    np.testing.assert_allclose(dslc.compile(model, target="reference")(x=X)["y"], y.detach(), rtol=1e-5)
    (y**2).mean().backward()
    dslc.Trainer(model, target="reference").step(x=X)
    for k, v in p.items():
        np.testing.assert_allclose(model.params[k], v.detach() - 0.5 * v.grad, rtol=1e-4, atol=1e-6, err_msg=k)


def test_state_carried_between_steps():
    model = dslc.load("""
model M:
    input x[2, 5, 3]
    state kept[2, 3] ~ zeros()
    scan t < 5 carry h = kept:
        h[b, d] = 0.5 * h[b, d] + x[b, t, d]
        emit y[b, t, d] = h[b, d]
    kept <- h
    output y
""")
    program = dslc.compile(model, target="reference")
    h = np.zeros((2, 3))
    for _ in range(3):
        y = program(x=X)["y"]
        for t in range(5):
            h = 0.5 * h + X[:, t]
        np.testing.assert_allclose(y[:, 4], h, rtol=1e-5)
    np.testing.assert_allclose(model.params["kept"], h, rtol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("scan t < 5 carry h[2] = 0:\n    h = x\noutput h", "the carry 'h' starts as float32[2] and becomes float32[2, 5, 3]"),
        ("scan t < 5 carry h = 0:\n    emit y[b] = x[b, t, 0]\noutput y", "an emitted value has the scan's index among its axes"),
        ("scan t < 5 carry h = 0:\n    loss h\noutput h", "a loss inside a scan"),
        ("scan t < 5 carry h = 0:\n    output g = h + 1\noutput h", "an output inside a scan is not there yet"),
        ("scan t < 5 carry h = 0:\n    metric g = h + 1\noutput h", "a metric inside a scan is not there yet"),
        ("scan t < 5 carry h = 0:\n    g = t\noutput g", "unknown name 'g'"),
        ("state s ~ zeros()\nscan t < 5 carry h = 0:\n    s <- h\noutput h", "a state cannot be changed inside a scan"),
        ("scan t < 5 carry h = 0:\n    h = h + 0.5\noutput h", "the carry 'h' is int32, its new value float32"),
        ("state s: int32 = 0\ns <- s * 0.5\noutput s", "state 's' is int32, its new value float32"),
        ("scan t < 2.5 carry h = 0:\n    h = h\noutput h", "a size must be an integer, this is 2.5"),
    ],
)
def test_errors(body, message):
    with pytest.raises(dslc.Error) as found:
        run(body, x=X)
    assert message in str(found.value)


INNER = """layer net(x[b, d]):
    return linear(tanh(linear(x, 4)), 1)

model M:
    input x[5, 3], y[5]
    param rate ~ constant(0.2)
    f = use net()
    first = f(x)
    total = 0.0
    fast[i < 3] = 0.1 * rate
    {turns}:
        one[b < 1, d] = x[{t}, d]
        g = grad((sum(f(one)) - first[{t}, 0] * y[{t}]) ** 2, f.params)
        fast = fast - rate * grad((sum[d](fast[d] * x[{t}, d]) - y[{t}]) ** 2, fast)
        total = total + sum(g ** 2)
    output total, fast
    loss total + sum(fast)

train:
    optimizer sgd(lr=0.001)
    steps 2
"""


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_a_gradient_inside_a_scan_is_that_of_the_unrolled_turns(target):
    """By parameters that a layer computes with, of which nothing leaves the scan before the gradient is taken, and by what is carried."""
    scanned = INNER.format(turns="scan t < 5 carry total = total, fast = fast", t="t")
    unrolled = INNER.format(turns="repeat 5 as t", t="t")
    fed, found = {"x": X[0], "y": X[1, :, 0]}, []
    for text in (scanned, unrolled):
        model = dslc.load(text)
        out = dslc.compile(model, target=target)(**fed)
        trainer = dslc.Trainer(model, target=target)
        found.append(
            [out["total"], *out["fast"].ravel(), *(trainer.step(**fed) for _ in range(2)), *model.params["f.linear.w"].ravel(), model.params["rate"]]
        )
    np.testing.assert_allclose(*found, rtol=2e-5)


@pytest.mark.parametrize(
    ("before", "inside", "by", "wanted"),
    [
        ("w = 2 * x", "l = sum[b, d](w[b, t, d] ** 2)", "w", 4 * X),  # the turn's slice of what the gradient is taken by
        ("w = 2 * x", "l = sum[b, d](w[b, t, d] ** 2)", "x", 8 * X),  # made before the scan
        ("w = sort(x ** 3)", "l = sum(w * w) / 5", "x", 6 * X**5),
        ("w = stop_gradient(x) * x", "l = sum[b, d](w[b, t, d])", "x", X),
        ("w = 2 * x", "scan u < 2 carry z = 0.0:\n        l = sum[b](w[b, t, u] ** 3)\n        z = z + sum(grad(l, x))", "z", 24 * X[..., :2] ** 2),
    ],
)
def test_a_gradient_inside_a_scan_sees_what_is_made_before(before, inside, by, wanted):
    added = "z" if by == "z" else f"sum(grad(l, {by}))"
    body = f"{before}\nscan t < 5 carry s = 0.0:\n    {inside}\n    s = s + {added}\noutput s"
    np.testing.assert_allclose(run(body, x=X)["s"], wanted.astype(np.float64).sum(), rtol=1e-5)
