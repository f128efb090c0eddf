"""Contractions: matrix products of any kind and convolutions, with pointwise work on their operands and results."""

from __future__ import annotations

from ..stage import Generated, Request
from . import reduce


def generate(request: Request) -> Generated:
    """As a fold of products over the contraction's space."""
    return reduce.generate(request)
