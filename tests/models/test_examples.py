"""Every example trains to its stated figure, by the command line, on the CPU target; the larger ones at a size for two cores."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from dslc.commands.evaluate import evaluate
from dslc.commands.generate import generate
from dslc.commands.run import run
from dslc.commands.train import train

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_xor_is_exact(tmp_path):
    train(EXAMPLES / "xor.dsl", run=tmp_path / "xor")
    assert evaluate(tmp_path / "xor").values["right"] == 1
    np.savez(tmp_path / "x.npz", x=np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32))
    p = run(tmp_path / "xor", tmp_path / "x.npz", output=tmp_path / "p.npz")["p"]
    np.testing.assert_array_equal(np.round(p), [0, 1, 1, 0])
    assert np.load(tmp_path / "p.npz")["p"].tolist() == p.tolist()


def test_digits_mlp_and_its_twin(tmp_path):
    train(EXAMPLES / "digits_mlp.dsl", run=tmp_path / "dsl")
    train(EXAMPLES / "digits_mlp.yaml", run=tmp_path / "yaml")
    assert losses(tmp_path / "dsl") == losses(tmp_path / "yaml")
    assert evaluate(tmp_path / "dsl").values["accuracy"] >= 0.96
    for name in ("checkpoint.safetensors", "best.safetensors", "log.jsonl", "loss.png", "report.html", "run.json"):
        assert (tmp_path / "dsl" / name).stat().st_size > 0


def test_digits_cnn(tmp_path):
    train(EXAMPLES / "digits_cnn.dsl", run=tmp_path / "cnn")
    assert evaluate(tmp_path / "cnn").values["accuracy"] >= 0.98


def test_char_gpt_learns_and_writes(tmp_path):
    small = {"batch": 16, "time": 64, "width": 64, "depth": 2, "steps": 300}
    result = train(EXAMPLES / "char_gpt.dsl", run=tmp_path / "gpt", overrides=small)
    assert losses(tmp_path / "gpt")[0] > 4
    assert result.best is not None and result.best < 2.6
    text = generate(tmp_path / "gpt", prompt="The ", length=80, seed=1)
    assert len(text) == 80 and text == generate(tmp_path / "gpt", prompt="The ", length=80, seed=1)
    assert text != generate(tmp_path / "gpt", prompt="The ", length=80, seed=2)


def test_char_lstm_learns(tmp_path):
    result = train(EXAMPLES / "char_lstm.dsl", run=tmp_path / "lstm", overrides={"batch": 16, "time": 32, "width": 64, "steps": 200})
    assert result.best is not None and result.best < 2.8


def test_embedding_program():
    assert runpy.run_path(str(EXAMPLES / "embed.py"))["main"]() >= 0.9


def test_training_goes_on_after_an_interruption_to_the_same_losses(tmp_path):
    whole = tmp_path / "whole"
    train(EXAMPLES / "digits_mlp.dsl", run=whole, overrides={"steps": 60})
    part = tmp_path / "part"

    def stop_at_25(event):
        if type(event).__name__ == "Stepped" and event.step == 25:
            raise KeyboardInterrupt

    train(EXAMPLES / "digits_mlp.dsl", run=part, overrides={"steps": 60}, listener=stop_at_25)
    assert len(losses(part)) < 60
    train(part, resume=True)
    assert losses(part)[-1] == losses(whole)[-1]


@pytest.mark.parametrize("spec", ["xor.dsl", "char_lstm.dsl"])
def test_reference_and_cpu_agree(spec):
    import dslc

    small = {} if spec == "xor.dsl" else {"batch": 2, "time": 6, "width": 8}
    rng = np.random.default_rng(0)
    trainers = []
    for target in ("cpu", "reference"):
        model = dslc.load(EXAMPLES / spec, **small)
        model.set_steps(10)
        trainers.append(dslc.Trainer(model, target=target))
    ports = trainers[0]._stepper.ports()
    for _ in range(3):
        batch = {
            p.name: rng.standard_normal(p.shape).astype(np.float32) if p.dtype.is_float else rng.integers(0, 96, p.shape).astype(np.int32)
            for p in ports
        }
        assert trainers[0].step(**batch) == pytest.approx(trainers[1].step(**batch), rel=1e-4)
