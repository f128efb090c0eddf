"""onnx's node tests as CUDA kernels on the emulator: a sample of the operators. `onnx_suite.py cuda-emulated operators` runs one of each."""

import warnings

import pytest
from onnx_suite import failure, operators

from dslc.targets import TARGETS

SAMPLE = operators()[::10]


@pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
@pytest.mark.parametrize("name", SAMPLE)
def test_node(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert failure(name, "cuda-emulated") is None
