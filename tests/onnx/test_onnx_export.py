"""Models written as ONNX graphs: onnxruntime computes what the reference computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_graphs import model, node

import dslc
from dslc.ir import ops
from dslc.onnx_export import WRITERS, export, to_onnx

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
    "orders": """
model Orders:
    dims    batch=3
    input   x[batch, 7], ids[batch, 7]: int32
    order[b, i] = argsort[i](-x[b, i])
    up[b, i] = sort[i](x[b, i])
    count[v < 11] = sum[b, i](where(ids[b, i] == v, x[b, i], 0))
    most[b, v < 9] = max[i](where(ids[b, i] == v, x[b, i], -inf))
    product[b, i] = cumprod[i](x[b, i])
    before[b, i < 7] = cumprod[i](x[b, 6 - i])
    angle = step + x
    output  order, up, count, most, product, before, angle
""",
}

MODELS["cut"] = """
model Cut:
    input   x[1, 2, 9]
    param   w[3, 2, 2] ~ normal()
    y[n, o, i < 4] = sum[c, u](x[n, c, i + u + 2] * w[o, c, u])
    output  y
"""

MODELS["waves"] = """
model Waves:
    input   x[3, 10, 4], h[5, 4]
    y = long_convolution(x, h)
    re, im = fft(x)
    output  y, re, im
"""

MODELS["carries"] = """
model Carries:
    input   x[2, 5]
    scan t < 5 carry h[2] = 1:
        h[b] = 0.5 * h[b] + x[b, t] * t
    output  h
"""

NOISE = """
model Noise:
    a[i < 100, j < 200] = normal()
    b[i < 100, j < 200] = uniform()
    c[i < 100, j < 200] = randint(-3, 5)
    output  a, b, c
"""


def graph(one, inputs, kept=None):
    elem = next((port[0] for port in inputs.values() if isinstance(port, tuple)), TensorProto.FLOAT)
    return model([one], inputs, {"y": (elem, None)}, kept, opset=20)


RNG = np.random.default_rng(0)
FILTERS = RNG.normal(size=(4, 3, 3, 2)).astype(np.float32)
IMAGES = {"x": [2, 4, 5, 4]}


def turned(**attributes):
    """A transposed convolution of 4 channels to 3, or in two groups to 6."""
    return graph(node("ConvTranspose", ["x", "w"], ["y"], **attributes), IMAGES, {"w": FILTERS})


# operators that only graphs have: the import gives the op, the export writes it again
GRAPHS = {
    "dft": graph(node("DFT", ["x"], ["y"]), {"x": [3, 6, 2]}),
    "dft_inverse": graph(node("DFT", ["x"], ["y"], inverse=1), {"x": [3, 6, 2]}),
    "col2im": graph(node("Col2Im", ["x", "s", "b"], ["y"], strides=[1, 2]), {"x": [2, 8, 8]}, {"s": np.array([5, 5]), "b": np.array([2, 2])}),
    "shift": graph(node("BitShift", ["x", "k"], ["y"], direction="LEFT"), {"x": (TensorProto.UINT8, [5])}, {"k": np.arange(5, dtype=np.uint8)}),
    "shift_wide": graph(node("BitShift", ["x", "k"], ["y"], direction="RIGHT"), {"x": (TensorProto.UINT32, [5])}, {"k": np.ones(5, np.uint32)}),
    "transposed": turned(strides=[2, 2]),
    "transposed_groups": turned(strides=[2, 1], group=2),
    "transposed_pads": turned(strides=[2, 3], pads=[1, 0, 0, 1], dilations=[2, 1], output_padding=[1, 0]),
    "transposed_outside": turned(strides=[2, 2], output_padding=[1, 1]),
}


def by_onnxruntime(proto, fed):
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, fed)


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
    found = dict(zip(names, by_onnxruntime(proto, fed)))
    for key, value in program(**fed).items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-5)
    again = dslc.compile(dslc.load(proto), "reference")(**fed)
    for key, value in program(**fed).items():
        np.testing.assert_allclose(again[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_imported_operators_go_out_again(name):
    """The exported graph gives in onnxruntime what the first one gives there; an unsigned input may have become a wider signed one."""
    first, second = GRAPHS[name], to_onnx(dslc.load(GRAPHS[name]))
    shape = [d.dim_value for d in first.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.normal(size=shape) if name.split("_")[0] != "shift" else np.arange(shape[0])
    dtypes = [helper.tensor_dtype_to_np_dtype(p.graph.input[0].type.tensor_type.elem_type) for p in (first, second)]
    expected, found = (by_onnxruntime(p, {"x": x.astype(dtype)})[0] for p, dtype in zip((first, second), dtypes))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_output_with_the_name_of_what_is_read_has_a_place():
    """ONNX gives one value a name: the input keeps it, the output is told apart; a parameter has another one."""
    loaded = dslc.load("model M:\n    input x[3, 5]\n    param w[5] ~ normal()\n    x[n, j] = x[n, j] * w[j]\n    output x, w\n")
    proto = to_onnx(loaded)
    assert [o.name for o in proto.graph.output] == ["x_out", "w"]
    x = RNG.normal(size=(3, 5)).astype(np.float32)
    found = by_onnxruntime(proto, {"x": x})
    np.testing.assert_allclose(found[0], x * loaded.params["w"], rtol=1e-6)
    np.testing.assert_array_equal(found[1], loaded.params["w"])


def test_transposed_convolutions_are_convtranspose_where_it_can_say_them():
    kinds = {name: {n.op_type for n in to_onnx(dslc.load(GRAPHS[name])).graph.node} for name in ("transposed_groups", "transposed_outside")}
    assert "ConvTranspose" in kinds["transposed_groups"] and "Conv" not in kinds["transposed_groups"]
    assert "Conv" in kinds["transposed_outside"] and "ConvTranspose" not in kinds["transposed_outside"]


def test_draws_have_their_distributions():
    loaded = dslc.load(NOISE)
    a, b, c = by_onnxruntime(to_onnx(loaded), {})
    assert abs(a.mean()) < 0.03 and abs(a.std() - 1) < 0.03
    assert b.min() >= 0 and b.max() < 1 and abs(b.mean() - 0.5) < 0.01
    assert set(c.reshape(-1).tolist()) == set(range(-3, 5)) and c.dtype == np.int32


def test_files_and_gaps(tmp_path):
    loaded = dslc.load("model M:\n    input x[4]\n    y = x * 2.0\n    output y\n")
    onnx.checker.check_model(onnx.load(export(loaded, tmp_path / "m.onnx")))
    with pytest.raises(dslc.Error, match=r"export writes an \.onnx file"):
        export(loaded, tmp_path / "m.bin")


def test_an_op_without_a_form_is_named(monkeypatch):
    monkeypatch.delitem(WRITERS, ops.Sort)
    with pytest.raises(dslc.Error, match="sort cannot be exported to ONNX"):
        to_onnx(dslc.load(MODELS["orders"]))
