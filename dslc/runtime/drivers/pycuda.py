"""The CUDA driver, through pycuda: for programs that live in a host's pycuda context, or where cuda-bindings is not installed.

The context that is current when the driver is made is used, else the device's primary one. pycuda has no graphs: a program's launches are started
one by one. `DSLC_CUDA_SYNC=1` waits after each, so that a failure names its kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ...core.errors import BudgetError, TargetError
from ...core.executable import TensorMap
from . import tensor_maps
from .cuda_context import Turn, arch_of, check_fits, dynamic_shared, waits_for_each
from .device import PreparedLaunch
from .transfers import Downloads


@dataclass(frozen=True)
class Function:
    """A kernel, and its module, which must stay loaded."""

    handle: Any
    module: Any


class PycudaDriver:
    """One CUDA device as a `Driver`. Make it by `pycuda_driver()`: programs that share parameters must share the driver."""

    name = "pycuda"
    kind = 2
    stops_midway = False

    def __init__(self, ordinal: int = 0):
        self._api = _api()
        self._sync = waits_for_each()
        self._dead = ""
        self._memory: dict[int, Any] = {}
        self._garbage: deque[int] = deque()
        self._downloads = Downloads(self)
        current = self._api.Context.get_current()
        device = self._api.Context.get_device() if current is not None else self._api.Device(ordinal)
        context = current if current is not None else device.retain_primary_context()
        self._turn = Turn(context.push, self._api.Context.pop, self._clean)
        self.ordinal = _ordinal(self._api, device)
        self.device = f"{device.name()} (device {self.ordinal})"
        self.arch = arch_of(self.device, device.compute_capability())
        self.shared_bytes = device.get_attribute(self._api.device_attribute.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        with self.lock:
            self._stream = self._api.Stream(_NON_BLOCKING)

    # ---- calls

    @property
    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Within, this thread alone uses the driver, and the context is current."""
        return self._turn.entered()

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """pycuda's errors as TargetError. After one of a launch or of waiting the context is taken for dead."""
        if self._dead:
            raise TargetError(f"{self.device} failed before: {self._dead}", help="this process cannot use it any more: start again")
        try:
            yield
        except self._api.MemoryError:
            raise
        except self._api.Error as error:
            said = f"{doing}: {error}"
            if not isinstance(error, self._api.LaunchError) and not any(words in str(error) for words in _FATAL):
                raise TargetError(f"the CUDA driver refuses {said}") from None
            self._dead = said
            help = None if self._sync else "set DSLC_CUDA_SYNC=1 to learn which kernel it was"
            raise TargetError(f"{self.device} failed in {said}", help=help) from None

    def _clean(self) -> None:
        """Memory is given back when the driver is next used: finalizers run at any moment."""
        while self._garbage and not self._dead:
            self._memory.pop(self._garbage.popleft()).free()

    # ---- memory

    def allocate(self, size: int) -> int:
        with self.lock:
            self._clean()
            try:
                with self._told(f"an allocation of {size:,} bytes"):
                    memory = self._api.mem_alloc(max(size, 1))
            except self._api.MemoryError:
                free, total = self._api.mem_get_info()
                raise BudgetError(
                    f"the program needs {size:,} bytes, {free:,} of {total:,} are free on {self.device}", help="a smaller batch"
                ) from None
            self._memory[int(memory)] = memory
            return int(memory)

    def release(self, address: int) -> None:
        self._garbage.append(address)

    def staging(self, size: int) -> np.ndarray:
        if not size:
            return np.empty(0, np.uint8)
        with self.lock, self._told(f"{size:,} bytes of pinned host memory"):
            found: np.ndarray = self._api.pagelocked_empty(size, np.uint8)
        return found

    def upload(self, address: int, array: np.ndarray) -> None:
        with self.lock, self._told("a copy to the device"):
            self._api.memcpy_htod_async(address, array, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        with self.lock:
            self._downloads.fill(array, address)

    def start_download(self, array: np.ndarray, address: int) -> None:
        with self.lock, self._told("a program"):
            self._api.memcpy_dtoh_async(array, address, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        with self.lock, self._told("a copy on the device"):
            self._api.memcpy_dtod_async(target, source, size, self._stream)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        rectangle = self._api.Memcpy2D()
        rectangle.set_src_device(source)
        rectangle.set_dst_device(target)
        rectangle.src_pitch, rectangle.dst_pitch = source_pitch, target_pitch
        rectangle.width_in_bytes, rectangle.height = width, rows
        with self.lock:
            try:
                with self._told(f"a copy of {rows:,} rows of {width:,} bytes"):
                    rectangle(self._stream)
            except TargetError:  # see `CudaDriver.copy_rows`
                if self._dead:
                    raise
                for k in range(rows):
                    self.copy(target + k * target_pitch, source + k * source_pitch, width)

    # ---- kernels

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Function]:
        with self.lock:
            try:
                with self._told("loading kernels"):
                    module = self._api.module_from_buffer(code)
            except TargetError as error:
                help = error.help or f"compile the program for {self.arch}"
                raise TargetError(f"{self.device} ({self.arch}) cannot run this machine code: {error.message}", help=help) from None
            with self._told("looking up kernels"):
                return {s: Function(module.get_function(s), module) for s in symbols}

    def tensor_map(self, described: TensorMap, address: int) -> bytes:
        with self.lock:
            return tensor_maps.encoded(described, address)

    def check(self, launch: PreparedLaunch) -> None:
        attributes, function = self._api.function_attribute, launch.function.handle
        with self.lock, self._told(launch.label):
            most = function.get_attribute(attributes.MAX_THREADS_PER_BLOCK)
            static = function.get_attribute(attributes.SHARED_SIZE_BYTES)
            check_fits(self.device, launch, most, static, self.shared_bytes)
            wanted = dynamic_shared(launch, static, function.get_attribute(attributes.MAX_DYNAMIC_SHARED_SIZE_BYTES))
            if wanted is not None:
                function.set_attribute(attributes.MAX_DYNAMIC_SHARED_SIZE_BYTES, wanted)

    def launch(self, launch: PreparedLaunch) -> None:
        with self.lock:
            self._start(launch, packed_parameters(launch.parameters))

    def _start(self, launch: PreparedLaunch, buffer: bytes) -> None:
        function = launch.function.handle
        function.prepare([f"{len(buffer)}s"] if buffer else [])
        arguments = (buffer,) if buffer else ()
        with self._told(launch.label):
            function.prepared_async_call(launch.grid, launch.block, self._stream, *arguments, shared_size=launch.shared_bytes)
            if self._sync:
                self._stream.synchronize()

    def graph(self, launches: Sequence[PreparedLaunch], whole: bool = False) -> Callable[[], None]:
        packed = [(launch, packed_parameters(launch.parameters)) for launch in launches]

        def start() -> None:
            with self.lock:
                for launch, buffer in packed:
                    self._start(launch, buffer)

        return start

    # ---- order and time

    def mark(self) -> Any:
        with self.lock, self._told("an event"):
            event = self._api.Event()
            event.record(self._stream)
            return event

    def wait(self, mark: Any) -> None:
        with self.lock, self._told("a program"):
            mark.synchronize()

    def elapsed(self, first: Any, second: Any) -> float:
        with self.lock, self._told("an event"):
            return float(first.time_till(second)) / 1e3

    def order_after(self, stream: int) -> None:
        with self.lock, self._told("the work of another library"):
            self._api.Context.synchronize()  # pycuda cannot put an event on a stream that is not its own

    def stream_for_dlpack(self) -> int:
        return int(self._stream.handle)

    def synchronize(self) -> None:
        with self.lock, self._told("a program"):
            self._stream.synchronize()


_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
# What the driver says of a context that no call succeeds on any more.
_FATAL = ("illegal memory access", "unspecified launch failure", "misaligned address", "illegal instruction", "device-side assert",
          "hardware stack error", "launch timed out", "uncorrectable ECC", "context is destroyed")  # fmt: skip


def packed_parameters(parameters: Sequence[Any]) -> bytes:
    """The parameters of a launch as one buffer, each at a multiple of its size; tensor maps at one of 64."""
    out = bytearray()
    for p in parameters:
        size = ctypes.sizeof(p)
        out += bytes(-len(out) % min(size, 64)) + bytes(p)
    return bytes(out)


def _ordinal(api: Any, device: Any) -> int:
    return next((k for k in range(api.Device.count()) if api.Device(k) == device), 0)


def _api() -> Any:
    """pycuda's driver module, initialized; TargetError says what is missing."""
    try:
        import pycuda.driver as driver
    except ImportError as error:
        lacking = "there is no CUDA driver on this machine (libcuda.so.1)" if "libcuda" in str(error) else "pycuda is not installed"
        raise TargetError(lacking, help="pip install pycuda; for --target cuda cuda-bindings is enough") from None
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise TargetError(
            f"the CUDA driver does not start: {error}", help="does the driver fit the kernel, and is the device allowed here?"
        ) from None
    if not count:
        raise TargetError("the CUDA driver finds no GPU", help="see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return driver


@lru_cache(maxsize=8)
def pycuda_driver(ordinal: int = 0) -> PycudaDriver:
    """The driver of a device, one for the process. TargetError where the driver, the device or pycuda is not there."""
    return PycudaDriver(ordinal)
