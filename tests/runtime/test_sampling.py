"""Sampling against analytic distributions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dslc.core.errors import DataError
from dslc.runtime.sampling import Sampling, beam_step, draw, greedy, log_softmax, probabilities, sample

LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.3]]))


def test_temperature():
    assert np.allclose(probabilities(LOGITS), [[0.1, 0.4, 0.2, 0.3]])
    squared = np.array([0.01, 0.16, 0.04, 0.09])
    assert np.allclose(probabilities(LOGITS, 0.5), squared / squared.sum())
    assert np.array_equal(probabilities(LOGITS, 0), [[0, 1, 0, 0]])
    assert np.allclose(probabilities(LOGITS, 1e9), 0.25, atol=1e-6)


def test_top_k_and_top_p():
    assert np.allclose(probabilities(LOGITS, top_k=2), [[0, 4 / 7, 0, 3 / 7]])
    assert np.allclose(probabilities(LOGITS, top_k=99), [[0.1, 0.4, 0.2, 0.3]])
    assert np.allclose(probabilities(LOGITS, top_p=0.65), [[0, 4 / 7, 0, 3 / 7]])
    assert np.allclose(probabilities(LOGITS, top_p=0.71), [[0, 4 / 9, 2 / 9, 3 / 9]])
    assert np.allclose(probabilities(LOGITS, top_p=1e-9), [[0, 1, 0, 0]])
    assert np.allclose(probabilities(LOGITS, top_k=3, top_p=0.75), [[0, 4 / 7, 0, 3 / 7]])  # of 4/9, 3/9, 2/9
    assert np.array_equal(probabilities(np.zeros((1, 4)), top_k=2), [[0.5, 0.5, 0, 0]])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_k": 2}, {"top_p": 0.75}])
def test_draws_have_the_distribution(options):
    n = 20_000
    expected = probabilities(LOGITS, **options)[0]
    counts = np.bincount(sample(np.repeat(LOGITS, n, 0), seed=3, step=8, **options), minlength=4)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    assert ((counts[kept] - n * expected[kept]) ** 2 / (n * expected[kept])).sum() < 21  # chi-squared, 3 degrees: 1 in 10,000


def test_draws_are_keyed_by_seed_step_and_row():
    p = np.full((64, 50), 0.02)
    one = draw(p, 1, 2)
    assert np.array_equal(one, draw(p, 1, 2)) and np.array_equal(one[10:], draw(p[10:], 1, 2, first_row=10))
    assert not np.array_equal(one, draw(p, 1, 3)) and not np.array_equal(one, draw(p, 2, 2))


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-80, 80, width=32)),
    st.floats(0.0, 5),
    st.none() | st.integers(1, 12),
    st.none() | st.floats(0.01, 1),
    st.integers(0, 2**64 - 1),
)
def test_what_is_drawn_is_allowed(logits, temperature, top_k, top_p, seed):
    temperature = 0.0 if temperature < 1e-3 else temperature
    p = probabilities(logits, temperature, top_k, top_p)
    assert np.allclose(p.sum(-1), 1) and (p >= 0).all()
    assert (p[np.arange(len(p)), greedy(logits)] > 0).all()
    assert top_k is None or ((p > 0).sum(-1) <= top_k).all()
    tokens = sample(logits, temperature, top_k, top_p, seed=seed, step=1)
    assert (p[np.arange(len(p)), tokens] > 0).all()


def test_masked_logits_and_bad_ones():
    assert np.allclose(probabilities(np.array([[-np.inf, 0, 0]])), [[0, 0.5, 0.5]])
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="the logits of row 1 are not finite"):
            log_softmax(np.array([[0, 0], [bad, 0]]))
    with pytest.raises(DataError, match="the logits of row 0 are not finite"):
        greedy(np.full((1, 3), -np.inf))


def test_beam_step_takes_the_best_pairs():
    beam, token, score = beam_step(np.log([0.6, 0.4]), np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]), 3)
    assert list(zip(beam, token)) == [(1, 1), (0, 0), (0, 1)] and np.allclose(np.exp(score), [0.32, 0.30, 0.18])
    beam, token, _ = beam_step(np.zeros(1), np.array([[0.0, -np.inf, 0.0]]), 5)
    assert list(token) == [0, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": -1}, "temperature=-1 must not be negative"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0}, "top_p=0 must be above 0"),
        ({"top_p": 1.5}, r"top_p=1\.5 must be above 0 and at most 1"),
        ({"method": "beam", "width": 0}, r"beam\(0\): the width must be at least 1"),
        ({"method": "best"}, "unknown method 'best'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(DataError, match=message):
        Sampling(**options)


def test_few_of_many_are_those_of_a_whole_sort():
    """With ties across the border: of equal logits the lower id counts as greater."""
    x = np.random.default_rng(0).integers(-4, 5, (6, 200)).astype(np.float32)
    for k in (1, 3, 30, 49):
        order = np.argsort(-x, axis=-1, kind="stable")[:, :k]
        expected = np.zeros(x.shape)
        kept = np.take_along_axis(np.exp(np.float64(x)), order, axis=-1)
        np.put_along_axis(expected, order, kept / kept.sum(axis=-1, keepdims=True), axis=-1)
        np.testing.assert_allclose(probabilities(x, top_k=k), expected, rtol=1e-12)
