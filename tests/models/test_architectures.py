"""Every architecture of tests/frontend/programs computes and trains natively as on the reference target."""

from pathlib import Path

import numpy as np
import pytest

import dslc

PROGRAMS = sorted((Path(__file__).parent.parent / "frontend" / "programs").glob("*.dsl"))


def outcome(path, target):
    """(results of the program, the losses of two steps) from the same parameters and inputs on every target."""
    model = dslc.load(path)
    program = dslc.compile(model, target=target, program="eval")
    rng, fed = np.random.default_rng(0), {}
    for port in program.executable.ports:
        if port.role == "input":
            low, high = port.bounds or (0, 2)
            value = abs(rng.standard_normal(port.shape)) if port.dtype.is_float else rng.integers(low, high, port.shape)
            fed[port.name] = value.astype(port.dtype.numpy)
    results = program(**fed)
    if model.checked.settings is None:
        return results, []
    trainer = dslc.Trainer(model, target=target)
    return results, [trainer.step(**fed) for _ in range(2)]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_same_on_both_targets(path):
    wanted, wanted_losses = outcome(path, "reference")
    found, losses = outcome(path, "cpu")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(np.asarray(found[name], np.float64), np.asarray(value, np.float64), rtol=1e-4, atol=1e-4, err_msg=name)
    assert losses == pytest.approx(wanted_losses, rel=1e-4)


def test_hyena_by_transforms_is_hyena_by_sums():
    """The training program does its long convolutions by Fourier transforms, the other one as sums."""
    model = dslc.load(Path(__file__).parent / "sequences" / "hyena.dsl")
    tokens = np.random.default_rng(0).integers(0, 23, (3, 12)).astype(np.int32)
    found, wanted = (dslc.compile(model, target="cpu", program=program)(tokens=tokens)["logits"] for program in ("train", "run"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
