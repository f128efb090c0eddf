"""Elementary functions against exact values: float64 numpy and scipy, over dense samples and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from dslc.backend_cpu import emit, vmath
from dslc.backend_cpu.native import KernelArguments, KernelFunction
from dslc.core import dtypes

from .native import run_kernel

EXACT = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": special.expit, "erf": special.erf,
    "sin": np.sin, "cos": np.cos, "pow": np.power, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "tan": np.tan, "asin": np.arcsin,
    "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip
ALL = tuple(sorted(EXACT))
EDGES = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 88.7, 88.73, -87.3, -87.4, -104.0, 200.0, 1e10, -1e10, 3.4e38, 0.625, 0.92]


def apply_all(names: tuple[str, ...], lanes: int, dtype: dtypes.DType, xs: list[np.ndarray]) -> np.ndarray:
    """Each function over all samples: one kernel, one row a function."""
    n = len(xs[0])
    out = np.zeros((len(names), n), dtype.numpy)

    def body(a: KernelArguments) -> None:
        for row, name in enumerate(names):

            def point(i: object, lanes: int, mask: object, name: str = name, row: int = row) -> None:
                operands = [m.load([i], lanes, mask) for m in a.operands[: 2 if name == "pow" else 1]]
                a.operands[-1].store(vmath.apply(name, *operands), [row, i], mask)

            emit.vector_loop(*emit.share_in_steps(n, lanes, a.tid, a.nt), lanes, point)

    kernel = KernelFunction("k", ((dtype, (n,)),) * len(xs) + ((dtype, out.shape),), body)
    run_kernel(kernel, [*xs, out])
    return out


def samples(rng: np.random.Generator, n: int = 40_001) -> np.ndarray:
    """Floats of every size, evenly spread ones near zero, and the edges."""
    anywhere = rng.integers(0, 1 << 32, n, np.uint32).view(np.float32)
    near = [rng.uniform(-w, w, n).astype(np.float32) for w in (1.0, 10.0, 100.0, 1e5)]
    return np.concatenate([anywhere, *near, np.array(EDGES, np.float32)])


def ulps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units of the last place of the exact value; results too small to be normal may be zero."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(found.dtype)
        tiny = np.finfo(found.dtype).tiny
        same = (found == rounded) | (np.isnan(found) & np.isnan(rounded)) | ((np.abs(exact) < 2 * tiny) & (np.abs(found) < 2 * tiny))
        return np.where(same, 0.0, np.abs(found.astype(exact.dtype) - exact) / np.spacing(np.maximum(np.abs(rounded), tiny)))


@pytest.fixture(scope="module")
def single() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = samples(rng)
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0  # denormal operands count as zero
    y = rng.permutation(samples(rng))
    y[np.abs(y) < np.finfo(np.float32).tiny] = 0
    return x, y, apply_all(ALL, 16, dtypes.FLOAT32, [x, y])


@pytest.mark.parametrize("name", ALL)
def test_error_in_float32(name: str, single: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, found = single
    with np.errstate(all="ignore"):
        operands = [v.astype(np.float64) for v in ((x, y) if name == "pow" else (x,))]
        exact = EXACT[name](*operands)
    error = ulps(found[ALL.index(name)], exact)
    worst = int(np.nanargmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= vmath.BOUNDS[name], f"{name}({[o[worst] for o in operands]}) = {found[ALL.index(name)][worst]}, exactly {exact[worst]}"


def test_scalars_and_narrow_vectors_agree_with_wide_ones(single: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    x, y, found = single
    names = ("exp", "log", "tanh", "erf", "sin", "pow", "log1p", "expm1", "sigmoid")
    for lanes in (1, 8):
        again = apply_all(names, lanes, dtypes.FLOAT32, [x[:3000], y[:3000]])
        for row, name in enumerate(names):
            np.testing.assert_array_equal(again[row], found[ALL.index(name)][:3000], err_msg=name)


def test_float64_is_the_c_library() -> None:
    x = np.random.default_rng(2).uniform(0.01, 0.99, 1001)
    found = apply_all(ALL, 8, dtypes.FLOAT64, [x, x + 1])
    for row, name in enumerate(ALL):
        with np.errstate(all="ignore"):
            exact = EXACT[name](*((x, x + 1) if name == "pow" else (x,)))
        np.testing.assert_allclose(found[row], exact, rtol=4e-15, err_msg=name)


def test_exp_of_minus_infinity_is_zero_and_nothing_traps() -> None:
    x = np.array([-np.inf, np.inf, np.nan, 0.0], np.float32)
    found = apply_all(("exp", "tanh", "erf", "sigmoid", "log1p", "expm1"), 16, dtypes.FLOAT32, [x, x])
    nan = np.nan
    expected = [[0, np.inf, nan, 1], [-1, 1, nan, 0], [-1, 1, nan, 0], [0, 1, nan, 0.5], [nan, np.inf, nan, 0], [-1, np.inf, nan, 0]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
