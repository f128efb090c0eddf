"""`dslc train model.onnx --loss ...`, through the command line."""

import numpy as np
import onnx
import pytest
import torch
from onnx_graphs import mlp, model, node
from torch.nn import functional as F

import dslc
from dslc.cli import main


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """Calls the command line in a folder with net.onnx and rows.npz; gives (status, standard error)."""
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp(), "net.onnx")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    np.savez("rows.npz", x=x, target=x.argmax(1) % 3)
    np.savez("values.npz", x=x, target=rng.normal(size=(40, 3)).astype(np.float32))

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(["train", *map(str, words)])
        error = capsys.readouterr().err
        assert "Traceback" not in error and "internal error" not in error
        return ended.value.code, error

    return call


def trained_by_torch(file, loss, rate):
    """The weights after one step of gradient descent on all rows."""
    kept = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)).requires_grad_() for t in mlp().graph.initializer}
    rows = {name: torch.tensor(value) for name, value in np.load(file).items()}
    loss(F.relu(rows["x"] @ kept["w1"] + kept["b1"]) @ kept["w2"], rows["target"]).backward()
    return {name: (value - rate * value.grad).detach().numpy() for name, value in kept.items()}


@pytest.mark.parametrize(("loss", "file", "same"), [("cross_entropy", "rows.npz", F.cross_entropy), ("mse", "values.npz", F.mse_loss)])
def test_a_step_equals_torch(cli, tmp_path, loss, file, same):
    status, error = cli("net.onnx", "--loss", loss, "--data", file, "--steps", 1, "--set", "batch=40", "--optimizer", "sgd(lr=0.3)", "--run", "r")
    assert status == 0 and "finished after 1 steps" in error
    run = dslc.load(tmp_path / "r" / "source" / "r" / "fit.dsl")
    run.params.load_weights(tmp_path / "r" / "checkpoint.safetensors")
    for name, value in trained_by_torch(file, same, 0.3).items():
        np.testing.assert_allclose(np.asarray(run.params[f"net.{name}"]), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("op", "given", "kept", "axis"), [
    ("MatMul", (6, 5, 4), (4, 3), 2), ("MatMul", (6, 3, 4), (4, 3), 2), ("Conv", (6, 4, 5), (3, 4, 1), 1),
])  # fmt: skip
def test_classes_lie_where_the_targets_shape_says(cli, tmp_path, op, given, kept, axis):
    """Outputs for images have classes on the second axis, for texts on the last, which is also taken where both would fit."""
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=given).astype(np.float32), rng.normal(size=kept).astype(np.float32)
    made = {"MatMul": torch.matmul, "Conv": F.conv1d}[op]
    shape = list(made(torch.tensor(x), torch.tensor(w)).shape)
    target = rng.integers(0, 3, [n for k, n in enumerate(shape) if k != axis])
    onnx.save(model([node(op, ["x", "w"], ["y"])], {"x": list(given)}, {"y": shape}, {"w": w}), "points.onnx")
    np.savez("points.npz", x=x, target=target)
    status, error = cli("points.onnx", "--loss", "cross_entropy", "--data", "points.npz", "--steps", 1, "--optimizer", "sgd(lr=0.5)", "--run", "p")
    assert status == 0, error
    run = dslc.load(tmp_path / "p" / "source" / "p" / "fit.dsl")
    run.params.load_weights(tmp_path / "p" / "checkpoint.safetensors")
    rows, weight = np.load("points.npz"), torch.tensor(w, requires_grad=True)
    F.cross_entropy(made(torch.tensor(rows["x"]), weight).movedim(axis, 1), torch.tensor(rows["target"])).backward()
    np.testing.assert_allclose(np.asarray(run.params["net.w"]), (weight - 0.5 * weight.grad).detach().numpy(), rtol=1e-4, atol=1e-6)


def test_frozen_parameters_stay_and_a_run_goes_on(cli, tmp_path):
    words = ["net.onnx", "--loss", "cross_entropy", "--data", 'table("rows.npz", split=0.2)', "--set", "batch=8", "--freeze", "w1", "--freeze", "b*"]
    assert cli(*words, "--steps", 3, "--run", "r")[0] == 0
    assert cli("r", "--resume", "--set", "steps=6")[0] == 0
    loaded = dslc.load(tmp_path / "r" / "fit.dsl")
    loaded.params.load_weights(tmp_path / "r" / "checkpoint.safetensors")
    first = {t.name: onnx.numpy_helper.to_array(t) for t in mlp().graph.initializer}
    same = {name: np.array_equal(loaded.params[f"net.{name}"], value) for name, value in first.items()}
    assert same == {"w1": True, "b1": True, "w2": False}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.onnx", "--loss", "cross_entropi"], "unknown loss 'cross_entropi'; did you mean 'cross_entropy'?"),
        (["net.onnx", "--loss", "mse"], "how long to train is not said"),
        (["net.onnx", "--loss", "mse", "--steps", "2"], "what to train on is not said"),
        (["net.onnx", "--loss", "mse", "--steps", "2", "--data", "no.npz"], "there is no file no.npz"),
        (["net.onnx", "--loss", "mse", "--steps", "2", "--data", "net.onnx"], "--data takes an .npz or .csv file, or a data source"),
        (["net.onnx", "--loss", "mse", "--steps", "2", "--data", "rows.npz", "--freeze", "v*"], 'pattern "v*" matches no parameter'),
        (["net.onnx", "--loss", "mse", "--steps", "2", "--data", "rows.npz", "--optimizer", "adom()"], "did you mean 'adam'?"),
        (["net.onnx", "--loss", "mse", "--steps", "2", "--data", "rows.npz"], "input 'target' is float32[rows, 3]"),
        (["net.onnx", "--steps", "2", "--data", "rows.npz"], "--data belongs to --loss"),
        (["net.onnx", "--steps", "2"], "the model has no train block"),
        (["fit.dsl", "--loss", "mse"], "--loss makes a model file for an .onnx graph"),
        (["r", "--resume", "--loss", "mse"], "--resume goes on as the run began"),
        (["none.onnx", "--loss", "mse", "--steps", "2", "--data", "rows.npz"], "none.onnx"),
    ],
)
def test_mistakes(cli, words, message):
    status, error = cli(*words)
    assert status == 2 and message in error


def test_an_empty_file_of_rows(cli, tmp_path):
    (tmp_path / "rows.npz").write_bytes(b"")
    status, error = cli("net.onnx", "--loss", "cross_entropy", "--steps", 2, "--data", "rows.npz")
    assert status == 2 and "rows.npz: not an npz file" in error
