"""The GPU of a host program that uses pycuda: its current context, launches without graphs.

    program = dslc.runtime.load("package", driver=PycudaDriver())      # with `pycuda.autoprimaryctx`, or any context, current

Inputs may be GPUArrays. The context must be current whenever a program runs, is bound, or its parameters are read.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import BudgetError, TargetError
from ...core.executable import TensorMap
from . import tensor_maps
from .cuda import ARCHS
from .device import TENSOR_MAP_ALIGNMENT, TENSOR_MAP_BYTES, Parameter, PreparedLaunch

_SMALLEST_SHARED = 48 << 10  # bytes that a block may have on every device


@dataclass(frozen=True)
class Function:
    """A kernel; it keeps its module loaded."""

    handle: Any
    module: Any


class PycudaDriver:
    """A `Driver` in the context that is current when it is made. Make one and keep it: programs that share parameters must share the driver."""

    name = "pycuda"
    kind = 2
    stops_midway = False

    def __init__(self) -> None:
        self._cuda = _pycuda()
        self._thread_lock = threading.RLock()
        self._buffers: dict[int, Any] = {}
        with self._errors("its context"):
            self._context = self._cuda.Context.get_current()
            if self._context is None:
                raise TargetError("pycuda has no current context", help="import pycuda.autoprimaryctx first")
            device = self._cuda.Context.get_device()
            capability = tuple(device.compute_capability())
            self.device = f"{device.name()} (pycuda)"
            if capability not in ARCHS:
                found = f"{self.device} has compute capability {capability[0]}.{capability[1]}"
                raise TargetError(f"{found}; kernels are made for {', '.join(ARCHS.values())}")
            self.arch = ARCHS[capability]
            devices = [self._cuda.Device(k).pci_bus_id() for k in range(self._cuda.Device.count())]
            self.ordinal = devices.index(device.pci_bus_id())
            optin = getattr(self._cuda.device_attribute, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", None)
            self.shared_bytes = device.get_attribute(optin) if optin is not None else _SMALLEST_SHARED
            self._stream = self._cuda.Stream()

    @property
    def lock(self) -> contextlib.AbstractContextManager[Any]:
        """Within, this thread alone uses the driver. TargetError where another context is current."""
        return self._entered()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        with self._thread_lock:
            if self._cuda.Context.get_current() != self._context:
                raise TargetError("another CUDA context is current than the one that the driver was made in", help="push that context first")
            yield

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:
            raise TargetError(f"pycuda failed in {doing}: {error}") from None

    # ---- memory

    def allocate(self, size: int) -> int:
        with self.lock, self._errors("an allocation"):
            try:
                block = self._cuda.mem_alloc(max(size, 1))
            except self._cuda.MemoryError:
                free, total = self._cuda.mem_get_info()
                raise BudgetError(
                    f"the program needs {size:,} bytes, {free:,} of {total:,} are free on {self.device}", help="a smaller batch"
                ) from None
            self._buffers[int(block)] = block
            return int(block)

    def release(self, address: int) -> None:
        self._buffers.pop(address, None)  # pycuda frees it, in its context

    def staging(self, size: int) -> np.ndarray:
        if not size:
            return np.empty(0, np.uint8)
        with self.lock, self._errors("pinned host memory"):
            return self._cuda.pagelocked_empty(size, np.uint8)

    def upload(self, address: int, array: np.ndarray) -> None:
        with self.lock, self._errors("a copy to the device"):
            self._cuda.memcpy_htod_async(address, _bytes(array), self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        with self.lock, self._errors("a program, or the copy of its results"):
            self._cuda.memcpy_dtoh_async(_bytes(array), address, self._stream)
            self._stream.synchronize()

    def copy(self, target: int, source: int, size: int) -> None:
        with self.lock, self._errors("a copy on the device"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    # ---- kernels

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Function]:
        with self.lock, self._errors("loading kernels"):
            module = self._cuda.module_from_buffer(code)
            return {s: Function(module.get_function(s), module) for s in symbols}

    def tensor_map(self, described: TensorMap, address: int) -> bytes:
        with self.lock:
            return tensor_maps.encoded(described, address)

    def check(self, launch: PreparedLaunch) -> None:
        with self.lock, self._errors(launch.label):
            attributes, function = self._cuda.function_attribute, launch.function.handle
            threads, most = launch.block[0] * launch.block[1] * launch.block[2], function.get_attribute(attributes.MAX_THREADS_PER_BLOCK)
            if threads > most:
                raise TargetError(f"{launch.label} needs {threads} threads a block, {most} are possible on {self.device}")
            wanted = function.get_attribute(attributes.SHARED_SIZE_BYTES) + launch.shared_bytes
            if wanted > self.shared_bytes:
                raise TargetError(f"{launch.label} needs {wanted:,} bytes of shared memory a block, {self.device} has {self.shared_bytes:,}")
            dynamic = attributes.MAX_DYNAMIC_SHARED_SIZE_BYTES
            if launch.shared_bytes > function.get_attribute(dynamic):
                function.set_attribute(dynamic, launch.shared_bytes)

    def launch(self, launch: PreparedLaunch) -> None:
        self._start(launch, packed_parameters(launch.parameters))

    def _start(self, launch: PreparedLaunch, packed: bytes) -> None:
        with self.lock, self._errors(launch.label):
            launch.function.handle._launch_kernel(launch.grid, launch.block, packed, launch.shared_bytes, self._stream)

    def graph(self, launches: Sequence[PreparedLaunch]) -> Callable[[], None]:
        packed = [(launch, packed_parameters(launch.parameters)) for launch in launches]

        def run() -> None:
            for launch, parameters in packed:
                self._start(launch, parameters)

        return run

    # ---- order and time

    def mark(self) -> Any:
        with self.lock, self._errors("an event"):
            return self._cuda.Event().record(self._stream)

    def wait(self, mark: Any) -> None:
        with self.lock, self._errors("a program"):
            mark.synchronize()

    def elapsed(self, first: Any, second: Any) -> float:
        with self.lock, self._errors("an event"):
            return float(first.time_till(second)) / 1e3

    def order_after(self, stream: int) -> None:
        with self.lock, self._errors("another stream's work"):
            self._cuda.Context.synchronize()  # pycuda cannot wait for a stream that it did not make

    def stream_for_dlpack(self) -> int:
        return int(self._stream.handle)

    def synchronize(self) -> None:
        with self.lock, self._errors("a program"):
            self._stream.synchronize()


def packed_parameters(parameters: Sequence[Parameter]) -> bytes:
    """The buffer of a kernel's parameters: each at a multiple of its size, a tensor map at one of 64 bytes."""
    out = bytearray()
    for value in parameters:
        size = ctypes.sizeof(value)
        alignment = TENSOR_MAP_ALIGNMENT if size == TENSOR_MAP_BYTES else size
        out += bytes(-len(out) % alignment) + bytes(value)
    return bytes(out)


def _bytes(array: np.ndarray) -> np.ndarray:
    """The same memory as uint8: pycuda takes no array of the narrow floats."""
    return array.reshape(-1).view(np.uint8)


def _pycuda() -> Any:
    try:
        import pycuda.driver as cuda
    except ImportError as error:
        missing = "pycuda is not installed" if getattr(error, "name", "") == "pycuda" else f"pycuda does not start: {error}"
        raise TargetError(missing, help="pip install pycuda, on a machine with NVIDIA's driver and CUDA's headers") from None
    return cuda
