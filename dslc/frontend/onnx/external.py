"""Tensors whose data lies in another file: only below the model's own folder, and only as much as is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dslc.core.errors import DataError
from dslc.core.heldfile import HeldFile


def external_place(proto: Any, folder: Path | None, file: str, where: str, opened: dict[Path, HeldFile]) -> tuple[HeldFile, int, int]:
    """The file of an external tensor, where it begins there and its bytes; DataError where that is outside the folder, missing or too short.
    `opened`: the files so far, by path."""
    entries = {e.key: e.value for e in proto.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise DataError(f"{file}: {where} lies in another file, '{location}', and a model in memory has no folder")
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise DataError(f"{file}: {where} lies at '{location}', outside the model's folder: refused")
    try:
        offset, size = int(entries.get("offset", "0")), path.stat().st_size
        length = int(entries["length"]) if "length" in entries else size - offset
        if offset < 0 or length < 0 or offset + length > size or not path.is_file():
            raise DataError(f"{file}: {where} lies at bytes {offset} to {offset + length} of '{location}', which has {size}")
        if path not in opened:
            opened[path] = HeldFile(path, location)
        return opened[path], offset, length
    except OSError as error:
        raise DataError(f"{file}: the data of {where} cannot be read from '{location}': {error.strerror}") from None
    except ValueError:
        raise DataError(f"{file}: {where} has an offset or length that is no number") from None
