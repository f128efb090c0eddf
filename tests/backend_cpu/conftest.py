"""Tests of native code run it on several numbers of threads; programs of other tests have the process's own again."""

import pytest

from dslc.runtime.drivers.cpu import pool


@pytest.fixture(autouse=True)
def own_threads():
    yield
    if pool.state.threads is not None or pool.state.pin:
        pool.configure()
