"""Operators of com.microsoft, against onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from onnx_graphs import model, node

from dslc import onnx_backend

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def small(*shape, kind=np.uint8):
    return RNG.integers(0, 255, shape).astype(kind)


def number(value, kind=np.float32):
    return np.array(value, kind)


QUANTIZED = {
    **{"s": number(0.02), "z": number(120, np.uint8), "t": number(0.03), "u": number(99, np.uint8)},
    **{"v": number(0.05), "w": number(128, np.uint8)},
}
CASES = {
    "qlinear_add": (
        node("QLinearAdd", ["x", "s", "z", "b", "t", "u", "v", "w"], ["y"], domain="com.microsoft"),
        {"x": small(3, 5, 4), "b": small(5, 1)},
        QUANTIZED,
    ),
    "qlinear_mul": (
        node("QLinearMul", ["x", "s", "z", "b", "t", "u", "v", "w"], ["y"], domain="com.microsoft"),
        {"x": small(3, 5, 4), "b": small(4)},
        QUANTIZED,
    ),
    "qlinear_sigmoid": (
        node("QLinearSigmoid", ["x", "s", "z", "v", "w"], ["y"], domain="com.microsoft"),
        {"x": small(3, 40)},
        {"s": number(0.02), "z": number(120, np.uint8), "v": number(1 / 256), "w": number(0, np.uint8)},
    ),
    "qlinear_global_average": (
        node("QLinearGlobalAveragePool", ["x", "s", "z", "v", "w"], ["y"], domain="com.microsoft"),
        {"x": small(2, 3, 5, 6)},
        {k: v for k, v in QUANTIZED.items() if k in "szvw"},
    ),
    "qgemm": (
        node("QGemm", ["x", "s", "z", "b", "t", "u", "c", "v", "w"], ["y"], domain="com.microsoft", transB=1),
        {"x": small(5, 7)},
        QUANTIZED | {"b": small(6, 7), "c": RNG.integers(-900, 900, 6).astype(np.int32), "v": number(0.2)},
    ),
    "qgemm_floats": (
        node("QGemm", ["x", "s", "z", "b", "t", "u"], ["y"], domain="com.microsoft", alpha=0.5),
        {"x": small(5, 7)},
        {"s": number(0.02), "z": number(120, np.uint8), "b": small(7, 6), "t": number(0.03), "u": number(99, np.uint8)},
    ),
    "fast_gelu": (node("FastGelu", ["x", "b"], ["y"], domain="com.microsoft"), {"x": drawn(2, 3, 8)}, {"b": drawn(8)}),
    "skip_layer_norm": (
        node("SkipLayerNormalization", ["x", "s", "g", "e", "b"], ["y"], domain="com.microsoft", epsilon=1e-6),
        {"x": drawn(2, 3, 8), "s": drawn(2, 3, 8)},
        {"g": drawn(8), "e": drawn(8), "b": drawn(8)},
    ),
    "matmul_nbits": (
        node("MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", K=40, N=6, bits=4, block_size=16),
        {"x": drawn(3, 40)},
        {"q": RNG.integers(0, 256, (6, 3, 8)).astype(np.uint8), "s": drawn(18)},
    ),
    "matmul_nbits_zeros": (
        node("MatMulNBits", ["x", "q", "s", "z"], ["y"], domain="com.microsoft", K=40, N=6, bits=4, block_size=16),
        {"x": drawn(3, 40)},
        {"q": RNG.integers(0, 256, (6, 3, 8)).astype(np.uint8), "s": drawn(18), "z": RNG.integers(0, 256, 12).astype(np.uint8)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name):
    one, inputs, kept = CASES[name]
    ports = {k: (helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)) for k, v in inputs.items()}
    kind = next((v.dtype for k, v in kept.items() if k == "w"), np.dtype(np.float32))  # of a quantized result, that of its zero point
    proto = model([one], ports, {"y": (helper.np_dtype_to_tensor_dtype(kind), None)}, kept, imports=[("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    (found,) = onnx_backend.run_model(proto, inputs)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
