"""ParameterStore: stable aligned memory, versions, and checks of what is assigned."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dslc.core import dtypes
from dslc.core.errors import DataError, Error, NameError_, ShapeError, TypeError_
from dslc.core.executable import Port
from dslc.runtime.store import Entry, ParameterStore


def store() -> ParameterStore:
    return ParameterStore(
        [
            Port("net.w", "param", dtypes.FLOAT32, (2, 3), 0, line=4),
            Port("net.b", "param", dtypes.BFLOAT16, (3,), 1),
            Port("x", "input", dtypes.FLOAT32, (9, 2), 2),
            Port("net.count", "state", dtypes.INT32, (), 3),
        ]
    )


def test_mapping_by_path_holds_params_and_states_only():
    s = store()
    assert list(s) == ["net.w", "net.b", "net.count"] and len(s) == 3 and "x" not in s
    assert [e.path for e in s.entries("state")] == ["net.count"]
    assert s["net.b"].dtype == ml_dtypes.bfloat16


def test_addresses_are_aligned_and_stable_and_versions_count():
    s = store()
    before = {p: s.array(p).ctypes.data for p in s}
    assert all(a % 64 == 0 for a in before.values())
    s["net.w"] = np.ones((2, 3), np.float32)
    s["net.w"] = [[1, 2, 3], [4, 5, 6]]
    s.touch("net.b")
    assert before == {p: s.array(p).ctypes.data for p in s}
    assert [s.version(p) for p in s] == [2, 1, 0]
    assert s["net.w"][1, 2] == 6


def test_what_is_read_cannot_be_written_past_the_version():
    with pytest.raises(ValueError, match="read-only"):
        store()["net.w"][0, 0] = 1


@pytest.mark.parametrize(
    "path, value, kind, message",
    [
        ("net.W", 0, NameError_, "name error: the model has no parameter 'net.W'; did you mean 'net.w'?"),
        ("net.w", np.zeros((3, 2), np.float32), ShapeError,
         "shape error: param 'net.w' is float32[2, 3], given float32[3, 2]\n   = help: it is transposed: give value.T"),
        ("net.w", np.zeros((2, 3), np.int64), TypeError_,
         "type error: param 'net.w' is float32[2, 3], given int64[2, 3]\n   = help: convert it first: value.astype('float32')"),
        ("net.w", [[1, 2], [3]], ShapeError, "shape error: param 'net.w' is float32[2, 3], given a list whose rows have different lengths"),
        ("net.w", "abc", TypeError_, "type error: param 'net.w' is float32[2, 3], given str"),
        ("net.w", np.array(["a"]), TypeError_, "type error: param 'net.w' is float32[2, 3], given <U1"),
        ("net.count", 1 << 40, TypeError_,
         "type error: state 'net.count' is int32[], given 1099511627776, which is outside [-2147483648, 2147483647]"),
        ("net.count", 1.5, TypeError_, "type error: state 'net.count' is int32[], given floats"),
    ],
)  # fmt: skip
def test_messages(path, value, kind, message):
    s = store()
    with pytest.raises(kind) as caught:
        s[path] = value
    assert str(caught.value) == message


def test_other_libraries_come_in_by_dlpack():
    torch = pytest.importorskip("torch")
    s = store()
    s["net.w"] = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    assert s["net.w"][1, 1] == 4
    with pytest.raises(TypeError_, match=r"param 'net\.w' cannot be read from a Tensor"):
        s["net.w"] = torch.zeros(2, 3, requires_grad=True)


def test_programs_of_one_model_must_agree():
    s = store()
    assert s.extend([Port("net.w", "param", dtypes.FLOAT32, (2, 3), 0), Port("m", "state", dtypes.FLOAT32, (2,), 1)]) == ["m"]
    with pytest.raises(ShapeError, match=r"param 'net\.w' is float32\[2, 3\] in one program and float32\[3, 2\] in another"):
        s.extend([Port("net.w", "param", dtypes.FLOAT32, (3, 2), 0)])


def test_assign_writes_all_or_nothing():
    s = store()
    with pytest.raises(ShapeError):
        s.assign({"net.w": np.ones((2, 3)), "net.b": np.ones(4)})
    assert not s["net.w"].any() and s.version("net.w") == 0


ANY = st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["net.w", "net.b", "net.count", "nett.w"]),
    hnp.arrays(ANY, hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)),
)
def test_an_assignment_fits_exactly_or_is_an_error_that_changes_nothing(path, value):
    s = store()
    before = s.copy_values()
    try:
        s[path] = value
    except Error as error:
        assert path in str(error)
        assert all(np.array_equal(before[p], s[p]) for p in s) and all(s.version(p) == 0 for p in s)
        return
    entry = s.entry(path)
    assert value.shape == entry.shape and s.version(path) == 1
    expected = value.astype(entry.dtype.numpy)
    assert s[path].tobytes() == expected.tobytes()


# --- values that can be had again

LARGE = Entry("w", "param", dtypes.FLOAT32, (128, 64))  # eight pages
GIVEN = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)


def filled(reads: list[int], value: np.ndarray = GIVEN):
    """A source that counts how often it is read."""

    def fill(array: np.ndarray) -> None:
        reads.append(1)
        np.copyto(array, value)

    return fill


def test_a_dropped_value_leaves_the_memory_and_comes_back():
    reads: list[int] = []
    store = ParameterStore([LARGE])
    store.read_from({"w": filled(reads)})
    value = store.value("w")
    version = value.version
    np.testing.assert_array_equal(store["w"], GIVEN)
    value.drop()
    assert not value.memory[32:96].any() and len(reads) == 1
    np.testing.assert_array_equal(store["w"], GIVEN)
    assert len(reads) == 2 and value.version == version


@pytest.mark.parametrize("hold", [lambda s: s["w"], lambda s: s["w"][3:].T, lambda s: s.array("w").reshape(-1)[:9]])
def test_a_value_that_somebody_holds_is_not_dropped(hold):
    store = ParameterStore([LARGE])
    store.read_from({"w": filled([])})
    held = hold(store)
    kept = held.copy()
    store.value("w").drop()
    np.testing.assert_array_equal(held, kept)
    assert store.value("w").memory.any(axis=1).all()
    del held
    store.value("w").drop()
    assert not store.value("w").memory[32:96].any()


def test_a_value_that_was_written_is_not_dropped():
    store = ParameterStore([LARGE])
    for write in (lambda: store.__setitem__("w", 2 * GIVEN), lambda: (np.copyto(store.array("w"), 2 * GIVEN), store.touch("w"))):
        store.read_from({"w": filled([])})
        store.value("w").drop()
        write()
        store.value("w").drop()
        np.testing.assert_array_equal(store.value("w").memory, 2 * GIVEN)


def test_a_store_beside_another_sees_what_was_dropped():
    store = ParameterStore([LARGE])
    store.read_from({"w": filled([])})
    beside = store.beside()
    store.value("w").drop()
    np.testing.assert_array_equal(beside["w"], GIVEN)


def test_where_one_source_fails_all_values_are_as_they_were():
    store = ParameterStore(
        [LARGE, Entry("v", "param", dtypes.FLOAT32, (128, 64)), Entry("u", "param", dtypes.FLOAT32, (3,)), Entry("t", "param", dtypes.FLOAT32, (3,))]
    )
    store["w"] = 2 * GIVEN
    store.read_from({"v": filled([], 3 * GIVEN)})
    store.moved("u", lambda array: np.copyto(array, 7))

    def fails(array: np.ndarray) -> None:
        array[...] = 5
        raise DataError("no")

    versions = [store.version(p) for p in store]
    with pytest.raises(DataError):
        store.read_from({"w": filled([]), "v": filled([]), "u": lambda a: a.fill(1), "t": fails})
    assert versions == [store.version(p) for p in store]
    np.testing.assert_array_equal(store["w"], 2 * GIVEN)
    np.testing.assert_array_equal(store["v"], 3 * GIVEN)
    assert store["u"].tolist() == [7, 7, 7] and store["t"].tolist() == [0, 0, 0]
