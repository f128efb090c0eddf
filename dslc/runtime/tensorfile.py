"""Files of named arrays: safetensors read and written, npz read. Files are hostile until every number in them has been checked.

safetensors: 8 bytes little-endian length N, N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {str: str}},
then the data, C-contiguous and little-endian, without holes or overlaps (https://huggingface.co/docs/safetensors).
A reader gives shapes first and arrays one at a time, so that what does not fit a model is refused before it takes memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.dtypes import BY_NAME, DType, of_numpy
from ..core.errors import DataError
from ..core.heldfile import HeldFile

MAX_HEADER = 100_000_000  # bytes of JSON, the limit of the reference implementation
MAX_AXES = 64
ALIGNMENT = 64  # bytes: what is written begins on cache lines, as far as arrays without holes between them can
PIECE = 1 << 22  # bytes that are read at a time, a multiple of `ALIGNMENT`

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_TAGS = {name: tag for tag, name in _DTYPES.items()} | {"int4": "I8"}  # int4 is kept a byte a value


# all that a damaged archive makes the standard library raise
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, TypeError, SyntaxError, OverflowError, NotImplementedError,
    RuntimeError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A stored array: its type, its shape and where its bytes are (a range of the file, or a member of the archive)."""

    dtype: DType
    shape: tuple[int, ...]
    place: tuple[int, int] | str

    @property
    def size(self) -> int:
        """Number of elements."""
        return _product(self.shape)


@dataclass(frozen=True)
class TensorFile:
    """An opened file: entries by name and the text metadata. `read` gives one array, which belongs to the caller."""

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    held: HeldFile | None = None  # of safetensors: what is read again is what was read first

    def read(self, name: str) -> np.ndarray:
        """The array `name`; DataError when the file has changed or is damaged."""
        entry = self.entries[name]
        if not isinstance(entry.place, str):
            array = np.empty(entry.shape, entry.dtype.numpy)
            self.read_into(name, array)
            return array
        try:
            return _read_npz(self.path, entry.place)
        except (OSError, *_DAMAGED) as error:
            raise DataError(f"{self.path}: '{name}' cannot be read: {error}") from None

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Reads the array `name` of a safetensors file to C-contiguous memory of its type and size; DataError as of `read`."""
        data = array.reshape(-1).view(np.uint8)
        for _ in self._pieces(name, data.__getitem__):
            pass

    def words(self, name: str) -> int:
        """`words_of` the array `name` of a safetensors file, in little memory; DataError as of `read`."""
        buffer = np.empty(PIECE, np.uint8)
        return sum(words_of(piece) for piece in self._pieces(name, lambda part: buffer[: part.stop - part.start])) % (1 << 64)

    def mapped(self, name: str) -> np.ndarray | None:
        """The array `name` of a safetensors file in pages that are read from it when touched, and are the caller's own once written; None where it
        does not begin on a multiple of `ALIGNMENT` bytes."""
        entry = self.entries[name]
        begin = int(entry.place[0])
        if begin % ALIGNMENT or not entry.size:
            return None
        return np.asarray(np.memmap(self.path, entry.dtype.numpy, "c", begin, entry.shape))

    def _pieces(self, name: str, memory: Callable[[slice], np.ndarray]) -> Iterator[np.ndarray]:
        """The bytes of an array part by part, each read to what `memory(part)` gives."""
        assert self.held is not None
        begin, end = map(int, self.entries[name].place)
        for at in range(0, end - begin, PIECE):
            piece = memory(slice(at, min(at + PIECE, end - begin)))
            self.held.read_into(begin + at, piece, f"'{name}'")
            yield piece


def words_of(array: np.ndarray) -> int:
    """The sum of the 64-bit words of C-contiguous memory, zeros behind its end, modulo 2^64: it tells other values at memory's speed."""
    data = array.reshape(-1).view(np.uint8)
    whole = len(data) // 8 * 8
    return (int(np.add.reduce(data[:whole].view("<u8"))) + int.from_bytes(data[whole:].tobytes(), "little")) % (1 << 64)


def open_tensors(path: str | Path) -> TensorFile:
    """Opens a .safetensors or .npz file and checks all of its headers; DataError for anything that does not hold together."""
    path = Path(path)
    reader = {".safetensors": _open_safetensors, ".npz": _open_npz}.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: weights are read from .safetensors and .npz files, not '{path.suffix}'")
    try:
        return reader(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: this is a folder, not a file") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def _open_safetensors(path: Path) -> TensorFile:
    held = HeldFile(path)
    total = held.size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(MAX_HEADER, total - 8):
            raise DataError(f"{path}: not a safetensors file: its header says {length} bytes, the file has {total}")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a safetensors file: {error}") from None
    if not isinstance(header, dict):
        raise DataError(f"{path}: not a safetensors file: its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DataError(f"{path}: its metadata must be an object of strings")
    data = total - 8 - length
    entries = {name: _entry(path, name, row, data) for name, row in header.items()}
    _check_layout(path, entries, data)
    start = 8 + length
    moved = {n: Entry(e.dtype, e.shape, (e.place[0] + start, e.place[1] + start)) for n, e in entries.items() if not isinstance(e.place, str)}
    return TensorFile(path, moved, metadata, held)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _entry(path: Path, name: str, row: Any, data: int) -> Entry:
    """One row of the header, with every number checked against the length of the data."""
    row = row if isinstance(row, dict) else {}
    tag, shape, place = row.get("dtype"), row.get("shape"), row.get("data_offsets")
    if not isinstance(tag, str) or tag not in _DTYPES:
        raise DataError(f"{path}: '{name}' has the type {tag!r}, which dslc does not read")
    if not _naturals(shape) or len(shape) > MAX_AXES:
        raise DataError(f"{path}: '{name}' has the shape {shape!r}")
    if not _naturals(place) or len(place) != 2 or not place[0] <= place[1] <= data:
        raise DataError(f"{path}: '{name}' lies at {place!r}, outside the {data} bytes of data")
    dtype = BY_NAME[_DTYPES[tag]]
    if _product(shape) * dtype.bytes != place[1] - place[0]:
        raise DataError(f"{path}: '{name}' is {dtype}{shape}, which does not take the {place[1] - place[0]} bytes it has")
    return Entry(dtype, tuple(shape), (place[0], place[1]))


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 63 for v in values)


def _product(shape: tuple[int, ...] | list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _check_layout(path: Path, entries: Mapping[str, Entry], data: int) -> None:
    """The arrays must follow each other without holes and overlaps up to the end of the file."""
    at = 0
    for begin, end in sorted(e.place for e in entries.values() if not isinstance(e.place, str)):
        if begin != at:
            raise DataError(f"{path}: its arrays overlap or leave a hole at byte {min(at, begin)} of the data")
        at = end
    if at != data:
        raise DataError(f"{path}: {data - at} bytes follow the last array")


def _open_npz(path: Path) -> TensorFile:
    entries = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename or name in entries:
                    raise DataError(f"{path}: '{info.filename}' is not an array, or stands twice")
                with archive.open(info) as member:
                    entries[name] = _npy_entry(path, name, member, info)
    except _DAMAGED as error:
        raise DataError(f"{path}: not an npz file: {error}") from None
    return TensorFile(path, entries, {})


def _npy_entry(path: Path, name: str, member: Any, info: zipfile.ZipInfo) -> Entry:
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        try:
            known = of_numpy(dtype.newbyteorder("="))
        except KeyError:
            raise DataError(f"{path}: '{name}' has the type {dtype}, which dslc does not read") from None
        if len(shape) > MAX_AXES or any(n < 0 for n in shape) or _product(shape) * dtype.itemsize != info.file_size - member.tell():
            raise ValueError(f"the shape {list(shape)} does not take the bytes it has")
    except _DAMAGED as error:
        raise DataError(f"{path}: '{name}' is damaged: {error}") from None
    return Entry(known, shape, info.filename)


def _read_npz(path: Path, member: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def write_safetensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file atomically: a temporary file in the same folder, synced, renamed over `path`, and the folder synced.

    When the disk is full, or anything else goes wrong, the file that was there is intact and a DataError says why.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            for piece in _pieces(tensors, metadata):
                _write_all(descriptor, piece)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = f"the earlier {path.name} is intact" if path.exists() else None
        raise DataError(f"{path} cannot be saved: {error.strerror or error}", notes=[kept] if kept else []) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _pieces(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """The bytes of the file: the header padded to `ALIGNMENT`, then each array: those of whole multiples of it first, then the widest types first, so
    that all are aligned to their elements."""
    names = sorted(tensors, key=lambda n: (tensors[n].nbytes % ALIGNMENT != 0, -tensors[n].dtype.itemsize, n))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name in names:
        array = tensors[name]
        header[name] = {"dtype": _TAGS[of_numpy(array.dtype).name], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        array = np.asarray(tensors[name], order="C")
        if array.dtype.name == "int4":
            array = array.astype(np.int8)
        if array.size:
            yield array.reshape(-1).view(np.uint8).data


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece[: 1 << 26]) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
