"""The protocol that DeviceProgram needs of a device: memory, copies, modules, launches, graphs, events.

Addresses are plain integers. Work is in the order of the calls, on one stream that belongs to the driver: an upload, copy, fill or launch may return
before it is done, `download` and `synchronize` wait. Errors are `dslc.core.errors` classes: BudgetError where memory does not suffice, TargetError
where the device is not there or has failed, with the name of the kernel where it is known.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...core.executable import TensorMap

ALIGNMENT = 256  # bytes: of every buffer that `allocate` gives
TENSOR_MAP_BYTES = 128
TENSOR_MAP_ALIGNMENT = 64

Parameter = Any  # of a kernel: a ctypes value (c_uint64 a pointer, c_int32 a number, an array of 128 bytes a tensor map)


@dataclass(frozen=True)
class Buffer:
    """Memory that a launch may touch, by the name that the kernel has for it; `addresses`: it holds addresses of other buffers; `fresh`: what an
    earlier run has left there is of no use, each run writes it before it reads it; `steady`: no launch of the program writes it."""

    name: str
    address: int
    bytes: int
    written: bool
    addresses: bool = False
    fresh: bool = False
    steady: bool = False


@dataclass(frozen=True)
class PreparedLaunch:
    """A launch with its parameters ready. `label` names the kernel and its model lines in errors; `function` is what `Driver.load` gave. `buffers`:
    all global memory that it may touch, where the executable says so; `waits`: it may be started while the launches before it run, which it waits for
    itself."""

    function: Any
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    parameters: tuple[Parameter, ...]
    label: str
    buffers: tuple[Buffer, ...] = ()
    waits: bool = False


class Driver(Protocol):
    """One device."""

    name: str  # "cuda", "pycuda" or "emulator"
    arch: str  # what its machine code is made for: "sm_90a", "sm_80", ... or "emulated"
    device: str  # in words, for messages
    kind: int  # the device's type in DLPack: 1 memory of the host, 2 a CUDA device
    ordinal: int  # the device's number, in DLPack and in messages
    stops_midway: bool  # a faulty kernel ends a program between launches, and memory stays usable

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Within, this thread alone runs programs on the device."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes, a multiple of ALIGNMENT; BudgetError with the bytes needed and free."""

    def release(self, address: int) -> None:
        """Gives memory back once the work before this call is done. Never raises: it runs when objects are collected."""

    def staging(self, size: int) -> np.ndarray:
        """uint8[size] of host memory that the device copies from and to at full rate; it lives as long as the array does."""

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copies a C-contiguous array to the device. The array may change once a `mark` made after this call has passed."""

    def download(self, array: np.ndarray, address: int) -> None:
        """Fills a C-contiguous array from the device, after all work before."""

    def copy(self, target: int, source: int, size: int) -> None:
        """From device memory to device memory."""

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """From device memory to device memory, so many rows of `width` bytes each; a row begins `pitch` bytes behind the one before. What is written
        is not read."""

    def load(self, code: bytes, symbols: Sequence[str]) -> dict[str, Any]:
        """The functions of a module, by symbol. They live as long as the driver, or as any of them is held."""

    def tensor_map(self, described: TensorMap, address: int) -> bytes:
        """The 128 bytes that a kernel takes for a tensor at `address`."""

    def check(self, launch: PreparedLaunch) -> None:
        """TargetError where this launch can never run: too many threads, too much shared memory. Prepares the function for its shared memory."""

    def launch(self, launch: PreparedLaunch) -> None:
        """Starts one kernel."""

    def graph(self, launches: Sequence[PreparedLaunch], whole: bool = False) -> Callable[[], None]:
        """A function that starts all launches, in order: as graphs where the device has graphs, as one alone if it is to be `whole`, as that of
        launches that are started many times behind each other, so that nobody waits for the host."""

    def mark(self) -> Any:
        """An event behind all work so far."""

    def wait(self, mark: Any) -> None:
        """Waits on the host until an event has passed."""

    def elapsed(self, first: Any, second: Any) -> float:
        """Seconds between two events that have passed."""

    def order_after(self, stream: int) -> None:
        """Work after this call waits for what another library has put on its stream so far (a handle as in `__cuda_array_interface__`)."""

    def stream_for_dlpack(self) -> int:
        """The driver's stream, for `array.__dlpack__(stream=...)`; 0 where there is none."""

    def synchronize(self) -> None:
        """Waits for all work."""


def packed_tensor_map(data: bytes) -> Parameter:
    """The bytes of a tensor map as a kernel's parameter, at an address that is a multiple of 64."""
    raw = np.zeros(TENSOR_MAP_BYTES + TENSOR_MAP_ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % TENSOR_MAP_ALIGNMENT
    raw[start : start + TENSOR_MAP_BYTES] = np.frombuffer(data, np.uint8)
    return (ctypes.c_uint8 * TENSOR_MAP_BYTES).from_buffer(raw[start:].data)
