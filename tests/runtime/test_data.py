"""Datasets, batches, splits, and the sources text, pydoc_topics, digits, images and arrays."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from dslc.core import dtypes
from dslc.core.errors import DataError, Error, NameError_, Span, TypeError_
from dslc.core.executable import Port
from dslc.runtime import data
from dslc.runtime.binding import batch_of, bind, fit_input, fit_inputs
from dslc.runtime.data import vocabulary
from dslc.runtime.data.digits import digits
from dslc.runtime.data.images import images
from dslc.runtime.data.text import Corpus, text
from dslc.runtime.data.topics import pydoc_topics

TOKENS = Port("tokens", "input", dtypes.INT32, (4, 8), 0, bounds=(0, 96), line=5)
TARGETS = Port("targets", "input", dtypes.INT32, (4, 8), 1, bounds=(0, 96), line=6)


def rows(n=10):
    return data.arrays(x=np.arange(n * 2, dtype=np.float32).reshape(n, 2), y=np.arange(n))


def test_batches_are_deterministic_resumable_and_cover_the_epoch():
    d = rows(10)
    one = list(d.batches(3, seed=1, epoch=2))
    assert [at for at, _ in one] == [3, 6, 9]
    again = list(d.batches(3, seed=1, epoch=2, start=3))
    assert all(np.array_equal(a["y"], b["y"]) for (_, a), (_, b) in zip(one[1:], again, strict=True))
    whole = np.concatenate([b["y"] for _, b in d.batches(3, seed=1, epoch=2, short=True)])
    assert sorted(whole) == list(range(10)) and list(whole) != list(range(10))
    assert not np.array_equal(whole, np.concatenate([b["y"] for _, b in d.batches(3, seed=1, epoch=3, short=True)]))
    assert list(np.concatenate([b["y"] for _, b in d.batches(4, shuffle=False)])) == list(range(8))
    assert all(np.array_equal(b["x"][:, 0], b["y"] * 2) for _, b in one)


def test_feed_goes_on_where_it_stood():
    feed = data.Feed(rows(10), 3, seed=7)
    seen = [(feed.epoch, feed.position, feed.next()["y"].tolist()) for _ in range(9)]
    other = data.Feed(rows(10), 3, seed=7, epoch=seen[4][0], position=seen[4][1])
    assert [(other.epoch, other.position, other.next()["y"].tolist()) for _ in range(5)] == seen[4:]
    assert {e for e, _, _ in seen} == {0, 1, 2} and feed.batches_per_epoch == 3
    with pytest.raises(DataError, match=r"arrays\(\) has 10 rows for training, a batch takes 11"):
        data.Feed(rows(10), 11)


def test_split_holds_back_the_last_tenth_of_a_seeded_shuffle():
    d = rows(50)
    train, held = d.split(0.1, seed=3)
    assert len(train) == 45 and len(held) == 5
    both = np.concatenate([p.take(np.arange(len(p)))["y"] for p in (train, held)])
    assert sorted(both) == list(range(50)) and list(both[-5:]) != [45, 46, 47, 48, 49]
    same = d.split(0.1, seed=3)[1].take(np.arange(5))["y"]
    assert list(same) == list(both[-5:]) and list(d.split(0.1, seed=4)[1].take(np.arange(5))["y"]) != list(same)
    inner, _ = train.split(0.2, seed=1)
    assert not set(inner.take(np.arange(36))["y"]) & set(both[-5:])
    with pytest.raises(DataError, match=r"split=0\.001 of 50 rows of arrays\(\) leaves a part empty"):
        d.split(0.001)


def test_text_windows_and_targets():
    d = text(Corpus("abcdefghij", "t"), window=3)
    batch = d.take(np.arange(len(d)))
    assert len(d) == 3 and d.vocabulary is not None
    assert [d.vocabulary.decode(r) for r in batch["tokens"]] == ["abc", "def", "ghi"]
    assert [d.vocabulary.decode(r) for r in batch["targets"]] == ["bcd", "efg", "hij"]
    dense = text(Corpus("abcdefghij", "t"), window=3, stride=1)
    assert len(dense) == 7 and [len(p) for p in dense.split(0.3)] == [5, 2]
    last = dense.split(0.3)[1].take(np.array([1]))["targets"][0]
    assert dense.vocabulary.decode(last) == "hij"
    with pytest.raises(DataError, match="t has 10 tokens, a window with its targets takes 11"):
        text(Corpus("abcdefghij", "t"), window=10)


def test_text_files_and_folding(tmp_path):
    (tmp_path / "a.txt").write_text("Crème — “brûlée”\tß\r\n", encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text("☃x" * 20, encoding="utf-8")
    d = text(["a.txt", "b.txt"], window=4, fold=True, folder=tmp_path)
    assert len(d.vocabulary) == 96
    whole = d.vocabulary.decode(d.columns["tokens"].values)
    assert whole == 'Creme -- "brulee"    ss\n\n' + "?x" * 20
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match=r"bad\.txt is not UTF-8 text: byte 3 is 0xff"):
        text("bad.txt", window=1, folder=tmp_path)
    with pytest.raises(DataError, match=r"none\.txt cannot be read: No such file or directory"):
        text("none.txt", window=1, folder=tmp_path)


def test_an_id_outside_the_models_vocabulary_is_named():
    d = text(Corpus("".join(map(chr, range(1000, 1200))), "t.txt"), window=8)
    with pytest.raises(DataError) as caught:
        bind(d, [TOKENS])
    assert str(caught.value) == (
        "data error: input 'tokens' has the value 96 at position 96 of t.txt, the character 'ш'; "
        "it is used as an index and must be in [0, 96) (line 5)"
    )


def test_vocabularies_are_kept_and_refuse_what_they_lack():
    v = vocabulary.of_text("banana")
    again = vocabulary.from_json(v.to_json())
    assert again == v and v.symbols == "abn" and list(v.encode("nab")) == [2, 0, 1]
    assert v.decode([2, 0, 99]) == "na\N{REPLACEMENT CHARACTER}"
    with pytest.raises(DataError, match=r"the character 'x' \(line 2, position 3\) is not in the vocabulary of 3 characters"):
        vocabulary.of_text("ab\n").encode("ab\nx")


def test_tokenizer_files_say_what_they_need(tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"t\.json needs the package 'tokenizers'"):
        text(Corpus("abc"), window=1, tokenizer="t.json", folder=tmp_path)


def test_pydoc_topics_is_real_prose_in_96_symbols(monkeypatch):
    corpus = pydoc_topics()
    assert len(corpus.text) > 300_000 and "statement" in corpus.text and "\n\n\n" not in corpus.text
    assert set(corpus.text) <= set(vocabulary.ASCII.symbols) and len(vocabulary.ASCII) == 96
    d = text(corpus, window=8)
    bound = bind(d, [TOKENS, TARGETS])
    assert bound.take(np.arange(4))["tokens"].shape == (4, 8)
    pydoc_topics.cache_clear()
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match=r"this Python has no pydoc_data\.topics"):
        pydoc_topics()


def test_digits_take_the_shape_of_the_input(monkeypatch):
    pytest.importorskip("sklearn")
    label = Port("label", "input", dtypes.INT32, (16,), 1, bounds=(0, 10))
    for shape in ((16, 64), (16, 8, 8), (16, 1, 8, 8)):
        d = bind(digits(), [Port("image", "input", dtypes.FLOAT32, shape, 0), label])
        batch = d.take(np.arange(16))
        assert batch["image"].shape == shape and batch["image"].max() == 1 and batch["label"].dtype == np.int32
    assert len(d) == 1797
    with pytest.raises(DataError) as caught:
        bind(digits(), [Port("image", "input", dtypes.FLOAT32, (16, 28, 28), 0, line=3)])
    assert str(caught.value) == "data error: input 'image' is float32[rows, 28, 28] (line 3), digits() gives float32[rows, 64]"
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"digits\(\) needs scikit-learn\n   = help: pip install dslc\[examples\]"):
        digits()


def picture(path, width, height, value):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, 0, 0)).save(path)


def test_images_from_a_folder(tmp_path):
    picture(tmp_path / "cat" / "1.png", 5, 4, 255)
    picture(tmp_path / "dog" / "2.png", 5, 4, 51)
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        d = images(".", folder=tmp_path)
    assert not told  # of files that stayed open
    batch = d.take(np.arange(2))
    assert d.classes == ("cat", "dog") and batch["image"].shape == (2, 3, 4, 5) and list(batch["label"]) == [0, 1]
    assert batch["image"][1, 0, 0, 0] == np.float32(0.2)
    assert images(".", 1, folder=tmp_path).columns["image"].shape == (1, 4, 5)
    picture(tmp_path / "dog" / "3.png", 6, 4, 0)
    with pytest.raises(DataError, match=r"3\.png is 6 pixels wide and 4 high, expected 5 x 4 as in .*1\.png"):
        images(".", folder=tmp_path)
    (tmp_path / "dog" / "3.png").write_bytes((tmp_path / "dog" / "2.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"3\.png (is damaged|cannot be read as an image)"):
        images(".", folder=tmp_path)
    (tmp_path / "dog" / "3.png").write_text("hello")
    with pytest.raises(DataError, match=r"3\.png cannot be read as an image: cannot identify image file"):
        images(".", folder=tmp_path)
    with pytest.raises(DataError, match="nowhere is not a folder"):
        images("nowhere", folder=tmp_path)


def test_arrays_and_lists():
    d = data.arrays(x=[[0, 0], [0, 1], [1, 0], [1, 1]], y=[0, 1, 1, 0])
    b = bind(d, [Port("x", "input", dtypes.FLOAT32, (4, 2), 0), Port("y", "input", dtypes.FLOAT32, (4, 1), 1)])
    assert b.take(np.arange(4))["y"].tolist() == [[0], [1], [1], [0]]
    with pytest.raises(DataError, match="the columns of arrays\\(\\) have different numbers of rows: x has 2, y has 3"):
        data.arrays(x=[1, 2], y=[1, 2, 3])
    with pytest.raises(DataError, match="column 'x': its rows have different shapes"):
        data.arrays(x=[[1], [1, 2]])
    with pytest.raises(DataError, match="column 'x' must be numbers"):
        data.arrays(x=["a"])


@pytest.mark.parametrize(
    "port, array, message",
    [
        (("x", dtypes.FLOAT32, (4, 3)), np.zeros((5, 2)), "input 'x' is float32[rows, 3] (line 2), arrays() gives float64[rows, 2]"),
        (("x", dtypes.INT32, (4,)), np.zeros(5), "input 'x' is int32 (line 2), the data is float64"),
        (("x", dtypes.INT32, (4,)), [1.0, 2.5], "input 'x' is int32 (line 2), the data has 2.5 in row 1"),
        (("x", dtypes.INT8, (4,)), np.array([1, 300]), "input 'x' is int8 (line 2), the data has 300 in row 1"),
        (("x", dtypes.BOOL, (4,)), np.array([1, 2]), "input 'x' is bool (line 2), the data has 2 in row 1"),
        (("x", dtypes.INT32, (4, 2), (0, 3)), np.array([[0, 1], [2, 3]]),
         "input 'x' has the value 3 in row 1, element [1]; it is used as an index and must be in [0, 3) (line 2)"),
    ],
)  # fmt: skip
def test_binding_messages(port, array, message):
    name, dtype, shape, *bounds = port
    with pytest.raises(DataError) as caught:
        bind(data.arrays(x=array), [Port(name, "input", dtype, shape, 0, *bounds, line=2)])
    assert str(caught.value) == "data error: " + message


def test_a_column_that_is_missing():
    with pytest.raises(DataError) as caught:
        bind(rows(), [TARGETS])
    assert str(caught.value) == (
        "data error: nothing feeds the input 'targets' (line 6): arrays() has the columns x, y\n   = help: rename one: targets=\"x\""
    )
    with pytest.raises(DataError, match="the first axis of every input counts the rows of a batch, but a has 2, b has 3"):
        batch_of([Port("a", "input", dtypes.INT8, (2,), 0), Port("b", "input", dtypes.INT8, (3,), 1)])
    assert batch_of([TOKENS, TARGETS]) == 4


def test_fed_inputs_are_fitted():
    z = Port("z", "input", dtypes.FLOAT32, (2,), 0, line=2)
    array = np.ones(2, np.float32)
    assert fit_input(z, array) is array and fit_input(z, [1, 2]).dtype == np.float32 and fit_input(z, np.ones(2)).dtype == np.float32
    with pytest.raises(DataError) as caught:
        fit_input(z, np.zeros(3, np.int64))
    assert str(caught.value) == "data error: input 'z' is int64[3], declared float32[2] (line 2)"
    with pytest.raises(DataError, match="the program has no input 'token'; did you mean 'tokens'"):
        fit_inputs([TOKENS, TARGETS], {"token": 1})
    with pytest.raises(DataError, match="input 'targets' was not given"):
        fit_inputs([TOKENS, TARGETS], {"tokens": np.zeros((4, 8), np.int32)})
    with pytest.raises(DataError, match=r"input 'tokens' has the value -1 at \[2, 3\]"):
        bad = np.zeros((4, 8), np.int64)
        bad[2, 3] = -1
        fit_input(TOKENS, bad)


SPAN = Span("m.dsl", 20, 5, 20, 9)


def test_sources_by_name(tmp_path):
    (tmp_path / "t.txt").write_text("hello world, " * 40)
    call = data.Call("text", ("t.txt",), {"window": 8, "split": 0.25, "shuffle": False}, SPAN)
    got = data.prepare(call, folder=tmp_path, seed=1)
    assert len(got.held_out) == round(0.25 * 64) and not got.shuffle
    other = data.Call("text", ("t.txt",), {"window": 8}, SPAN)
    train = data.prepare(data.Call("text", (data.Call("pydoc_topics"),), {"window": 8}), other, folder=tmp_path)
    assert train.held_out.vocabulary is train.train.vocabulary and len(train.train.vocabulary) == 96
    renamed, _ = data.build(data.Call("text", ("t.txt",), {"window": 8, "ids": "tokens"}), tmp_path)
    assert renamed.columns["ids"] is renamed.columns["tokens"]


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (("txt", (), {}), NameError_, "m.dsl:20:5: name error: unknown data source 'txt'; did you mean 'text'?"),
        (("text", ("t",), {}), TypeError_, "m.dsl:20:5: type error: text: missing a required argument: 'window'"),
        (("text", ("t",), {"window": 1.5}), TypeError_, "m.dsl:20:5: type error: text: window must be an integer, this is 1.5"),
        (("text", (3,), {"window": 2}), DataError,
         "m.dsl:20:5: data error: text needs a file name, a list of file names, or a text such as pydoc_topics()"),
        (("text", ("t",), {"window": 2, "strid": 3}), NameError_, "m.dsl:20:5: name error: text has no option 'strid'; did you mean 'stride'?"),
        (("text", ("none",), {"window": 2}), DataError, "m.dsl:20:5: data error: none cannot be read: No such file or directory"),
        (("digits", (), {"split": 2}), DataError, "m.dsl:20:5: data error: split=2 must lie between 0 and 1"),
        (("digits", (), {"image2": "imag"}), NameError_, "m.dsl:20:5: name error: digits() has no column 'imag'; did you mean 'image'?"),
        (("images", (3,), {}), TypeError_, "m.dsl:20:5: type error: images: path must be a file name in quotes, this is 3"),
        (("arrays", (), {"x": [[1], [2, 3]]}), DataError, "m.dsl:20:5: data error: column 'x': its rows have different shapes"),
    ],
)  # fmt: skip
def test_source_messages(call, kind, message, tmp_path):
    name, args, options = call
    with pytest.raises(kind) as caught:
        data.prepare(data.Call(name, args, options, SPAN), folder=tmp_path)
    assert isinstance(caught.value, Error) and str(caught.value).splitlines()[0] == message
