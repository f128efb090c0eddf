"""Damaged files: whatever a mutation makes of a real one, loading it ends in a model or in a dslc.Error, never in another exception."""

import time

import numpy as np
import onnx
import pytest
from onnx_graphs import mlp, model, node

import dslc

SECONDS = 20.0  # for each of the files: a minute in all


def convolutional():
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 2, 3, 3)), "b": rng.normal(size=4), "fc": rng.normal(size=(64, 3))}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1], strides=[1, 1]),
        node("MaxPool", ["c"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["p"], ["s"], "shape"),
        node("Gather", ["s", "zero"], ["n"], "first"),
        node("Concat", ["n", "rest"], ["t"], "target", axis=0),
        node("Reshape", ["p", "t"], ["f"], "flat"),
        node("MatMul", ["f", "fc"], ["m"], "head"),
        node("Softmax", ["m"], ["y"], "soft", axis=1),
    ]
    kept = {k: v.astype(np.float32) for k, v in weights.items()} | {"zero": np.array([0]), "rest": np.array([-1])}
    return model(nodes, {"x": ["n", 2, 8, 8]}, {"y": ["n", 3]}, kept)


def looping():
    body = onnx.helper.make_graph(
        [node("Mul", ["s", "k"], ["s2"]), node("Identity", ["c"], ["c2"]), node("Identity", ["s2"], ["o"])], "body",
        [onnx.helper.make_tensor_value_info(n, t, []) for n, t in (("i", 7), ("c", 9), ("s", 1))],
        [onnx.helper.make_tensor_value_info(n, t, []) for n, t in (("c2", 9), ("s2", 1), ("o", 1))],
    )  # fmt: skip
    nodes = [
        node("Loop", ["trip", "", "x"], ["last", "all"], "loop", body=body),
        node("Slice", ["all", "a", "b"], ["cut"], "cut"),
        node("TopK", ["cut", "two"], ["best", "where"], "top"),
        node("Split", ["best"], ["l", "r"], "halves", num_outputs=2),
    ]
    numbers = {"trip": np.int64(20), "k": np.float32(1.1), "a": np.array([2]), "b": np.array([9]), "two": np.array([2])}
    return model(nodes, {"x": []}, {"last": [], "l": [1], "r": [1], "where": (7, [2])}, numbers)


def damaged(data, rng):
    """One to four mutations: a byte changed, a stretch removed, doubled or moved, the end cut off."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, size = int(rng.integers(len(out))), int(rng.integers(1, 12))
        match rng.integers(6):
            case 0 | 1:
                out[at] = rng.integers(256)
            case 2:
                out[at] ^= 1 << int(rng.integers(8))
            case 3:
                del out[at : at + size]
            case 4:
                out[at:at] = out[at : at + size]
            case _:
                out = out[: max(at, 1)] if rng.integers(8) == 0 else out
        if not out:
            return b"\x08"
    return bytes(out)


@pytest.mark.parametrize("make", [mlp, convolutional, looping])
def test_damaged_files(make, tmp_path):
    data = make().SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(data)
    dslc.load(path)
    end, seed, refused, loaded = time.monotonic() + SECONDS, 0, 0, 0
    while time.monotonic() < end or seed < 40:
        path.write_bytes(damaged(data, np.random.default_rng(seed)))
        begin = time.monotonic()
        try:
            dslc.load(path)
            loaded += 1
        except dslc.Error as error:
            assert error.message
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {make.__name__}") from error
        assert time.monotonic() - begin < 5, f"mutation {seed} of {make.__name__} takes long"
        seed += 1
    assert refused and loaded


def test_damaged_graphs():
    """Well-formed files of graphs that make no sense: other operators, attributes, types, orders of inputs."""
    rng = np.random.default_rng(0)
    ops = [
        "Conv", "Gemm", "Reshape", "Transpose", "Gather", "LSTM", "Resize", "Einsum", "Concat", "Split", "TopK", "ScatterND", "If", "Loop", "Pad",
        "Cast", "BatchNormalization", "AveragePool", "ConvTranspose", "Attention", "QuantizeLinear", "OneHot", "DFT", "SequenceAt", "GridSample",
    ]  # fmt: skip
    for seed in range(120):
        proto = [mlp, convolutional, looping][seed % 3]()
        for one in proto.graph.node:
            match rng.integers(5):
                case 0:
                    one.op_type = ops[rng.integers(len(ops))]
                case 1 if len(one.input) > 1:
                    names = rng.permutation(list(one.input))
                    del one.input[:]
                    one.input.extend(str(n) for n in names)
                case 2 if one.attribute:
                    a = one.attribute[rng.integers(len(one.attribute))]
                    a.i = int(rng.integers(-3, 1 << 40))
                    del a.ints[:]
                    a.ints.extend(int(v) for v in rng.integers(-2, 5, 3))
                case 3:
                    one.input.append("x")
        try:
            dslc.load(proto)
        except dslc.Error as error:
            assert error.message
        except Exception as error:
            raise AssertionError(f"graph {seed}") from error
