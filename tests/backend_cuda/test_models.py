"""Every example on CUDA kernels: training steps, outputs and decoding on the emulator against the float64 reference, and machine code for GPUs
without a spill. Examples are found, so that a new one is tested too."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import nvrtc
from dslc.commands.build import build
from dslc.compiled import decoder_of
from dslc.compiler import compile_program
from dslc.core.executable import NEXT_TURN, Executable, from_bytes, unpack_modules
from dslc.runtime.drivers import emulated_device, emulator
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

from .examples import FOLDER, NAMES, small, whole

PROMPT, DECODED = 3, 3
Results = tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]


def feed(model: dslc.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    out = {}
    for port in compile_program(model, "eval", "reference").ports_of("input"):
        integer = port.dtype.is_integer
        drawn = rng.integers(*(port.bounds or (0, 2)), port.shape) if integer else rng.standard_normal(port.shape)
        out[port.name] = drawn.astype(port.dtype.numpy)
    return out


def ran(name: str, target: str) -> Results:
    """The losses of some training steps, the parameters after them, the outputs that these give; of what generates, the logits of each token too."""
    model = small(name)
    given = feed(model)
    trainer = dslc.Trainer(model, target=target)
    losses = [trainer.step(**given) for _ in range(3)]
    program = dslc.compile(model, target=target)
    outputs = dict(program(**{p.name: given[p.name] for p in program.executable.ports_of("input")}))
    if model.checked.generate is not None:
        decoder = decoder_of(model, target, note=pytest.fail)
        tokens = given["tokens"]
        for length in range(PROMPT, PROMPT + DECODED):
            outputs[f"the logits behind {length} tokens"] = np.array(decoder.logits([row[:length].tolist() for row in tokens[:2]]))
    return losses, {k: np.array(v) for k, v in model.params.items()}, outputs


@cache
def expected(name: str) -> Results:
    return ran(name, "reference")


@pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_steps_and_outputs_are_those_of_the_reference(name: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, inference and decoding with every access checked."""
    driver = EmulatorDriver(order, seed=1)
    monkeypatch.setattr(emulated_device, "emulator_driver", lambda: driver)
    (losses, moved, outputs), (wanted_losses, wanted, wanted_outputs) = ran(name, "cuda-emulated:checked"), expected(name)
    np.testing.assert_allclose(losses, wanted_losses, rtol=2e-5)
    for path, value in wanted.items():
        np.testing.assert_allclose(moved[path], value, atol=2e-4, err_msg=path)  # adam's first steps divide gradients by their own size
    assert outputs.keys() == wanted_outputs.keys()
    for path, value in wanted_outputs.items():
        np.testing.assert_allclose(outputs[path], value, atol=2e-3 * max(1, np.abs(value).max()), err_msg=path)


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_compiles_without_a_spill(name: str, arch: str) -> None:
    """At the example's own sizes; NVRTC's report is read by the build, which makes other kernels of those that spill or serialize wgmma."""
    model = whole(name)
    for program in ("step", "eval", "run", *(("prefill", "decode") if model.checked.generate is not None else ())):
        executable = compile_program(model, program, f"cuda:{arch}")
        for one in (executable, *([from_bytes(executable.prepare)] if executable.prepare else [])):
            check_code(one)


def check_code(executable: Executable) -> None:
    """Each function of the text is in one of the modules, under its name; `next_turn` is no launch's."""
    modules = unpack_modules(executable.code)
    symbols = {s for m in modules for s in m.symbols}
    assert {k.symbol for k in executable.kernels} == symbols - {NEXT_TURN}
    assert all(m.code.startswith(b"\x7fELF") and all(s.encode() in m.code for s in m.symbols) for m in modules)
    assert executable.source.count("__global__") == len(symbols) > 0
    assert "no schedule of it has less" not in executable.source


def test_compile_writes_readable_sources(tmp_path: Path) -> None:
    files = build(dslc.load(str(FOLDER / "xor.dsl")), "step", "cuda:sm_90a", tmp_path)
    assert {"kernels.cu", "plan.json", "report.html"} <= {f.name for f in files}
    text = (tmp_path / "kernels.cu").read_text()
    assert "xor.dsl:" in text and 'extern "C" __global__' in text
