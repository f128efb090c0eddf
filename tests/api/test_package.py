"""Packages: compiled once, run without the compiler; files that are torn, of another version, of another model or device."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.commands.build import build
from dslc.core import dtypes
from dslc.core.errors import DataError, TargetError
from dslc.core.executable import Executable, Kernel, Launch, Module, Port, from_bytes, pack_modules, to_bytes
from dslc.runtime.drivers.choice import program_for
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.runtime.package import load, write_weights
from dslc.runtime.prepared import PreparedProgram
from dslc.runtime.store import ParameterStore
from dslc.runtime.tensorfile import open_tensors, write_safetensors
from dslc.targets import TARGETS, target_of

MODEL = """
model Small:
    input x[4, 3]
    state seen = 0.0
    y = tanh(linear(x, 5))
    output y
"""
X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
ALONE = """
import sys
for name in ("torch_mlir", "lark", "yaml", "onnx", "typer", "rich", "scipy", "matplotlib", "ml_dtypes", "safetensors", "torch"):
    sys.modules[name] = None
import numpy as np
import dslc.runtime
program = dslc.runtime.load(sys.argv[1])
np.save(sys.argv[2], program(x=np.load(sys.argv[3]))["y"])
rooms = {m.split(".")[1] for m in sys.modules if m.startswith("dslc.")}
assert rooms == {"core", "runtime"}, rooms
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path):
    """A package of a model with these weights, and the results that the model gives with them."""
    model = dslc.load(MODEL)
    values = {e.path: np.full(e.shape, 0.25, np.float32) for e in model.params.entries("param")}
    model.params.assign(values)
    files = build(model, "run", "cpu", tmp_path / "package", weights=True)
    assert [f.name for f in files] == ["program.dslx", "plan.json", "report.html", "weights.safetensors"]
    return tmp_path / "package", dslc.compile(model)(x=X)["y"]


def run_alone(folder, tmp_path) -> np.ndarray:
    """The package's result for X, in a process that cannot import the compiler."""
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", ALONE, str(folder), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "y.npy")


def test_it_runs_without_the_compiler(package, tmp_path):
    folder, expected = package
    np.testing.assert_array_equal(run_alone(folder, tmp_path), expected)
    assert np.ptp(expected) > 0


KERNEL = """extern "C" __global__ void k00_scaled(const float* x, const float* w, float* y, int n) {
    const int p = blockIdx.x * 32 + threadIdx.x;
    if (p < n) y[p] = w[0] * x[p];
}
"""


def test_it_runs_on_the_emulator_without_the_compiler(tmp_path):
    emulated = pytest.importorskip("dslc.backend_cuda.emulated")
    if TARGETS["cuda-emulated"].missing():
        pytest.skip(TARGETS["cuda-emulated"].missing())
    ports = (
        Port("x", "input", dtypes.FLOAT32, (4, 3), 0),
        Port("w", "param", dtypes.FLOAT32, (), 1),
        Port("y", "output", dtypes.FLOAT32, (4, 3), 2),
    )
    launch = Launch(0, (("slot", 0), ("slot", 1), ("slot", 2), ("value", 12)), (1, 1, 1), (32, 1, 1))
    code = pack_modules([Module(("k00_scaled",), emulated.build(KERNEL))])
    kernels = (Kernel("k00_scaled", "map", symbol="k00_scaled"),)
    made = Executable("cuda-emulated", "run", "m", "s", ports, kernels, (launch,), 0, 0, b"", code, notes={"writes": ""})
    store = ParameterStore(ports)
    store["w"] = np.float32(3)
    (tmp_path / "program.dslx").write_bytes(to_bytes(made))
    write_weights(tmp_path, made, store)
    np.testing.assert_array_equal(run_alone(tmp_path, tmp_path), 3 * X)


@pytest.mark.parametrize("cut", [0, 10, 100, -1])
def test_torn_programs(package, cut):
    folder, _ = package
    file = folder / "program.dslx"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"program\.dslx: .*damaged"):
        load(folder)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_torn_weights(package, cut):
    folder, _ = package
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError):
        load(folder)


def test_what_else_does_not_fit(package, tmp_path):
    folder, _ = package
    program = folder / "program.dslx"
    plain = program.read_bytes()
    executable = from_bytes(plain)

    program.write_bytes(b"dslc-executable-0" + plain[len(b"dslc-executable-0") :])
    with pytest.raises(DataError, match="compiled by another version of dslc"):
        load(folder)
    program.write_bytes(to_bytes(replace(executable, signature="another")))
    with pytest.raises(DataError, match="weights of another model"):
        load(folder)
    program.write_bytes(plain)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(DataError, match=r"the package has no weights\.safetensors"):
        load(folder)
    with pytest.raises(DataError, match="is no package"):
        load(tmp_path / "nowhere")


def test_programs_for_devices_that_are_not_here(package):
    executable = from_bytes((package[0] / "program.dslx").read_bytes())
    with pytest.raises(TargetError, match="no driver runs programs for tpu"):
        program_for(replace(executable, target="tpu"))


def test_a_processor_without_the_instructions(package, monkeypatch):
    """As compiled here, nothing made up."""
    executable = from_bytes((package[0] / "program.dslx").read_bytes())
    known = Path("/proc/cpuinfo").read_text()
    program_for(executable)
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: re.sub(r"\b(avx2|bmi2|avx512\w+)\b", "", known))
    with pytest.raises(TargetError, match=r"a processor with avx2, (avx512.*, )?bmi2, which this one lacks"):
        program_for(executable)


def test_targets_are_known_by_name():
    assert {"cpu", "reference", "cuda", "cuda:sm_80", "cuda:sm_90a", "cuda-emulated"} <= set(TARGETS)
    with pytest.raises(TargetError, match="unknown target 'cuda:sm_90'; did you mean 'cuda:sm_90a'"):
        target_of("cuda:sm_90")
    with pytest.raises(TargetError, match="unknown target 'cuda-emulate'; did you mean 'cuda-emulated'"):
        target_of("cuda-emulate")


@pytest.mark.parametrize("name", ["sm_35", "sm_70", "sm_75"])
def test_architectures_that_are_too_old(name):
    with pytest.raises(TargetError, match=f"{name} is too old\n.*kernels are made for sm_80 and newer"):
        target_of(f"cuda:{name}")


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_a_package_for_another_architecture(package, tmp_path, target):
    """Given to a device that runs other code: nothing of it is loaded."""
    executable = from_bytes((package[0] / "program.dslx").read_bytes())
    for name in ("program.dslx", "weights.safetensors"):
        (tmp_path / name).write_bytes((package[0] / name).read_bytes())
    (tmp_path / "program.dslx").write_bytes(to_bytes(replace(executable, target=target)))
    with pytest.raises(TargetError, match=f"compiled for {target}, the CUDA emulator runs cuda-emulated"):
        load(tmp_path, EmulatorDriver())


def test_the_cuda_target_says_what_is_missing():
    missing = TARGETS["cuda"].missing()
    if missing is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(TargetError, match="target 'cuda' cannot be used here: "):
        target_of("cuda")


@pytest.fixture
def wide(tmp_path):
    """A package of a model whose products read weights in lines, its input and its result."""
    text = "model Wide:\n    input x[64, 48]\n    y = linear(relu(linear(x, 96)), 16)\n    output y\n"
    model = dslc.load(text)
    rng = np.random.default_rng(0)
    values = {e.path: rng.standard_normal(e.shape, np.float32) for e in model.params.entries("param")}
    model.params.assign(values)
    build(model, "run", "cpu", tmp_path / "wide", weights=True)
    x = rng.standard_normal((64, 48), np.float32)
    return tmp_path / "wide", values, x, dslc.compile(model)(x=x)["y"]


def runs_of_prepare(monkeypatch) -> list[int]:
    """Grows whenever something is prepared."""
    runs: list[int] = []
    renew = PreparedProgram._renew

    def counted(self):
        seen = self._seen
        renew(self)
        if seen != self._seen:
            runs.append(1)

    monkeypatch.setattr(PreparedProgram, "_renew", counted)
    return runs


def test_what_is_prepared_comes_from_the_file(wide, monkeypatch):
    folder, values, x, expected = wide
    runs = runs_of_prepare(monkeypatch)
    packaged = load(folder)
    prepared = [p.name for p in packaged.executable.ports_of("prepared")]
    only_prepared = {p.name for p in packaged.executable.ports_of("param")} - set(packaged.executable.notes["reads"].split("\n"))
    assert prepared and "linear.w" in only_prepared
    np.testing.assert_array_equal(packaged(x=x)["y"], expected)
    assert not runs
    for name, value in values.items():
        np.testing.assert_array_equal(packaged.params[name], value)
    assert isinstance(packaged.params.value("linear.w").memory.base, np.memmap)


def test_a_parameter_of_a_package_is_written(wide, monkeypatch):
    """Then it is prepared anew, and the file stays as it was."""
    folder, values, x, expected = wide
    before = (folder / "weights.safetensors").read_bytes()
    runs = runs_of_prepare(monkeypatch)
    packaged = load(folder)
    packaged.params["linear.w"] = 2 * values["linear.w"]
    doubled = np.maximum(x @ (2 * values["linear.w"]) + values["linear.b"], 0) @ values["linear_2.w"] + values["linear_2.b"]
    np.testing.assert_allclose(packaged(x=x)["y"], doubled, atol=1e-3)
    assert runs == [1] and (folder / "weights.safetensors").read_bytes() == before
    np.testing.assert_array_equal(load(folder)(x=x)["y"], expected)


def test_other_weights_than_those_that_were_prepared(wide, monkeypatch):
    """As by who writes new weights to the file and leaves what was prepared from the old ones: one number is enough."""
    folder, values, x, _ = wide
    tensors = open_tensors(folder / "weights.safetensors")
    stored = {name: tensors.read(name) for name in tensors.entries}
    stored["linear.w"][7, 5] += 100
    write_safetensors(folder / "weights.safetensors", stored, tensors.metadata)
    runs = runs_of_prepare(monkeypatch)
    changed = np.maximum(x @ stored["linear.w"] + values["linear.b"], 0) @ values["linear_2.w"] + values["linear_2.b"]
    np.testing.assert_allclose(load(folder)(x=x)["y"], changed, atol=1e-3)
    assert runs == [1]


def test_weights_without_what_is_prepared(wide):
    folder, values, x, expected = wide
    tensors = open_tensors(folder / "weights.safetensors")
    write_safetensors(folder / "weights.safetensors", values, {"signature": tensors.metadata["signature"]})
    np.testing.assert_array_equal(load(folder)(x=x)["y"], expected)
