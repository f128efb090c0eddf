"""A file that stays open, so that what was read from it can be read again: who replaces it leaves these bytes, and who changes them is noticed."""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from .errors import DataError


class HeldFile:
    """The bytes of a file as it was when it was opened. `shown` names it in errors. OSError where it cannot be opened."""

    def __init__(self, path: str | Path, shown: str = ""):
        self.shown = shown or str(path)
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - it stays open
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._seen = self._state()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._seen[0]

    def read_into(self, begin: int, array: np.ndarray, what: str) -> None:
        """Fills C-contiguous memory with the bytes from `begin` on. DataError, which names `what`, where the file has changed or cannot be read."""
        data = array.reshape(-1).view(np.uint8).data
        try:
            with self._lock:
                if self._state() != self._seen:
                    raise DataError(
                        f"{self.shown} has changed since it was opened, and {what} is read from it again",
                        help="leave a file of weights as it is while a model uses it, or put another one in its place (os.replace)",
                    )
                while data:
                    count = self._read(begin, data)
                    if not count:
                        raise DataError(f"{self.shown}: {what} is cut off")
                    begin, data = begin + count, data[count:]
        except OSError as error:
            raise DataError(f"{self.shown}: {what} cannot be read: {error.strerror}") from None

    def _read(self, begin: int, data: memoryview) -> int:
        """Reads at most so many bytes and says how many. Processes that forked share the place that a file is read at, so none is set where there
        are such."""
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [data], begin)
        self._file.seek(begin)
        return self._file.readinto(data)

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns
