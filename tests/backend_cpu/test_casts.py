"""Casts between all types, in registers and through memory, against numpy and ml_dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslc.backend_cpu import casts, emit
from dslc.backend_cpu.native import KernelArguments, KernelFunction
from dslc.core import dtypes
from dslc.core.dtypes import DType

from .native import run_kernel

NARROW = (dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.FLOAT8_E4M3, dtypes.FLOAT8_E5M2)


def cast_array(x: np.ndarray, source: DType, target: DType, lanes: int = 16) -> np.ndarray:
    out = np.zeros(x.shape, target.numpy)

    def body(a: KernelArguments) -> None:
        def point(i: Any, lanes: int, mask: Any) -> None:
            a.operands[1].store(casts.cast(a.operands[0].load([i], lanes, mask), source, target), [i], mask)

        emit.vector_loop(*emit.share_in_steps(x.size, lanes, a.tid, a.nt), lanes, point)

    run_kernel(KernelFunction("cast", ((source, (x.size,)), (target, (x.size,))), body), [x, out])
    return out


def floats(n: int = 20_000) -> np.ndarray:
    """Patterns of every kind, values near the borders of the narrow formats, and ties."""
    rng = np.random.default_rng(0)
    anywhere = rng.integers(0, 1 << 32, n, np.uint32).view(np.float32)
    near = (rng.choice([-1.0, 1.0], n) * 2.0 ** rng.uniform(-26, 18, n)).astype(np.float32)
    ties = (near.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) + np.float32(0)
    half = (near.view(np.uint32) & np.uint32(0xFFF00000) | np.uint32(0x00080000)).view(np.float32)
    edges = np.array([0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519, 65520, 448, 464, 465, 57344, 61439, 61440, 2**-9, 2**-10, 2**-17], np.float32)
    x = np.concatenate([anywhere, near, ties, half, edges])
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0  # denormals count as zero
    return x


def same(found: np.ndarray, expected: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        f, e = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(f, e)
    np.testing.assert_array_equal(np.signbit(f[~np.isnan(e)]), np.signbit(e[~np.isnan(e)]))


@pytest.mark.parametrize("target", NARROW, ids=str)
def test_rounding_to_narrow_floats(target: DType) -> None:
    x = floats()
    with np.errstate(all="ignore"):
        expected = x.astype(target.numpy)
    small = np.finfo(np.float32).tiny
    expected[np.abs(expected.astype(np.float32)) < small] *= 0  # the narrow type's values below float32's normal ones
    for lanes in (16, 1):
        same(cast_array(x, dtypes.FLOAT32, target, lanes), expected)


@pytest.mark.parametrize("source", NARROW, ids=str)
def test_every_narrow_pattern_is_read_exactly(source: DType) -> None:
    patterns = np.arange(1 << source.bits, dtype=np.uint8 if source.bits == 8 else np.uint16).view(source.numpy)
    expected = patterns.astype(np.float32)
    expected[np.abs(expected) < np.finfo(np.float32).tiny] *= 0
    found = cast_array(patterns, source, dtypes.FLOAT32)
    found[np.abs(found) < np.finfo(np.float32).tiny] *= 0
    same(found, expected)


def test_integers_and_bools() -> None:
    values = np.array([-130, -128, -9, -8, -7, -1, 0, 1, 5, 7, 8, 15, 127, 128, 200, 255, 256, 40000, 70000], np.int64)
    plain = (dtypes.INT64, dtypes.INT32, dtypes.INT16, dtypes.INT8, dtypes.UINT8, dtypes.BOOL)
    for source in plain:
        x = values.astype(source.numpy)
        for target in (*plain, dtypes.FLOAT32, dtypes.FLOAT64, dtypes.FLOAT16, dtypes.BFLOAT16, dtypes.INT4):
            with np.errstate(over="ignore"):
                expected = ((x.astype(np.int64) + 8) % 16 - 8) if target == dtypes.INT4 else x.astype(target.numpy)
                np.testing.assert_array_equal(
                    cast_array(x, source, target).astype(np.float64), expected.astype(np.float64), err_msg=f"{source} -> {target}"
                )


def test_floats_to_integers_truncate_and_to_bool_compare() -> None:
    x = np.array([-3.9, -0.5, 0.0, 0.5, 1.5, 100.7, np.nan], np.float32)
    for source in (dtypes.FLOAT32, dtypes.FLOAT64, dtypes.BFLOAT16):
        given = x.astype(source.numpy)
        for target in (dtypes.INT64, dtypes.INT32, dtypes.INT8):
            expected = given.astype(np.float64)[:-1].astype(target.numpy)
            np.testing.assert_array_equal(cast_array(given, source, target)[:-1], expected)
        np.testing.assert_array_equal(cast_array(given, source, dtypes.BOOL), given.astype(np.float32) != 0)


def test_between_float32_and_float64() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    np.testing.assert_array_equal(cast_array(x, dtypes.FLOAT64, dtypes.FLOAT32), x.astype(np.float32))
    y = x.astype(np.float32)
    np.testing.assert_array_equal(cast_array(y, dtypes.FLOAT32, dtypes.FLOAT64), y.astype(np.float64))


def test_round_to_is_idempotent() -> None:
    x = floats(2000)
    out = np.zeros_like(x)

    def body(a: KernelArguments) -> None:
        def point(i: Any, lanes: int, mask: Any) -> None:
            once = casts.round_to(a.operands[0].load([i], lanes, mask), dtypes.BFLOAT16)
            a.operands[1].store(emit.arith.subf(once, casts.round_to(once, dtypes.BFLOAT16)), [i], mask)

        emit.vector_loop(0, x.size, 16, point)

    run_kernel(KernelFunction("twice", ((dtypes.FLOAT32, (x.size,)),) * 2, body), [x, out])
    assert not np.any(out[np.isfinite(x) & (np.abs(x) < 3e38)])
