"""The object loader: good objects run, damaged ones are errors, never crashes."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import numpy as np
import pytest

from dslc.backend_cpu import emit
from dslc.backend_cpu.native import KernelArguments, KernelCall, KernelFunction, build_object
from dslc.core import dtypes
from dslc.core.errors import Error, TargetError
from dslc.ir.mlir import arith
from dslc.ir.plan import Place
from dslc.runtime.drivers.cpu import pool
from dslc.runtime.drivers.cpu.loader import LoadedObject

from .native import run_plan


def add_one(name: str = "add_one", libm: str | None = None) -> bytes:
    def body(a: KernelArguments) -> None:
        x, y = a.operands

        def point(i: object, lanes: int, mask: object) -> None:
            value = x.load([i], lanes, mask)
            value = emit.call_libm(libm, value) if libm else arith.addf(value, emit.const(1.0, value.type))
            y.store(value, [i], mask)

        emit.vector_loop(*emit.share_in_steps(100, 16, a.tid, a.nt), 16, point)

    kernel = KernelFunction(name, ((dtypes.FLOAT32, (100,)),) * 2, body)
    return build_object([kernel], [KernelCall(name, (Place("slot", 0), Place("slot", 1)))], 0).code


@pytest.fixture(scope="module")
def code() -> bytes:
    return add_one()


def test_runs_and_lists_its_functions(code: bytes) -> None:
    x, y = np.arange(100, dtype=np.float32), np.zeros(100, np.float32)
    run_plan(type("Built", (), {"code": code, "scratch_bytes": 0})(), [x, y])
    np.testing.assert_array_equal(y, x + 1)
    loaded = LoadedObject(code)
    assert {"dslc_plan", "dslc_worker", "dslc_launch", "dslc_abi"} <= set(loaded.symbols)
    assert loaded.function("dslc_abi", ctypes.c_int64)() == pool.ABI
    with pytest.raises(Error, match="no function 'nothing'"):
        loaded.function("nothing", None)


def test_no_memory_is_both_writable_and_executable(code: bytes) -> None:
    loaded = LoadedObject(code)
    modes = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(v, 16) for v in line.split()[0].split("-"))
        if low < loaded.base + loaded.size and high > loaded.base:
            modes[low] = line.split()[1]
    assert modes and any("x" in m for m in modes.values())
    assert not any("w" in m and "x" in m for m in modes.values())


def test_memory_is_given_back(code: bytes) -> None:
    loaded = LoadedObject(code)
    base = loaded.base
    del loaded
    assert not any(line.startswith(f"{base:x}-") for line in Path("/proc/self/maps").read_text().splitlines())


def test_calls_of_the_c_library_are_linked() -> None:
    x, y = np.linspace(0.1, 1, 100, dtype=np.float32), np.zeros(100, np.float32)
    run_plan(type("Built", (), {"code": add_one(libm="asinhf"), "scratch_bytes": 0})(), [x, y])
    np.testing.assert_allclose(y, np.arcsinh(x), rtol=1e-6)


def test_unknown_symbols_are_refused() -> None:
    with pytest.raises(TargetError, match="calls 'system'"):
        LoadedObject(add_one(libm="system"))


def test_cut_off_anywhere(code: bytes) -> None:
    for length in [*range(0, 200, 7), *range(200, len(code) - 1, 97)]:
        with pytest.raises(Error):
            LoadedObject(code[:length])


def test_damaged_bytes_are_errors_or_harmless(code: bytes) -> None:
    """Every byte of the headers, the symbols and the relocations replaced: loading must raise an Error or succeed, never die."""
    (sections,) = struct.unpack_from("<Q", code, 40)
    rows = [struct.unpack_from("<IIQQQQIIQQ", code, sections + 64 * i) for i in range(struct.unpack_from("<H", code, 60)[0])]
    tables = [range(r[4], r[4] + min(r[5], 24 * 40)) for r in rows if r[1] in (2, 4)]
    for at in [*range(64), *range(sections, len(code)), *(i for t in tables for i in t)]:
        for value in (0xFF, 0x00, 0x7F):
            damaged = bytearray(code)
            damaged[at] = value
            try:
                LoadedObject(bytes(damaged))
            except Error:
                continue


def test_other_machines_are_told_apart(code: bytes) -> None:
    for at, value in ((4, 1), (5, 2), (18, 183)):
        other = bytearray(code)
        other[at] = value
        with pytest.raises(TargetError, match="not an object for x86-64"):
            LoadedObject(bytes(other))


def relocated(code: bytes, kind: int) -> bytes:
    """The object with its first relocation of code turned into another kind."""
    (sections,) = struct.unpack_from("<Q", code, 40)
    changed = bytearray(code)
    for i in range(struct.unpack_from("<H", code, 60)[0]):
        row = struct.unpack_from("<IIQQQQIIQQ", code, sections + 64 * i)
        if row[1] == 4 and struct.unpack_from("<I", code, row[4] + 8)[0] == 1:
            struct.pack_into("<I", changed, row[4] + 8, kind)
            return bytes(changed)
    raise AssertionError("no relocation found")


def test_unknown_relocations_are_refused(code: bytes) -> None:
    with pytest.raises(TargetError, match="relocation 23"):
        LoadedObject(relocated(code, 23))


def call_stub(kind: int) -> bytes:
    """A hand-made object: `f: call sqrtf; ret` with a relocation of the kind (2: PC32, 4: PLT32) to a far function, 16-byte stack alignment kept."""
    text = b"\x48\x83\xec\x08\xe8\x00\x00\x00\x00\x48\x83\xc4\x08\xc3"
    strings = b"\0f\0sqrtf\0"
    names = b"\0.text\0.symtab\0.strtab\0.rela.text\0"
    symbols = bytes(24) + struct.pack("<IBBHQQ", 1, 0x12, 0, 1, 0, len(text)) + struct.pack("<IBBHQQ", 3, 0x10, 0, 0, 0, 0)
    rela = struct.pack("<QQq", 5, 2 << 32 | kind, -4)
    blobs = [text, symbols, strings, rela, names]
    offsets = [64 + sum(len(b) for b in blobs[:i]) for i in range(5)]
    rows = [
        (0,) * 10,
        (1, 1, 6, 0, offsets[0], len(text), 0, 0, 16, 0),
        (7, 2, 0, 0, offsets[1], len(symbols), 3, 1, 8, 24),
        (15, 3, 0, 0, offsets[2], len(strings), 0, 0, 1, 0),
        (23, 4, 0, 0, offsets[3], len(rela), 2, 1, 8, 24),
        (15, 3, 0, 0, offsets[4], len(names), 0, 0, 1, 0),
    ]
    start = offsets[4] + len(names)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, start, 0, 64, 0, 0, 64, len(rows), 5)
    return header + b"".join(blobs) + b"".join(struct.pack("<IIQQQQIIQQ", *r) for r in rows)


@pytest.mark.parametrize("kind", [2, 4])
def test_far_functions_are_reached_through_thunks(kind: int) -> None:
    loaded = LoadedObject(call_stub(kind))
    assert loaded.function("f", ctypes.c_float, ctypes.c_float)(6.25) == 2.5
