"""Tests of the `gpu` tier: `pytest -m gpu tests/gpu` is one call of a few minutes. Without a GPU they are skipped, with what is missing.

A kernel that waits for ever cannot be stopped from its process: a test that takes too long ends the whole call, with its name. Tests that would begin
after the call's time are skipped, and told.
"""

from __future__ import annotations

import os
import threading
import time

import pytest

from dslc.backend_cuda import nvrtc
from dslc.core.errors import TargetError
from dslc.runtime.drivers.cuda import cuda_driver

TEST_SECONDS, CALL_SECONDS = 180.0, 480.0
HUNG = 70  # exit status
SPENT: list[float] = []  # seconds of each test that needed a GPU


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


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and sum(SPENT) > CALL_SECONDS:
        pytest.skip(f"tests before have taken {CALL_SECONDS:.0f} s: run it in a call of its own")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if item.get_closest_marker("gpu") is None:
        return (yield)
    manager, writer = item.config.pluginmanager.getplugin("capturemanager"), item.config.get_terminal_writer()

    def end() -> None:
        manager.suspend_global_capture()
        writer.line(f"\n{item.nodeid} has taken {TEST_SECONDS:.0f} s: it hangs, and this call ends here")
        writer.flush()
        os._exit(HUNG)

    timer = threading.Timer(TEST_SECONDS, end)
    timer.daemon = True
    timer.start()
    start = time.monotonic()
    try:
        return (yield)
    finally:
        timer.cancel()
        SPENT.append(time.monotonic() - start)
