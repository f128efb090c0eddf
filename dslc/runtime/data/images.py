"""A folder of images as data: one sub-folder a class, PNG and JPEG, all of one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError
from .columns import ArrayColumn
from .dataset import Dataset

SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def images(path: str | Path, channels: int = 3, *, folder: Path = Path()) -> Dataset:
    """Columns `image`, float32 [channels, height, width] in [0, 1], and `label`, int64: the number of the sub-folder in sorted order.

    `channels`: 1 grey, 3 RGB, 4 RGBA. Nothing is resized: every image must have the size of the first one (DataError names the file).
    """
    root = folder / path
    if channels not in MODES:
        raise DataError(f"channels={channels}: images have 1 (grey), 3 (RGB) or 4 (RGBA) channels")
    if not root.is_dir():
        raise DataError(f"{path} is not a folder", help="images(FOLDER) takes a folder with one sub-folder for each class")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(f, label) for label, name in enumerate(classes) for f in sorted((root / name).iterdir()) if f.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{path} has no sub-folder with images ({', '.join(SUFFIXES)})")
    with _opened(files[0][0]) as first:
        size = first.size
    pixels = np.empty((len(files), size[1], size[0], channels), np.uint8)
    for i, (file, _) in enumerate(files):
        pixels[i] = _pixels(file, MODES[channels], size, files[0][0])
    values = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    labels = np.array([label for _, label in files], np.int64)
    columns = {
        "image": ArrayColumn(values, loose=channels == 1, row_name=lambda row: str(files[row][0])),
        "label": ArrayColumn(labels, row_name=lambda row: str(files[row][0])),
    }
    return Dataset(columns, f"images({str(path)!r})", classes=tuple(classes))


def _opened(file: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as an image: {_first_line(error)}") from None


def _pixels(file: Path, mode: str, size: tuple[int, int], first: Path) -> np.ndarray:
    """uint8 [height, width, channels]."""
    with _opened(file) as image:
        if image.size != size:  # known from the header, before any pixel is decoded
            raise DataError(
                f"{file} is {image.size[0]} pixels wide and {image.size[1]} high, expected {size[0]} x {size[1]} as in {first}",
                help="bring all images to one size first; dslc never resizes them silently",
            )
        try:
            converted = np.asarray(image.convert(mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"{file} is damaged: {_first_line(error)}") from None
    return converted.reshape(size[1], size[0], -1)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
