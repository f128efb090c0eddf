"""A program on a device: fixed buffers, the launches of its executable, copies of inputs and results; over any Driver.

One allocation holds what is the program's own, in this order, every buffer at a multiple of 256 bytes:

    [constants][tables of pointers][arena][scalars][inputs][small results][large results]

Scalars and inputs that come from the host are written to staging memory and copied at once; small results come back at once. Parameters and states
lie in the store's Residence. No address changes between runs, so that a driver may capture all launches as one graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...core import dtypes
from ...core.errors import DataError, TargetError
from ...core.executable import NEXT_TURN, WAITS, Executable, Launch, Operand, Port, unpack_modules
from ..binding import Shorter, described, fit_input, fit_inputs, padded
from ..program import check_kept, check_out, written_ports
from ..spare import Spare
from ..store import ParameterStore
from .device import ALIGNMENT, Buffer, Driver, Parameter, PreparedLaunch, packed_tensor_map
from .device_arrays import DeviceArray, device_array
from .residence import Block, Placed, Residence
from .transfers import LEAST, send

HOST_SCALARS = ("seed", "step", "microbatch")  # every call is given these
SMALL = 64 << 10  # bytes: results up to this size come back in one copy
POINTER = 8  # bytes
Given = np.ndarray | DeviceArray


@dataclass(frozen=True)
class _Layout:
    """Offsets in the program's memory, by slot; `[feed, fed)` holds scalars and inputs, `[small, big)` the small results."""

    offsets: dict[int, int]
    pointers: tuple[int, ...]  # of each table
    arena: int
    feed: int
    fed: int
    small: int
    big: int
    bytes: int

    @staticmethod
    def of(executable: Executable, fed: Sequence[Port], results: Sequence[Port]) -> _Layout:
        pointers, arena = [], _padded(len(executable.constants))
        for table in executable.pointers:
            pointers.append(arena)
            arena += _padded(len(table) * POINTER)
        feed = arena + _padded(executable.arena_bytes)
        offsets: dict[int, int] = {}
        after_fed = _stack(offsets, fed, feed)
        after_small = _stack(offsets, [p for p in results if p.bytes <= SMALL], after_fed)
        end = _stack(offsets, [p for p in results if p.bytes > SMALL], after_small)
        return _Layout(offsets, tuple(pointers), arena, feed, after_fed, after_fed, after_small, max(end, ALIGNMENT))


@dataclass(frozen=True)
class _Turns:
    """Runs that follow each other: the inputs and the result that go on, how many runs there is room for, in `memory` the number of the run that is
    next and how many are led, at `led` their inputs, at `ring` the small results of each; and what starts one."""

    names: tuple[str, str, str]
    room: int
    memory: Block
    led: int
    ring: int
    start: Callable[[], None]


def _stack(offsets: dict[int, int], ports: Iterable[Port], at: int) -> int:
    for port in ports:
        offsets[port.slot] = at
        at += _padded(port.bytes)
    return at


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


class DeviceProgram:
    """A Program (`runtime.program`). Calls on one device wait for each other, from whichever thread they come.

    Inputs are numpy arrays, or arrays of torch, cupy, jax or pycuda that lie on this device: those are copied there, and padded there where they are
    `Shorter`, not through the host, but for inputs used as indices, whose values are checked on the host.
    """

    pads = True  # takes `Shorter` inputs

    def __init__(self, executable: Executable, driver: Driver):
        check_target(executable, driver)
        self.executable, self._driver = executable, driver
        ports = executable.ports
        self._scalars = [p for p in ports if p.role == "scalar" and p.name in HOST_SCALARS]
        self._inputs = [p for p in ports if p.role == "input" or (p.role == "scalar" and p.name not in HOST_SCALARS)]
        self._results = executable.ports_of("output", "loss", "metric")
        self._kept = executable.ports_of("param", "state", "prepared")
        self._written = written_ports(executable)
        self._layout = _Layout.of(executable, [*self._scalars, *self._inputs], self._results)
        self._functions = _load(executable, driver)
        self._block = Block(driver, self._layout.bytes)
        self._memory = self._block.address
        if executable.constants:
            driver.upload(self._memory, np.frombuffer(executable.constants, np.uint8))
        self._spare = {p.slot: Spare(p.bytes) for p in self._results}
        self._staging = _Staging(driver, self._layout.fed - self._layout.feed)
        self._returned = driver.staging(self._layout.big - self._layout.small)
        self._store: ParameterStore | None = None
        self._residence: Residence | None = None
        self._places: list[Placed] = []  # of the params and states, and of those that a run changes
        self._changing: list[Placed] = []
        self._tables: list[np.ndarray] = []  # of pointers: kept, as the driver may read them later
        self._launches: list[PreparedLaunch] = []
        self._start: Callable[[], None] | None = None
        self._turns: _Turns | None = None  # of `again`
        self._warned: set[str] = set()
        if not self._kept:
            self._prepare({})

    def bind(self, store: ParameterStore) -> None:
        """Param and state ports use the store's values from now on, on the device. DataError where one does not fit."""
        check_kept(self._kept, store)
        with self._driver.lock:
            residence: Residence = store.residence(self._driver, lambda: Residence(self._driver))
            placed = residence.place(store, self._kept)
            self._prepare({p.slot: placed[p.name].copy.address for p in self._kept})
            self._places, self._changing = list(placed.values()), [placed[name] for name in self._written]
            self._store, self._residence = store, residence

    def __call__(
        self, inputs: Mapping[str, Any], *, seed: int = 0, step: int = 0, microbatch: int = 0, out: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs once. Gives output, loss and metric ports by name; `out` holds C-contiguous host arrays to write some of them to.

        DataError where an input or an `out` does not fit; TargetError where the device fails. Parameters are then as they were before, unless the
        device itself is lost.
        """
        if self._kept and self._store is None:
            raise DataError("the program has parameters or states: bind a ParameterStore first")
        if out:
            check_out(self._results, out)
        with self._driver.lock:
            given = self._read(inputs)
            self._bring()
            self._feed(given, {"seed": seed, "step": step, "microbatch": microbatch})
            with self._changes():
                assert self._start is not None
                self._start()
                return self._collect(out or {})

    def again(
        self, inputs: Mapping[str, Any], turns: int, *, carried: str, found: str, counted: str, led: Sequence[np.ndarray] = ()
    ) -> dict[str, np.ndarray]:
        """Runs `turns` times, and the host waits for the last one alone. `carried`: the input that is the result `found` of the run before, in all
        runs but the first and those after it that `led` has a value for; `counted`: an int32 input that is one more in each run. Gives the small
        results (of at most `SMALL` bytes), [turns, ...].

        Errors as those of a call; DataError where the carried input and its result differ in type or number of elements, and for a program that was
        not made to go on by itself.
        """
        layout, names = self._layout, (carried, found, counted)
        returned = layout.big - layout.small
        with self._driver.lock:
            given = self._read(inputs)
            if self._turns is None or self._turns.names != names or self._turns.room < turns:
                self._turns = self._going_on(names, turns)
            self._bring()
            self._feed(given, dict.fromkeys(HOST_SCALARS, 0))
            at, numbers = self._turns.memory.address, np.asarray([0, len(led)], np.int32)
            self._driver.upload(at, numbers)
            following = np.stack(led) if led else np.empty(0, np.int32)
            if led:
                self._driver.upload(at + self._turns.led, following)
            with self._changes():
                for _ in range(turns):
                    self._turns.start()
                ring = np.empty((turns, returned), np.uint8)
                self._driver.download(ring, at + self._turns.ring)
        small = {p: layout.offsets[p.slot] - layout.small for p in self._results if p.bytes <= SMALL}
        return {p.name: ring[:, at : at + p.bytes].copy().view(p.dtype.numpy).reshape(turns, *p.shape) for p, at in small.items()}

    def _going_on(self, names: tuple[str, str, str], room: int) -> _Turns:
        """The launches of a run and the one behind them that keeps its small results and makes the next run's inputs, for at least `room` runs."""
        ports = {p.name: p for p in (*self._inputs, *self._results)}
        carried, found, counted = (ports[name] for name in names)
        if (carried.dtype, carried.bytes) != (found.dtype, found.bytes):
            raise DataError(f"the result '{found.name}' cannot be the input '{carried.name}': their types or sizes differ")
        if NEXT_TURN not in self._functions or counted.dtype != dtypes.INT32:
            raise DataError("the program was not made to go on with its own results")
        room = 1 << (room - 1).bit_length()
        size = self._layout.big - self._layout.small
        to_ring = ALIGNMENT + _padded(room * carried.bytes)
        memory = Block(self._driver, to_ring + room * size)
        turn, led, ring, small = memory.address, memory.address + ALIGNMENT, memory.address + to_ring, self._memory + self._layout.small
        at = {p: self._memory + self._layout.offsets[p.slot] for p in (carried, found, counted)}
        places = [turn, small, size // 4, ring, at[counted], counted.bytes // 4, at[found], at[carried], carried.bytes // 4, led]
        parameters = tuple((ctypes.c_int32 if k in (2, 5, 8) else ctypes.c_uint64)(place) for k, place in enumerate(places))
        buffers = [Buffer("turn", turn, 8, True), Buffer("small", small, size, False), Buffer("ring", ring, room * size, True)]
        buffers.append(Buffer("led", led, room * carried.bytes, False))
        buffers += [Buffer(p.name, at[p], p.bytes, p is not found) for p in at]
        waits = WAITS in self.executable.notes
        launch = PreparedLaunch(self._functions[NEXT_TURN], (1, 1, 1), (256, 1, 1), 0, parameters, NEXT_TURN, tuple(buffers), waits)
        return _Turns(names, room, memory, ALIGNMENT, to_ring, self._driver.graph([*self._launches, launch], whole=True))

    @contextlib.contextmanager
    def _changes(self) -> Iterator[None]:
        """Within, the parameters and states that the program writes change on the device; where it fails they are as they were."""
        try:
            yield
        except BaseException:
            if self._residence is not None and self._store is not None:
                self._residence.lost(self._changing)
            raise
        if self._residence is not None and self._store is not None:
            self._residence.written(self._store, self._changing)

    def times(self, turns: int = 20) -> list[float]:
        """Seconds of each of the executable's launches, the mean of `turns` runs behind each other after a first one. Values in memory go astray."""
        found = []
        with self._driver.lock:
            for launch in self._launches:
                self._driver.launch(launch)
                first = self._driver.mark()
                for _ in range(turns):
                    self._driver.launch(launch)
                last = self._driver.mark()
                self._driver.wait(last)
                found.append(self._driver.elapsed(first, last) / turns)
        return found

    # ---- preparation

    def _prepare(self, kept: Mapping[int, int]) -> None:
        """All launches with their parameters, for these addresses of parameters and states."""
        slots = {slot: self._memory + offset for slot, offset in self._layout.offsets.items()} | dict(kept)
        self._tables = [np.asarray([self._address(o, slots) for o in table], np.uint64) for table in self.executable.pointers]
        written = {e.place[:2] for launch in self.executable.launches for e in launch.extents if e.written}
        for at, addresses in zip(self._layout.pointers, self._tables):
            self._driver.upload(self._memory + at, addresses)
        self._launches = [self._prepared(launch, slots, written) for launch in self.executable.launches]
        for launch in self._launches:
            self._driver.check(launch)
        self._start = self._driver.graph(self._launches)
        self._turns = None

    def _prepared(self, launch: Launch, slots: Mapping[int, int], written: Container[Operand]) -> PreparedLaunch:
        kernel = self.executable.kernels[launch.kernel]
        label = f"{kernel.name} ({', '.join(kernel.lines)})" if kernel.lines else kernel.name
        if kernel.symbol not in self._functions:
            raise DataError(f"the compiled program has no function '{kernel.symbol}'", help="compile it again")
        parameters = tuple(self._parameter(o, slots) for o in launch.operands)
        made, waits = {port.slot for port in self._results}, WAITS in self.executable.notes
        buffers = tuple(
            Buffer(e.name, self._address(e.place, slots), e.bytes, e.written, e.place[0] == "pointers",
                   fresh=e.place[0] == "arena" or (e.place[0] == "slot" and e.place[1] in made),
                   steady=e.place[0] == "constant" or (e.place[0] == "slot" and e.place[:2] not in written))
            for e in launch.extents
        )  # fmt: skip
        return PreparedLaunch(self._functions[kernel.symbol], launch.grid, launch.block, launch.shared_bytes, parameters, label, buffers, waits)

    def _parameter(self, operand: Operand, slots: Mapping[int, int]) -> Parameter:
        space, number = operand[0], operand[1]
        if space == "value":
            return ctypes.c_int32(number)
        if space == "tensormap":
            described = self.executable.tensor_maps[number]
            return packed_tensor_map(self._driver.tensor_map(described, self._address(described.place, slots)))
        return ctypes.c_uint64(self._address(operand, slots))

    def _address(self, operand: Operand, slots: Mapping[int, int]) -> int:
        space, number, *offset = operand
        if space == "slot":
            return slots[number] + sum(offset)
        if space == "pointers":
            return self._memory + self._layout.pointers[number]
        return self._memory + number + (self._layout.arena if space == "arena" else 0)

    # ---- a run

    def _read(self, inputs: Mapping[str, Any]) -> list[tuple[Port, Given]]:
        """All inputs, checked, before anything is copied."""
        if len(inputs) != len(self._inputs) or not all(p.name in inputs for p in self._inputs):
            fit_inputs(self._inputs, inputs)  # says which is missing or unknown
        return [(port, self._read_one(port, inputs[port.name])) for port in self._inputs]

    def _read_one(self, port: Port, value: Any) -> Given:
        if type(value) is np.ndarray and port.bounds is None and value.dtype == port.dtype.numpy and value.shape == port.shape:
            return value
        shape = port.shape
        if isinstance(value, Shorter):
            value, port = value.value, value.port
        found = device_array(value, port.name, self._driver.stream_for_dlpack())
        if found is None:
            return padded(fit_input(port, value), shape)
        self._check_device(port, found)
        if found.stream is not None:
            self._driver.order_after(int(found.stream))
        if port.bounds is None and found.contiguous and (found.shape == shape or 0 not in found.shape):
            return found
        if not found.contiguous and port.name not in self._warned:
            self._warned.add(port.name)
            warnings.warn(f"input '{port.name}' is not contiguous: it is copied through the host at every call", stacklevel=4)
        return padded(fit_input(port, self._to_host(found)), shape)

    def _check_device(self, port: Port, found: DeviceArray) -> None:
        declared = f"declared {described(port.dtype, port.shape)}" + (f" (line {port.line})" if port.line else "")
        if found.shape != port.shape or found.dtype != port.dtype:
            raise DataError(f"input '{port.name}' is {described(found.dtype or found.spelled, found.shape)}, {declared}")
        if self._driver.kind != 2:
            raise DataError(f"input '{port.name}' lies on a CUDA device, the program runs on {self._driver.device}", help="give it as a numpy array")
        if found.ordinal is not None and found.ordinal != self._driver.ordinal:
            raise DataError(f"input '{port.name}' lies on CUDA device {found.ordinal}, the program runs on device {self._driver.ordinal}")
        if found.address % port.dtype.bytes:
            raise DataError(f"input '{port.name}' lies at address {found.address:#x}, which is no multiple of its element's {port.dtype.bytes} bytes")

    def _to_host(self, found: DeviceArray) -> np.ndarray:
        """The array's values; of one with gaps all the memory that it spans is copied."""
        assert found.dtype is not None
        if 0 in found.shape:
            return np.empty(found.shape, found.dtype.numpy)
        if any(s < 0 for s in found.strides):
            raise DataError("an array on the device has negative strides", help="make it contiguous first")
        span = 1 + sum((n - 1) * s for n, s in zip(found.shape, found.strides))
        flat = np.empty(span, found.dtype.numpy)
        self._driver.download(flat, found.address)
        strides = [s * flat.itemsize for s in found.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, found.shape, strides))

    def _bring(self) -> None:
        if self._residence is None or self._store is None:
            return
        if self._driver.stops_midway:
            for path in self._written:
                self._store.array(path)  # the host keeps the values of before the run
        self._residence.bring(self._store, self._places)

    def _feed(self, given: Sequence[tuple[Port, Given]], scalars: Mapping[str, int]) -> None:
        """Scalars and inputs to their buffers. What comes from the host is one copy, where nothing comes from elsewhere in between; large arrays go
        in chunks, while others are still copied to the staging memory."""
        offsets, start = self._layout.offsets, self._layout.feed
        buffer = self._staging.next()
        stretches: list[list[int]] = []

        def put(port: Port, array: np.ndarray) -> None:
            at = offsets[port.slot] - start
            if port.bytes > LEAST and array.flags.c_contiguous and array.dtype == port.dtype.numpy:
                place = self._memory + offsets[port.slot]
                send(array, buffer[at : at + port.bytes], lambda k, part: self._driver.upload(place + k, part))
                return
            np.copyto(buffer[at : at + port.bytes].view(port.dtype.numpy).reshape(port.shape), array)
            if stretches and _padded(stretches[-1][1]) == at:
                stretches[-1][1] = at + port.bytes
            elif port.bytes:
                stretches.append([at, at + port.bytes])

        for port in self._scalars:
            wrapped = scalars[port.name] % (1 << port.dtype.bits)
            put(port, np.frombuffer(wrapped.to_bytes(port.dtype.bytes, "little"), port.dtype.numpy).reshape(()))
        for port, value in given:
            if isinstance(value, np.ndarray):
                put(port, value)
            elif port.bytes:
                copy_padded(self._driver, self._memory + offsets[port.slot], port.shape, value.address, value.shape, port.dtype.bytes)
        for first, last in stretches:
            self._driver.upload(self._memory + start + first, buffer[first:last])
        self._staging.used()
        if not self._results and any(isinstance(value, DeviceArray) for _, value in given):
            self._driver.synchronize()  # nothing else waits, and the caller may change its arrays

    def _collect(self, out: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The results in the caller's arrays or in fresh ones; waits for the run."""
        layout, results = self._layout, {}
        if self._returned.size:
            self._driver.download(self._returned, self._memory + layout.small)
        for port in self._results:
            array = out[port.name] if port.name in out else self._fresh(port)
            offset = layout.offsets[port.slot]
            if port.bytes > SMALL:
                self._driver.download(array, self._memory + offset)
            elif port.bytes:
                at = offset - layout.small
                np.copyto(array, self._returned[at : at + port.bytes].view(port.dtype.numpy).reshape(port.shape))
            results[port.name] = array
        return results

    def _fresh(self, port: Port) -> np.ndarray:
        """An array that nobody else holds."""
        if port.bytes > SMALL:
            return np.ndarray(port.shape, port.dtype.numpy, self._spare[port.slot].block())
        return np.empty(port.shape, port.dtype.numpy)


class _Staging:
    """Two buffers in turn: one may still be read by a copy while the other is filled."""

    def __init__(self, driver: Driver, size: int):
        self._driver = driver
        self._buffers = [driver.staging(size) for _ in range(2)]
        self._marks: list[Any] = [None, None]
        self._turn = 0

    def next(self) -> np.ndarray:
        self._turn ^= 1
        if self._marks[self._turn] is not None:
            self._driver.wait(self._marks[self._turn])
        return self._buffers[self._turn]

    def used(self) -> None:
        self._marks[self._turn] = self._driver.mark()


def check_target(executable: Executable, driver: Driver) -> None:
    """TargetError where the program's machine code is not for this device."""
    wanted = "cuda-emulated" if driver.arch == "emulated" else f"cuda:{driver.arch}"
    if executable.target.removesuffix(":checked") != wanted:
        raise TargetError(
            f"this program was compiled for {executable.target}, {driver.device} runs {wanted}", help=f"compile it again with --target {wanted}"
        )


def _load(executable: Executable, driver: Driver) -> dict[str, Any]:
    functions: dict[str, Any] = {}
    for module in unpack_modules(executable.code):
        functions |= driver.load(module.code, module.symbols)
    return functions


# ---- arrays that are shorter than their buffers


def copy_padded(driver: Driver, target: int, shape: Sequence[int], source: int, given: Sequence[int], element: int) -> None:
    """Copies a dense array of the device into a buffer for a larger one, and repeats its last elements along each axis, as `binding.padded` does on
    the host: what there is of them is copied behind itself until the axis is full."""
    short = [k for k, (n, m) in enumerate(zip(shape, given)) if m < n]
    if not short:
        driver.copy(target, source, prod(shape) * element)
        return
    steps, dense = _steps(shape, element), _steps(given, element)
    _copy_block(driver, (target, steps), (source, dense), given, short[-1])
    for k in reversed(short):
        last = target + (given[k] - 1) * steps[k]
        there, wanted = 1, shape[k] - given[k] + 1
        while there < wanted:
            count = min(there, wanted - there)
            _copy_block(driver, (last + there * steps[k], steps), (last, steps), [*given[:k], count, *shape[k + 1 :]], k)
            there += count


def _steps(shape: Sequence[int], element: int) -> list[int]:
    """Bytes from one element to the next along each axis of a dense array."""
    return [prod(shape[k + 1 :]) * element for k in range(len(shape))]


Place = tuple[int, Sequence[int]]  # where something begins, and bytes along each axis


def _copy_block(driver: Driver, target: Place, source: Place, block: Sequence[int], inner: int) -> None:
    """Copies so many elements along each axis; from axis `inner` on they lie together. Axes before it that lie evenly are the rows of one copy."""
    to_steps, at_steps = target[1], source[1]
    width = block[inner] * to_steps[inner]
    outer = inner - 1
    while outer > 0 and all(steps[outer - 1] == block[outer] * steps[outer] for steps in (to_steps, at_steps)):
        outer -= 1
    rows = prod(block[max(outer, 0) : inner])
    for index in np.ndindex(*block[: max(outer, 0)]):
        first, second = (place + sum(n * s for n, s in zip(index, steps)) for place, steps in (target, source))
        if rows == 1:
            driver.copy(first, second, width)
        else:
            driver.copy_rows(first, to_steps[inner - 1], second, at_steps[inner - 1], width, rows)
