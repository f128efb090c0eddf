"""A file that stays open."""

import os

import numpy as np
import pytest

from dslc.core.errors import DataError
from dslc.core.heldfile import HeldFile


def read(held: HeldFile, begin: int = 2, size: int = 3) -> bytes:
    array = np.empty(size, np.uint8)
    held.read_into(begin, array, "'w'")
    return array.tobytes()


def test_a_file_that_is_replaced_or_removed_is_still_read(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    held = HeldFile(path)
    assert held.size == 10 and read(held) == b"234"
    (tmp_path / "b.bin").write_bytes(b"abcdefghij")
    os.replace(tmp_path / "b.bin", path)
    assert read(held) == b"234"
    path.unlink()
    assert read(held) == b"234"


def test_a_file_that_is_written_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    held = HeldFile(path, "their.bin")
    path.write_bytes(b"0123456789abc")
    with pytest.raises(DataError, match=r"their\.bin has changed since it was opened, and 'w' is read from it again"):
        read(held)


def test_bytes_behind_the_end_are_an_error(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123")
    with pytest.raises(DataError, match="'w' is cut off"):
        read(HeldFile(path))
