"""Generation at bounded lengths: caches of the bound, prefill programs by size, tokens of exact lengths; a full cache is an error."""

import numpy as np
import pytest

import dslc
from dslc.compiled import decoder_of, program_of
from dslc.runtime.cached import CachedModel
from dslc.runtime.generation import Stop, WindowModel, generate
from dslc.runtime.sampling import Sampling

TEXT = """model M:
    dims    batch=3, time<=40
    let     vocab=29, width=16
    input   tokens[batch, time]: int32
    param   place[time, width] ~ normal()
    emb = use embedding(vocab, width)
    x[b, t, d] = 50 * emb(tokens)[b, t, d] + place[t, d]
    {body}
    logits = linear(x, vocab)
    output  logits
generate:
    over time from logits greedy()
"""
BODIES = {
    "attention": "x = x + self_attention(rmsnorm(x), 2, causal=true, rotate=true)",
    "wide": "x = x + self_attention(rmsnorm(x), 2, causal=true, window=20)",  # wider than the smallest window: another cache there
    "mixed": "x = gru(x, 16) + self_attention(x, 2, causal=true, window=5)",
}
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5], [8, 8], list(range(1, 20))]
GREEDY = Sampling(method="greedy")
TOLERANCE = 1e-5  # float32 logits of order 1, sums of at most 64 terms


def model_of(name):
    return dslc.load(TEXT.format(body=BODIES[name]))


def exact_logits(model, tokens):
    """The last position's logits by the program of exactly this length."""
    out = program_of(model, "run", "reference")({"tokens": np.array([tokens] * 3, np.int32)})
    return out["logits"][0, -1]


@pytest.mark.parametrize("name, sizes", [("attention", [16, 32]), ("wide", [32]), ("mixed", [16, 32])])
def test_tokens_are_those_of_exact_lengths(name, sizes):
    """Several prompts at once, one longer than the smallest window; each token is the best one at its exact length, or ties with it."""
    model = model_of(name)
    decoder = decoder_of(model, "cpu")
    assert isinstance(decoder, CachedModel)
    new = generate(decoder, PROMPTS, 7, GREEDY)
    assert sorted(decoder._windows) == sizes and decoder.time == 40
    for prompt, made in zip(PROMPTS, new):
        for n in (0, 3, 6):
            logits = exact_logits(model, [*prompt, *made[:n]])
            assert logits[made[n]] >= logits.max() - TOLERANCE


def test_a_sequence_may_fill_the_bound():
    model = model_of("attention")
    decoder = decoder_of(model, "cpu")
    (new,) = generate(decoder, [[7]], 40, GREEDY)
    assert len(new) == 40
    logits = exact_logits(model, [7, *new[:39]])
    assert logits[new[39]] >= logits.max() - TOLERANCE


@pytest.mark.parametrize("cached", [True, False])
def test_a_full_cache_is_an_error(cached):
    model = model_of("attention")
    decoder = decoder_of(model, "cpu") if cached else WindowModel(program_of(model, "run", "cpu"))
    told = []
    with pytest.raises(dslc.Error.DataError, match="'time', which is at most 40") as raised:
        generate(decoder, [[7], [1] * 30], 12, GREEDY, listener=lambda row, token: told.append(token))
    assert told == [] and "at most 11 new tokens" in raised.value.help and "--set time=41" in raised.value.help
    with pytest.raises(dslc.Error.DataError, match="the cache is full: 41 tokens are more than"):
        generate(decoder, [[1] * 41], 1, GREEDY)
    with pytest.raises(dslc.Error.DataError, match="the cache is full: 41 tokens are more than"):  # a stop could have ended it before
        generate(decoder, [[1] * 39], 9, GREEDY, stop=Stop(frozenset([99])), listener=lambda row, token: told.append(token))
    assert len(told) == 2


def test_beams_stay_below_the_bound():
    (new,) = generate(decoder_of(model_of("mixed"), "cpu"), [[7, 3]], 5, Sampling(method="beam", width=2))
    assert len(new) == 5


def test_a_model_that_reads_its_length_runs_whole_windows_of_exact_lengths():
    """What a cache would keep is another for each length: the line is told, and every token has the program of its own length."""
    model = dslc.load(TEXT.format(body="x[b, t, d] = x[b, t, d] * sqrt(time)"))
    notes = []
    decoder = decoder_of(model, "cpu", notes.append)
    assert isinstance(decoder, WindowModel) and "every token runs the whole window" in notes[0] and ":8" in notes[0]
    prompts = [[3, 1, 4], [1], [5, 9], [2, 2], [6, 7, 8]]
    found = decoder.logits(prompts)
    for prompt, logits in zip(prompts, found):
        np.testing.assert_allclose(logits, exact_logits(model, prompt), atol=1e-4)


def test_a_mean_over_all_of_time_is_no_past():
    """It looks ahead: no caches, though no number follows from the length."""
    notes = []
    decoder = decoder_of(dslc.load(TEXT.format(body="x[b, t, d] = x[b, t, d] + sum[s](x[b, s, d])")), "cpu", notes.append)
    assert isinstance(decoder, WindowModel) and ":8" in notes[0]


def test_the_function_takes_bounded_models():
    new = dslc.generate(model_of("attention"), tokens=[[1, 2], [3, 4, 5]], steps=4, sample="greedy")
    assert [len(row) for row in new] == [4, 4]
    with pytest.raises(dslc.Error.DataError, match="the cache is full"):
        dslc.generate(model_of("attention"), tokens=[[1, 2]], steps=40, sample="greedy")
