"""Files that are not there, not readable, or not what they should be: exit status 2 and what is wrong with which file."""

import numpy as np
import pytest

GARBAGE = bytes(range(255, 0, -1)) * 8

SPECS = [
    ("small/small.dsl", None, "no folder"),
    ("modle.dsl", None, "there is no file"),
    ("folder", "folder", "is a folder without a run"),
    ("empty.dsl", b"", "the file is empty"),
    ("comment.dsl", b"# only this\n", "the file is empty"),
    ("garbage.dsl", GARBAGE, "is not UTF-8 text"),
    ("garbage.yaml", GARBAGE, "is not UTF-8 text"),
    ("nul.dsl", b"model\0M:\n", "U+0000 has no meaning here"),
    ("list.yaml", b"- 1\n- 2\n", "list.yaml"),
    ("name:with:colons.dsl", None, "there is no file name:with:colons.dsl"),
    ("two\nlines", None, "there is no file"),
    ("x" * 5000, None, "File name too long"),
    ("", None, "the name of the model file is empty"),
]


@pytest.mark.parametrize("command", [["train"], ["eval"], ["inspect"], ["compile", "-o", "out"], ["run", "--input", "in.npz"]])
@pytest.mark.parametrize(("name", "content", "message"), SPECS, ids=[repr(s[0][:20]) for s in SPECS])
def test_specs(cli, tmp_path, command, name, content, message):
    np.savez(tmp_path / "in.npz", x=np.zeros(1))
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = cli(*command, "--", name)
    assert (outcome.status, outcome.out) == (2, "") and message in outcome.err
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npz", None, "none.npz: no such file"),
        ("garbage.npz", GARBAGE, "not an npz file"),
        ("empty.npz", b"", "not an npz file"),
        ("data.csv", b"a,b\n1,2\n", "the inputs are read from an .npz file"),
    ],
)
def test_inputs(cli, small, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    outcome = cli("run", small, "--input", name)
    assert outcome.status == 2 and message in outcome.err


def test_pickles_are_not_opened(cli, small, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.array([{"a": 1}], dtype=object))
    outcome = cli("run", small, "--input", "in.npz")
    assert outcome.status == 2 and "object" in outcome.err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"xx": np.zeros((8, 4), np.float32)}, "the program has no input 'xx'; did you mean 'x'?"),
        ({"x": np.zeros((8, 4), np.float32), "labell": np.zeros(8)}, "the program has no input 'labell'"),
        ({"label": np.zeros(8, np.int32)}, "input 'x' was not given"),
        ({"x": np.zeros((5, 4), np.float32)}, "help: for 5 rows: --set batch=5"),
        ({"x": np.zeros((8, 3), np.float32)}, "input 'x' is float32[8, 3], declared float32[8, 4]"),
        ({"x": np.array([["a"] * 4] * 8)}, "x"),
    ],
)
def test_inputs_that_do_not_fit(cli, small, tmp_path, arrays, message):
    np.savez(tmp_path / "in.npz", **arrays)
    outcome = cli("run", small, "--input", "in.npz")
    assert (outcome.status, outcome.out) == (2, "") and message in outcome.err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2,oops,4,0", ["row 3", "column 'c'", "oops"]),
        ("1,2,,4,0", ["row 3", "column 'c'"]),
        ("1,2,3,4", ["row 3"]),
        ("1,2,3,4,1.5", ["label", "1.5"]),
        ("1,2,3,4,7", ["label", "7", "[0, 3)"]),
        ("1,2,3,4,-1", ["label", "-1", "[0, 3)"]),
    ],
)
def test_bad_cells(cli, small, row, message):
    lines = (small.parent / "data.csv").read_text().splitlines()
    lines[3] = row  # below the names, the third row
    (small.parent / "data.csv").write_text("\n".join(lines) + "\n")
    outcome = cli("train", small, "--run", "run")
    assert outcome.status == 2 and all(part in outcome.err for part in message), outcome.err


def test_data_that_is_not_there(cli, small):
    (small.parent / "data.csv").unlink()
    outcome = cli("train", small)
    assert outcome.status == 2 and "data.csv cannot be read" in outcome.err and 'data table("data.csv"' in outcome.err


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "SPEC", "--html", "folder"],
        ["inspect", "SPEC", "--trace", "file"],
        ["inspect", "SPEC", "--html", "file/report.html"],
        ["compile", "SPEC", "-o", "file"],
        ["train", "SPEC", "--run", "file"],
        ["train", "SPEC", "--run", "file/run"],
        ["run", "SPEC", "--input", "in.npz", "--output", "none/out.npz"],
        ["run", "SPEC", "--input", "in.npz", "--output", "out.txt"],
        ["train", "SPEC", "--weights", "folder"],
        ["train", "SPEC", "--weights", "file"],
        ["train", "SPEC", "--weights", "in.npz", "--map", "none.txt"],
        ["generate", "SPEC"],
        ["generate", "folder"],
    ],
    ids=" ".join,
)
def test_places_that_cannot_be_used(cli, small, tmp_path, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    np.savez(tmp_path / "in.npz", x=np.zeros((8, 4), np.float32))
    outcome = cli(*[small if w == "SPEC" else w for w in words])
    assert outcome.status == 2 and " error: " in outcome.err
    assert (tmp_path / "file").read_text() == "kept"
