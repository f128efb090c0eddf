"""onnx's suites of whole small models: simple ones, torch's operators and torch's layers. All pass but those of texts."""

import warnings
from functools import cache
from pathlib import Path

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from dslc import onnx_backend

TEXTS = "test_strnorm"


@cache
def cases(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [c for c in load_model_tests(kind=kind) if not c.name.startswith(TEXTS)]


def stored(case):
    """(model, sets of inputs and outputs) of a case in a folder."""
    folder = Path(case.model_dir)
    proto = onnx.load(folder / "model.onnx")
    sets = []
    for part in sorted(folder.glob("test_data_set_*")):
        sides = []
        for what, ports in (("input", proto.graph.input), ("output", proto.graph.output)):
            files = [(part / f"{what}_{k}.pb", port) for k, port in enumerate(ports)]
            sides.append([_value(path, port) for path, port in files if path.exists()])
        sets.append(sides)
    return proto, sets


def _value(path, port):
    sequence = port.type.HasField("sequence_type")
    proto = onnx.SequenceProto() if sequence else onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_list(proto) if sequence else onnx.numpy_helper.to_array(proto)


@pytest.mark.parametrize(("kind", "count"), [("simple", 17), ("pytorch-operator", 35), ("pytorch-converted", 82)])
def test_suite(kind, count):
    failed = []
    for case in cases(kind):
        proto, sets = (case.model, case.data_sets) if case.model is not None else stored(case)
        try:
            prepared = onnx_backend.prepare(proto)
            for inputs, outputs in sets:
                Runner.assert_similar_outputs(outputs, list(prepared.run(inputs)), rtol=case.rtol, atol=case.atol)
        except Exception as error:
            failed.append(f"{case.name}: {str(error)[:200]}")
    assert not failed
    assert len(cases(kind)) == count
