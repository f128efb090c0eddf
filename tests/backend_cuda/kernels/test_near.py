"""Functions that are nearly right: how far off they are, and that they stand for values that are rounded to 16 bits alone."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest
from scipy import special

from dslc.backend_cuda import emulated
from dslc.backend_cuda.kernels import contract, tiles
from dslc.backend_cuda.source import bundle
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Erf, Exp, Mul, Sigmoid, Tanh, cast, full_like
from dslc.runtime.drivers import emulator

from .products import AMPERE, Case, built

NEARLY = 2.0**-15  # of a value
FUNCTIONS = {
    "exp_near": (np.exp, 87.0),
    "sigmoid_near": (special.expit, 87.0),
    "one_plus_tanh": (lambda x: 2 * special.expit(2 * x), 43.0),
    "one_plus_erf": (lambda x: special.erfc(-x), 9.1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_are_nearly_right(name):
    """Where the value is a normal float; beyond, and at what is no number, as the function itself."""
    exact, most = FUNCTIONS[name]
    x = np.concatenate([np.linspace(-most, most, 40000), np.geomspace(1e-30, 1.0, 2000), [0.0, np.inf, -np.inf, np.nan]]).astype(np.float32)
    body = f"const int i = blockIdx.x * 32 + threadIdx.x; if (i < {x.size}) y[i] = {name}(x[i]);"
    text = f'#include "device/math.cuh"\nextern "C" __global__ void f(const float* x, float* y) {{ {body} }}'
    y = np.full(x.size, 7, np.float32)
    module = emulator.load(emulated.build(bundle(text)))
    module.launch("f", (-(-x.size // 32), 1, 1), (32, 1, 1), 0, [ctypes.c_void_p(a.ctypes.data) for a in (x, y)])
    wanted = exact(x.astype(np.float64))
    normal = np.isfinite(wanted) & (wanted >= 2.0**-126)
    assert (np.abs(y[normal] - wanted[normal]) <= NEARLY * wanted[normal]).all()
    np.testing.assert_array_equal(y[-3:], wanted[-3:].astype(np.float32))


@pytest.fixture(autouse=True)
def context():
    with nn.context(), ir.Location.unknown():
        yield


def activations(x):
    """Of a float32: with all functions that have a form that is nearly right."""
    one = full_like(x, 1.0)
    return Add.of(Add.of(Add.of(one, Erf.of(x)), Add.of(Tanh.of(x), one)), Mul.of(Exp.of(x), Sigmoid.of(x)))


def functions_in(results):
    """Names of the functions that the epilogue of a product of bfloat16 calls."""

    def build(a, b):
        return results(cast(Contract.of(a, b, lhs=[0, 2], rhs=[2, 1], out=[0, 1], dtype=BFLOAT16), FLOAT32))

    b = built(Case("near", [(BFLOAT16, (64, 64)), (BFLOAT16, (64, 64))], build), AMPERE)
    (op,) = {op for op, _ in b.request.body.makers.values() if op.structure == "contract"}
    epilogue = contract.epilogue_of(b.request, op)
    product = tiles.product_of(epilogue)
    schedule = contract._by_cost(epilogue, product, None)
    text = tiles.generate(product, schedule).functions[-1].text
    return set(re.findall(r"\b(exp\w*|sigmoid\w*|tanhf|erff|one_plus_\w+)\(", text))


NEAR, EXACT = {"exp_near", "sigmoid_near", "one_plus_tanh", "one_plus_erf"}, {"expf", "sigmoid", "tanhf", "erff"}


def test_results_in_16_bits_take_them():
    assert functions_in(lambda x: cast(activations(x), BFLOAT16)) == NEAR


def test_results_in_32_bits_do_not():
    assert functions_in(activations) == EXACT
    assert functions_in(lambda x: [cast(activations(x), BFLOAT16), activations(x)]) == NEAR | EXACT


def test_a_value_that_reaches_a_result_in_32_bits_too_is_exact():
    def both(x):
        y = activations(x)
        return [cast(y, BFLOAT16), y]

    assert functions_in(both) == EXACT


def test_erf_and_tanh_alone_stay():
    """Near 0 they need digits that one and they do not have."""
    assert functions_in(lambda x: cast(Mul.of(Erf.of(x), Tanh.of(x)), BFLOAT16)) == {"erff", "tanhf"}
