"""The CUDA emulator as a device: memory of this machine, kernels by `drivers.emulator`, one after the other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...core import dtypes
from ...core.errors import TargetError
from ...core.executable import TensorMap
from . import emulator
from .cuda_context import check_fits
from .device import TENSOR_MAP_BYTES, PreparedLaunch
from .host_memory import HostMemory

SHARED_BYTES = 232_448  # of a block on sm_90a, the most that any schedule may take
THREADS = 1024


@dataclass(frozen=True)
class Function:
    """A kernel of a loaded shared object."""

    module: emulator.Module
    symbol: str


class EmulatorDriver(HostMemory):
    """A `Driver`. `order` and `seed`: in which order threads run, as of `emulator.load`; `workers`: OS threads that share a grid's blocks.

    A faulty kernel is an `emulator.KernelFault`, which names the kernel, its line, the model's, the block and the thread. Programs compiled for
    "cuda-emulated:checked" have every access checked, see `backend_cuda/emulator/checks.cpp`.
    """

    name = "emulator"
    arch = "emulated"
    device = "the CUDA emulator"

    def __init__(self, order: str = "forward", seed: int = 0, workers: int = 2, limit: int | None = None):
        super().__init__(limit)
        self._options: dict[str, Any] = {"order": order, "seed": seed, "workers": workers}

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Function]:
        module = emulator.load(code, **self._options)
        return {s: Function(module, s) for s in symbols}

    def tensor_map(self, described: TensorMap, address: int) -> bytes:
        """As `TensorMap` of `backend_cuda/device/tma.cuh` lies; TargetError for what CUDA's driver refuses too."""
        tf32 = described.dtype == dtypes.TF32
        size = 4 if tf32 else dtypes.BY_NAME[described.dtype].bytes
        rank, span = len(described.dims), described.box[0] * size
        strides, steps = (*described.strides, *[0] * (5 - rank)), described.steps or (1,) * rank
        if (
            address % 16
            or any(s % 16 for s in described.strides)
            or not all(1 <= n * step <= 256 for n, step in zip(described.box, steps))
            or not 1 <= rank <= 5
        ):
            raise TargetError("the copy engine cannot take this tensor map", notes=[str(described)])
        if steps[0] != 1 or not all(1 <= step <= 8 for step in steps):
            raise TargetError("a tensor map whose steps the copy engine cannot take", notes=[str(described)])
        if span % 16 or (described.swizzle and span > described.swizzle):
            raise TargetError(f"a tensor map whose box is {span} bytes wide, with a swizzle of {described.swizzle}", notes=[str(described)])
        padding = (0,) * (5 - rank)
        lists = (*described.dims, *padding, *described.box, *padding, *steps, *padding)
        packed = struct.pack("=Q4Q5I5I5I4I", address, *strides[:4], *lists, rank, size, described.swizzle, tf32)
        return packed + bytes(TENSOR_MAP_BYTES - len(packed))

    def check(self, launch: PreparedLaunch) -> None:
        check_fits(self.device, launch, THREADS, 0, SHARED_BYTES)

    def launch(self, launch: PreparedLaunch) -> None:
        self._launch(launch, None)

    def _launch(self, launch: PreparedLaunch, known: emulator.Known | None) -> None:
        function: Function = launch.function
        values = launch.grid, launch.block, launch.shared_bytes, launch.parameters, launch.buffers, launch.label, known
        function.module.launch(function.symbol, *values)

    def graph(self, launches: Sequence[PreparedLaunch], whole: bool = False) -> Callable[[], None]:
        kept = tuple(launches)

        def run() -> None:
            checked = any(launch.function.module.checked for launch in kept)
            known = emulator.Known(b for launch in kept for b in launch.buffers if b.fresh) if checked else None
            for launch in kept:
                self._launch(launch, known)

        return run


@lru_cache(maxsize=1)
def emulator_driver() -> EmulatorDriver:
    """The emulator, one for the process."""
    return EmulatorDriver()
