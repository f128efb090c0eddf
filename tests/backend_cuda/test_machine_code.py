"""The machine code of a program's functions: parts, symbols, both forms."""

from __future__ import annotations

import pytest

from dslc.backend_cuda import machine_code, nvrtc
from dslc.backend_cuda.arch import ARCHS, CHECKED, EMULATED
from dslc.backend_cuda.program_text import Printed
from dslc.core.executable import unpack_modules
from dslc.runtime.drivers.device import Driver
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

FUNCTIONS = [(f"k{n:02d}_f", f'extern "C" __global__ void k{n:02d}_f(float* y) {{\n    y[threadIdx.x] = {n};\n}}') for n in range(19)]


def text_of(functions):
    return Printed("\n".join(text for _, text in functions), "", tuple(functions))


@pytest.mark.parametrize("count", [1, 2, 8, 9, 19])
def test_parts_are_all_functions_in_order(count):
    parts = machine_code._parts(FUNCTIONS[:count])
    assert [f for part in parts for f in part] == FUNCTIONS[:count]
    assert all(0 < len(part) <= machine_code.PER_PART for part in parts)


def test_nothing_to_compile():
    assert unpack_modules(machine_code.machine_code(Printed("", "", ()), ARCHS["sm_80"])) == []


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
def test_cubins(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    modules = unpack_modules(machine_code.machine_code(text_of(FUNCTIONS), ARCHS["sm_90a"]))
    assert [s for m in modules for s in m.symbols] == [name for name, _ in FUNCTIONS] and len(modules) >= 3
    assert all(m.code[:4] == b"\x7fELF" and m.symbols[0].encode() in m.code for m in modules)


@pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
def test_a_shared_object(tmp_path, monkeypatch):
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path))
    for arch in (EMULATED, CHECKED):
        (module,) = unpack_modules(machine_code.machine_code(text_of(FUNCTIONS[:2]), arch))
        driver: Driver = EmulatorDriver()
        functions = driver.load(module.code, module.symbols)
        assert set(functions) == {"k00_f", "k01_f"}
        assert functions["k00_f"].module.checked == arch.checked
