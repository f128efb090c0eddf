"""onnx's node tests, half of them: all pass but those that unsupported.txt lists, and those do not."""

import pytest
from onnx_suite import cases, mistakes

NAMES = sorted(cases())[1::2]


@pytest.mark.parametrize("start", range(0, len(NAMES), 100))
def test_nodes(start):
    assert not mistakes(NAMES[start : start + 100])
