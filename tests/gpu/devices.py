"""Text, launch and arrays on the emulator or on the GPU, through the same protocol."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dslc.backend_cuda.arch import EMULATED
from dslc.backend_cuda.machine_code import machine_code
from dslc.backend_cuda.program_text import Printed
from dslc.core.executable import TensorMap, unpack_modules
from dslc.runtime.drivers.cuda import cuda_driver
from dslc.runtime.drivers.device import Driver, PreparedLaunch, packed_tensor_map
from dslc.runtime.drivers.emulated_device import emulator_driver
from dslc.runtime.drivers.pycuda import pycuda_driver

DRIVERS = {"emulator": emulator_driver, "cuda": cuda_driver, "pycuda": pycuda_driver}


@dataclass(frozen=True)
class Kernels:
    """Device code with its kernels' names. Texts compile as one part."""

    text: str
    symbols: tuple[str, ...]

    def functions(self, driver: Driver) -> dict[str, Any]:
        """The functions, loaded on a device."""
        return _functions(self, driver)


@cache
def _functions(kernels: Kernels, driver: Driver) -> dict[str, Any]:
    (first, *rest) = kernels.symbols
    listed = [(first, kernels.text), *((s, "") for s in rest)]
    functions: dict[str, Any] = {}
    for module in unpack_modules(_code(listed, kernels, driver)):
        functions |= driver.load(module.code, module.symbols)
    return functions


def _code(listed: list[tuple[str, str]], kernels: Kernels, driver: Driver) -> bytes:
    if driver.arch == "emulated":
        return machine_code(Printed(kernels.text, "", tuple(listed)), EMULATED)
    from dslc.backend_cuda import nvrtc
    from dslc.backend_cuda.source import bundle
    from dslc.core.executable import Module, pack_modules

    (cubin,) = nvrtc.build([bundle(kernels.text)], driver.arch)
    return pack_modules([Module(kernels.symbols, cubin.code)])


def placed(driver: Driver, array: np.ndarray) -> int:
    """The array's values in device memory."""
    address = driver.allocate(max(array.nbytes, 1))
    if array.nbytes:
        driver.upload(address, np.ascontiguousarray(array))
    return address


def prepared(driver: Driver, function: Any, grid: int, block: int, shared: int, *parameters: Any, waits: bool = False) -> PreparedLaunch:
    """A launch; integers are addresses, ctypes values are taken as they are; `waits`: as of `PreparedLaunch`."""
    values = tuple(ctypes.c_uint64(p) if isinstance(p, int) else p for p in parameters)
    launch = PreparedLaunch(function, (grid, 1, 1), (block, 1, 1), shared, values, "a test's kernel", waits=waits)
    driver.check(launch)
    return launch


@dataclass(frozen=True)
class Mapped:
    """An array that a kernel is given as a map for the copy engine."""

    array: np.ndarray
    described: TensorMap


def run(driver: Driver, kernels: Kernels, symbol: str, grid: int, block: int, *parameters: Any, shared: int = 0) -> list[np.ndarray]:
    """Runs a kernel over arrays, maps and integers; the arrays as they are afterwards."""
    arrays, kept, maps = [], [], []
    values: list[Any] = []
    for p in parameters:
        if isinstance(p, Mapped):
            maps.append(placed(driver, p.array))
            values.append(packed_tensor_map(driver.tensor_map(p.described, maps[-1])))
        elif isinstance(p, np.ndarray):
            arrays.append(p)
            kept.append(placed(driver, p))
            values.append(kept[-1])
        else:
            values.append(ctypes.c_int32(p))
    driver.launch(prepared(driver, kernels.functions(driver)[symbol], grid, block, shared, *values))
    out = [np.empty_like(a, order="C") for a in arrays]
    for array, address in zip(out, kept):
        driver.download(array, address)
    for address in (*kept, *maps):
        driver.release(address)
    return out
