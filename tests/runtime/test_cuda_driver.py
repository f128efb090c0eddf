"""The CUDA driver on a stub of libcuda, a process for each scenario of `cuda_stub/scenarios.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.driver")
STUB = Path(__file__).parent / "cuda_stub"
ENVIRONMENTS = {
    **{
        k: {}
        for k in (
            "one_graph",
            "without_waits",
            "several_graphs",
            "fault",
            "memory",
            "limits",
            "images",
            "tensor_map",
            "device_arrays",
            "rows",
            "downloads",
            "at_the_end",
            "marks",
            "fork",
        )
    },
    "without_graph": {"DSLC_CUDA_SYNC": "1"},
    "no_overlap": {"STUB_NO_OVERLAP": "1"},
    "no_call": {"STUB_LACKS": "cuEventElapsedTime"},
    "no_pitches": {"STUB_NO_PITCHES": "1"},
    "static_shared": {"STUB_STATIC": "10000"},
    "fault_named": {"DSLC_CUDA_SYNC": "1"},
    "no_device": {"STUB_COUNT": "0"},
    "no_start": {"STUB_INIT": "803"},
    "too_old": {"STUB_MAJOR": "7"},
    "absent": {"LD_LIBRARY_PATH": ""},
}


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("libcuda")
    command = ["gcc", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", folder / "libcuda.so.1", STUB / "libcuda.c", "-ldl"]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize("scenario", ENVIRONMENTS)
def test_scenario(scenario, library, tmp_path):
    if scenario == "absent" and any(Path(p).exists() for p in ("/usr/lib/x86_64-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1")):
        pytest.skip("this machine has a CUDA driver")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("STUB_", "DSLC_CUDA"))}
    environment = {**plain, "LD_LIBRARY_PATH": str(library), "STUB_LOG": str(tmp_path / "log"), **ENVIRONMENTS[scenario]}
    done = subprocess.run([sys.executable, STUB / "scenarios.py", scenario], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
