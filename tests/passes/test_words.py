"""Products of bytes in whole programs: weights kept as words, bytes made wider by the products alone, integers that are the oracle's."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program, lower
from dslc.core.executable import from_bytes
from dslc.ir.program import program_of
from dslc.targets import target_of

TWO = """
model M:
    input  x[9, 2, 21]: uint8
    param  w[2, 21, 3, 7], u[42, 18] ~ normal()
    q[i, c, h, o] = int8(clip(round(w[i, c, h, o] * 40), -128.0, 127.0))
    y[n, h, o] = sum[i, c]((int32(x[n, i, c]) - 100) * int32(q[i, c, h, o]))
    z[n, o] = sum[k](int32(x[n, k // 21, k % 21]) * (int32(int8(round(u[k, o] * 30))) - 3))
    output y, z, first = float32(x[0, 0, 0])
"""
X = np.random.default_rng(0).integers(0, 256, (9, 2, 21)).astype(np.uint8)


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked"])
def test_sums_are_exact(target: str) -> None:
    model = dslc.load(TWO)
    got, expected = (dslc.compile(model, target=t)(x=X) for t in (target, "reference"))
    q = np.clip(np.round(model.params["w"] * np.float32(40)), -128, 127).astype(int)
    u = np.round(model.params["u"] * np.float32(30)).astype(np.int8).astype(int)
    np.testing.assert_array_equal(got["y"], np.einsum("nic,icho->nho", X.astype(int) - 100, q))
    np.testing.assert_array_equal(got["z"], X.reshape(9, 42).astype(int) @ (u - 3))
    for name in got:
        np.testing.assert_array_equal(got[name], expected[name])


def test_weights_are_kept_as_words() -> None:
    executable = compile_program(dslc.load(TWO), "run", "cpu")
    kept = {p.shape: str(p.dtype) for p in from_bytes(executable.prepare).ports if p.name.startswith("prepared")}
    assert kept == {(1, 2, 11, 16, 4): "int8"}  # 21 and 18 columns and 42 terms are the same number of words


def test_one_row_is_as_many() -> None:
    """Of products that are laid out in place each row is computed alike."""
    model = dslc.load(TWO.replace("x[9,", "x[1,"))
    many = dslc.load(TWO)
    for name in model.params:
        many.params[name] = model.params[name]
    one, all_ = dslc.compile(model, target="cpu")(x=X[3:4]), dslc.compile(many, target="cpu")(x=X)
    np.testing.assert_array_equal(one["z"][0], all_["z"][3])
    np.testing.assert_array_equal(one["y"][0], all_["y"][3])


def test_bytes_that_several_products_read_are_stored_as_bytes() -> None:
    text = """
model M:
    input  x[8, 32]
    param  a[32, 16], b[32, 16] ~ normal()
    q[n, i] = uint8(clip(round(x[n, i] * 30 + 128), 0.0, 255.0))
    wide[n, i] = int32(q[n, i]) - 128
    y[n, o] = sum[i](wide[n, i] * int32(int8(round(a[i, o] * 20))))
    z[n, o] = sum[i](wide[n, i] * int32(int8(round(b[i, o] * 20))))
    output y, z
"""
    elaborated = lower(dslc.load(text), "run", target_of("cpu"))
    with elaborated.context:
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if op.operation.name == "nn.kernel"]
        results = [str(r.type) for op in kernels for r in op.results]
        assert [str(op.kind) for op in kernels] == ["map", "contract", "contract"]
        assert results == ["tensor<8x32xui8>", "tensor<8x16xi32>", "tensor<8x16xi32>"]
