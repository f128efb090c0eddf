"""How much memory a process takes that compiles and runs, as the system tells it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.ir import mlir
from dslc.runtime.tensorfile import write_safetensors

if not Path("/proc/self/smaps").exists():
    pytest.skip("the system does not tell it", allow_module_level=True)

DEPTH, WIDTH = 8, 2048
RUN = """
import re, sys
from pathlib import Path
import numpy as np
import dslc

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

model = dslc.load(sys.argv[1])
model.params.load_weights(sys.argv[2])
program = dslc.compile(model, target="cpu")
before = peak()
y = program(x=np.ones((32, 2048), np.float32))["y"]
print(peak() - before, y[0, 0])
"""


def test_weights_of_a_file_are_in_memory_once(tmp_path):
    """Preparing 128 MiB of them takes some 16 MiB more than there were."""
    layers = "".join(f"    param w{k}[d, d] ~ normal()\n    y[b, j] = sum[i](y[b, i] * w{k}[i, j])\n" for k in range(DEPTH))
    spec = tmp_path / "m.dsl"
    spec.write_text(f"model M:\n    dims d={WIDTH}\n    input x[32, d]\n    y = x\n{layers}    output y\n")
    write_safetensors(tmp_path / "w.safetensors", {f"w{k}": np.eye(WIDTH, dtype=np.float32) for k in range(DEPTH)}, {})
    done = subprocess.run([sys.executable, "-c", RUN, str(spec), str(tmp_path / "w.safetensors")], capture_output=True, text=True, check=True)
    grown, first = done.stdout.split()
    assert float(first) == 1 and int(grown) < 40


def code_pages() -> int:
    """Bytes of MLIR's code that are resident."""
    text, found, inside = Path("/proc/self/smaps").read_text(), 0, False
    for line in text.splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(mlir.LIBRARY) and " r-xp " in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def test_the_compiler_gives_its_pages_back(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    text = "model M:\n    input x[8]\n    y = exp(x) + 1\n    output y\n"
    held = []
    monkeypatch.setattr(mlir, "rest", lambda rest=mlir.rest: (held.append(code_pages()), rest(), held.append(code_pages())))
    program = dslc.compile(dslc.load(text), target="cpu")
    x = np.arange(8, dtype=np.float32)
    np.testing.assert_allclose(program(x=x)["y"], np.exp(x) + 1, rtol=1e-6)
    assert len(held) == 2 and held[1] < held[0] / 8
    assert dslc.compile(dslc.load(text.replace("+ 1", "+ 2")), target="cpu")(x=x)["y"][0] == 3
