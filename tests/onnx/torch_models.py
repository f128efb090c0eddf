"""The architectures and how they are exported: by torch's exporter through TorchScript ("script"), and by that through its graphs ("graph")."""

import io
import logging
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
import torch_images
import torch_sequences

CASES = torch_images.CASES | torch_sequences.CASES
EXPORTERS = ("script", "graph")


def model_and_inputs(name, training=False):
    torch.manual_seed(0)
    kind, make = CASES[name]
    return kind().train(training), make()


def exported(name, exporter="script", training=False):
    """(model, inputs, ModelProto with its parameters by torch's names)"""
    net, inputs = model_and_inputs(name, training)
    with quiet():
        proto = (script if exporter == "script" else graph)(net, inputs, training)
        return net, inputs, quantized(proto, inputs) if name.startswith("quantized") else proto


def script(net, inputs, training):
    data = io.BytesIO()
    mode = torch.onnx.TrainingMode.TRAINING if training else torch.onnx.TrainingMode.EVAL
    names = [f"x{k}" for k in range(len(inputs))]
    torch.onnx.export(net, inputs, data, dynamo=False, opset_version=18, input_names=names, training=mode, do_constant_folding=False)
    return onnx.load_from_string(data.getvalue())


def graph(net, inputs, training):
    names = [f"x{k}" for k in range(len(inputs))]
    return torch.onnx.export(net, inputs, dynamo=True, verbose=False, input_names=names, optimize=not training).model_proto


class Reader:
    """What onnxruntime's quantization reads ranges from."""

    def __init__(self, inputs):
        self.rows = iter([{f"x{k}": x.numpy() for k, x in enumerate(inputs)}])

    def get_next(self):
        return next(self.rows, None)


def quantized(proto, inputs, format="QDQ"):
    """The graph with 8-bit weights and activations between QuantizeLinear and DequantizeLinear."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.onnx")
        quantize_static(proto, out, Reader(inputs), quant_format=QuantFormat[format], per_channel=True)
        return onnx.load(out)


def integer_operators(proto, inputs):
    """The graph with 8-bit weights and activations, and operators that take them."""
    return quantized(proto, inputs, "QOperator")


@contextmanager
def quiet():
    """Without the exporters' warnings."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)
