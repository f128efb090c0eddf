"""Scikit-learn's real handwritten digits: 1797 images of 8x8 pixels."""

from __future__ import annotations

import numpy as np

from ...core.errors import DataError
from .columns import ArrayColumn
from .dataset import Dataset


def digits() -> Dataset:
    """Columns `image`, float32 of 64 values in [0, 1] (shape [64], [8, 8] or [1, 8, 8], as the model's input wants it), and `label`, 0 to 9.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI (1998), as shipped with scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits() needs scikit-learn", help="pip install dslc[examples]") from None
    bunch = load_digits()
    image = ArrayColumn((bunch.data / 16.0).astype(np.float32), loose=True)
    label = ArrayColumn(bunch.target.astype(np.int64))
    return Dataset({"image": image, "label": label}, "digits()", classes=tuple("0123456789"))
