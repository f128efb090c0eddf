"""Graphs of 21 architectures that torch exports: equal to onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from torch_models import CASES, EXPORTERS, exported

from dslc import onnx_backend

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
