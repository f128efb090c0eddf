"""Models on the GPU against the CPU: outputs and training steps. Needs the compiler on the machine with the GPU."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
MODEL = """
model Classes:
    dims batch=16
    input x[batch, 20], label[batch]: int32
    h = gelu(linear(x, 64))
    logits = linear(layernorm(h), 5)
    output logits
    loss cross_entropy(logits, label)

train:
    steps 30
    optimizer adam(lr=0.01)
"""


def data(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    x = random.standard_normal((16, 20)).astype(np.float32)
    return {"x": x, "label": np.argmax(x[:, :5], 1).astype(np.int32)}


@pytest.fixture(autouse=True)
def compiler():
    pytest.importorskip("torch_mlir")


def test_outputs():
    import dslc

    model = dslc.load(MODEL)
    found, expected = (dslc.compile(model, target=target)(x=data(0)["x"])["logits"] for target in ("cuda", "cpu"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_training_follows_the_cpu_and_parameters_come_back():
    import dslc

    losses, weights = {}, {}
    for target in ("cuda", "cpu"):
        model = dslc.load(MODEL)
        trainer = dslc.Trainer(model, target=target)
        losses[target] = [trainer.step(**data(k)) for k in range(30)]
        weights[target] = model.params.copy_values("param")
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)
    for path, value in weights["cpu"].items():
        np.testing.assert_allclose(weights["cuda"][path], value, rtol=2e-2, atol=2e-3)


def test_the_same_run_gives_the_same_bits():
    import dslc

    runs = []
    for _ in range(2):
        trainer = dslc.Trainer(dslc.load(MODEL), target="cuda")
        runs.append([trainer.step(**data(k)) for k in range(10)])
    assert runs[0] == runs[1]


BOUNDED = """
model Bounded:
    dims batch<=8, time<=64
    input x[batch, time, 24], y[batch, time, 24]
    h = self_attention(linear(x, 24), 2, causal=true)
    output h
    loss mean((h - y) ** 2)

train:
    optimizer sgd(lr=0.1)
"""


def test_device_arrays_that_are_shorter_than_their_program():
    """The same bits as from the host, in programs and in training steps."""
    import dslc

    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    found = []
    for place in (np.asarray, lambda array: torch.from_numpy(array).cuda()):
        model, rng = dslc.load(BOUNDED), np.random.default_rng(0)
        program, trainer = dslc.compile(model, target="cuda"), dslc.Trainer(model, target="cuda")
        for batch, time in ((8, 40), (3, 17), (5, 64)):
            x, y = (place(rng.standard_normal((batch, time, 24)).astype(np.float32)) for _ in range(2))
            found.append((program(x=x)["h"], trainer.step(x=x, y=y)))
    for (mine, loss), (theirs, other) in zip(found[:3], found[3:]):
        np.testing.assert_array_equal(mine, theirs)
        assert loss == other


BLOCK = """
model Block:
    input   x[4, 256, 128], y[4, 256]: int32
    h = x
    repeat 2:
        h = h + self_attention(layernorm(h), 2, causal=true)
        h = h + mlp(layernorm(h), hidden=512)
    logits = linear(layernorm(h), 64)
    output  logits
    loss    cross_entropy(logits, y)

train:
    optimizer sgd(lr=1.0)
"""


@pytest.mark.parametrize("precision, half_unit", [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_gradients_in_16_bits(precision, half_unit):
    """One step with rate 1 moves each parameter by its gradient; against float32 in float64, through about ten roundings of random sign."""
    import dslc

    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((4, 256, 128)).astype(np.float32), "y": rng.integers(0, 64, (4, 256)).astype(np.int32)}
    moved, losses = [], []
    for target, name in (("cuda", precision), ("reference", "float32")):
        model = dslc.load(BLOCK, precision=name)
        before = {k: np.array(v, np.float64) for k, v in model.params.items()}
        losses.append(dslc.Trainer(model, target=target).step(**given))
        moved.append({k: before[k] - np.asarray(model.params[k], np.float64) for k in before})
    assert abs(losses[0] - losses[1]) <= 4 * half_unit * losses[1]
    for path, exact in moved[1].items():
        assert np.linalg.norm(moved[0][path] - exact) <= 10 * half_unit * np.linalg.norm(exact) + 1e-6, path


NET = """
layer normed(x[n, c, p, q], out, kernel=1, stride=1, pad=0):
    return batchnorm(conv2d(x, out, kernel=kernel, stride=stride, pad=pad))

model Net:
    input   x[4, 3, 22, 26], y[4]: int32
    a = maxpool2d(relu(normed(x, 64, kernel=7, stride=2, pad=3)), kernel=3, stride=2, pad=1)
    b = relu(normed(a, 64, kernel=3, pad=1) + a)
    e = relu(normed(b, 128, kernel=3, stride=2, pad=1) + normed(b, 128, stride=2))
    param head[128, 4] ~ normal(std=0.2)
    m = global_mean(e)
    z[n, k] = sum[d](m[n, d] * head[d, k])
    output  z
    loss    cross_entropy(z, y)
train:
    optimizer  sgd(lr=0.01)
    steps      2
    precision  {precision}
"""


@pytest.mark.parametrize(("precision", "near"), [("bfloat16", 1.25), ("float16", 0.75), ("tf32", 0.3), ("float32", 1e-3)])
def test_convolutions_train(precision, near, monkeypatch):
    """Three channels widened to four, windows in boxes and with steps, pooling and statistics along channels; see `test_convnet`. On the emulator the
    worst parameter differs by two thirds of what is allowed here."""
    import dslc
    from dslc.passes import channels_last

    monkeypatch.setattr(channels_last, "SAVED", 1.0)  # however small the pictures are
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((4, 3, 22, 26)).astype(np.float32), "y": np.arange(4, dtype=np.int32)}
    found = []
    for target in ("cuda", "reference"):
        model = dslc.load(NET.format(precision=precision))
        start = {k: np.array(v) for k, v in model.params.items()}
        trainer = dslc.Trainer(model, target=target)
        losses = [trainer.step(**given) for _ in range(2)]
        found.append((losses, {k: np.array(model.params[k]) for k in start}, dslc.compile(model, target=target)(x=given["x"])["z"]))
    (losses, params, outputs), (wanted_losses, wanted, wanted_outputs) = found
    np.testing.assert_allclose(losses, wanted_losses, rtol=2e-2 * near)
    np.testing.assert_allclose(outputs, wanted_outputs, atol=2e-2 * near * np.abs(wanted_outputs).max())
    for path, value in start.items():
        moved = np.linalg.norm(wanted[path] - value)
        assert np.linalg.norm(params[path] - wanted[path]) <= 0.1 * near * moved + 1e-6, path


LONG_ROWS = """
model Rows:
    input   x[400, {points}]: {dtype}
    y[r, p] = {dtype}(softmax[p](float32(x[r, p])))
    output  y
"""


@pytest.mark.parametrize(("points", "dtype"), [(27001, "float32"), (50304, "float32"), (50304, "bfloat16"), (100_000, "bfloat16")])
def test_rows_in_shared_memory(points, dtype):
    """More than 48 KB of a block, two blocks of a multiprocessor or one."""
    import ml_dtypes

    import dslc

    program = dslc.compile(dslc.load(LONG_ROWS.format(points=points, dtype=dtype)), target="cuda")
    if program.program.executable.target == "cuda:sm_90a":
        assert "kept in shared memory" in program.program.executable.source
    x = np.random.default_rng(0).standard_normal((400, points)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
    exact = np.exp(x.astype(np.float64))
    exact /= exact.sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(program(x=x)["y"], np.float64), exact, rtol=2.0**-8 if dtype == "bfloat16" else 200 * 2.0**-24)


GPT = """
model Writer:
    dims    batch=2, time=96
    input   tokens[batch, time]: int32
    input   targets[batch, time]: int32
    emb = use embedding(50, 64)
    x = emb(tokens) + positions(time, 64)
    repeat 2:
        x = x + self_attention(rmsnorm(x), 4, causal=true)
        x = x + swiglu(rmsnorm(x), hidden=128)
    logits[b, t, v] = sum[d](rmsnorm(x)[b, t, d] * emb.table[v, d])
    output  logits
    loss    cross_entropy(logits, targets)

generate:
    over time from logits sample(temperature=1.0)
"""


def test_greedy_decoding_goes_on_by_itself():
    """Sixteen tokens at once, from the step's own: those of the CPU, and the same where prompts are of several lengths."""
    import dslc

    prompts = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]]
    for given in (prompts, [prompts[0], prompts[1][:2]]):
        found = []
        for target in ("cuda", "cpu"):
            model = dslc.load(GPT)
            for k, (path, value) in enumerate(model.params.items()):
                model.params[path] = np.random.default_rng(k).standard_normal(np.shape(value)).astype(np.float32) * 0.3
            found.append(dslc.generate(model, tokens=given, steps=70, sample="greedy", target=target))
        assert found[0] == found[1]
