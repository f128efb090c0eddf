"""docs/language.md tells the truth: every whole program on the page elaborates, and its outputs come out finite and of the declared shapes."""

import re
from pathlib import Path

import numpy as np
import pytest

import dslc

PAGE = (Path(__file__).parent.parent / "docs" / "language.md").read_text()
PROGRAMS = re.findall(r"^```dsl\n(.*?)^```", PAGE, re.S | re.M)


@pytest.mark.parametrize("text", PROGRAMS, ids=[re.search(r"model (\w+)", p).group(1) for p in PROGRAMS])
def test_program_runs(text):
    model = dslc.load(text)
    program = dslc.compile(model, target="reference")
    rng = np.random.default_rng(0)
    ports = program.executable.ports
    fed = {p.name: _draw(rng, p) for p in ports if p.role == "input"}
    results = program(**fed)
    assert results
    for port in (p for p in ports if p.role == "output"):
        assert results[port.name].shape == port.shape
        assert np.isfinite(np.asarray(results[port.name], np.float64)).all()


def _draw(rng, port):
    if port.dtype.is_float:
        return rng.standard_normal(port.shape).astype(port.dtype.numpy)
    low, high = port.bounds or (0, 2)
    return rng.integers(low, high, port.shape).astype(port.dtype.numpy)
