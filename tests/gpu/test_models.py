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
