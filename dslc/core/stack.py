"""Room on Python's stack for walks that follow a program's ops from what reads to what is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

DEPTH = 20_000  # frames: one layer of a model takes about ten, an op of a long chain in one kernel one or two


@contextmanager
def deep() -> Iterator[None]:
    """Within it calls may be `DEPTH` deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
