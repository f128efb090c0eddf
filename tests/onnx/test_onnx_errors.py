"""Files and graphs that are wrong: one clear error with the file and the node."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_graphs import mlp, model, node

import dslc
from dslc import onnx_backend


def refused(spec, *texts, kind=dslc.Error):
    """The message of the error that loading gives, with these texts in it."""
    with pytest.raises(kind) as caught:
        dslc.load(spec)
    message = str(caught.value)
    for text in texts:
        assert text in message, message
    return message


def test_truncated_and_foreign_files(tmp_path):
    whole = mlp().SerializeToString()
    for k, data in enumerate([b"", whole[: len(whole) // 2], b"PK\x03\x04 a zip", b"model X:\n", whole[:-7]]):
        path = tmp_path / f"m{k}.onnx"
        path.write_bytes(data)
        refused(path, f"m{k}.onnx", kind=dslc.Error.DataError)
    refused(tmp_path / "none.onnx", "none.onnx cannot be read: No such file")


def test_external_data_is_missing_outside_or_short(tmp_path):
    proto = mlp()
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(weights[:50])
    refused(tmp_path / "net.onnx", "initializer 'w1'", "which has 50")
    (tmp_path / "weights.bin").unlink()
    refused(tmp_path / "net.onnx", "initializer 'w1' cannot be read from 'weights.bin': No such file")
    for place in ("../secret.bin", "/etc/passwd"):
        stored = onnx.load(tmp_path / "net.onnx", load_external_data=False)
        for entry in stored.graph.initializer[0].external_data:
            if entry.key == "location":
                entry.value = place
        (tmp_path / "moved.onnx").write_bytes(stored.SerializeToString())
        refused(tmp_path / "moved.onnx", "outside the model's folder: refused")
        refused(stored, "a model in memory has no folder")


def test_names():
    refused(model([node("Relu", ["xx"], ["y"], "act")], {"x": [2]}, {"y": [2]}), "Relu 'act' reads 'xx', which nothing gives; did you mean 'x'?")
    refused(model([node("Relu", ["x"], ["z"], "act")], {"x": [2]}, {"y": [2]}), "nothing gives the output 'y'")
    refused(
        model([node("Relu", ["x"], ["y"], "a"), node("Abs", ["x"], ["y"], "b")], {"x": [2]}, {"y": [2]}), "Abs 'b' gives 'y', which is given already"
    )
    twice = model([node("Add", ["x", "w"], ["y"], "add")], {"x": [2]}, {"y": [2]}, {"w": np.zeros(2, np.float32)})
    twice.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(2, np.float32), "w"))
    refused(twice, "two initializers are called 'w'")
    cycle = [node("Add", ["x", "b"], ["a"], "first"), node("Relu", ["a"], ["b"], "second")]
    refused(model(cycle, {"x": [2]}, {"b": [2]}), "waits for itself: 2 nodes make a cycle")


def test_nodes_in_any_order_run():
    proto = model([node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])], {"x": [2]}, {"y": [2]})
    np.testing.assert_array_equal(onnx_backend.run_model(proto, [np.array([1, -2], np.float32)], target="reference")[0], [0, 2])


def test_shapes_and_types():
    message = refused(model([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [2, 3]}, {"y": None}, {"w": np.ones((4, 5), np.float32)}),
                      "MatMul 'fc': matrix product of float[2, 3] and float[4, 5]")  # fmt: skip
    assert "fc: y = MatMul(x, w)" in message
    refused(
        model([node("Add", ["x", "w"], ["y"], "plus")], {"x": [2]}, {"y": None}, {"w": np.ones(2, np.int64)}), "Add 'plus'", "float[2] and int64[2]"
    )
    refused(model([node("Transpose", ["x"], ["y"], "t", perm=[0, 0])], {"x": [2, 3]}, {"y": None}), "Transpose 't': [0, 0] is no order of the axes")
    refused(model([node("Concat", ["x"], ["y"], "c", axis="last")], {"x": [2]}, {"y": None}), "Concat 'c': attribute 'axis' must be an integer")
    refused(model([node("Relu", ["x", "x"], ["y"], "r")], {"x": [2]}, {"y": None}), "Relu 'r': 2 inputs, Relu takes 1 to 1")


def test_inputs_at_run_time():
    prepared = onnx_backend.prepare(mlp(), target="reference")
    with pytest.raises(dslc.Error, match=r"the input 'x' is float\[\?, 4\], given \[2, 5\]"):
        prepared.run([np.ones((2, 5), np.float32)])
    with pytest.raises(dslc.Error, match="the input 'x' is float, given complex"):
        prepared.run([np.ones((2, 4), np.complex64)])
    with pytest.raises(dslc.Error, match="takes 1 inputs, 2 given"):
        prepared.run([np.ones((2, 4), np.float32)] * 2)


def test_opsets_and_domains():
    refused(model([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]}, opset=999), "uses opset 999 of ai.onnx, the newest known one is")
    refused(model([node("Add", ["x", "x"], ["y"])], {"x": [2]}, {"y": [2]}, opset=1), "uses opset 1 of ai.onnx, where Add had another meaning")
    own = [node("Magic", ["x"], ["y"], "m", domain="my.own")]
    refused(model(own, {"x": [2]}, {"y": [2]}), "is of domain 'my.own', which the model does not import")
    refused(model(own, {"x": [2]}, {"y": [2]}, imports=[("my.own", 1)]), "my.own.Magic 'm': there is no operator Magic of domain 'my.own'")


def test_absurd_sizes_take_no_memory():
    proto = model([node("Relu", ["w"], ["y"])], {}, {"y": None}, {"w": np.ones(2, np.float32)})
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 40]
    refused(proto, "initializer 'w' has the shape")
    proto.graph.initializer[0].dims[:] = [1 << 30]
    refused(proto, "initializer 'w' is float[1073741824] and has 8 bytes of data")
    huge = model([node("ConstantOfShape", ["s"], ["y"], "fill")], {}, {"y": None}, {"s": np.array([1 << 40, 1 << 20])})
    refused(huge, "ConstantOfShape 'fill': a result of the shape [1099511627776, 1048576]")
    tiled = model([node("Tile", ["x", "s"], ["y"], "tile")], {"x": [4]}, {"y": None}, {"s": np.array([1 << 50])})
    refused(tiled, "Tile 'tile': a result of the shape")


def test_shapes_that_depend_on_data():
    refused(model([node("NonZero", ["x"], ["y"], "nz")], {"x": [4]}, {"y": None}), "NonZero 'nz' has a result whose shape depends on data")
    proto = model([node("Reshape", ["x", "shape"], ["y"], "r")], {"x": [4], "shape": (TensorProto.INT64, [2])}, {"y": None})
    refused(proto, "Reshape 'r' needs the value of its shape at compile time, and it depends on the input 'shape'", "--set shape=...")


def test_all_gaps_at_once():
    nodes = [
        node("NonZero", ["x"], ["a"], "one"),
        node("ImageDecoder", ["b"], ["c"], "two"),
        node("Relu", ["a"], ["d"], "behind"),
        node("NonZero", ["x"], ["e"], "three"),
    ]
    proto = model(nodes, {"x": [4], "b": (TensorProto.UINT8, [9])}, {"d": None, "c": (TensorProto.UINT8, None), "e": (TensorProto.INT64, None)})
    message = refused(proto, "3 nodes of 2 operators cannot be imported", kind=dslc.Error.UnsupportedOp)
    assert "NonZero, 2 times: 'one' (line 3), 'three' (line 6)" in message
    assert "ImageDecoder, 1 time: 'two' (line 4)" in message
    assert "behind" not in message


def test_the_command_ends_with_status_2(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(mlp().SerializeToString()[:40])
    ended = subprocess.run([sys.executable, "-m", "dslc.cli", "import", "bad.onnx"], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("data error: bad.onnx cannot be read as an ONNX model") or "bad.onnx holds no ONNX graph" in ended.stderr
    assert "Traceback" not in ended.stderr
