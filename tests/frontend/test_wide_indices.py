"""Indices of 64 bits: one that int32 does not hold is outside of every axis, never another place."""

import numpy as np
import pytest

import dslc

FAR = 2**32 + 1  # cut to 32 bits, it would be 1
X = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_far_indices_read_and_write_nothing(target):
    text = f"""
model M:
    input x[4, 3], ids[2]: int64
    state kept: int64 = {FAR}
    far[i] = ids[i] + {FAR - 1}
    gathered[i, d] = x[far[i], d]
    from_state[d] = x[kept, d]
    scattered[n < 4] = sum[i](where(far[i] == n, 1, 0))
    fed[n < 4] = sum[i](where(ids[i] - {FAR - 1} == n, 1, 0))
    scan t < 2 carry place: int64 = {FAR}:
        emit carried[t, d] = x[place, d]
    output gathered, from_state, scattered, fed, carried
"""
    out = dslc.compile(dslc.load(text), target)(x=X, ids=np.array([1, 2]))
    for name, value in out.items():
        assert not np.any(value), name


def test_a_scattered_input_may_be_far():
    text = "model M:\n    input ids[2]: int64\n    count[n < 4] = sum[i](where(ids[i] == n, 1, 0))\n    output count\n"
    program = dslc.compile(dslc.load(text), "cpu")
    np.testing.assert_array_equal(program(ids=np.array([FAR, 2]))["count"], [0, 0, 1, 0])
    np.testing.assert_array_equal(program(ids=np.array([1 - 2**32, 3]))["count"], [0, 0, 0, 1])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_one_number_that_is_an_index_is_checked(dtype):
    text = f"model M:\n    input x[4, 3], i: {dtype}\n    y[d] = x[i, d]\n    output y\n"
    program = dslc.compile(dslc.load(text), "cpu")
    np.testing.assert_array_equal(program(x=X, i=np.array(2, dtype))["y"], X[2])
    with pytest.raises(dslc.Error, match="input 'i'"):
        program(x=X, i=np.array(4 if dtype == "int32" else FAR, dtype))
