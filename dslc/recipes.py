"""The programs of a model.

A model has four: `run` (outputs), `eval` (outputs, losses, metrics), `train` (the same in training mode, with its random draws and statistics) and
`step` (one training step: gradients, clipping, the optimizer). Accumulating models have `accumulate` beside `step`. A model that is causal in time
has `prefill` and `decode` too: the output at one position, from whole sequences and from one token at a time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a program is made: the mode that the model is elaborated in and the roles of the results it keeps."""

    training: bool
    roles: tuple[str, ...]
    steps: bool = False  # adds gradients and the optimizer
    decodes: bool = False  # one position of time, with caches
    prepares: bool = False  # parameters stay as they are from run to run


RECIPES = {
    "run": Recipe(False, ("output", "state", "param"), prepares=True),
    "eval": Recipe(False, ("output", "loss", "metric", "state", "param")),
    "train": Recipe(True, ("output", "loss", "metric", "state", "param")),
    "step": Recipe(True, ("loss", "metric", "state", "param"), steps=True),
    "accumulate": Recipe(True, ("loss", "metric", "state", "param"), steps=True),
    "prefill": Recipe(False, ("output", "state", "param"), decodes=True, prepares=True),
    "decode": Recipe(False, ("output", "state", "param"), decodes=True, prepares=True),
}

# Programs that may be made for any lengths of bounded dimensions; the others are at the bounds.
OF_ANY_LENGTH = ("run", "eval", "train", "step", "accumulate")
