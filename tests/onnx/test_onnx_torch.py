"""Graphs of 21 architectures that torch exports: equal to onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from torch_models import CASES, EXPORTERS, exported, integer_operators

import dslc
from dslc import onnx_backend
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.program import program_of
from dslc.targets import target_of

PADDED = {"detection"}  # onnxruntime's results end where ours have rows for boxes that are not there


def by_onnxruntime(proto, arrays):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # else it computes quantized layers in integers
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, arrays)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name, exporter):
    _, inputs, proto = exported(name, exporter)
    arrays = {f"x{k}": x.numpy() for k, x in enumerate(inputs)}
    expected = by_onnxruntime(proto, arrays)
    found = onnx_backend.run_model(proto, arrays)
    if name in PADDED:
        count = len(expected[0])
        assert 0 < count < len(found[0])
        assert (found[0][count:] == -1).all()
        found = [value[:count] for value in found]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decomposed_attention_is_seen_as_attention(name):
    lowered = lower(dslc.load(exported(name)[2]), "run", target_of("cpu"))
    with lowered.context:
        kernels = [op for op in program_of(lowered.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert [k.kind for k in kernels].count("attention") == 1


def test_a_network_of_integer_operators():
    """The ResNet in 8 bits with operators on integers, com.microsoft's among them."""
    _, inputs, proto = exported("resnet")
    proto = integer_operators(proto, inputs)
    assert {"QLinearConv", "QLinearAdd"} <= {node.op_type for node in proto.graph.node}
    arrays = {f"x{k}": x.numpy() for k, x in enumerate(inputs)}
    for a, b in zip(onnx_backend.run_model(proto, arrays), by_onnxruntime(proto, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
