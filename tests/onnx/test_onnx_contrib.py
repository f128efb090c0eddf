"""Operators of com.microsoft, against onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from onnx_graphs import model, node

from dslc import onnx_backend

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


CASES = {
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
    proto = model([one], {k: list(v.shape) for k, v in inputs.items()}, {"y": None}, kept, imports=[("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, inputs)
    (found,) = onnx_backend.run_model(proto, inputs)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
