"""Programs of many architectures mean what numpy and torch compute for them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import dslc

PROGRAMS = Path(__file__).parent / "programs"


class Run:
    """A program loaded, fed with random inputs, and run on the reference target."""

    def __init__(self, name, program="run", positive=(), seed=0, fed=None, **dims):
        path = PROGRAMS / f"{name}.dsl"
        self.model = dslc.load(name if "\n" in name else path, **dims)
        self.program = dslc.compile(self.model, target="reference", program=program)
        rng = np.random.default_rng(seed)
        self.fed = dict(fed or {})
        for port in self.program.executable.ports:
            if port.role == "input" and port.name not in self.fed:
                low, high = port.bounds or (0, 2)
                value = rng.standard_normal(port.shape) if port.dtype.is_float else rng.integers(low, high, port.shape)
                self.fed[port.name] = (abs(value) if port.name in positive else value).astype(port.dtype.numpy)
        self.out = self.program(**self.fed)
        self.p = {k: np.array(v, np.float64) for k, v in self.model.params.items()}

    def i(self, name):
        value = self.fed[name]
        return value.astype(np.float64) if value.dtype.kind == "f" else value

    def check(self, **wanted):
        for name, value in wanted.items():
            np.testing.assert_allclose(self.out[name], np.asarray(value), rtol=2e-5, atol=1e-6, err_msg=name)


def softmax(x, axis=-1):
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis, keepdims=True))
        return np.nan_to_num(e / e.sum(axis, keepdims=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rotated(x):
    t, c = x.shape[-2:]
    z = (x[..., : c // 2] + 1j * x[..., c // 2 :]) * np.exp(1j * np.arange(t)[:, None] / 10000.0 ** (2 * np.arange(c // 2) / c))
    return np.concatenate([z.real, z.imag], -1)


def test_grouped_queries_with_rotary_positions():
    r = Run("gqa")

    def gqa(layer, window):
        q, k, v = (np.einsum("btd,dhc->bhtc", r.i("x"), r.p[f"{layer}.{w}"]) for w in ("wq", "wk", "wv"))
        k, v = (np.repeat(x, 2, 1) for x in (rotated(k), v))
        s = rotated(q) @ k.swapaxes(-1, -2) / np.sqrt(8)
        back = np.arange(6)[:, None] - np.arange(6)
        p = softmax(np.where((back >= 0) & (back < window), s, -np.inf))
        return np.einsum("bhic,hcd->bid", p @ v, r.p[f"{layer}.wo"])

    r.check(y=gqa("gqa", 99), windowed=gqa("gqa_2", 3))


I, J = np.arange(6)[:, None], np.arange(6)[None, :]
MASKS = {
    "alibi": J <= I,
    "window": (J <= I) & (I - J < 2),
    "dilated": (J <= I) & (I - J < 4) & ((I - J) % 2 == 0),
    "strided": (J <= I) & ((I - J < 2) | (J % 4 == 0)),
    "global": (abs(I - J) < 2) | (I < 3) | (J < 3),
    "prefix": (J <= I) | (J < 3),
    "causal": J <= I,
}


@pytest.mark.parametrize("kind", [*MASKS, "documents", "blocks"])
def test_masks(kind):
    length = np.array([6, 4], np.int32)
    rng = np.random.default_rng(1)
    fed = {"length": length, "document": rng.integers(0, 2, (2, 6)).astype(np.int32), "pattern": rng.random((3, 3)) < 0.6}
    names = {"documents": ("document",), "blocks": ("pattern",)}.get(kind, ())
    r = Run("masks", kind=kind, fed={"length": length, **{k: fed[k] for k in names}})
    s = r.i("s")
    if kind == "alibi":
        s = s - (2.0 ** (-8 * np.arange(1, 5) / 4))[:, None, None] * abs(I - J)
    if kind == "documents":
        keep = (J <= I) & (fed["document"][:, :, None] == fed["document"][:, None, :])
    elif kind == "blocks":
        keep = np.repeat(np.repeat(fed["pattern"], 2, 0), 2, 1)[None]
    else:
        keep = MASKS[kind][None]
    keep = keep & (length[:, None, None] > J)
    r.check(y=softmax(np.where(keep[:, None], s, -np.inf)))


def test_linformer():
    r = Run("linformer")
    p, x = {k.split(".")[-1]: v for k, v in r.p.items()}, r.i("x")
    q = np.einsum("bid,dhc->bhic", x, p["wq"])
    k = np.einsum("btd,rt,dhc->bhrc", x, p["e"], p["wk"])
    v = np.einsum("btd,rt,dhc->bhrc", x, p["f"], p["wv"])
    r.check(y=np.einsum("bhir,bhrc,hcd->bid", softmax(np.einsum("bhic,bhrc->bhir", q, k) / 2), v, p["wo"]))


def test_linear_attention_forms_agree():
    r = Run("performer")
    np.testing.assert_allclose(r.out["parallel"], r.out["recurrent"], rtol=1e-6)
    w = r.p["phi.w"]

    def phi(x):
        return np.exp(np.einsum("mc,bhtc->bhtm", w, x) - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(6)

    a = np.tril(np.einsum("bhim,bhjm->bhij", phi(r.i("q")), phi(r.i("k"))))
    r.check(parallel=a @ r.i("v") / a.sum(-1, keepdims=True))


def test_retention_schedules_agree():
    r = Run("retention")
    i, j = np.arange(8)[:, None], np.arange(8)
    decay = np.tril((1 - 2.0 ** (-5 - np.arange(3)))[:, None, None] ** np.maximum(i - j, 0))
    y = (np.einsum("bhic,bhjc->bhij", r.i("q"), r.i("k")) * decay) @ r.i("v")
    r.check(parallel=y, recurrent=y, chunked=y)


def test_mamba():
    r = Run("mamba")
    p, x, n, rank = {k.split(".")[-1]: v for k, v in r.p.items() if "conv" not in k}, r.i("x"), 4, 3
    np.testing.assert_allclose(p["alog"], np.broadcast_to(np.log(np.arange(1, 5)), (16, 4)), rtol=1e-6)
    u, z = np.einsum("btd,dke->kbte", x, p["win"])
    w = r.p["mamba.causal_conv.w"]
    u = silu(sum(np.pad(u, ((0, 0), (k, 0), (0, 0)))[:, :6] * w[:, k] for k in range(4)))
    s = u @ p["wx"]
    dt = np.log1p(np.exp(s[..., :rank] @ p["wdt"] + p["dbias"]))
    h, ys = np.zeros((2, 16, n)), []
    for t in range(6):
        h = np.exp(-dt[:, t, :, None] * np.exp(p["alog"])) * h + (dt[:, t] * u[:, t])[:, :, None] * s[:, t, None, rank : rank + n]
        ys.append((h * s[:, t, None, rank + n :]).sum(-1) + p["skip"] * u[:, t])
    r.check(y=(np.stack(ys, 1) * silu(z)) @ p["wout"])


def test_experts():
    r = Run("moe", program="eval")
    x, p = r.i("x"), r.p
    g = x @ p["moe.wg"]
    order = np.argsort(-g, 1, kind="stable")[:, :2]
    cap, seats, y = int(1.25 * 2 * 12 / 4) + 1, np.zeros(4, int), np.zeros_like(x)
    for t in range(12):
        gate = softmax(g[t, order[t]])
        for k, e in enumerate(order[t]):
            if seats[e] < cap:
                y[t] += gate[k] * (silu(x[t] @ p["moe.w1"][e]) @ p["moe.w2"][e])
            seats[e] += 1
    share = np.array([(order == e).any(1).mean() for e in range(4)])
    prob = softmax(x @ p["switch.wg"])
    best = prob.argmax(1)
    one = np.stack([prob[t, e] * (np.maximum(x[t] @ p["switch.w1"][e], 0) @ p["switch.w2"][e]) for t, e in enumerate(best)])
    prob, chosen = softmax(x @ p["expert_choice.wg"]), np.zeros_like(x)
    for e in range(4):
        for t in np.argsort(-prob[:, e], kind="stable")[:2]:
            chosen[t] += prob[t, e] * (np.maximum(x[t] @ p["expert_choice.w1"][e], 0) @ p["expert_choice.w2"][e])
    r.check(y=y, one=one, chosen=chosen, balance=0.01 * 4 * (share * softmax(g).mean(0)).sum())


def peephole(p, layer, x):
    h = c = np.zeros((2, 4))
    peep, ys = p[f"{layer}.peep"], []
    for t in range(x.shape[1]):
        z = np.einsum("bi,igu->gbu", x[:, t], p[f"{layer}.wx"]) + np.einsum("bv,vgu->gbu", h, p[f"{layer}.wh"]) + p[f"{layer}.bias"][:, None]
        old = c
        c = sigmoid(z[1] + peep[1] * old) * old + sigmoid(z[0] + peep[0] * old) * np.tanh(z[2])
        h = sigmoid(z[3] + peep[2] * c) * np.tanh(c)
        ys.append(h)
    return np.stack(ys, 1), h, c


def test_recurrent_layers():
    r = Run("recurrent")
    x, p = r.i("x"), r.p
    y, h, c = peephole(p, "a", x)
    forward, backward = peephole(p, "bidirectional.peephole", x)[0], peephole(p, "bidirectional.peephole_2", x[:, ::-1])[0][:, ::-1]
    gru = torch.nn.GRU(3, 4, batch_first=True, dtype=torch.float64)
    with torch.no_grad():  # torch's gates are r, z, n
        order = [1, 0, 2]
        gru.weight_ih_l0.copy_(torch.tensor(p["b.wx"][:, order].reshape(3, 12).T))
        gru.weight_hh_l0.copy_(torch.tensor(p["b.wh"][:, order].reshape(4, 12).T))
        gru.bias_ih_l0.copy_(torch.tensor(p["b.bias"][order].reshape(-1)))
        gru.bias_hh_l0.zero_()
        z, last = gru(torch.tensor(x), torch.tensor(r.i("start"))[None])
    padded = np.pad(x, ((0, 0), (1, 0), (0, 0)))
    w = p["qrnn.w"]
    gates = np.einsum("bti,giu->gbtu", x, w[..., 0]) + np.einsum("bti,giu->gbtu", padded[:, :5], w[..., 1])
    state, quasi = np.zeros((2, 4)), []
    for t in range(5):
        state = sigmoid(gates[1][:, t]) * state + (1 - sigmoid(gates[1][:, t])) * np.tanh(gates[0][:, t])
        quasi.append(sigmoid(gates[2][:, t]) * state)
    a, e, first = softmax(p["hmm.a"]), softmax(p["hmm.e"]), softmax(p["hmm.p"])
    obs, ll = r.i("obs"), []
    for b in range(2):
        f = first * e[:, obs[b, 0]]
        for t in range(1, 5):
            f = (f @ a) * e[:, obs[b, t]]
        ll.append(np.log(f.sum()))
    r.check(y=y, h=h, c=c, z=z, last=last[0], both=np.concatenate([forward, backward], -1), quasi=np.stack(quasi, 1), ll=ll)


def test_seq2seq():
    length = np.array([6, 2, 4], np.int32)
    r = Run("seq2seq", fed={"length": length})
    p = {k.removeprefix("bahdanau_decoder."): v for k, v in r.p.items()}
    text = r.p["embedding.table"][r.i("text")]

    def lstm(layer, x):
        h = c = np.zeros((3, 4))
        ys, peep = [], p[f"{layer}.peep"]
        for t in range(x.shape[1]):
            z = np.einsum("bi,igu->gbu", x[:, t], p[f"{layer}.wx"]) + np.einsum("bv,vgu->gbu", h, p[f"{layer}.wh"]) + p[f"{layer}.bias"][:, None]
            c, old = sigmoid(z[1] + peep[1] * c) * c + sigmoid(z[0] + peep[0] * c) * np.tanh(z[2]), c
            assert old.shape == c.shape
            h = sigmoid(z[3] + peep[2] * c) * np.tanh(c)
            ys.append(h)
        return np.stack(ys, 1)

    memory = np.concatenate([lstm("bidirectional.peephole", text), lstm("bidirectional.peephole_2", text[:, ::-1])[:, ::-1]], -1)
    before = np.pad(r.i("answer"), ((0, 0), (1, 0)))[:, :5] if "answer" in r.fed else None
    x = r.p["embedding_2.table"][before]
    h, logits, weights = np.zeros((3, 4)), [], []
    for t in range(5):
        e = np.tanh((h @ p["w1"])[:, None] + memory @ p["w2"]) @ p["v"]
        a = softmax(np.where(np.arange(6) < length[:, None], e, -np.inf))
        joined = np.concatenate([x[:, t], np.einsum("bs,bsm->bm", a, memory)], -1)
        z, g = np.einsum("bk,kgu->gbu", joined, p["wx"]), np.einsum("bk,kgu->gbu", h, p["wh"])
        f = sigmoid(z[0] + g[0])
        h = (1 - f) * np.tanh(z[2] + sigmoid(z[1] + g[1]) * g[2]) + f * h
        logits.append(h @ p["wo"])
        weights.append(a)
    r.check(logits=np.stack(logits, 1), weights=np.stack(weights, 1))


def test_norms_and_their_states():
    r = Run("norms", program="train")
    x = torch.tensor(r.i("x"))
    mean, var = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    y = F.batch_norm(x, mean, var, training=True)
    r.check(y=y, z=F.group_norm(x, 3))
    biased = x.var((0, 2, 3), unbiased=False)
    np.testing.assert_allclose(r.model.params["batchnorm.mean"], 0.1 * x.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(r.model.params["batchnorm.var"], 0.9 + 0.1 * biased, rtol=1e-5)
    later = dslc.compile(r.model, target="reference")(x=r.fed["x"])
    state = [torch.tensor(np.array(r.model.params[f"batchnorm.{k}"], np.float64)) for k in ("mean", "var")]
    np.testing.assert_allclose(later["y"], F.batch_norm(x, *state, training=False), rtol=1e-5, atol=1e-6)


def test_convnets():
    r = Run("convnets", program="train")
    p = {k: torch.tensor(v) for k, v in r.p.items()}
    names = list(p)
    seen: list[str] = []

    def weight(kind):
        """The parameters of the next convolution or normalization, in the order of evaluation."""
        path = next(
            n for n in names if n not in seen and n.split(".")[-2 - n.split(".")[-2].isdigit()].startswith(kind) and n.endswith((".w", ".gain"))
        )
        seen.append(path)
        return p[path]

    def bn(x):
        gain = weight("batchnorm")
        return F.batch_norm(x, torch.zeros(len(gain)).double(), torch.ones(len(gain)).double(), gain, training=True)

    def unit(x, kernel=3, groups=1, stride=1):
        return F.relu(bn(F.conv2d(x, weight("conv2d"), stride=stride, padding=kernel // 2, groups=groups)))

    x = unit(torch.tensor(r.i("image")))
    y = unit(x, stride=2)
    y = bn(F.conv2d(y, weight("conv2d"), padding=1))
    x = F.relu(y + bn(F.conv2d(x, weight("conv2d"), stride=2)))
    pooled = unit(F.max_pool2d(x, 3, 1, 1), 1)
    x = torch.cat([unit(x, 1), unit(unit(x, 1)), unit(unit(x, 1), 5), pooled], 1)
    for _ in range(2):
        x = torch.cat([x, F.conv2d(F.relu(bn(x)), weight("conv2d"), padding=1)], 1)
    x = unit(unit(x, groups=x.shape[1]), 1)
    r.check(logits=x.mean((2, 3)) @ p["linear.w"] + p["linear.b"])


GAN = """
model M:
    input real[5, 3], z[5, 2]
    gen = use linear(3)
    disc = use linear(1)
    fake = gen(z)
    loss d = mean(softplus(-disc(real))) + mean(softplus(disc(fake)))
    loss g = mean(softplus(-disc(fake)))
train:
    steps 5
    minimize d over disc with adam(lr=0.1, betas=(0.5, 0.999))
    minimize g over "gen.*" with sgd(lr=0.1)
"""


def test_two_minimizations_in_a_step():
    model = dslc.load(GAN)
    trainer = dslc.Trainer(model, target="reference")
    w = {k: torch.tensor(np.array(v), requires_grad=True) for k, v in model.params.items() if k.count(".") == 1}
    disc, gen = (torch.optim.Adam([w["disc.w"], w["disc.b"]], 0.1, (0.5, 0.999)), torch.optim.SGD([w["gen.w"], w["gen.b"]], 0.1))
    rng = np.random.default_rng(0)
    for _ in range(3):
        real, z = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((5, 2)).astype(np.float32)

        def critic(x):
            return x @ w["disc.w"] + w["disc.b"]

        def made(z=z):
            return torch.tensor(z) @ w["gen.w"] + w["gen.b"]

        def d_loss(real=real):
            return F.softplus(-critic(torch.tensor(real))).mean() + F.softplus(critic(made())).mean()

        def g_loss():
            return F.softplus(-critic(made())).mean()

        total = (d_loss() + g_loss()).item()
        for loss, optimizer in ((d_loss, disc), (g_loss, gen)):
            value = loss()
            for one in (disc, gen):
                one.zero_grad()
            value.backward()
            optimizer.step()
        assert trainer.step(real=real, z=z) == pytest.approx(total, rel=1e-5)
        for k, v in w.items():
            np.testing.assert_allclose(model.params[k], v.detach(), rtol=2e-4, atol=1e-6)


def test_gan_trains():
    model = dslc.load(PROGRAMS / "gan.dsl")
    trainer = dslc.Trainer(model, target="reference")
    before = model.params.copy_values()
    losses = [trainer.step(real=np.ones((5, 4), np.float32)) for _ in range(2)]
    assert np.isfinite(losses).all()
    assert all(np.abs(model.params[k] - v).max() > 0 for k, v in before.items() if k.startswith(("gen.", "disc.")) and "optimizer" not in k)


def test_diffusion():
    r = Run("diffusion", program="train")
    t, eps = r.out["t"], np.asarray(r.out["eps"], np.float64)
    assert t.dtype == np.int32 and t.min() >= 0 and t.max() < 20
    beta = 1e-4 + (0.02 - 1e-4) * np.arange(20) / 19
    alpha = np.cumprod(1 - beta)
    r.check(noisy=np.sqrt(alpha[t])[:, None] * r.i("image") + np.sqrt(1 - alpha[t])[:, None] * eps)
    x = r.i("image")
    for s in reversed(range(20)):
        x = (x - beta[s] / np.sqrt(1 - alpha[s]) * (x @ r.p["net.w"] + r.p["net.b"])) / np.sqrt(1 - beta[s])
    r.check(sampled=x)
    again = r.program(**r.fed, step=1)
    assert (again["eps"] != r.out["eps"]).any()


def test_spectral():
    r = Run("spectral")
    wave, echo = r.i("wave"), r.p["echo"][:, 0]
    wet = np.stack([np.convolve(w, echo)[: wave.shape[1]] for w in wave])
    heard, window = wave + wet, 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    cut = np.stack([heard[:, 16 * t : 16 * t + 64] * window for t in range(9)], 1)
    power = np.abs(np.fft.rfft(cut)) ** 2
    edge = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 14) / 2595) - 1)
    bank = np.stack([np.interp(np.arange(33) * 125, edge[m : m + 3], [0, 1, 0], 0, 0) for m in range(12)])
    r.check(wet=wet[:, :, None], direct=wet, features=np.log(np.maximum(power @ bank.T, 1e-6)))


def test_clip_shares_a_tower():
    r = Run("clip", program="eval")
    assert not any("_2" in path for path in r.p)
    np.testing.assert_allclose(r.p["scale"], np.log(1 / 0.07), rtol=1e-6)
    s = np.asarray(r.out["s"], np.float64)
    rows = np.log(np.exp(s).sum(1)) - np.diag(s)
    cols = np.log(np.exp(s).sum(0)) - np.diag(s)
    r.check(loss=rows.mean() + cols.mean(), top1=(s.argmax(1) == np.arange(3)).mean())


def test_memory_is_a_ring():
    model = dslc.load(PROGRAMS / "memory.dsl")
    program = dslc.compile(model, target="reference")
    rng = np.random.default_rng(0)
    mk, mv, head = np.zeros((10, 3)), np.zeros((10, 3)), 0
    for _ in range(4):
        q, k, v = rng.standard_normal((3, 2, 4, 3)).astype(np.float32)
        y = program(q=q, k=k, v=v)["y"]
        n = q @ mk.T.astype(np.float32)
        pick = np.argsort(-n, -1, kind="stable")[..., :2]
        local = np.where(np.tril(np.ones((4, 4), bool)), q @ k.swapaxes(1, 2), -np.inf)
        p = softmax(np.concatenate([np.take_along_axis(n, pick, -1), local], -1) / np.sqrt(3))
        wanted = np.einsum("bir,birc->bic", p[..., :2], mv[pick]) + p[..., 2:] @ v
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
        for m in range(4):
            mk[(head + m) % 10], mv[(head + m) % 10] = k[0, m], v[0, m]
        head = (head + 4) % 10
    assert model.params["memory_attention.head"] == head


def test_table():
    length = np.array([4, 0, 1, 2, 3, 4], np.int32)
    age = np.array([5.0, 95.0, 120.0, 33.0, 40.0, 9.5], np.float32)
    r = Run("tables", program="eval", positive=("price", "cost"), fed={"seen_length": length, "age": age})
    p = r.p
    t, d = np.arange(4)[:, None], np.arange(4)
    sinusoid = np.where(d % 2 == 0, np.sin(t / 10000 ** (d / 4)), np.cos(t / 10000 ** ((d - 1) / 4)))
    e = p["items_.table"][r.i("seen")] + sinusoid
    h = np.where((np.arange(4) < length[:, None])[:, :, None], e, 0).sum(1) / np.maximum(length, 1)[:, None]
    bucket = np.clip(age // 10, 0, 9).astype(int)
    dense = np.stack([np.log(r.i("price") + 1), (age - 40) / 12], 1)
    x = np.concatenate([p["embedding.table"][r.i("user")], p["items_.table"][r.i("item")], h, p["embedding_2.table"][bucket], dense], 1)
    for layer in ("linear", "linear_2", "linear_3"):
        x = np.maximum(x, 0) if layer != "linear" else x
        x = x @ p[f"{layer}.w"] + p[f"{layer}.b"]
    z = x[:, 0]
    r.check(score=sigmoid(z), loss=(r.i("cost") * (np.log1p(np.exp(z)) - r.i("clicked") * z)).mean())


MODELS = """
layer two(x[n, d], act=relu, bias=true):
    param b[d] ~ ones() if bias
    y = act(x)
    z[n, d] = y[n, d] + b[d] if bias else y[n, d]
    return y, z

model Inner:
    dims k=2
    input a[2, k]
    output b = linear(a, k)
    loss mean(b ** 2)

model Outer:
    input x[2, 3]
    y, z = two(x, act=tanh)
    w = two(x, bias=false).z
    inner = use Inner(k=3)
    r = inner(x)
    with frozen:
        v = linear(x, 2)
    output y, z, w, q = r.b, v
    loss r.loss
    if training:
        loss extra = 0.1 * mean(v ** 2) + mean(z ** 2)

train:
    steps 2
    minimize extra over two with sgd(lr=0.5)
    minimize loss over all with sgd(lr=0.1)
"""


def test_models_are_layers():
    r = Run(MODELS, program="eval")
    x = r.i("x")
    q = x @ r.p["inner.linear.w"] + r.p["inner.linear.b"]
    assert {p.path: p.trainable for p in r.model.checked.parameters} == {
        "two.b": True, "inner.linear.w": True, "inner.linear.b": True, "linear.w": False, "linear.b": False,
    }  # fmt: skip
    r.check(y=np.tanh(x), z=np.tanh(x) + 1, w=np.maximum(x, 0), q=q, v=x @ r.p["linear.w"] + r.p["linear.b"], loss=(q**2).mean())
    trainer = dslc.Trainer(r.model, target="reference")
    total = trainer.step(x=r.fed["x"])
    v = x @ r.p["linear.w"] + r.p["linear.b"]
    assert total == pytest.approx((q**2).mean() + 0.1 * (v**2).mean() + ((np.tanh(x) + 1) ** 2).mean(), rel=1e-5)
    b = 1 - 0.5 * (np.tanh(x) + 1).sum(0) * 2 / 6
    b = b - 0.1 * (np.tanh(x) + b).sum(0) * 2 / 6
    np.testing.assert_allclose(r.model.params["two.b"], b, rtol=1e-5)
    np.testing.assert_array_equal(r.model.params["linear.w"], r.p["linear.w"].astype(np.float32))
