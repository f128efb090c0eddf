"""Tests of the `gpu` tier: `pytest -m gpu tests/gpu` is one call of a few minutes. Without a GPU they are skipped, with what is missing."""

from __future__ import annotations

import pytest

from dslc.backend_cuda import nvrtc
from dslc.core.errors import TargetError
from dslc.runtime.drivers.cuda import cuda_driver


def gpu_missing() -> str | None:
    """What there is not to run kernels on a GPU, or None."""
    try:
        cuda_driver()
    except TargetError as error:
        return error.message
    return nvrtc.missing()


def pytest_collection_modifyitems(items):
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    missing = gpu_missing() if wanted else None
    for item in wanted if missing else ():
        item.add_marker(pytest.mark.skip(reason=missing))
