"""A test that hangs ends the call with its name; those behind the call's time are skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parent / "conftest.py"
TESTS = """
import time
import pytest

pytestmark = pytest.mark.gpu

def test_quick():
    pass

def test_hangs():
    time.sleep(60)
"""


def outcome(folder: Path, **changes: float) -> subprocess.CompletedProcess:
    """Of these tests on a machine that has a GPU, it seems."""
    text = CONFTEST.read_text().replace("    try:\n        cuda_driver()", "    return None\n    try:\n        cuda_driver()")
    for name, value in changes.items():
        text += f"{name} = {value}\n"
    (folder / "conftest.py").write_text(text)
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=folder, env=os.environ)


def test_a_test_that_hangs_is_named(tmp_path):
    done = outcome(tmp_path, TEST_SECONDS=1.0)
    assert done.returncode == 70 and "test_some.py::test_hangs has taken 1 s: it hangs" in done.stdout, done.stdout


def test_what_is_too_late_is_skipped(tmp_path):
    done = outcome(tmp_path, CALL_SECONDS=0.0)
    assert done.returncode == 0 and "1 passed, 1 skipped" in done.stdout and "run it in a call of its own" in done.stdout, done.stdout
