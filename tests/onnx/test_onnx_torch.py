"""Graphs that torch exports: equal to onnxruntime, and trained as torch trains the model."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime import quantization
from torch import nn
from torch.nn import functional as F
from torch_more import NETWORKS

import dslc
from dslc import onnx_backend
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.targets import target_of


class Residual(nn.Module):
    """A ResNet in small: convolutions, batch normalization, a shortcut, global pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.norm1 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.b, self.short = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm0(self.stem(x))), 2)
        x = F.relu(self.b(F.relu(self.norm1(self.a(x)))) + self.short(x))
        return self.head(x.mean((2, 3)))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excite, hard swish."""

    def __init__(self):
        super().__init__()
        self.up, self.deep, self.down = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 4, 1)
        self.squeeze, self.excite = nn.Linear(12, 3), nn.Linear(3, 12)

    def forward(self, x):
        y = F.hardswish(self.deep(F.relu6(self.up(x))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return x + self.down(y * gate[:, :, None, None])


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation, concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(12, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        a = F.gelu(self.a(x))
        b = F.group_norm(self.b(F.avg_pool2d(a, 2)), 2)
        smooth = F.interpolate(b[:, :4], scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.c(torch.cat([a, self.up(b), smooth], 1)))


class Decoder(nn.Module):
    """A block of GPT with a causal mask, an embedding, tied weights at the end."""

    def __init__(self):
        super().__init__()
        self.table, self.place = nn.Embedding(11, 16), nn.Parameter(torch.randn(7, 16) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, ids):
        x = self.table(ids) + self.place
        q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / 2.0
        scores = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), float("-inf"))
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        return x @ self.table.weight.T


class Vision(nn.Module):
    """A ViT: patches, a class token, torch's own encoder layer."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 1, 16))
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True), nn.Linear(16, 3)

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.layer(torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1))[:, 0])


class Llama(nn.Module):
    """RMS norm, rotary embedding, grouped queries, a gated unit."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.q, self.kv, self.out = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.gate, self.up, self.down = nn.Linear(16, 24, bias=False), nn.Linear(16, 24, bias=False), nn.Linear(24, 16, bias=False)
        angle = torch.arange(6)[:, None] / 10.0 ** torch.arange(2)
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def turned(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        q = self.turned(self.q(y).unflatten(-1, (4, 4)).transpose(1, 2))
        k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2).repeat_interleave(2, 1) for t in self.kv(y).chunk(2, -1))
        x = x + self.out(((q @ self.turned(k).transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Recurrent(nn.Module):
    """An LSTM of two directions, then a GRU."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru = nn.LSTM(5, 6, bidirectional=True, batch_first=True), nn.GRU(12, 7, batch_first=True)

    def forward(self, x):
        return self.gru(self.lstm(x)[0])[0]


class Waves(nn.Module):
    """WaveNet's gated dilated convolutions over time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv1d(4, 8, 2, dilation=2**k) for k in range(3)])

    def forward(self, x):
        for k, layer in enumerate(self.layers):
            a, b = layer(F.pad(x, (2**k, 0))).chunk(2, 1)
            x = x + torch.tanh(a) * torch.sigmoid(b)
        return x


class Graph(nn.Module):
    """Messages along edges, summed at their ends."""

    def __init__(self):
        super().__init__()
        self.message, self.update = nn.Linear(4, 6), nn.Linear(10, 4)

    def forward(self, x, edges):
        sent = F.elu(self.message(x[edges[0]]))
        found = torch.zeros(x.shape[0], 6).scatter_add(0, edges[1][:, None].expand(-1, 6), sent)
        return self.update(torch.cat([x, found], 1))


class Experts(nn.Module):
    """A mixture of four experts, the two best of each row."""

    def __init__(self):
        super().__init__()
        self.router, self.experts = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 8, 8) * 0.3)

    def forward(self, x):
        best, place = self.router(x).softmax(-1).topk(2, -1)
        weights = torch.zeros(x.shape[0], 4).scatter(1, place, best)
        return torch.einsum("be,bi,eio->bo", weights, x, self.experts)


IDS = torch.tensor([[1, 4, 2, 9, 10, 0, 3], [5, 5, 6, 7, 1, 2, 8]])
MODELS = {
    "residual": (Residual, lambda: (torch.randn(2, 3, 8, 8),)),
    "mobile": (Mobile, lambda: (torch.randn(2, 4, 6, 6),)),
    "unet": (UNet, lambda: (torch.randn(1, 2, 8, 8),)),
    "decoder": (Decoder, lambda: (IDS,)),
    "vision": (Vision, lambda: (torch.randn(2, 3, 8, 8),)),
    "llama": (Llama, lambda: (torch.randn(2, 6, 16),)),
    "recurrent": (Recurrent, lambda: (torch.randn(2, 20, 5),)),
    "waves": (Waves, lambda: (torch.randn(2, 4, 12),)),
    "graph": (Graph, lambda: (torch.randn(5, 4), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 0, 0, 0, 4]]))),
    "experts": (Experts, lambda: (torch.randn(6, 8),)),
} | NETWORKS


def exported(name, training=False):
    """(model, inputs, ModelProto with its parameters by torch's names)"""
    torch.manual_seed(0)
    kind, make = MODELS[name]
    net, inputs = kind().train(training), make()
    data = io.BytesIO()
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, inputs, data, dynamo=False, opset_version=17, input_names=[f"x{k}" for k in range(len(inputs))], output_names=["y"],
            training=mode, do_constant_folding=False,
        )  # fmt: skip
    return net, inputs, onnx.load_from_string(data.getvalue())


def captured(name):
    """(inputs, ModelProto) by the exporter that captures the program."""
    torch.manual_seed(0)
    kind, make = MODELS[name]
    net, inputs = kind().eval(), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inputs, torch.onnx.export(net, inputs, dynamo=True, verbose=False).model_proto


def equals_onnxruntime(inputs, proto, plain=False):
    """`plain`: onnxruntime runs the graph's own operators, none put together."""
    options = onnxruntime.SessionOptions()
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    (expected,) = session.run(None, arrays)
    (found,) = onnx_backend.run_model(proto, arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_equals_onnxruntime(name):
    _, inputs, proto = exported(name)
    equals_onnxruntime(inputs, proto)


@pytest.mark.parametrize("name", MODELS)
def test_a_captured_program_equals_onnxruntime(name):
    pytest.importorskip("onnxscript")
    equals_onnxruntime(*captured(name))


class Samples(quantization.CalibrationDataReader):
    def __init__(self, inputs):
        self.rest = iter([{f"x{k}": x.numpy() for k, x in enumerate(inputs)}])

    def get_next(self):
        return next(self.rest, None)


@pytest.mark.parametrize("format", ["QDQ", "QOperator"])
def test_a_quantized_network_equals_onnxruntime(format, tmp_path):
    """The ResNet with int8 weights and uint8 values, as pairs of QuantizeLinear and DequantizeLinear, or as operators on integers."""
    _, inputs, proto = exported("residual")
    onnx.save(proto, tmp_path / "net.onnx")
    quantization.quantize_static(
        str(tmp_path / "net.onnx"), str(tmp_path / "small.onnx"), Samples(inputs), quant_format=quantization.QuantFormat[format]
    )
    equals_onnxruntime(inputs, onnx.load(tmp_path / "small.onnx"), plain=True)


@pytest.mark.parametrize("name", ["decoder", "llama"])
def test_decomposed_attention_is_seen_as_attention(name):
    lowered = lower(dslc.load(exported(name)[2]), "run", target_of("cpu"))
    with lowered.context:
        kernels = [op for op in program_of(lowered.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert [k.kind for k in kernels].count("attention") == 1


SPEC = """
model Fit:
    input   x[{shape}]: {dtype}
    input   t[{target}]
    net = import "net.onnx"
    y = net(x)
    output  y
    loss    mean((y - t)**2)

train:
    steps      20
    optimizer  sgd(lr={rate})
"""


# Tensors that are only added or multiplied: no weights of an operator, so constants unless `train=` names them.
CONSTANT = {"decoder": {"place"}, "vision": {"token"}, "llama": {"scale"}, "convnext": {"gamma"}, "selective": {"decay"}}


TRAINED = [
    *("residual", "mobile", "unet", "decoder", "vision", "llama", "recurrent", "waves", "experts"),
    *("efficient", "dense", "convnext", "gated", "mixer", "selective"),
]


@pytest.mark.parametrize("name", TRAINED)
def test_trains_as_torch(name, tmp_path):
    net, (x,), proto = exported(name, training=True)
    onnx.save(proto, tmp_path / "net.onnx")
    t = torch.randn(net(x).shape)
    net, _, _ = exported(name, training=True)  # running statistics as at the start
    rate = 0.05
    spec = SPEC.format(shape=", ".join(map(str, x.shape)), target=", ".join(map(str, t.shape)), dtype=str(x.dtype).split(".")[1], rate=rate)
    (tmp_path / "fit.dsl").write_text(spec)
    loaded = dslc.load(tmp_path / "fit.dsl")
    trainer = dslc.Trainer(loaded, "cpu")
    trained = {p.path.removeprefix("net.") for p in loaded.checked.parameters}
    assert {path for path, _ in net.named_parameters()} - trained == CONSTANT.get(name, set())
    optimizer = torch.optim.SGD([value for path, value in net.named_parameters() if path in trained], lr=rate)
    for _ in range(2):
        optimizer.zero_grad()
        loss = ((net(x) - t) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert trainer.step(x=x.numpy(), t=t.numpy()) == pytest.approx(loss.item(), rel=1e-4)
    kept = {path.removeprefix("net."): np.asarray(loaded.params[path]) for path in loaded.params}
    for path, value in [*net.named_parameters(), *net.named_buffers()]:
        if path in kept:
            np.testing.assert_allclose(kept[path], value.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=path)
