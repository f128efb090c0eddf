"""Graphs as models and as layers: names, dims, parameters, training."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx_graphs import mlp, model, node

import dslc
from dslc import onnx_backend


def forward(weights, x):
    return np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"]


def initializers(proto):
    return {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}


@pytest.fixture
def saved(tmp_path):
    onnx.save(mlp(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_file_is_a_model(saved, target):
    loaded = dslc.load(saved, batch=5)
    assert sorted(loaded.params) == ["b1", "w1", "w2"]
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(dslc.compile(loaded, target)(x=x)["y"], forward(initializers(mlp()), x), rtol=1e-5, atol=1e-5)


def test_proto_in_memory_is_a_model():
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(dslc.compile(dslc.load(mlp()), "reference")(x=x)["y"], forward(initializers(mlp()), x), rtol=1e-6)


def test_dims_are_settable(saved):
    assert dslc.load(saved, batch=7).inputs[0][1] == (7, 4)
    assert dslc.load(saved).inputs[0][1] == (1, 4)
    with pytest.raises(dslc.Error, match=r"has no dim, let or train key 'bach'.*did you mean 'batch'"):
        dslc.load(saved, bach=7)


SPEC = """
model Fit:
    dims    batch=6
    input   x[batch, 4]
    input   t[batch, 3]
    net = import "net.onnx"
    y = net(x)
    output  y
    loss    mean((y - t)**2)

train:
    steps      20
    optimizer  sgd(lr=0.05)
"""


def test_import_in_a_spec_is_trained_as_torch_trains_it(saved):
    spec = saved.parent / "fit.dsl"
    spec.write_text(SPEC)
    loaded = dslc.load(spec)
    assert sorted(loaded.params) == ["net.b1", "net.w1", "net.w2"]
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=(6, 3)).astype(np.float32)
    weights = {k: torch.tensor(v, requires_grad=True) for k, v in initializers(mlp()).items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.05)
    trainer = dslc.Trainer(loaded, "cpu")
    for _ in range(3):
        optimizer.zero_grad()
        y = torch.relu(torch.tensor(x) @ weights["w1"] + weights["b1"]) @ weights["w2"]
        loss = ((y - torch.tensor(t)) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert trainer.step(x=x, t=t) == pytest.approx(loss.item(), rel=1e-5)
    for name, value in weights.items():
        np.testing.assert_allclose(loaded.params[f"net.{name}"], value.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_pattern_chooses_the_parameters(saved):
    spec = saved.parent / "fit.dsl"
    spec.write_text(SPEC.replace('import "net.onnx"', 'import("net.onnx", train="w*")'))
    assert sorted(dslc.load(spec).params) == ["net.w1", "net.w2"]
    spec.write_text(SPEC.replace('import "net.onnx"', 'import("net.onnx", train="v*")'))
    with pytest.raises(dslc.Error, match='pattern "v\\*" matches no float initializer'):
        dslc.load(spec)


NORMALIZED = """
model Fit:
    dims    batch=8
    input   x[batch, 3, 5, 5]
    net = import "bn.onnx"
    y = net(x)
    output  y
    loss    mean(y**2)

train:
    steps      20
    optimizer  sgd(lr=0.1)
"""


def test_batch_normalization_returns_to_training(tmp_path):
    rng = np.random.default_rng(0)
    kept = {k: rng.uniform(0.5, 1.5, 3).astype(np.float32) for k in ("scale", "bias", "mean", "var")}
    proto = model([node("BatchNormalization", ["x", *kept], ["y"], "bn", momentum=0.9)], {"x": ["n", 3, 5, 5]}, {"y": ["n", 3, 5, 5]}, kept)
    onnx.save(proto, tmp_path / "bn.onnx")
    (tmp_path / "fit.dsl").write_text(NORMALIZED)
    loaded = dslc.load(tmp_path / "fit.dsl")
    x = rng.normal(size=(8, 3, 5, 5)).astype(np.float32)
    layer = torch.nn.BatchNorm2d(3, momentum=0.1)
    with torch.no_grad():
        for name, value in (("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")):
            getattr(layer, name).copy_(torch.tensor(kept[value]))
    layer.eval()
    np.testing.assert_allclose(dslc.compile(loaded, "cpu")(x=x)["y"], layer(torch.tensor(x)).detach(), rtol=1e-4, atol=1e-5)
    layer.train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    trainer = dslc.Trainer(loaded, "cpu")
    for _ in range(2):
        optimizer.zero_grad()
        loss = (layer(torch.tensor(x)) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert trainer.step(x=x) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(loaded.params["net.mean"], layer.running_mean, rtol=1e-5)
    np.testing.assert_allclose(loaded.params["net.var"], layer.running_var, rtol=1e-5)
    np.testing.assert_allclose(loaded.params["net.scale"], layer.weight.detach(), rtol=1e-4)


def test_running_statistics_of_a_layer_that_is_used_twice(tmp_path):
    kept = {k: np.ones(3, np.float32) for k in ("scale", "bias", "mean", "var")}
    twice = [node("BatchNormalization", ["x", *kept], ["h"], "first"), node("BatchNormalization", ["h", *kept], ["y"], "second")]
    onnx.save(model(twice, {"x": ["n", 3]}, {"y": ["n", 3]}, kept), tmp_path / "bn.onnx")
    (tmp_path / "fit.dsl").write_text(NORMALIZED.replace("x[batch, 3, 5, 5]", "x[batch, 3]"))
    loaded = dslc.load(tmp_path / "fit.dsl")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    layer = torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        for each in (layer.bias, layer.running_mean):
            each.fill_(1.0)
    layer.train()
    layer(layer(torch.tensor(x)))
    dslc.Trainer(loaded, "reference").step(x=x)
    np.testing.assert_allclose(loaded.params["net.mean"], layer.running_mean, rtol=1e-5)
    np.testing.assert_allclose(loaded.params["net.var"], layer.running_var, rtol=1e-5)


def test_running_statistics_in_a_loop_are_refused(tmp_path):
    kept = {k: np.ones(3, np.float32) for k in ("scale", "bias", "mean", "var")}
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [node("BatchNormalization", ["a", *kept], ["b"], "bn"), node("Identity", ["on"], ["still"])], "body",
        [info("turn", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), info("a", TensorProto.FLOAT, ["n", 3])],
        [info("still", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    loop = node("Loop", ["trip", "", "x"], ["y"], "loop", body=body)
    proto = model([loop], {"x": ["n", 3]}, {"y": ["n", 3]}, {**kept, "trip": np.array(40)})
    onnx.save(proto, tmp_path / "bn.onnx")
    (tmp_path / "fit.dsl").write_text(NORMALIZED.replace("x[batch, 3, 5, 5]", "x[batch, 3]"))
    with pytest.raises(dslc.Error.UnsupportedOp, match="running statistics that follow the batches of a loop"):
        dslc.load(tmp_path / "fit.dsl")


def test_negative_zero_stays_in_small_floats():
    proto = model([node("Cast", ["x"], ["h"], to=TensorProto.FLOAT8E4M3FN), node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], {"x": [3]}, {"y": [3]})
    y = dslc.compile(dslc.load(proto), "reference")(x=np.array([-0.0, 0.0, -1e-9], np.float32))["y"]
    assert (y == 0).all() and np.signbit(y).tolist() == [True, False, True]


def test_functions_of_the_model():
    square = onnx.helper.make_function(
        "own", "Scaled", ["a"], ["b"], [node("Mul", ["a", "a"], ["c"]), node("Add", ["c", "a"], ["b"])], [onnx.helper.make_opsetid("", 21)]
    )
    proto = model([node("Scaled", ["x"], ["y"], domain="own")], {"x": [3]}, {"y": [3]}, imports=[("own", 1)], functions=[square])
    x = np.array([1.0, 2.0, -3.0], np.float32)
    np.testing.assert_array_equal(onnx_backend.run_model(proto, [x], target="reference")[0], x * x + x)


def test_a_node_alone():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((3, 2), np.float32)
    np.testing.assert_allclose(onnx_backend.run_node(node("MatMul", ["a", "b"], ["y"]), [a, b])[0], a @ b)
    assert onnx_backend.supports_device("CPU")
    assert not onnx_backend.supports_device("TPU")


@pytest.mark.parametrize("op", ["Selu", "Celu", "Elu", "Softplus"])
def test_slopes_at_zero(op, tmp_path):
    onnx.save(model([node(op, ["x"], ["y"])], {"x": [3]}, {"y": [3]}), tmp_path / "one.onnx")
    (tmp_path / "m.dsl").write_text('model M:\n    input x[3]\n    net = import "one.onnx"\n    output g = grad(sum(net(x)), x)\n')
    x = np.array([0, -0.0, -1], np.float32)
    wide = torch.tensor(x, requires_grad=True)
    getattr(torch.nn.functional, op.lower())(wide).sum().backward()
    found = dslc.compile(dslc.load(tmp_path / "m.dsl"), target="reference")(x=x)["g"]
    np.testing.assert_allclose(found, wide.grad.numpy(), rtol=1e-6)


def test_shapes_that_inputs_decide_make_programs():
    proto = model([node("Reshape", ["x", "shape"], ["y"])], {"x": [2, 6], "shape": (onnx.TensorProto.INT64, ["k"])}, {"y": None})
    prepared = onnx_backend.prepare(proto, target="reference")
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for shape in ([3, 4], [12], [2, 2, -1], [3, 4]):
        assert prepared.run([x, np.array(shape)])[0].shape == x.reshape(shape).shape


def test_external_data(tmp_path):
    onnx.save(mlp(), tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    x = np.ones((1, 4), np.float32)
    np.testing.assert_allclose(dslc.compile(dslc.load(tmp_path / "big.onnx"), "reference")(x=x)["y"], forward(initializers(mlp()), x), rtol=1e-6)


def test_long_loops_are_scans():
    """A cumulative product over 40 turns, as a Loop and as a Scan."""
    body = onnx.helper.make_graph(
        [node("Mul", ["s", "k"], ["s2"]), node("Identity", ["c"], ["c2"]), node("Identity", ["s2"], ["o"])], "body",
        [onnx.helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("c", 9), ("s", 1))],
        [onnx.helper.make_tensor_value_info(n, t, []) for n, t in (("c2", 9), ("s2", 1), ("o", 1))],
    )  # fmt: skip
    proto = model(
        [node("Loop", ["trip", "", "x"], ["last", "all"], "loop", body=body)], {"x": []}, {"last": [], "all": [40]},
        {"trip": np.int64(40), "k": np.float32(1.1)},
    )  # fmt: skip
    last, every = onnx_backend.run_model(proto, [np.float32(2.0)])
    np.testing.assert_allclose(every, 2 * 1.1 ** np.arange(1, 41), rtol=1e-5)
    assert last == every[-1]
