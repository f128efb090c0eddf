"""Data sources: texts, tables, images, arrays, and two that need no download; `Dataset` and its deterministic batches."""

from __future__ import annotations

from .dataset import Dataset, Feed, arrays
from .sources import Call, Data, build, prepare

__all__ = ["Call", "Data", "Dataset", "Feed", "arrays", "build", "prepare"]
