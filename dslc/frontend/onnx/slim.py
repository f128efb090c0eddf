"""A model file without the data of its large initializers, which stays where it is: protobuf would copy it, and numpy once more.

The wire format: https://protobuf.dev/programming-guides/encoding. What is not as it says is left to protobuf, which tells what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dslc.core.heldfile import HeldFile

LEAST = 1 << 14  # bytes of data that is large
MOST_FIELDS = 1 << 20  # a second of Python
WINDOW = 1 << 12  # bytes that are read at once
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto and TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}

Place = tuple[int, int]  # where data begins in the file, and its bytes


class _Odd(Exception):
    """Not as the wire format says, said twice, or in more fields than a model has."""


class Data:
    """Bytes of a file, of which as few are read as are asked for."""

    def __init__(self, file: HeldFile):
        self._file, self.size = file, file.size
        self._begin, self._window = 0, b""
        self.fields = 0  # that were walked through

    def between(self, begin: int, end: int) -> bytes:
        found = np.empty(end - begin, np.uint8)
        self._file.read_into(begin, found, "the model")
        return found.tobytes()

    def byte(self, at: int) -> int:
        if not self._begin <= at < self._begin + len(self._window):
            self._begin, self._window = at, self.between(at, min(at + WINDOW, self.size))
        return self._window[at - self._begin]


def slim(file: HeldFile) -> tuple[bytes, list[Place | None]]:
    """The message of a model without large data, and for each initializer of its graph where what it lacks lies."""
    data = Data(file)
    places: list[Place | None] = []
    try:
        return b"".join(_without(data, 0, data.size, GRAPH, lambda begin, end: _graph(data, begin, end, places))), places
    except _Odd:
        return data.between(0, data.size), []


def _graph(data: Data, begin: int, end: int, places: list[Place | None]) -> bytes:
    return b"".join(_without(data, begin, end, INITIALIZER, lambda first, last: _initializer(data, first, last, places)))


def _initializer(data: Data, begin: int, end: int, places: list[Place | None]) -> bytes:
    found = [(first, last, at) for field, kind, at, first, last in _fields(data, begin, end) if (field, kind) == (RAW_DATA, _BYTES)]
    if len(found) > 1:
        raise _Odd
    if not found or found[0][1] - found[0][0] < LEAST:
        places.append(None)
        return data.between(begin, end)
    first, last, at = found[0]
    places.append((first, last - first))
    return data.between(begin, at) + data.between(last, end)


def _without(data: Data, begin: int, end: int, wanted: int, shorter: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The message in pieces; what stands in the fields `wanted` is what `shorter(begin, end)` makes of it."""
    kept = begin
    for field, kind, at, first, last in _fields(data, begin, end):
        if (field, kind) == (wanted, _BYTES):
            body = shorter(first, last)
            yield data.between(kept, at)
            yield _number(wanted << 3 | _BYTES) + _number(len(body)) + body
            kept = last
    yield data.between(kept, end)


def _fields(data: Data, begin: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Each field's number and kind, where it begins, and where its value begins and ends."""
    at = begin
    while at < end:
        tag, first = _varint(data, at, end)
        data.fields += 1
        if data.fields > MOST_FIELDS:
            raise _Odd
        kind = tag & 7
        if kind == _VARINT:
            last = _varint(data, first, end)[1]
        elif kind == _BYTES:
            size, first = _varint(data, first, end)
            last = first + size
        elif kind in _WIDTHS:
            last = first + _WIDTHS[kind]
        else:
            raise _Odd
        if last > end:
            raise _Odd
        yield tag >> 3, kind, at, first, last
        at = last


def _varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data.byte(at)
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _Odd


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
