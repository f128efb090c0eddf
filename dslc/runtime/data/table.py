"""Tables as data: csv files with a header, and npz files. A bad cell is named by its row and column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError, NameError_, Span, did_you_mean, remember_source
from ..tensorfile import open_tensors
from .columns import ArrayColumn, Column
from .dataset import Dataset

_CHUNK = 4096  # rows turned into numbers at once


def table(path: str | Path, delimiter: str = ",", *, folder: Path = Path(), **columns: Any) -> Dataset:
    """A csv file with a header, or an npz file; one column a header name (csv: float64 values) or array [rows, ...] (npz).

    `columns` say what an input takes: of a csv `label=64` one column by number, `image=[0, 64]` the columns 0 up to 64, `x="age"` one by
    name, `x=["age", "size"]` several; of an npz the name of an array. Without them, inputs take the columns of their own names.
    """
    file = folder / path
    if file.suffix == ".npz":
        return _npz(file, str(path), columns)
    parsed = _Csv(str(path), file, delimiter)
    header, values = parsed.read()
    lines = parsed.lines

    def row_name(row: int) -> str:
        return f"row {row + 1} (line {lines[row]}) of {path}"

    built: dict[str, Column] = {name: ArrayColumn(values[:, i], loose=True, row_name=row_name) for i, name in enumerate(header)}
    for name, chosen in columns.items():
        picked = _picked(name, chosen, header, str(path))
        built[name] = ArrayColumn(values[:, picked], loose=True, row_name=row_name)
    return Dataset(built, str(path))


def _picked(name: str, chosen: Any, header: Sequence[str], path: str) -> Any:
    """What an option of `table` chooses: an index, a slice or a list of columns."""
    count = len(header)
    if isinstance(chosen, str):
        return _number(chosen, header, path)
    if isinstance(chosen, list | tuple) and chosen and all(isinstance(c, str) for c in chosen):
        return [_number(c, header, path) for c in chosen]
    if type(chosen) is int and 0 <= chosen < count:
        return chosen
    if isinstance(chosen, list | tuple) and len(chosen) == 2 and all(type(c) is int for c in chosen):
        low, high = chosen
        if 0 <= low < high <= count:
            return slice(low, high)
    raise DataError(
        f"{name}={_shown(chosen)}: {path} has the columns 0 to {count - 1}",
        help='write a number, a range [first, end], a name "column" or names ["a", "b"]',
    )


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _number(column: str, header: Sequence[str], path: str) -> int:
    if column not in header:
        raise NameError_(f"{path} has no column '{column}'{did_you_mean(column, header)}", notes=[f"its columns are: {', '.join(header)}"])
    return list(header).index(column)


def _npz(file: Path, path: str, columns: Mapping[str, Any]) -> Dataset:
    archive = open_tensors(file)
    names = {n: n for n in archive.entries}
    for name, chosen in columns.items():
        if not isinstance(chosen, str) or chosen not in archive.entries:
            guess = did_you_mean(str(chosen), archive.entries)
            raise NameError_(f"{path} has no array {_shown(chosen)}{guess}", notes=[f"it has: {', '.join(archive.entries)}"])
        names[name] = chosen
    flat = [n for n in names.values() if not archive.entries[n].shape]
    if flat:
        raise DataError(f"array '{flat[0]}' of {path} is a single value, it needs an axis for the rows")
    read = {n: archive.read(n) for n in set(names.values())}
    built: dict[str, Column] = {name: ArrayColumn(read[n], row_name=lambda row: f"row {row} of {path}") for name, n in names.items()}
    return Dataset(built, path)


@dataclass
class _Csv:
    """Reads a csv file; `lines` then holds the line of the file in which each row ends."""

    path: str
    file: Path
    delimiter: str
    lines: list[int] = field(default_factory=list)

    def read(self) -> tuple[list[str], np.ndarray]:
        """(header, float64[rows, columns])."""
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, delimiter=self.delimiter, strict=True)
                header = self._header(reader)
                parts = [self._numbers(chunk, header) for chunk in self._chunks(reader, header)]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path} is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}") from None
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except csv.Error as error:
            raise DataError(f"{self.path} is not a csv file: {error}") from None
        except (TypeError, ValueError) as error:
            raise DataError(f"delimiter={self.delimiter!r}: {error}") from None
        if not parts:
            raise DataError(f"{self.path} has a header but no rows")
        return header, np.concatenate(parts)

    def _header(self, reader: Any) -> list[str]:
        try:
            header = [cell.strip() for cell in next(reader)]
        except StopIteration:
            raise DataError(f"{self.path} is empty") from None
        repeated = [name for i, name in enumerate(header) if name in header[:i]]
        if repeated:
            raise DataError(f"{self.path} has two columns named '{repeated[0]}'")
        numbers = [cell for cell in header if _is_number(cell)]
        if numbers:
            message = f"{self.path} has no header: its first line holds the number {numbers[0]}"
            raise DataError(message, help="put a line with the columns' names first")
        return header

    def _chunks(self, reader: Any, header: list[str]) -> Iterator[list[list[str]]]:
        chunk: list[list[str]] = []
        for cells in reader:
            if not cells:
                continue  # a blank line
            self.lines.append(reader.line_num)
            if len(cells) != len(header):
                raise self._error(len(self.lines) - 1, None, f"row {len(self.lines)} has {len(cells)} cells, the header has {len(header)}")
            chunk.append(cells)
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _numbers(self, chunk: list[list[str]], header: list[str]) -> np.ndarray:
        try:
            values = np.array(chunk).astype(np.float64)
            if np.isfinite(values).all() and not any(cell.endswith("\0") for cells in chunk for cell in cells):  # numpy drops NULs at the end
                return values
        except ValueError:
            pass
        first = len(self.lines) - len(chunk)
        for offset, cells in enumerate(chunk):
            for column, cell in enumerate(cells):
                if not _is_number(cell):
                    what = f"{cell.strip()!r} is not a finite number" if cell.strip() else "the cell is empty"
                    raise self._error(first + offset, column, f"row {first + offset + 1}, column '{header[column]}': {what}")
        return np.array([[float(cell) for cell in cells] for cells in chunk])

    def _error(self, row: int, column: int | None, message: str) -> DataError:
        """An error that points at a cell, or at the line where the cells cannot be told apart by eye."""
        line = self.lines[row]
        text = self.file.read_text(encoding="utf-8-sig")
        remember_source(self.path, text)
        content = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
        cells = content.split(self.delimiter)
        if column is None or '"' in content or column >= len(cells):
            return DataError(message, Span(self.path, line, 1, line, max(2, len(content) + 1)))
        start = sum(len(c) + 1 for c in cells[:column]) + 1
        return DataError(message, Span(self.path, line, start, line, start + max(1, len(cells[column]))))


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False
