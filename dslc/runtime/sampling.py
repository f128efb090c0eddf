"""Choosing the next token from logits [rows, vocab]: greedy, temperature, top-k, top-p, and the step of a beam search. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import philox
from ..core.errors import DataError

_STREAM = philox.stream_hash("generate.sample")


@dataclass(frozen=True)
class Sampling:
    """`greedy()`, `sample(temperature=, top_k=, top_p=)` or `beam(width)` of a generate block.

    A temperature of 0 is greedy. `length_penalty` a ranks finished beams by log-probability / length**a (Wu et al. 2016, simplified).
    """

    method: str = "sample"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    width: int = 1
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        checks = (
            (self.method in ("greedy", "sample", "beam"), f"unknown method '{self.method}': there are greedy, sample and beam"),
            (self.temperature >= 0, f"temperature={self.temperature:g} must not be negative"),
            (self.top_k is None or self.top_k >= 1, f"top_k={self.top_k} must be at least 1"),
            (self.top_p is None or 0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (self.width >= 1, f"beam({self.width}): the width must be at least 1"),
        )
        for holds, message in checks:
            if not holds:
                raise DataError(message)

    @property
    def is_greedy(self) -> bool:
        """Whether the greatest logit is always taken."""
        return self.method == "greedy" or (self.method == "sample" and self.temperature == 0)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities float64 [rows, vocab]; a logit of -inf has probability 0. DataError for NaN, inf, or a row of -inf alone."""
    x = np.asarray(logits, np.float64)
    top = x.max(axis=-1, keepdims=True, initial=-np.inf)
    check_finite(top)
    shifted = x - top
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def check_finite(top: np.ndarray) -> None:
    """DataError where the greatest logit of a row is not finite; NaN counts as the greatest."""
    if not np.isfinite(top).all():
        row = int(np.argmin(np.isfinite(top).ravel()))
        raise DataError(f"the logits of row {row} are not finite (greatest: {top.ravel()[row]})", help="the model's weights may be damaged")


def probabilities(logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> np.ndarray:
    """The distribution float64 [rows, vocab] that is sampled from.

    In this order: logits / temperature; all but the k greatest removed; the smallest set of most probable tokens whose sum reaches p kept
    (Holtzman et al. 2020). Of equal logits the lower id counts as greater. temperature=0 gives one-hot rows of the greatest.
    """
    x = np.asarray(logits, np.float64)
    if temperature == 0:
        return np.eye(x.shape[-1])[greedy(x)]
    result = np.exp(log_softmax(x / temperature))
    if top_k is None and top_p is None:
        return result
    order = _ranked(x, top_k or x.shape[-1])
    ranked = np.take_along_axis(result, order, axis=-1)
    ranked /= ranked.sum(axis=-1, keepdims=True)
    if top_p is not None:
        before = np.cumsum(ranked, axis=-1) - ranked
        ranked[before >= top_p] = 0  # the first has 0 before it and always stays
        ranked /= ranked.sum(axis=-1, keepdims=True)
    result[...] = 0
    np.put_along_axis(result, order, ranked, axis=-1)
    return result


def _ranked(x: np.ndarray, count: int) -> np.ndarray:
    """The ids of the `count` greatest of each row, the greatest first, of equal ones the lower id: int64 [rows, count]. Few are found without a
    whole sort."""
    size = x.shape[-1]
    if 4 * count >= size:
        return np.argsort(-x, axis=-1, kind="stable")[:, :count]
    order = np.empty((len(x), count), np.int64)
    for row, values in enumerate(x):
        least = np.partition(values, size - count)[size - count]
        above = np.flatnonzero(values > least)
        ids = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
        order[row] = ids[np.lexsort((ids, -values[ids]))]
    return order


def greedy(logits: np.ndarray) -> np.ndarray:
    """The greatest logit of each row, int64 [rows]; the lower id of equal ones."""
    best = np.argmax(logits, axis=-1)
    check_finite(np.take_along_axis(np.asarray(logits), best[..., None], axis=-1))
    return best


def draw(probability: np.ndarray, seed: int, step: int, first_row: int = 0) -> np.ndarray:
    """One id a row of [rows, vocab], int64 [rows], by inversion of the cumulative sum.

    Row r of step s depends on (seed, s, first_row + r) alone, so a row draws the same whatever is generated beside it.
    """
    rows = np.arange(first_row, first_row + len(probability))
    u = philox.fine_uniform(seed, _STREAM, step, rows)
    total = np.cumsum(probability, axis=-1)
    chosen = (total <= (u * total[:, -1])[:, None]).sum(axis=-1)
    return np.minimum(chosen, probability.shape[-1] - 1 - np.argmax(probability[:, ::-1] > 0, axis=-1))  # rounding never passes the last one


def sample(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    *,
    seed: int = 0,
    step: int = 0,
    first_row: int = 0,
) -> np.ndarray:
    """A token for each row of logits, int64 [rows]."""
    if temperature == 0:
        return greedy(logits)
    return draw(probabilities(logits, temperature, top_k, top_p), seed, step, first_row)


def choose(logits: np.ndarray, how: Sampling, seed: int, step: int, first_row: int = 0) -> np.ndarray:
    """A token for each row as `how` says (greedy or sample)."""
    if how.method == "greedy":
        return greedy(logits)
    return sample(logits, how.temperature, how.top_k, how.top_p, seed=seed, step=step, first_row=first_row)


def beam_step(scores: np.ndarray, logits: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `width` continuations of the beams of one prompt.

    `scores` float64 [beams] are their log-probabilities, `logits` [beams, vocab]. Returns (beam int64[w], token int64[w], score
    float64[w]), best first, w at most `width`; of equal scores the lower beam, then the lower id.
    """
    total = (scores[:, None] + log_softmax(logits)).ravel()
    best = np.argsort(-total, kind="stable")[:width]
    best = best[np.isfinite(total[best])]
    beam, token = np.divmod(best, logits.shape[-1])
    return beam, token, total[best]
