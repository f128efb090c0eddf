"""Functions of the device library: their GPU bodies against their bodies on the emulator. Without a GPU: every function has a case, and the cases
compile for one and run on the emulator."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.source import DEVICE, bundle
from dslc.runtime.drivers.cuda import cuda_driver
from dslc.targets import TARGETS

from .devices import DRIVERS, run
from .library_cases import CASES, Case

NEEDS_EMULATOR = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
TEXTS = list(dict.fromkeys(case.kernels for case in CASES.values()))


def results(case: Case, device: str) -> list[np.ndarray]:
    return run(DRIVERS[device](), case.kernels, case.symbol, case.grid, case.block, *case.parameters, shared=case.shared)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_both_bodies_give_the_same(name: str) -> None:
    """To the bit, but for functions that NVIDIA gives no bits of (`Case.near`), and for products of tensor cores, whose order of sums it does not
    say."""
    case = CASES[name]
    if case.hopper and not cuda_driver().arch.startswith("sm_9"):
        pytest.skip("Hopper alone has it")
    for one, other in zip(results(case, "cuda"), results(case, "emulator"), strict=True):
        if case.near:
            np.testing.assert_allclose(one.astype(np.float64), other.astype(np.float64), rtol=case.near, atol=case.near)
        else:
            np.testing.assert_array_equal(one, other)


@NEEDS_EMULATOR
@pytest.mark.parametrize("name", CASES)
def test_cases_run_on_the_emulator(name: str) -> None:
    """And every result is written."""
    case = CASES[name]
    *_, before = (p for p in case.parameters if isinstance(p, np.ndarray))
    *_, after = results(case, "emulator")
    same = (after == before) | (before == 0) & (after == 0)
    assert not same.all() and same.mean() < 0.7, name


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_cases_compile_for_a_gpu(arch: str) -> None:
    texts = [k for k in TEXTS if arch == "sm_90a" or not any(case.hopper for case in CASES.values() if case.kernels == k)]
    for kernels, cubin in zip(texts, nvrtc.build([bundle(k.text) for k in texts], arch), strict=True):
        assert all(symbol.encode() in cubin.code for symbol in kernels.symbols)


def definitions() -> dict[tuple[str, int], str]:
    """(header, line): the name of each function that the emulator sees, but for those of the emulator itself."""
    found = {}
    for file in sorted(DEVICE.glob("*.cuh")):
        for number, line in seen_by_the_emulator(file):
            plain = line.replace("sizeof(T)", "")
            if match := re.match(r"(?:template <.*> )?(?:__device__ |EMULATOR_CALLED |__forceinline__ |inline )+[\w:<>* ]*?[\s*](\w+)\(", plain):
                found[file.name, number] = match[1]
    return found


def seen_by_the_emulator(file: Path) -> list[tuple[int, str]]:
    """Numbered lines without those for a GPU; a template's head stands before its function."""
    out: list[tuple[int, str]] = []
    hidden, head = False, ""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.startswith("#"):
            hidden = {"#ifndef DSLC_EMULATED": True, "#if !defined(DSLC_EMULATED)": True, "#else": not hidden, "#endif": False}.get(line, hidden)
        elif not hidden:
            out.append((number, f"{head} {line}".strip()))
            head = line if re.fullmatch(r"template <.*>", line) else ""
    return out


def reached() -> tuple[set[tuple[str, int]], str]:
    """(header, line) of the functions that g++ needs for all kernels, and their signatures: without optimization it makes those alone."""
    headers = dict.fromkeys(["math", "memory", "narrow", *(file.stem for file in sorted(DEVICE.glob("*.cuh")))])
    parts = (re.sub(r'#include "device/.*"\n', "", kernels.text) for kernels in TEXTS)
    text = "".join(f'#include "device/{name}.cuh"\n' for name in headers) + "".join(f"namespace n{k} {{{x}}}\n" for k, x in enumerate(parts))
    body = emulated._DYNAMIC_SHARED.sub(r"\1* const \2 = (\1*)emulator::dynamic_shared();", bundle(text))
    made = emulated._compiled('#include "cuda.h"\n' + body.replace("__forceinline__", "inline"), "-O0", "-g1")
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(made)
        file.flush()
        listed = subprocess.run(["nm", "-C", "-l", file.name], capture_output=True, check=True, text=True).stdout
    found = re.findall(r"^(.*)\t.*?device/(\w+\.cuh):(\d+)$", listed, re.MULTILINE)
    return {(header, int(line)) for _, header, line in found}, "\n".join(symbol for symbol, _, _ in found)


@NEEDS_EMULATOR
def test_every_function_has_a_case() -> None:
    """Each overload, and of the products of a warpgroup each shape and type."""
    for kernels in TEXTS:
        assert set(kernels.symbols) == {case.symbol for case in CASES.values() if case.kernels == kernels}
    lines, signatures = reached()
    wanted = definitions()
    assert len(wanted) > 120
    assert not {f"{name} ({file}:{line})" for (file, line), name in wanted.items() if (file, line) not in lines}
    shapes = re.findall(r"^DSLC_(WGMMA\w*)\((\d+)(?:, (__\w+))?", (DEVICE / "wgmma.cuh").read_text(), re.MULTILINE)
    assert len(shapes) > 15
    for name, columns, element in shapes:
        for function in ("wgmma", "wgmma_registers") if name == "WGMMA_TF32" else (name.lower(),):
            made = rf"void {function}<(?:(?:true|false), )*{int(columns) // 2}, {element or 'float'}>\("
            assert re.search(made, signatures), (name, columns, element)
