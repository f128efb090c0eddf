"""Models written as ONNX graphs: onnxruntime computes what the reference computes."""

import numpy as np
import onnx
import onnxruntime
import pytest

import dslc
from dslc.onnx_export import export, to_onnx

MODELS = {
    "language": """
model Language:
    dims    batch=2, time=6
    let     vocab=11, width=16
    input   tokens[batch, time]: int32
    emb = use embedding(vocab, width)
    x = emb(tokens)
    repeat 2:
        x = x + self_attention(rmsnorm(x), 4, causal=true)
        x = x + swiglu(layernorm(x), hidden=24)
    logits[b, t, v] = sum[d](x[b, t, d] * emb.table[v, d])
    output  logits
""",
    "images": """
model Images:
    dims    batch=2
    input   x[batch, 3, 8, 8]
    h = relu(conv2d(x, out=6, kernel=3, pad=1))
    p[n, c, i < 4, j < 4] = max[u < 2, v < 2](h[n, c, 2*i + u, 2*j + v])
    e[n, i, j] = sum[c](p[n, c, i, j] ** 2) + p[n, 0, i, 3 - j] * (i + 1)
    q = conv2d(p, out=5, kernel=3, stride=2, pad=1)
    m[n, c] = mean[i, j](q[n, c, i, j])
    y = softmax(linear(m, 7))
    output  y, e
""",
    "time": """
model Time:
    dims    batch=2, time=5
    input   x[batch, time, 3]
    h = lstm(x, 4)
    output  h
""",
}

SORTING = """
model M:
    input   x[4]
    y = sort(x)
    output  y
"""


def drawn(port):
    rng = np.random.default_rng(0)
    return rng.normal(size=port.shape).astype(np.float32) if port.dtype.is_float else rng.integers(0, 11, port.shape).astype(port.dtype.numpy)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_reference(name):
    loaded = dslc.load(MODELS[name])
    program = dslc.compile(loaded, "reference")
    fed = {p.name: drawn(p) for p in program.executable.ports if p.role == "input"}
    proto = to_onnx(loaded)
    names = [o.name for o in proto.graph.output]
    found = dict(zip(names, onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)))
    for key, value in program(**fed).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)
    again = dslc.compile(dslc.load(proto), "reference")(**fed)
    for key, value in program(**fed).items():
        np.testing.assert_allclose(again[key], value, rtol=1e-4, atol=1e-5)


def test_files_and_gaps(tmp_path):
    loaded = dslc.load("model M:\n    input x[4]\n    y = x * 2.0\n    output y\n")
    onnx.checker.check_model(onnx.load(export(loaded, tmp_path / "m.onnx")))
    with pytest.raises(dslc.Error, match=r"export writes an \.onnx file"):
        export(loaded, tmp_path / "m.bin")
    with pytest.raises(dslc.Error, match="sort cannot be exported to ONNX"):
        to_onnx(dslc.load(SORTING))
