"""The CUDA driver, through cuda-bindings: the primary context of one device, one stream, a program's launches as one graph.

`DSLC_CUDA_SYNC=1` runs without graphs and waits after each launch, so that a failure names its kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
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

# After these the context is dead: no call on it succeeds any more.
STICKY = frozenset(
    f"CUDA_ERROR_{e}"
    for e in (
        *("ILLEGAL_ADDRESS", "LAUNCH_FAILED", "LAUNCH_TIMEOUT", "MISALIGNED_ADDRESS", "ILLEGAL_INSTRUCTION", "INVALID_PC", "ASSERT"),
        *("HARDWARE_STACK_ERROR", "INVALID_ADDRESS_SPACE", "ECC_UNCORRECTABLE", "NVLINK_UNCORRECTABLE", "CONTAINED", "MPS_CLIENT_TERMINATED"),
        *("CONTEXT_IS_DESTROYED", "UNKNOWN"),
    )
)
FIRST_GRAPH = 16  # launches
IN_USE = frozenset({"cuMemFree", "cuMemFreeHost", "cuModuleUnload"})  # calls that give back what work on the stream may still use
WRONG_IMAGE = frozenset({"CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"})


@dataclass(frozen=True)
class Function:
    """A kernel; it keeps its module loaded."""

    handle: Any
    module: _Module
    name: str


class _Module:
    def __init__(self, driver: CudaDriver, handle: Any):
        weakref.finalize(self, driver.discard, "cuModuleUnload", handle)


@dataclass
class _Packed:
    """A launch as `cuLaunchKernel` takes it. `values` and `pointers` are alive as long as the launch is."""

    handle: Any
    shape: tuple[int, ...]
    shared_bytes: int
    values: tuple[Any, ...]
    pointers: Any
    label: str
    waits: bool

    @staticmethod
    def of(launch: PreparedLaunch) -> _Packed:
        pointers = (ctypes.c_void_p * max(len(launch.parameters), 1))(*(ctypes.addressof(p) for p in launch.parameters))
        shape, values = (*launch.grid, *launch.block), launch.parameters
        return _Packed(launch.function.handle, shape, launch.shared_bytes, values, pointers, launch.label, launch.waits)


def pieces(count: int) -> Iterator[tuple[int, int]]:
    """The graphs of so many launches, first and last: to start one takes the host a microsecond or two a launch (H200: 0.5 ms of a GPT-2 step), so
    the first is short, and while it runs the host starts the next, twice as long."""
    first, size = 0, FIRST_GRAPH
    while count - first > 2 * size:
        yield first, first + size
        first, size = first + size, 2 * size
    yield first, count


class CudaDriver:
    """One CUDA device as a `Driver`. Make it by `cuda_driver()`: programs that share parameters must share the driver."""

    name = "cuda"
    kind = 2
    stops_midway = False

    def __init__(self, ordinal: int = 0):
        self._api = _api()
        self.ordinal = ordinal
        self._sync = waits_for_each()
        self._garbage: deque[tuple[str, Any]] = deque()
        self._downloads = Downloads(self)
        self._dead = ""
        self._device = self._do("cuDeviceGet", ordinal)
        name = self._do("cuDeviceGetName", 100, self._device)
        self.device = f"{name.split(bytes(1))[0].decode()} (device {ordinal})"
        self.arch = arch_of(self.device, (self._attribute("COMPUTE_CAPABILITY_MAJOR"), self._attribute("COMPUTE_CAPABILITY_MINOR")))
        self._overlap = self._attribute("COMPUTE_CAPABILITY_MAJOR") >= 9  # which has launches that overlap
        self.shared_bytes = self._attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        context = self._do("cuDevicePrimaryCtxRetain", self._device)
        self._turn = Turn(lambda: self._do("cuCtxPushCurrent", context), self._api.cuCtxPopCurrent, self._clean)
        with self.lock:
            self._stream = self._do("cuStreamCreate", int(self._api.CUstream_flags.CU_STREAM_NON_BLOCKING))

    # ---- calls

    @property
    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Within, this thread alone uses the driver, and the device's context is current."""
        return self._turn.entered()

    def _do(self, call: str, *arguments: Any, doing: str = "") -> Any:
        """A call of the driver API: its results. TargetError with the error's name and text, or where the driver is too old to have the call."""
        if self._dead:
            raise TargetError(f"{self.device} failed before: {self._dead}", help="this process cannot use it any more: start again")
        try:
            status, *values = getattr(self._api, call)(*arguments)
        except (RuntimeError, AttributeError) as error:  # cuda-bindings: the driver lacks it, or these bindings do
            raise TargetError(f"the CUDA driver has no {call}: {error}", help="a newer driver of NVIDIA, or a newer cuda-bindings") from None
        if status != self._api.CUresult.CUDA_SUCCESS:
            self._fail(status, doing or call)
        return values[0] if len(values) == 1 else values

    def _fail(self, status: Any, doing: str) -> None:
        name = getattr(status, "name", str(status))
        text = self._api.cuGetErrorString(status)[1]
        said = f"{doing}: {name}" + (f", {text.decode()}" if text else "")
        if name in STICKY:
            self._dead = said
            help = None if self._sync else "set DSLC_CUDA_SYNC=1 to learn which kernel it was"
            raise TargetError(f"{self.device} failed in {said}", help=help)
        raise TargetError(f"the CUDA driver refuses {said}")

    def _attribute(self, name: str) -> int:
        return int(self._do("cuDeviceGetAttribute", getattr(self._api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), self._device))

    def discard(self, call: str, handle: Any) -> None:
        """Calls `call(handle)` when the driver is next used: finalizers run at any moment, in the middle of a capture too."""
        self._garbage.append((call, handle))

    def _clean(self) -> None:
        if not self._dead and any(call in IN_USE for call, _ in self._garbage):
            self._api.cuStreamSynchronize(self._stream)
        while self._garbage and not self._dead:
            call, handle = self._garbage.popleft()
            getattr(self._api, call)(handle)

    # ---- memory

    def allocate(self, size: int) -> int:
        with self.lock:
            self._clean()
            status, address = self._api.cuMemAlloc(max(size, 1))
            if status == self._api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                free, total = self._do("cuMemGetInfo")
                raise BudgetError(f"the program needs {size:,} bytes, {free:,} of {total:,} are free on {self.device}", help="a smaller batch")
            if status != self._api.CUresult.CUDA_SUCCESS:
                self._fail(status, f"an allocation of {size:,} bytes")
            return int(address)

    def release(self, address: int) -> None:
        self.discard("cuMemFree", self._api.CUdeviceptr(address))

    def staging(self, size: int) -> np.ndarray:
        if not size:
            return np.empty(0, np.uint8)
        with self.lock:
            address = int(self._do("cuMemHostAlloc", size, 0, doing=f"{size:,} bytes of pinned host memory"))
        raw = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(raw, self.discard, "cuMemFreeHost", address)
        return np.frombuffer(memoryview(raw), np.uint8)

    def upload(self, address: int, array: np.ndarray) -> None:
        with self.lock:
            self._do("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        with self.lock:
            self._downloads.fill(array, address)

    def start_download(self, array: np.ndarray, address: int) -> None:
        with self.lock:
            self._do("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def copy(self, target: int, source: int, size: int) -> None:
        with self.lock:
            self._do("cuMemcpyDtoDAsync", target, source, size, self._stream)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        device, rectangle = self._api.CUmemorytype.CU_MEMORYTYPE_DEVICE, self._api.CUDA_MEMCPY2D()
        rectangle.srcMemoryType, rectangle.srcDevice, rectangle.srcPitch = device, self._api.CUdeviceptr(source), source_pitch
        rectangle.dstMemoryType, rectangle.dstDevice, rectangle.dstPitch = device, self._api.CUdeviceptr(target), target_pitch
        rectangle.WidthInBytes, rectangle.Height = width, rows
        with self.lock:
            try:
                self._do("cuMemcpy2DAsync", rectangle, self._stream, doing=f"a copy of {rows:,} rows of {width:,} bytes")
            except TargetError:  # between places of one device it may refuse pitches that are not cuMemAllocPitch's
                if self._dead:
                    raise
                for k in range(rows):
                    self.copy(target + k * target_pitch, source + k * source_pitch, width)

    # ---- kernels

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Function]:
        with self.lock:
            status, handle = self._api.cuModuleLoadData(code)
            if status != self._api.CUresult.CUDA_SUCCESS:
                if status.name in WRONG_IMAGE:
                    known = self._do("cuDriverGetVersion")
                    help = f"compile the program for it; the driver knows CUDA {known // 1000}.{known % 1000 // 10}, and no code of a later compiler"
                    raise TargetError(f"{self.device} ({self.arch}) cannot run this machine code: {status.name}", help=help)
                self._fail(status, "loading kernels")
            module = _Module(self, handle)
            return {s: Function(self._do("cuModuleGetFunction", handle, s.encode(), doing=f"function {s}"), module, s) for s in symbols}

    def tensor_map(self, described: TensorMap, address: int) -> bytes:
        with self.lock:
            return tensor_maps.encoded(described, address)

    def check(self, launch: PreparedLaunch) -> None:
        attributes, function = self._api.CUfunction_attribute, launch.function
        with self.lock:
            most = self._do("cuFuncGetAttribute", attributes.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function.handle)
            static = self._do("cuFuncGetAttribute", attributes.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function.handle)
            check_fits(self.device, launch, most, static, self.shared_bytes)
            dynamic = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            wanted = dynamic_shared(launch, static, self._do("cuFuncGetAttribute", dynamic, function.handle))
            if wanted is not None:
                self._do("cuFuncSetAttribute", function.handle, dynamic, wanted)

    def launch(self, launch: PreparedLaunch) -> None:
        with self.lock:
            self._start(_Packed.of(launch))

    def _start(self, p: _Packed) -> None:
        self._do("cuLaunchKernel", p.handle, *p.shape, p.shared_bytes, self._stream, ctypes.addressof(p.pointers), 0, doing=p.label)
        if self._sync:
            self._do("cuStreamSynchronize", self._stream, doing=p.label)

    def _start_early(self, p: _Packed) -> None:
        """Starts a kernel that itself waits for the launches before it (griddepcontrol)."""
        api = self._api
        config, attribute = api.CUlaunchConfig(), api.CUlaunchAttribute()
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        for name, n in zip(("gridDimX", "gridDimY", "gridDimZ", "blockDimX", "blockDimY", "blockDimZ"), p.shape):
            setattr(config, name, n)
        config.sharedMemBytes, config.hStream, config.attrs, config.numAttrs = p.shared_bytes, self._stream, [attribute], 1
        self._do("cuLaunchKernelEx", config, p.handle, ctypes.addressof(p.pointers), 0, doing=p.label)

    def graph(self, launches: Sequence[PreparedLaunch], whole: bool = False) -> Callable[[], None]:
        packed = [_Packed.of(launch) for launch in launches]
        if self._sync or not packed:
            return lambda: self._start_all(packed)
        functions = tuple(launch.function for launch in launches)
        with self.lock:
            parts = [(0, len(packed))] if whole else pieces(len(packed))
            graphs = [_Graph(self, self._instantiated(packed[first:last]), functions) for first, last in parts]
        return lambda: self._start_graphs(graphs)

    def _instantiated(self, packed: Sequence[_Packed]) -> Any:
        """The graph of some launches, which overlap where the driver's graphs can do that (12.3 and newer)."""
        if self._overlap:
            try:
                return self._graph_of(packed)
            except TargetError:
                if self._dead:
                    raise
                self._overlap = False
        return self._graph_of(packed)

    def _graph_of(self, packed: Sequence[_Packed]) -> Any:
        graph = self._captured(packed)
        try:
            return self._do("cuGraphInstantiate", graph, 0)
        finally:
            self._api.cuGraphDestroy(graph)

    def _start_graphs(self, graphs: Sequence[_Graph]) -> None:
        with self.lock:
            for graph in graphs:
                self._do("cuGraphLaunch", graph.handle, self._stream, doing="a program's graph")

    def _start_all(self, packed: Sequence[_Packed]) -> None:
        with self.lock:
            for one in packed:
                self._start(one)

    def _captured(self, packed: Sequence[_Packed]) -> Any:
        self._do("cuStreamBeginCapture", self._stream, self._api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            for k, one in enumerate(packed):
                if k and self._overlap and one.waits:
                    self._start_early(one)
                else:
                    self._start(one)
        except BaseException:
            status, graph = self._api.cuStreamEndCapture(self._stream)
            if status == self._api.CUresult.CUDA_SUCCESS:
                self._api.cuGraphDestroy(graph)
            raise
        return self._do("cuStreamEndCapture", self._stream)

    # ---- order and time

    def mark(self) -> Any:
        with self.lock:
            event = _Event(self, self._do("cuEventCreate", 0))
            self._do("cuEventRecord", event.handle, self._stream)
            return event

    def wait(self, mark: _Event) -> None:
        with self.lock:
            self._do("cuEventSynchronize", mark.handle, doing="a program")

    def elapsed(self, first: _Event, second: _Event) -> float:
        with self.lock:
            return float(self._do("cuEventElapsedTime", first.handle, second.handle)) / 1e3

    def order_after(self, stream: int) -> None:
        with self.lock:
            event = _Event(self, self._do("cuEventCreate", int(self._api.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
            self._do("cuEventRecord", event.handle, self._api.CUstream(stream))
            self._do("cuStreamWaitEvent", self._stream, event.handle, 0)

    def stream_for_dlpack(self) -> int:
        return int(self._stream)

    def synchronize(self) -> None:
        with self.lock:
            self._do("cuStreamSynchronize", self._stream, doing="a program")


class _Graph:
    def __init__(self, driver: CudaDriver, handle: Any, functions: tuple[Function, ...]):
        self.handle, self._functions = handle, functions  # the functions keep their modules loaded
        weakref.finalize(self, driver.discard, "cuGraphExecDestroy", handle)


class _Event:
    def __init__(self, driver: CudaDriver, handle: Any):
        self.handle = handle
        weakref.finalize(self, driver.discard, "cuEventDestroy", handle)


def _api() -> Any:
    """cuda-bindings' driver module, initialized; TargetError says what is missing."""
    try:
        from cuda.bindings import driver
    except ImportError:
        raise TargetError("cuda-bindings is not installed", help="pip install cuda-bindings") from None
    try:
        (status,) = driver.cuInit(0)
        count = driver.cuDeviceGetCount()[1] if status == driver.CUresult.CUDA_SUCCESS else 0
    except (RuntimeError, OSError, ImportError):
        raise TargetError("there is no CUDA driver on this machine (libcuda.so.1)", help="install NVIDIA's driver, or use --target cpu") from None
    if status != driver.CUresult.CUDA_SUCCESS and status != driver.CUresult.CUDA_ERROR_NO_DEVICE:
        raise TargetError(f"the CUDA driver does not start: {status.name}", help="does the driver fit the kernel, and is the device allowed here?")
    if not count:
        raise TargetError("the CUDA driver finds no GPU", help="see nvidia-smi and CUDA_VISIBLE_DEVICES")
    return driver


@lru_cache(maxsize=8)
def cuda_driver(ordinal: int = 0) -> CudaDriver:
    """The driver of a device, one for the process. TargetError where the driver, the device or cuda-bindings is not there."""
    return CudaDriver(ordinal)
