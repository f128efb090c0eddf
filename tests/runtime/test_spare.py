"""Memory of results: it is used again when nobody holds an array on it, and never before."""

from __future__ import annotations

import numpy as np
from fake_device import COUNT, FakeDriver, W, Y, executable

from dslc.runtime import spare
from dslc.runtime.drivers import device_program
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.spare import KEPT, LARGE, Spare
from dslc.runtime.store import ParameterStore


def place(array: np.ndarray) -> int:
    return array.ctypes.data


def test_blocks_are_used_again():
    blocks = Spare(LARGE)
    held = [blocks.block() for _ in range(KEPT + 2)]
    assert len({place(b) for b in held}) == len(held)
    view = held[-1][5:7].view(np.uint16)
    last, before = place(held[-1]), place(held[-2])
    del held
    assert place(blocks.block()) == before  # a view of the last is held
    del view
    assert {place(blocks.block()), place(blocks.block())} == {last, before}


def test_small_blocks_are_not_kept():
    blocks = Spare(LARGE - 1)
    blocks.block()
    assert not blocks._blocks


def test_results_of_a_program(monkeypatch):
    """A result that the caller keeps stays as it is; the memory of one that it dropped is written again."""
    monkeypatch.setattr(device_program, "SMALL", 8)
    monkeypatch.setattr(spare, "LARGE", 8)
    program = DeviceProgram(executable("scaled", "total"), FakeDriver())
    store = ParameterStore([W, COUNT])
    store["w"] = np.full((2, 3), 2, np.float32)
    program.bind(store)
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = program({"x": given})["y"]
    second = program({"x": given + 1})["y"]
    np.testing.assert_array_equal(first, 2 * given)
    np.testing.assert_array_equal(second, 2 * given + 2)
    assert place(first) != place(second) and any(b is second.base for b in program._spare[Y.slot]._blocks)
    at = place(first)
    del first
    assert place(program({"x": given})["y"]) == at
