"""Whole models on CUDA kernels: steps on the emulator against the float64 reference, and machine code for GPUs without a spill."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.commands.build import build
from dslc.compiler import compile_program
from dslc.core.executable import unpack_modules
from dslc.runtime.drivers import emulated_device, emulator
from dslc.runtime.drivers.emulated_device import EmulatorDriver

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "xor": {},
    "digits_mlp": {"batch": "8", "steps": "100"},
    "digits_cnn": {"batch": "4", "steps": "100"},
    "char_gpt": {"batch": "2", "time": "16", "width": "32", "depth": "1"},
    "char_lstm": {"batch": "2", "time": "6", "width": "16"},
}


def load(name: str) -> dslc.Model:
    return dslc.load(str(EXAMPLES / f"{name}.dsl"), **SMALL[name])


def feed(model: dslc.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for port in compile_program(model, "eval", "reference").ports_of("input"):
        whole = port.dtype.is_integer
        drawn = rng.integers(*(port.bounds or (0, 2)), port.shape) if whole else rng.standard_normal(port.shape)
        out[port.name] = drawn.astype(port.dtype.numpy)
    return out


def ran(name: str, target: str) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The losses of some training steps, the parameters after them, the outputs that these give."""
    model = load(name)
    trainer = dslc.Trainer(model, target=target)
    losses = [trainer.step(**feed(model)) for _ in range(3)]
    program = dslc.compile(model, target=target)
    outputs = program(**{p.name: feed(model)[p.name] for p in program.executable.ports_of("input")})
    return losses, {k: np.array(v) for k, v in model.params.items()}, outputs


@cache
def expected(name: str) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    return ran(name, "reference")


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", SMALL)
def test_steps_and_outputs_are_those_of_the_reference(name: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and inference with every access checked."""
    driver = EmulatorDriver(order, seed=1)
    monkeypatch.setattr(emulated_device, "emulator_driver", lambda: driver)
    (losses, moved, outputs), (wanted_losses, wanted, wanted_outputs) = ran(name, "cuda-emulated:checked"), expected(name)
    np.testing.assert_allclose(losses, wanted_losses, rtol=2e-5)
    for path, value in wanted.items():
        np.testing.assert_allclose(moved[path], value, atol=2e-4, err_msg=path)  # adam's first steps divide gradients by their own size
    assert outputs.keys() == wanted_outputs.keys()
    for path, value in wanted_outputs.items():
        np.testing.assert_allclose(outputs[path], value, atol=2e-3 * max(1, np.abs(value).max()), err_msg=path)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", ["digits_cnn", "char_gpt"])
def test_every_kernel_compiles_without_a_spill(name: str, arch: str) -> None:
    """NVRTC's report is read by the build, which refuses spills."""
    executable = compile_program(load(name), "eval", f"cuda:{arch}")
    modules = unpack_modules(executable.code)
    assert {k.symbol for k in executable.kernels} == {s for m in modules for s in m.symbols}
    assert all(m.code.startswith(b"\x7fELF") for m in modules)
    assert executable.source.count("__global__") == len(executable.kernels)


def test_compile_writes_readable_sources(tmp_path: Path) -> None:
    files = build(load("xor"), "step", "cuda:sm_90a", tmp_path)
    assert {"kernels.cu", "plan.json", "report.html"} <= {f.name for f in files}
    text = (tmp_path / "kernels.cu").read_text()
    assert "xor.dsl:" in text and 'extern "C" __global__' in text
