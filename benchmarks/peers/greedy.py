"""Greedy decoding by a function of one token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def tokens(step: Callable[[int, int], int], prompt: list[int], count: int) -> np.ndarray:
    """The prompt is fed token by token; what follows is what was chosen last."""
    token = 0
    for position, given in enumerate(prompt):
        token = step(given, position)
    found = [token]
    while len(found) < count:
        token = step(token, len(prompt) + len(found) - 1)
        found.append(token)
    return np.array(found)
