"""Where an array's elements lie. numpy tells it in a microsecond, which is more than a small program takes; the field itself is read in a tenth."""

from __future__ import annotations

import ctypes
import sys

import numpy as np

_DATA = object.__basicsize__  # numpy's binary interface: the pointer is the first field behind what every object has


def _told(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _read(array: np.ndarray) -> int:
    return ctypes.c_size_t.from_address(id(array) + _DATA).value


def _can_be_read() -> bool:
    """Whether this interpreter and this numpy keep it where it is looked for."""
    if sys.implementation.name != "cpython":
        return False
    whole = np.zeros(9, np.uint8)
    return all(_read(a) == _told(a) for a in (whole, whole[3:], whole[:0], np.zeros((2, 3)).T, np.array(1.0)))


address_of = _read if _can_be_read() else _told
