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
