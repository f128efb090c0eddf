"""Programs on a device: inputs, results, parameters that lie there, faults; on a device whose kernels are numpy functions."""

from __future__ import annotations

import gc
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
from fake_device import COUNT, LOSS, ROWS, STEP, FakeDriver, N, W, X, Y, at, executable

from dslc.core import dtypes
from dslc.core.errors import BudgetError, DataError, TargetError
from dslc.core.executable import Executable, Launch, Port, TensorMap
from dslc.runtime.binding import Shorter
from dslc.runtime.drivers import device_program, transfers
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.program import Program
from dslc.runtime.store import ParameterStore

ALL = ("scaled", "total", "update")
VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def bound(driver: FakeDriver, *symbols: str, store: ParameterStore | None = None, **changes) -> tuple[DeviceProgram, ParameterStore]:
    program = DeviceProgram(executable(*symbols, **changes), driver)
    if store is None:
        store = ParameterStore([W, COUNT])
        store["w"] = np.full((2, 3), 2, np.float32)
    program.bind(store)
    return program, store


class OnDevice:
    """An array on the fake CUDA device, which is host memory."""

    def __init__(self, array: np.ndarray, *, shift: int = 0, typestr: str | None = None):
        self._array = array
        told = array.__array_interface__
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": typestr or array.dtype.str,
            "data": (told["data"][0] + shift, False),
            "strides": told["strides"],
            "version": 3,
        }

    @property
    def dtype(self):
        return self._array.dtype


OnDevice.__cuda_array_interface__ = None  # hasattr(type(value), ...) finds the protocol on the class


def test_it_is_a_program_and_runs():
    program, store = bound(FakeDriver(), *ALL)
    assert isinstance(program, Program)
    results = program({"x": VALUES}, step=4)
    np.testing.assert_array_equal(results["y"], 2 * VALUES)
    assert results["loss"].shape == () and results["loss"] == 30
    np.testing.assert_array_equal(store["w"], 2 - VALUES)
    assert store["count"] == 5


def test_results_belong_to_the_caller_and_out_is_written():
    program, _ = bound(FakeDriver(), "scaled", "total")
    first = program({"x": VALUES})["y"]
    mine = np.zeros((2, 3), np.float32)
    second = program({"x": VALUES + 1}, out={"y": mine})["y"]
    assert second is mine
    np.testing.assert_array_equal(first, 2 * VALUES)
    np.testing.assert_array_equal(mine, 2 * VALUES + 2)


def test_large_results_come_alone(monkeypatch):
    monkeypatch.setattr(device_program, "SMALL", 8)
    driver = FakeDriver()
    program, _ = bound(driver, "scaled", "total")
    np.testing.assert_array_equal(program({"x": VALUES})["y"], 2 * VALUES)
    assert driver.log[-2:] == ["download 256", "download 24"]


def test_host_inputs_are_one_copy():
    driver = FakeDriver()
    program, _ = bound(driver, *ALL)
    program({"x": VALUES})
    driver.log.clear()
    program({"x": VALUES})
    assert [e for e in driver.log if e.startswith("upload")] == ["upload 280"]


@pytest.mark.parametrize("dense", [True, False])
def test_large_inputs_go_in_chunks(dense, monkeypatch):
    """Those that lie as the device has them; what is small goes as one copy around them."""
    for module in (device_program, transfers):
        monkeypatch.setattr(module, "LEAST", 8)
    driver = FakeDriver()
    program, _ = bound(driver, "scaled", "total")
    for k in range(3):
        driver.log.clear()
        given = VALUES + k if dense else np.asfortranarray(VALUES + k)
        np.testing.assert_array_equal(program({"x": given})["y"], 2 * (VALUES + k))
    uploads = [e for e in driver.log if e.startswith("upload")]
    assert uploads == (["upload 8"] * 4 if dense else ["upload 280"])


@pytest.mark.parametrize("dtype, seed, stored", [(dtypes.INT64, -1, -1), (dtypes.INT32, (1 << 32) + 7, 7), (dtypes.INT32, -2, -2)])
def test_scalars_wrap_to_their_type(dtype, seed, stored):
    port = Port("seed", "scalar", dtype, (), 1)
    program = DeviceProgram(executable(ports=[port]), FakeDriver())
    program({}, seed=seed)
    assert at(program._memory + program._layout.offsets[1], 1, dtype.numpy)[0] == stored


def test_parameters_stay_on_the_device_between_runs():
    driver = FakeDriver(stops_midway=False)
    program, store = bound(driver, *ALL)
    program({"x": VALUES})
    driver.log.clear()
    program({"x": VALUES})
    assert driver.log == ["upload 280", "download 512"]
    version = store.version("w")
    np.testing.assert_array_equal(store["w"], 2 - 2 * VALUES)
    assert driver.log[-1] == "download 24" and store.version("w") == version
    np.testing.assert_array_equal(store.array("w"), 2 - 2 * VALUES)
    assert driver.log.count("download 24") == 1


def test_a_host_write_is_uploaded():
    program, store = bound(FakeDriver(), *ALL)
    program({"x": VALUES})
    store["w"] = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(program({"x": VALUES})["y"], VALUES)
    store.array("w")[...] = 5
    store.touch("w")
    np.testing.assert_array_equal(program({"x": VALUES})["y"], 5 * VALUES)


def test_tables_of_pointers_stay_while_the_driver_may_read_them():
    """An upload may end later than its call."""
    seen = []

    class Later(FakeDriver):
        def upload(self, address, array):
            seen.append((address, weakref.ref(array)))
            super().upload(address, array)

    program, _ = bound(Later(), *ALL, pointers=((("slot", 2), ("arena", 8)),))
    place, kept = seen[-1]
    assert place == program._memory + program._layout.pointers[0]
    assert kept() is not None and (at(place, 2, np.uint64) == kept()).all()
    assert kept()[1] == program._memory + program._layout.arena + 8


def test_programs_share_parameters_on_a_device_and_between_devices():
    one, two = FakeDriver(stops_midway=False), FakeDriver(stops_midway=False)
    train, store = bound(one, *ALL)
    evaluate, _ = bound(one, "scaled", "total", store=store, program="eval")
    elsewhere, _ = bound(two, *ALL, store=store)
    train({"x": VALUES})
    one.log.clear()
    np.testing.assert_array_equal(evaluate({"x": VALUES})["y"], (2 - VALUES) * VALUES)
    assert "download 24" not in one.log and "upload 24" not in one.log
    elsewhere({"x": VALUES})
    train({"x": VALUES})
    np.testing.assert_array_equal(store["w"], 2 - 3 * VALUES)
    assert store["count"] == 3


def test_stores_beside_each_other_share_parameters_and_keep_their_own_states():
    driver = FakeDriver(stops_midway=False)
    parent = ParameterStore([W])
    parent["w"] = np.full((2, 3), 2, np.float32)
    one, two = parent.beside(), parent.beside()
    programs = []
    for store in (one, two):
        store.extend([COUNT])
        programs.append(bound(driver, *ALL, store=store)[0])
    programs[0]({"x": VALUES})
    programs[0]({"x": VALUES})
    programs[1]({"x": VALUES})
    assert (one["count"], two["count"]) == (2, 1)
    np.testing.assert_array_equal(parent["w"], 2 - 3 * VALUES)
    used = driver.allocated
    del one, store, two, programs
    gc.collect()
    assert driver.allocated < used


def test_copies_of_values_and_assignments_see_the_device():
    program, store = bound(FakeDriver(), *ALL)
    program({"x": VALUES})
    np.testing.assert_array_equal(store.copy_values("param")["w"], 2 - VALUES)
    program({"x": VALUES})
    store.assign({"w": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(store["w"], 0 * VALUES)
    program({"x": VALUES})
    store.gather()
    np.testing.assert_array_equal(store.value("w").memory, -VALUES)


@pytest.mark.parametrize("runs", [0, 2])
def test_a_failed_run_leaves_the_parameters(runs):
    """Also where the program has changed them on the device already, and the values of before lay there alone."""
    driver = FakeDriver()
    program, store = bound(driver, *ALL)
    failing, _ = bound(driver, *ALL, "broken", store=store)
    for _ in range(runs):
        program({"x": VALUES})
    with pytest.raises(TargetError, match="a kernel failed"):
        failing({"x": VALUES})
    np.testing.assert_array_equal(store["w"], 2 - runs * VALUES)
    np.testing.assert_array_equal(program({"x": VALUES})["y"], (2 - runs * VALUES) * VALUES)


def test_device_arrays_are_copied_on_the_device():
    driver = FakeDriver(cuda=True)
    program, _ = bound(driver, "scaled", "total")
    np.testing.assert_array_equal(program({"x": OnDevice(VALUES)})["y"], 2 * VALUES)
    assert "copy 24" in driver.log and "upload 8" in driver.log


class ByDlpack:
    """The same by DLPack."""

    def __init__(self, array: np.ndarray, ordinal: int = 0):
        self._array, self._ordinal, self.streams = array, ordinal, []
        self.dtype = array.dtype

    def __dlpack_device__(self):
        return (2, self._ordinal)

    def __dlpack__(self, stream):
        self.streams.append(stream)
        return self._array.__dlpack__()


def test_dlpack():
    driver = FakeDriver(cuda=True)
    program, _ = bound(driver, "scaled", "total")
    given = ByDlpack(VALUES)
    np.testing.assert_array_equal(program({"x": given})["y"], 2 * VALUES)
    assert "copy 24" in driver.log and given.streams == [1]
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    with pytest.warns(UserWarning, match="not contiguous"):
        np.testing.assert_array_equal(program({"x": ByDlpack(wide[:, 3:])})["y"], 2 * wide[:, 3:])
    with pytest.raises(DataError, match="lies on CUDA device 1, the program runs on device 0"):
        program({"x": ByDlpack(VALUES, 1)})
    with pytest.raises(DataError, match=r"'x' is int32\[2, 3\]"):
        program({"x": ByDlpack(VALUES.astype(np.int32))})


def test_a_device_array_with_gaps_is_copied_and_said_once():
    program, _ = bound(FakeDriver(cuda=True), "scaled", "total")
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    with pytest.warns(UserWarning, match="input 'x' is not contiguous"):
        np.testing.assert_array_equal(program({"x": OnDevice(wide[:, ::2])})["y"], 2 * wide[:, ::2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(program({"x": OnDevice(wide[:, 1::2])})["y"], 2 * wide[:, 1::2])


@pytest.mark.parametrize(
    "given, shape, copies",
    [
        ((2, 3), (2, 3), ["copy 24"]),
        ((1, 3), (2, 3), ["copy 12", "copy 12"]),
        ((5,), (32,), ["copy 20", *(f"copy {4 * n}" for n in (1, 2, 4, 8, 12))]),
        ((2, 3, 2), (2, 9, 2), ["2 rows of 24", *(f"2 rows of {8 * n}" for n in (1, 2, 3))]),
        ((2, 3, 2, 5), (2, 4, 2, 8), None),
        ((1, 2, 3), (3, 4, 5), None),
        ((2, 3, 4, 1), (3, 4, 5, 6), None),
    ],
)
def test_a_shorter_device_array_is_padded_where_it_lies(given, shape, copies):
    port = Port("x", "input", dtypes.FLOAT32, shape, 0)
    driver = FakeDriver(cuda=True)
    program = DeviceProgram(executable(ports=[port]), driver)
    at(program._memory + program._layout.offsets[0], port.bytes // 4)[:] = np.nan
    x = np.random.default_rng(0).standard_normal(given).astype(np.float32)
    driver.log.clear()
    program({"x": Shorter(OnDevice(x), replace(port, shape=given))})
    found = at(program._memory + program._layout.offsets[0], port.bytes // 4).reshape(shape)
    np.testing.assert_array_equal(found, np.pad(x, [(0, n - m) for n, m in zip(shape, given)], mode="edge"))
    assert not any("load" in entry for entry in driver.log) and (copies is None or driver.log == copies)


def test_of_an_empty_device_array_there_is_nothing_to_repeat():
    port = Port("x", "input", dtypes.FLOAT32, (4,), 0)
    program = DeviceProgram(executable(ports=[port]), FakeDriver(cuda=True))
    place = at(program._memory + program._layout.offsets[0], 4)
    place[:] = np.nan
    program({"x": Shorter(OnDevice(np.zeros(0, np.float32)), replace(port, shape=(0,)))})
    assert place.tolist() == [0, 0, 0, 0]


def test_shorter_device_arrays_are_checked():
    program = DeviceProgram(executable(ports=[ROWS]), FakeDriver(cuda=True))
    port = replace(ROWS, shape=(3,), bounds=(0, 5))
    place = program._memory + program._layout.offsets[ROWS.slot]
    program({"rows": Shorter(OnDevice(np.array([0, 4, 1], np.int32)), port)})
    assert at(place, 4, np.int32).tolist() == [0, 4, 1, 1]
    with pytest.raises(DataError, match=r"'rows' has the value 5 at \[1\].*\[0, 5\)"):
        program({"rows": Shorter(OnDevice(np.array([0, 5, 1], np.int32)), port)})
    with pytest.raises(DataError, match=r"'rows' is int32\[4\], declared int32\[3\]"):
        program({"rows": Shorter(OnDevice(np.zeros(4, np.int32)), port)})
    with pytest.raises(DataError, match=r"'rows' is int32\[3\], declared int32\[4\]"):
        program({"rows": OnDevice(np.zeros(3, np.int32))})


@pytest.mark.parametrize(
    "value, message",
    [
        (OnDevice(VALUES.T.copy()), r"'x' is float32\[3, 2\], declared float32\[2, 3\] \(line 3\)"),
        (OnDevice(VALUES.astype(np.float64)), r"'x' is float64\[2, 3\], declared"),
        (OnDevice(VALUES, typestr="<c8"), r"'x' is complex64\[2, 3\], declared"),
        (OnDevice(VALUES, shift=2), "no multiple of its element's 4 bytes"),
    ],
    ids=["shape", "dtype", "complex", "alignment"],
)
def test_device_arrays_that_do_not_fit(value, message):
    program, _ = bound(FakeDriver(cuda=True), "scaled", "total")
    with pytest.raises(DataError, match=message):
        program({"x": value})


def test_a_device_array_for_a_program_on_the_host():
    program, _ = bound(FakeDriver(), "scaled", "total")
    with pytest.raises(DataError, match="lies on a CUDA device, the program runs on the fake device"):
        program({"x": OnDevice(VALUES)})


@pytest.mark.parametrize("wrap", [np.asarray, OnDevice], ids=["host", "device"])
def test_indices_are_checked(wrap):
    program = DeviceProgram(executable(ports=[ROWS]), FakeDriver(cuda=True))
    program({"rows": wrap(np.array([0, 9, 1, 2], np.int32))})
    with pytest.raises(DataError, match=r"'rows' has the value 10 at \[1\]"):
        program({"rows": wrap(np.array([0, 10, 1, 2], np.int32))})


def test_inputs_and_outs_that_do_not_fit_change_nothing():
    program, store = bound(FakeDriver(), *ALL)
    for bad in ({}, {"x": VALUES, "z": VALUES}, {"x": VALUES[:1]}):
        with pytest.raises(DataError):
            program(bad)
    for out in ({"q": VALUES}, {"y": VALUES[:1]}, {"y": VALUES.T.copy().T}, {"y": "text"}):
        with pytest.raises(DataError):
            program({"x": VALUES}, out=out)
    assert (store["w"] == 2).all()


def test_a_program_must_be_bound_and_fit():
    program = DeviceProgram(executable(*ALL), FakeDriver())
    with pytest.raises(DataError, match="bind a ParameterStore"):
        program({"x": VALUES})
    with pytest.raises(DataError, match=r"'w' is float32\[3\] in the store, float32\[2, 3\] in the program"):
        program.bind(ParameterStore([Port("w", "param", dtypes.FLOAT32, (3,), 0), COUNT]))


def test_memory_is_counted_refused_and_given_back():
    driver = FakeDriver(limit=6000)
    program, store = bound(driver, *ALL)
    used = driver.allocated
    with pytest.raises(BudgetError, match=r"needs [\d,]+ bytes, [\d,]+ are free on the fake device"):
        DeviceProgram(executable(*ALL, arena_bytes=5000), driver)
    assert driver.allocated == used
    del program, store
    gc.collect()
    assert driver.allocated == 0


def test_values_outlive_program_and_residence():
    program, store = bound(FakeDriver(stops_midway=False), *ALL)
    program({"x": VALUES})
    del program
    gc.collect()
    np.testing.assert_array_equal(store["w"], 2 - VALUES)


def test_another_target_is_refused():
    with pytest.raises(TargetError, match="compiled for cuda:sm_90a, the fake device runs cuda-emulated"):
        DeviceProgram(executable(target="cuda:sm_90a"), FakeDriver())


def test_a_missing_function_and_an_impossible_launch():
    plain = executable("scaled", ports=[X, W, Y])
    launch = Launch(0, plain.launches[0].operands, shared_bytes=1 << 20)
    with pytest.raises(TargetError, match=r"scaled \(m.dsl:0\) needs too much shared memory"):
        bound(FakeDriver(), "scaled", launches=(launch,))
    with pytest.raises(DataError, match="no function 'scaled'"):
        bound(FakeDriver(), "scaled", code=executable("total").code)


def test_every_space_of_operands():
    """Places are resolved to addresses; constants, offsets in slots and tensor maps included."""
    seen = []

    class Recorder(FakeDriver):
        def launch(self, launch):
            seen.append(launch.parameters)

    operands = (("constant", 4), ("arena", 8), ("slot", 4, 12), ("value", -5), ("tensormap", 0))
    plain: Executable = executable("scaled", ports=[Y], constants=b"abcdefgh")
    tensor = TensorMap(("slot", 4, 16), "float32", (3, 2), (12,), (3, 1))
    changed = {**plain.__dict__, "launches": (Launch(0, operands),), "tensor_maps": (tensor,)}
    program = DeviceProgram(Executable(**changed), Recorder())
    program({})
    constant, arena, y, value, mapped = seen[0]
    assert bytes(at(constant.value, 4, np.uint8)) == b"efgh"
    base, layout = program._memory, program._layout
    assert arena.value == base + layout.arena + 8 and y.value == base + layout.offsets[4] + 12 and value.value == -5
    assert int.from_bytes(bytes(mapped)[:8], "little") == base + layout.offsets[4] + 16 and len(bytes(mapped)) == 128


def test_a_cpu_program_sees_what_a_device_wrote():
    """CpuProgram keeps addresses: it calls `gather` before it runs."""
    program, store = bound(FakeDriver(stops_midway=False), *ALL)
    before = store.array("w")
    program({"x": VALUES})
    assert (before == 2).all()
    store.gather()
    np.testing.assert_array_equal(before, 2 - VALUES)


def test_sizes_fit():
    assert N == X.bytes // 4 == Y.bytes // 4 and LOSS.bytes == 4 and STEP.bytes == 8


def test_times_are_one_a_launch():
    program, _ = bound(FakeDriver(), *ALL)
    found = program.times(2)
    assert len(found) == len(program.executable.launches) == 3 and all(t >= 0 for t in found)
