"""One file a mistake, and beside it the whole message that it gets: `NAME.dsl` or `NAME.yaml` with `NAME.txt`, in a folder for each stage.

A folder's files are loaded as a user would load them; those in `syntax` are only parsed. After a change of a message,
`python tests/errors/test_errors.py FOLDER...` writes the texts of the folders anew, to be read before they are committed.
"""

import os
import sys
from pathlib import Path

import pytest

import dslc
from dslc.frontend.parse import parse_file

HERE = Path(__file__).parent
FOLDERS = sorted(folder for folder in HERE.iterdir() if folder.is_dir() and folder.name != "__pycache__")
PROGRAMS = sorted(path for folder in FOLDERS for path in folder.iterdir() if path.suffix in (".dsl", ".yaml"))
LOADERS = {"syntax": parse_file}  # by folder; dslc.load for the others


def message_of(path: Path) -> str:
    """What a user reads who loads the file from its own folder."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        LOADERS.get(path.parent.name, dslc.load)(path.name)
    except dslc.Error as error:
        return str(error) + "\n"
    finally:
        os.chdir(before)
    return "no error\n"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_message(path):
    assert message_of(path) == path.with_suffix(".txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_message_has_a_program(folder):
    names = [path.stem for path in PROGRAMS if path.parent == folder]
    assert len(set(names)) == len(names)
    assert {path.stem for path in folder.glob("*.txt")} == set(names)


if __name__ == "__main__":
    for path in PROGRAMS:
        if path.parent.name in sys.argv[1:]:
            path.with_suffix(".txt").write_text(message_of(path), encoding="utf-8")
