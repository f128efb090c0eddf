"""onnx's node tests, half of them: all pass but those that unsupported.txt lists, and those do not."""

import pytest
from onnx_suite import cases, mistakes, unsupported

NAMES = sorted(cases())[0::2]


@pytest.mark.parametrize("start", range(0, len(NAMES), 100))
def test_nodes(start):
    assert not mistakes(NAMES[start : start + 100])


def test_every_listed_test_exists_and_has_a_reason():
    assert all(name in cases() and reason for name, reason in unsupported().items())


def test_the_goal():
    """At least 1,750 of the 1,884 tests of onnx 1.23."""
    assert len(unsupported()) <= 134
