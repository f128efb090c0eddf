"""Memory of results that is used again: the pages of a fresh block are made when it is first written, which takes longer than the writing."""

from __future__ import annotations

import sys

import numpy as np

LARGE = 1 << 20  # bytes from which on memory is used again
KEPT = 2  # blocks that are remembered


class Spare:
    """Blocks of `size` bytes for one result. They are given again once nobody holds an array on them, if they are large."""

    def __init__(self, size: int):
        self.size = size
        self._blocks: list[np.ndarray] = []

    def block(self) -> np.ndarray:
        """uint8[size] that nobody else holds."""
        raw = self._free()
        if self.size >= LARGE:
            self._blocks.append(raw)
            del self._blocks[:-KEPT]
        return raw

    def _free(self) -> np.ndarray:
        for _ in range(len(self._blocks)):
            try:
                raw = self._blocks.pop(0)  # at once, so that no other thread takes it too
            except IndexError:
                break
            if sys.getrefcount(raw) == 2:  # this name's and the call's: no array lies on it
                return raw
            self._blocks.append(raw)
        return np.empty(self.size, np.uint8)
