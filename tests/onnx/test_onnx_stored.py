"""The data of large initializers stays in the model's file until it is wanted."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import dslc
from dslc.core.heldfile import HeldFile
from dslc.frontend.onnx import slim as slimming
from dslc.frontend.onnx.graph import Stored
from dslc.frontend.onnx.reader import read
from dslc.frontend.onnx.slim import LEAST, slim

RNG = np.random.default_rng(0)
W = RNG.standard_normal((128, 64)).astype(np.float32)
B = RNG.standard_normal(64).astype(np.float32)
TABLE = RNG.standard_normal((32, 64)).astype(np.float64)  # no weight: it is added by way of a cast
X = RNG.standard_normal((32, 128)).astype(np.float32)


def proto(*more: TensorProto) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Add", ["xw", "b"], ["z"]),
        helper.make_node("Mul", ["table", "table"], ["squares"]),
        helper.make_node("Cast", ["squares"], ["narrow"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["z", "narrow"], ["y"]),
    ]
    given = [numpy_helper.from_array(a, name) for name, a in (("w", W), ("b", B), ("table", TABLE))]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [32, 128]), ("y", [32, 64]))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [*given, *more])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


EXPECTED = X.astype(np.float64) @ W + B + TABLE**2


def written(path: Path, data: bytes) -> HeldFile:
    path.write_bytes(data)
    return HeldFile(path)


def test_a_model_without_its_data_is_the_model(tmp_path):
    whole = proto(numpy_helper.from_array(np.arange(LEAST, dtype=np.uint8), "bytes"), numpy_helper.from_array(np.zeros(3, np.int64), "little"))
    data = whole.SerializeToString()
    short, places = slim(written(tmp_path / "m.onnx", data))
    assert [place is not None for place in places] == [True, False, True, True, False] and len(short) < len(data) // 50
    parsed = onnx.ModelProto.FromString(short)
    for tensor, place in zip(parsed.graph.initializer, places):
        if place is not None:
            assert not tensor.HasField("raw_data")
            tensor.raw_data = data[place[0] : sum(place)]
    assert parsed.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


def test_graphs_in_parts_are_one_graph(tmp_path):
    """Protobuf joins what stands twice."""
    one, two = proto(), onnx.ModelProto()
    two.graph.initializer.append(numpy_helper.from_array(2 * W, "other"))
    data = one.SerializeToString() + two.SerializeToString()
    short, places = slim(written(tmp_path / "m.onnx", data))
    parsed = onnx.ModelProto.FromString(short)
    assert [t.name for t in parsed.graph.initializer] == ["w", "b", "table", "other"]
    assert places[3] is not None and data[places[3][0] : sum(places[3])] == (2 * W).tobytes()


def test_what_is_said_twice_or_cut_off_is_left_to_protobuf(tmp_path, monkeypatch):
    tensor = numpy_helper.from_array(W, "w").SerializeToString()
    twice = TensorProto.FromString(tensor).SerializeToString() + TensorProto(raw_data=(2 * W).tobytes()).SerializeToString()
    head = bytes([5 << 3 | 2]) + slimming._number(len(twice)) + twice
    data = bytes([7 << 3 | 2]) + slimming._number(len(head)) + head
    assert slim(written(tmp_path / "m.onnx", data)) == (data, [])
    data = proto().SerializeToString()
    assert slim(written(tmp_path / "n.onnx", data[:-3])) == (data[:-3], [])
    monkeypatch.setattr(slimming, "MOST_FIELDS", 3)
    assert slim(written(tmp_path / "o.onnx", data)) == (data, [])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_files_give_errors_and_never_crash(tmp_path_factory, data):
    """Whatever happens to a file, what is read of it is what protobuf reads of all of it."""
    content = bytearray(proto().SerializeToString())
    spots = st.one_of(st.integers(0, 200), st.integers(len(content) - 400, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(spots)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / "m.onnx"
    path.write_bytes(content)
    try:
        graph = read(path, "m.onnx")
    except dslc.Error:
        return
    for tensor in onnx.ModelProto.FromString(bytes(content)).graph.initializer:
        literal = graph.constants[tensor.name]
        np.testing.assert_array_equal(literal.array.astype(np.float64), numpy_helper.to_array(tensor).astype(np.float64))


def test_weights_lie_in_the_store_alone(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    model = dslc.load(path)
    literals = read(path, "m.onnx").constants
    assert {name for name, one in literals.items() if isinstance(one.values, Stored)} == {"w", "table"}
    program = dslc.compile(model, target="cpu")
    for _ in range(2):
        np.testing.assert_allclose(program(x=X)["y"], EXPECTED, rtol=1e-4, atol=1e-4)
    assert model.params.value("w").fetch is not None  # prepared, and to be read again
    np.testing.assert_array_equal(model.params["w"], W)
    np.testing.assert_array_equal(model.initialized(0)["w"], W)


def test_a_loaded_model_needs_its_file_no_more(tmp_path):
    """Another model may be written over it."""
    path = tmp_path / "m.onnx"
    path.write_bytes(proto().SerializeToString())
    model = dslc.load(path)
    path.write_bytes(b"something else")
    np.testing.assert_allclose(dslc.compile(model, target="cpu")(x=X)["y"], EXPECTED, rtol=1e-4, atol=1e-4)
    with pytest.raises(dslc.Error.DataError, match=r"m\.onnx has changed since it was opened, and initializer 'w' is read from it again"):
        _ = model.params["w"]


def test_data_beside_the_model_stays_there_too(tmp_path):
    onnx.save_model(proto(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    assert isinstance(read(tmp_path / "m.onnx", "m.onnx").constants["w"].values, Stored)
    model = dslc.load(tmp_path / "m.onnx")
    np.testing.assert_allclose(dslc.compile(model, target="cpu")(x=X)["y"], EXPECTED, rtol=1e-4, atol=1e-4)
    assert model.params.value("w").fetch is not None
    np.testing.assert_array_equal(model.params["w"], W)


def test_data_of_another_size_is_refused(tmp_path):
    tensor = numpy_helper.from_array(W, "w")
    tensor.dims[0] = 127
    whole = proto()
    whole.graph.initializer[0].CopyFrom(tensor)
    path = tmp_path / "m.onnx"
    path.write_bytes(whole.SerializeToString())
    with pytest.raises(dslc.Error.DataError, match=r"initializer 'w' is float\[127, 64\] and has 32768 bytes of data"):
        dslc.load(path)


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT16]
)
def test_types_that_memory_holds_otherwise_are_read_at_once(tmp_path, kind):
    """What numpy itself has no type for goes through onnx."""
    values = RNG.integers(0, 2, (1 << 15,))
    tensor = helper.make_tensor("v", kind, values.shape, values.astype(helper.tensor_dtype_to_np_dtype(kind)).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["v"], ["y"])], "g", [], [helper.make_tensor_value_info("y", kind, values.shape)], [tensor]
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    literal = read(path, "m.onnx").constants["v"]
    assert isinstance(literal.values, Stored) == (kind not in (TensorProto.BFLOAT16, TensorProto.BOOL))
    np.testing.assert_array_equal(literal.array.astype(np.int64), values)
