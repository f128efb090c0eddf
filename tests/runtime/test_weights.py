"""Foreign weights: files, hostile headers, and the rules that rename, transpose and split."""

from __future__ import annotations

import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.core import dtypes
from dslc.core.errors import DataError, Error, SyntaxError_
from dslc.runtime.store import Entry, ParameterStore
from dslc.runtime.tensorfile import open_tensors, write_safetensors
from dslc.runtime.weights import load_weights, parse_rules


def store(**shapes: tuple[int, ...]) -> ParameterStore:
    return ParameterStore([Entry(p.replace("_", "."), "param", dtypes.FLOAT32, s) for p, s in shapes.items()])


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(3, np.int64),
    "c": np.ones((3, 0), np.float16),
    "d": np.array([True, False]),
    "e": np.arange(5).astype(ml_dtypes.bfloat16),
    "f": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
}


def test_files_go_both_ways_with_the_reference_implementation(tmp_path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_safetensors(ours, ARRAYS, {"who": "us"})
    plain = {k: v for k, v in ARRAYS.items() if k in "abcd"}
    with safetensors.safe_open(ours, "np") as reader:
        assert set(reader.keys()) == set(ARRAYS) and reader.metadata() == {"who": "us"}
        assert all(reader.get_slice(k).get_shape() == list(v.shape) for k, v in ARRAYS.items())
        assert all(np.array_equal(reader.get_tensor(k), v) and reader.get_tensor(k).dtype == v.dtype for k, v in plain.items())
    safetensors.numpy.save_file(plain, theirs, {"who": "them"})
    file = open_tensors(theirs)
    assert file.metadata == {"who": "them"} and set(file.entries) == set(plain)
    for path, arrays in ((ours, ARRAYS), (theirs, plain)):
        file = open_tensors(path)
        for name, array in arrays.items():
            got = file.read(name)
            assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes()


def raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


F4 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header, data, length, message",
    [
        ({}, b"", 1 << 60, "not a safetensors file: its header says 1152921504606846976 bytes, the file has 10"),
        (b"{", b"", None, "not a safetensors file: Expecting property name"),
        (b"[" * 100_000, b"", None, "not a safetensors file: maximum recursion depth"),
        (b'{"a": {}, "a": {}}', b"", None, "a name stands twice in its header"),
        ([], b"", None, "its header is not an object"),
        ({"a": F4 | {"dtype": "C64"}}, b"1234", None, "'a' has the type 'C64'"),
        ({"a": F4 | {"shape": [-1]}}, b"1234", None, r"'a' has the shape \[-1\]"),
        ({"a": F4 | {"shape": [True]}}, b"1234", None, r"'a' has the shape \[True\]"),
        ({"a": F4 | {"shape": [1 << 62, 1 << 62]}}, b"1234", None, "does not take the 4 bytes it has"),
        ({"a": F4 | {"data_offsets": [0, 8]}}, b"1234", None, r"'a' lies at \[0, 8\], outside the 4 bytes of data"),
        ({"a": F4 | {"data_offsets": [4, 0]}}, b"1234", None, r"'a' lies at \[4, 0\]"),
        ({"a": F4, "b": F4}, b"1234", None, "overlap or leave a hole at byte 0"),
        ({"a": F4}, b"12345", None, "1 bytes follow the last array"),
        ({"__metadata__": {"x": 1}}, b"", None, "its metadata must be an object of strings"),
    ],
)
def test_hostile_headers_are_refused(tmp_path, header, data, length, message):
    path = tmp_path / "x.safetensors"
    raw(path, header, data, length)
    with pytest.raises(DataError, match=message):
        open_tensors(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_give_errors_and_never_crash(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    kind = data.draw(st.sampled_from(["safetensors", "npz"]))
    path = folder / f"x.{kind}"
    if kind == "npz":
        np.savez(path, a=ARRAYS["a"], b=ARRAYS["b"])
    else:
        write_safetensors(path, {k: ARRAYS[k] for k in "ab"}, {"k": "v"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        file = open_tensors(path)
        for name, entry in file.entries.items():
            assert file.read(name).shape == entry.shape
    except Error as error:
        assert str(path) in str(error)


def test_npz_with_pickles_or_foreign_members_is_refused(tmp_path):
    np.savez(tmp_path / "p.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="'a' has the type object"):
        open_tensors(tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("run.sh", "rm")
    with pytest.raises(DataError, match=r"'run\.sh' is not an array"):
        open_tensors(tmp_path / "z.npz")
    np.savez(tmp_path / "big.npz", a=np.zeros(3, ">f8"))
    file = open_tensors(tmp_path / "big.npz")
    assert file.read("a").dtype == np.float64


RULES = """
# from a GPT-2 file
wte.weight             -> emb.table
h.*.c_attn.weight      -> attn.*.wq, attn.*.wk, attn.*.wv | split 1 | reshape   # q, k, v in one
h.*.fc.weight          -> mlp.*.w | transpose
/^ln_(\\d+)\\.g$/         -> norm.\\1.scale
drop *.mask
"""


def test_rules_rename_transpose_split_and_drop(tmp_path):
    s = store(emb_table=(5, 4), attn_0_wq=(4, 2, 2), attn_0_wk=(4, 2, 2), attn_0_wv=(4, 2, 2), mlp_0_w=(3, 4), norm_7_scale=(4,), same=(2,))
    rng = np.random.default_rng(0)
    arrays = {"wte.weight": (5, 4), "h.0.c_attn.weight": (4, 12), "h.0.fc.weight": (4, 3), "ln_7.g": (4,), "h.0.mask": (9, 9), "same": (2,)}
    arrays = {k: rng.normal(size=v).astype(np.float32) for k, v in arrays.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    (tmp_path / "rules").write_text(RULES)
    assert sorted(s.load_weights(tmp_path / "w.npz", tmp_path / "rules")) == sorted(s)
    qkv = arrays["h.0.c_attn.weight"]
    assert np.array_equal(s["attn.0.wk"], qkv[:, 4:8].reshape(4, 2, 2))
    assert np.array_equal(s["mlp.0.w"], arrays["h.0.fc.weight"].T)
    assert np.array_equal(s["norm.7.scale"], arrays["ln_7.g"]) and np.array_equal(s["same"], arrays["same"])


def test_yaml_rules_and_unequal_splits(tmp_path):
    s = store(a=(2,), b=(3,))
    np.savez(tmp_path / "w.npz", ab=np.arange(5.0), junk=np.zeros(1))
    (tmp_path / "r.yaml").write_text("ab: a, b | split 0 2 3\ndrop: [j*]\n")
    s.load_weights(tmp_path / "w.npz", tmp_path / "r.yaml")
    assert list(s["a"]) == [0, 1] and list(s["b"]) == [2, 3, 4]
    (tmp_path / "r.yaml").write_text("drop:\n")
    with pytest.raises(SyntaxError_, match="drop takes a pattern, or a list of patterns"):
        s.load_weights(tmp_path / "w.npz", tmp_path / "r.yaml")


def test_everything_that_does_not_fit_is_told_at_once(tmp_path):
    s = store(emb_table=(5, 4), mlp_w=(3, 4), mlp_b=(3,), out_w=(2, 2))
    np.savez(tmp_path / "w.npz", **{"emb.tabel": np.zeros((5, 4)), "fc": np.zeros((4, 3)), "junk": np.zeros(1), "out.w": np.zeros((2, 3))})
    with pytest.raises(DataError) as caught:
        s.load_weights(tmp_path / "w.npz", "fc -> mlp.w")
    assert str(caught.value).replace(str(tmp_path), "T") == (
        "data error: the weights of T/w.npz do not fit the model\n"
        "   = in the file only: 'emb.tabel'; did you mean 'emb.table'?\n"
        "   = in the file only: 'junk'\n"
        "   = without a value: 'emb.table', float32[5, 4]; nearest in the file: 'emb.tabel'\n"
        "   = without a value: 'mlp.b', float32[3]\n"
        "   = 'fc' gives [4, 3], mlp.w is float32[3, 4]; add | transpose\n"
        "   = 'out.w' is float64[2, 3], out.w float32[2, 2] expected\n"
        "   = help: say where the names go in a file of rules: --map RULES, with lines such as  fc.weight -> linear.w | transpose"
    )
    assert not any(s[p].any() for p in s) and all(s.version(p) == 0 for p in s)


@pytest.mark.parametrize(
    "text, message",
    [
        ("fc.weight linear.w", "r:1:1: syntax error: a rule is PATTERN -> TARGET, or drop PATTERN"),
        ("\n  a -> b | transpos", "r:2:3: syntax error: unknown step 'transpos'; did you mean 'transpose'?"),
        ("a -> b, c", "r:1:1: syntax error: 2 targets and 0 splits"),
        ("a -> b | split 0", "r:1:1: syntax error: 1 targets and 1 splits"),
        ("a ->", "r:1:1: syntax error: a rule needs a target"),
        ("a -> b | reshape x", "r:1:1: syntax error: 'reshape x': reshape takes integers"),
        ("a -> b, c | split", "r:1:1: syntax error: split needs an axis"),
        ("/a(/ -> b", "r:1:1: syntax error: /a(/: missing ), unterminated subpattern at position 1"),
        ("/a/ -> \\1", "r:1:1: syntax error: /a/: invalid group reference 1 at position 1"),
        ("a.* -> b.*.*", "r:1:1: syntax error: a target has more '*' than its pattern"),
    ],
)
def test_bad_rules_point_to_their_line(text, message):
    with pytest.raises(SyntaxError_) as caught:
        parse_rules(text, "r")
    assert str(caught.value).splitlines()[0] == message


def test_missing_and_foreign_files(tmp_path):
    s = store(a=(1,))
    with pytest.raises(DataError, match=r"no\.npz: no such file"):
        s.load_weights(tmp_path / "no.npz")
    with pytest.raises(DataError, match=r"weights are read from \.safetensors and \.npz files, not '\.pt'"):
        s.load_weights("x.pt")


def test_values_are_read_again_by_the_rules_that_brought_them(tmp_path):
    """Each part of what a rule makes, also where the type of the model holds more than the file's."""
    rng = np.random.default_rng(3)
    both, narrow = rng.standard_normal((96, 128)).astype(np.float32), rng.standard_normal((64, 64)).astype(np.float16)
    write_safetensors(tmp_path / "w.safetensors", {"both": both, "narrow": narrow, "plain": both.T}, {})
    shapes = {"a": (64, 96), "b": (64, 96), "n": (64, 64), "plain": (128, 96)}
    store = ParameterStore([Entry(path, "param", dtypes.FLOAT32, shape) for path, shape in shapes.items()])
    load_weights(store, tmp_path / "w.safetensors", "both -> a, b | transpose 1 0 | split 0\nnarrow -> n")
    expected = {"a": both.T[:64], "b": both.T[64:], "n": narrow.astype(np.float32), "plain": both.T}
    for again in (False, True):
        for path, value in expected.items():
            np.testing.assert_array_equal(store[path], value)
            store.value(path).drop()
            assert (store.value(path).fetch is not None) and (again or not store.value(path).memory[32:48].any())


def test_a_value_that_may_not_fit_is_read_before_anything_is_written(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"a": np.ones(3, np.float32), "b": np.full(3, 1e30, np.float32)}, {})
    store = ParameterStore([Entry("a", "param", dtypes.FLOAT32, (3,)), Entry("b", "param", dtypes.FLOAT16, (3,))])
    with pytest.raises(Error, match="outside the range of float16"):
        load_weights(store, tmp_path / "w.safetensors")
    assert not store["a"].any() and store.version("a") == 0
