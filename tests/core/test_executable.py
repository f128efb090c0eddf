"""Executables as bytes: round trips, other versions, torn files; modules of machine code in one stretch of bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dslc.core import dtypes
from dslc.core.errors import DataError
from dslc.core.executable import (
    Executable,
    Extent,
    Kernel,
    Launch,
    Module,
    Port,
    TensorMap,
    from_bytes,
    pack_modules,
    to_bytes,
    unpack_modules,
)

MODULES = [Module(("k00_a", "k01_b"), b"\x7fELF one"), Module(("k02_c",), b""), Module((), b"three")]
EXECUTABLE = Executable(
    target="cuda:sm_90a",
    program="step",
    model="m",
    signature="s",
    ports=(Port("x", "input", dtypes.INT32, (2, 3), 0, bounds=(0, 9), line=4), Port("w", "param", dtypes.BFLOAT16, (3,), 1)),
    kernels=(Kernel("k00_a", "map", ("m.dsl:3",), 7, 8, "k00_a"),),
    launches=(
        Launch(
            0,
            (("slot", 0), ("slot", 1, 16), ("arena", 256), ("constant", 0), ("value", -3), ("tensormap", 0)),
            (4, 1, 1),
            (128, 1, 1),
            1024,
            (Extent("a0", ("slot", 0), 64, False), Extent("y0", ("slot", 1, 16), 32, True)),
        ),
    ),
    arena_bytes=512,
    scratch_bytes=0,
    constants=b"1234",
    code=pack_modules(MODULES),
    source="__global__",
    tensor_maps=(TensorMap(("slot", 1, 16), "bfloat16", (64, 8), (128,), (64, 8), 128),),
    notes={"writes": "w"},
)


def test_round_trip_is_equal():
    assert from_bytes(to_bytes(EXECUTABLE)) == EXECUTABLE


def test_tensor_maps_may_be_absent():
    plain = replace(EXECUTABLE, tensor_maps=())
    assert from_bytes(to_bytes(plain)) == plain


def test_modules_round_trip():
    assert unpack_modules(pack_modules(MODULES)) == MODULES
    assert unpack_modules(pack_modules([])) == []


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_torn_modules(cut):
    with pytest.raises(DataError, match=r"torn|no modules"):
        unpack_modules(pack_modules(MODULES)[:cut])


@pytest.mark.parametrize("cut", [5, 30, 200, -1])
def test_torn_files(cut):
    with pytest.raises(DataError, match="damaged"):
        from_bytes(to_bytes(EXECUTABLE)[:cut])


def test_another_version():
    older = b"dslc-executable-1"
    with pytest.raises(DataError, match="another version"):
        from_bytes(older + to_bytes(EXECUTABLE)[len(older) :])
