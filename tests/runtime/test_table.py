"""csv and npz tables: what inputs take, and the whole message for every kind of damage."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.core import dtypes
from dslc.core.errors import Error
from dslc.core.executable import Port
from dslc.runtime import data
from dslc.runtime.binding import bind
from dslc.runtime.data.table import table

GOOD = "a,b,c,label\n1,2,3,0\n4.5,5,-6e2,1\n\n7,8,9,1\n"


def written(folder, text, name="t.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return name


def test_columns_by_name_number_range_and_list(tmp_path):
    d = table(written(tmp_path, GOOD), folder=tmp_path, x=[0, 3], y=3, z="b", u=["c", "a"])
    got = d.take(np.arange(3))
    assert got["x"].tolist() == [[1, 2, 3], [4.5, 5, -600], [7, 8, 9]] and got["y"].tolist() == [0, 1, 1]
    assert got["z"].tolist() == [2, 5, 8] and got["u"][1].tolist() == [-600, 4.5] and got["label"].tolist() == [0, 1, 1]
    bound = bind(d, [Port("x", "input", dtypes.FLOAT32, (2, 3, 1), 0), Port("y", "input", dtypes.INT32, (2,), 1, (0, 2))])
    assert bound.take(np.array([1]))["x"].shape == (1, 3, 1) and bound.take(np.array([1]))["y"].dtype == np.int32


def test_quotes_other_delimiters_and_a_byte_order_mark(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeff"a";"b"\r\n"1";2\r\n'.encode())
    assert table("t.csv", ";", folder=tmp_path).take(np.arange(1))["a"].tolist() == [1]


def test_more_rows_than_a_chunk(tmp_path):
    lines = "\n".join(f"{i},{i % 7}" for i in range(10_000))
    d = table(written(tmp_path, "a,b\n" + lines + "\n"), folder=tmp_path)
    assert len(d) == 10_000 and d.take(np.array([9_999]))["a"] == 9_999
    bad = lines.replace("\n8000,6\n", "\n8000,six\n")
    with pytest.raises(Error, match=r"t\.csv:8002:6: data error: row 8001, column 'b': 'six' is not a finite number"):
        table(written(tmp_path, "a,b\n" + bad + "\n"), folder=tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        (GOOD.replace("-6e2", "six"),
         "t.csv:3:7: data error: row 2, column 'c': 'six' is not a finite number\n    3 | 4.5,5,six,1\n      |       ^^^"),
        (GOOD.replace("7,8", "7,"),
         "t.csv:5:3: data error: row 3, column 'b': the cell is empty\n    5 | 7,,9,1\n      |   ^"),
        (GOOD.replace("7,8", "nan,8"),
         "t.csv:5:1: data error: row 3, column 'a': 'nan' is not a finite number\n    5 | nan,8,9,1\n      | ^^^"),
        (GOOD.replace("7,8,", "7,"),
         "t.csv:5:1: data error: row 3 has 3 cells, the header has 4\n    5 | 7,9,1\n      | ^^^^^"),
        (GOOD.replace("1,2,3,0", '"1,2",3,0'),
         't.csv:2:1: data error: row 1 has 3 cells, the header has 4\n    2 | "1,2",3,0\n      | ^^^^^^^^^'),
        ("", "data error: t.csv is empty"),
        ("a,b\n", "data error: t.csv has a header but no rows"),
        ("a,b,a\n1,2,3\n", "data error: t.csv has two columns named 'a'"),
        ("1,2,3\n4,5,6\n",
         "data error: t.csv has no header: its first line holds the number 1\n   = help: put a line with the columns' names first"),
        ('a,b\n"1,2\n', "data error: t.csv is not a csv file: unexpected end of data"),
    ],
)  # fmt: skip
def test_bad_files_with_the_whole_message(tmp_path, text, message):
    with pytest.raises(Error) as caught:
        table(written(tmp_path, text), folder=tmp_path)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"x": [0, 9]}, 'data error: x=[0, 9]: t.csv has the columns 0 to 3\n'
         '   = help: write a number, a range [first, end], a name "column" or names ["a", "b"]'),
        ({"x": 4}, 'data error: x=4: t.csv has the columns 0 to 3\n'
         '   = help: write a number, a range [first, end], a name "column" or names ["a", "b"]'),
        ({"x": "lable"}, "name error: t.csv has no column 'lable'; did you mean 'label'?\n   = its columns are: a, b, c, label"),
    ],
)  # fmt: skip
def test_bad_choices_of_columns(tmp_path, columns, message):
    with pytest.raises(Error) as caught:
        table(written(tmp_path, GOOD), folder=tmp_path, **columns)
    assert str(caught.value) == message


def test_a_label_out_of_range_is_named_by_row_and_line(tmp_path):
    d = table(written(tmp_path, GOOD.replace("9,1", "9,12")), folder=tmp_path)
    with pytest.raises(Error) as caught:
        bind(d, [Port("label", "input", dtypes.INT32, (2,), 0, (0, 10), line=4)])
    assert str(caught.value) == (
        "data error: input 'label' has the value 12 in row 3 (line 5) of t.csv; it is used as an index and must be in [0, 10) (line 4)"
    )
    with pytest.raises(Error, match=r"input 'a' is int32 \(line 0\), the data has 4\.5 in row 2 \(line 3\) of t\.csv"):
        bind(d, [Port("a", "input", dtypes.INT32, (2,), 0)])


def test_npz(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.zeros((4, 2)), b=np.arange(4), c=3)
    with pytest.raises(Error, match=r"array 'c' of t\.npz is a single value"):
        table("t.npz", folder=tmp_path)
    np.savez(tmp_path / "t.npz", a=np.zeros((4, 2)), b=np.arange(4))
    d = table("t.npz", folder=tmp_path, label="b")
    assert d.take(np.array([2]))["label"].tolist() == [2]
    with pytest.raises(Error, match=r"t\.npz has no array \"bb\"; did you mean 'b'"):
        table("t.npz", folder=tmp_path, label="bb")
    with pytest.raises(Error, match=r"none\.npz: no such file"):
        table("none.npz", folder=tmp_path)


def test_through_the_sources(tmp_path):
    call = data.Call("table", (written(tmp_path, GOOD),), {"x": [0, 3], "split": 0.34})
    got = data.prepare(call, folder=tmp_path)
    assert len(got.train) == 2 and len(got.held_out) == 1 and got.train.columns["x"].shape == (3,)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_csv_is_read_as_it_stands_or_refused_with_its_place(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("csv")
    text = list(GOOD)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from([*'0,.-e"\n\r ;x', "", "\x00", "é", "nan", "1_0"]))
    changed = "".join(text)
    written(folder, changed)
    try:
        got = table("t.csv", folder=folder)
    except Error as error:
        assert "t.csv" in str(error)
        return
    parsed = [r for r in csv.reader(io.StringIO((folder / "t.csv").read_bytes().decode(), newline="")) if r]
    assert list(got.columns) == [c.strip() for c in parsed[0]] and len(got) == len(parsed) - 1
    for i, name in enumerate(got.columns):
        assert got.take(np.arange(len(got)))[name].tolist() == [float(r[i]) for r in parsed[1:]]


def test_a_nul_behind_a_number_is_no_number(tmp_path):
    with pytest.raises(Error, match=r"row 2, column 'a'.*is not a finite number"):
        table(written(tmp_path, "a,b\n1,2\n3\0,4\n"), folder=tmp_path)
