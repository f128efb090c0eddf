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


def attention(inputs, outputs=("y",), **attributes):
    """A case of Attention over [2, 5, 12] with 3 heads; `inputs`: bias, mask and so on by name, in order."""
    names = ["x", "w", *(name if value is not None else "" for name, value in inputs.items())]
    there = {name: value for name, value in inputs.items() if value is not None}
    one = node("Attention", names, list(outputs), domain="com.microsoft", num_heads=3, **attributes)
    return (
        one,
        {"x": drawn(2, 5, 12), **{k: v for k, v in there.items() if k != "bias"}},
        {"w": drawn(12, 36), **{k: v for k, v in there.items() if k == "bias"}},
    )


def whole(*values):
    return np.array(values, np.int32)


MASK = whole([1, 1, 1, 1, 0], [0, 1, 1, 1, 1])
PAST = {"bias": drawn(36), "mask": None, "past": drawn(2, 2, 3, 4, 4)}
CASES |= {
    "attention": attention({}),
    "attention_flags": attention({"bias": drawn(36), "mask": MASK}),
    "attention_pairs": attention({"bias": drawn(36), "mask": np.broadcast_to(MASK[:, None], (2, 5, 5)).copy()}, scale=0.3),
    "attention_ends": attention({"bias": drawn(36), "mask": whole(3, 5)}, unidirectional=1),
    "attention_ends_and_starts": attention({"bias": drawn(36), "mask": whole(4, 5, 0, 2)}),
    "attention_past": attention(PAST, ("y", "present"), unidirectional=1),
    "attention_added": attention({"bias": drawn(36), "mask": None, "past": None, "added": drawn(1, 3, 5, 5)}),
}


def grouped(rows, past, ends, total, more=(), outputs=("y", "pk", "pv"), packed=False, width=16, **attributes):
    """A case of GroupQueryAttention of 4 heads over 2 of keys; `past`: positions of the cache."""
    q, k, v = (drawn(2, rows, heads * width) for heads in (4, 2, 2))
    inputs = {"q": np.concatenate([q, k, v], 2)} if packed else {"q": q, "k": k, "v": v}
    inputs |= {"a": drawn(2, 2, past, width), "b": drawn(2, 2, past, width)} if past else {}
    inputs |= {"ends": whole(*ends), **dict(more)}
    names = [name if name in inputs else "" for name in ("q", "k", "v", "a", "b")] + ["ends", "total"]
    names += [name if name in inputs else "" for name in ("cos", "sin", "at", "added", "sink")]
    while not names[-1]:
        names.pop()
    one = node("GroupQueryAttention", names, list(outputs), domain="com.microsoft", num_heads=4, kv_num_heads=2, **attributes)
    return one, inputs, {"total": np.int32(total)}


ANGLES = np.arange(16)[:, None] / 10.0 ** np.arange(8)
TURNED = {"cos": np.cos(ANGLES).astype(np.float32), "sin": np.sin(ANGLES).astype(np.float32)}
CASES |= {
    "grouped": grouped(6, 0, (5, 5), 6),
    "grouped_packed": grouped(6, 0, (5, 5), 6, packed=True, scale=0.2),
    "grouped_step": grouped(1, 7, (4, 7), 8),
    "grouped_step_in_room": grouped(1, 12, (4, 7), 8),
    "grouped_rotary": grouped(6, 0, (5, 5), 6, TURNED, do_rotary=1),
    "grouped_rotary_step": grouped(1, 7, (4, 7), 8, TURNED, do_rotary=1, rotary_interleaved=1),
    "grouped_rotary_part": grouped(1, 7, (4, 7), 8, TURNED, do_rotary=1, width=32),
    "grouped_window": grouped(6, 0, (5, 5), 6, local_window_size=3),
    "grouped_window_step": grouped(1, 7, (4, 7), 8, local_window_size=3),
    "grouped_softcap": grouped(6, 0, (5, 5), 6, softcap=0.7),
    "grouped_added": grouped(6, 0, (5, 5), 6, {"added": drawn(1, 4, 6, 6)}),
    "grouped_sink": grouped(6, 0, (5, 5), 6, {"sink": drawn(4)}),
    "grouped_smooth": grouped(6, 0, (5, 5), 6, smooth_softmax=1),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name):
    one, inputs, kept = CASES[name]
    ports = {k: (helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)) for k, v in inputs.items()}
    kind = next((v.dtype for k, v in kept.items() if k == "w"), np.dtype(np.float32))  # of a quantized result, that of its zero point
    made = dict.fromkeys(one.output, (helper.np_dtype_to_tensor_dtype(kind), None))
    proto = model([one], ports, made, kept, imports=[("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for found, expected in zip(onnx_backend.run_model(proto, inputs), session.run(None, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
