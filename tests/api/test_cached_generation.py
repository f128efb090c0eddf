"""Generation with caches: the tokens are those of whole windows, in batches of different lengths, past a full window, and after other sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import dslc
from dslc.compiled import decoder_of, program_of
from dslc.core.errors import DataError
from dslc.core.executable import GREATEST
from dslc.runtime.cached import CachedModel
from dslc.runtime.generation import Stop, WindowModel, generate
from dslc.runtime.sampling import Sampling

TEXT = """model M:
    dims    batch=3, time=16
    let     vocab=29, width=16
    input   tokens[batch, time]: int32
    emb = use embedding(vocab, width)
    x = 50 * emb(tokens) + positions(time, width)
    {body}
    logits = linear(x, vocab)
    output  logits
generate:
    over time from logits greedy()
"""
BODIES = {
    "attention": "x = x + self_attention(rmsnorm(x), 2, causal=true, rotate=true)",
    "window": "x = x + self_attention(rmsnorm(x), 2, causal=true, window=4)",
    "lstm": "x = lstm(x, 16)",
    "mixed": "x = gru(x, 16) + self_attention(x, 2, causal=true, window=5)",
}
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5], [8, 8], [9, 7, 9, 3]]
TOLERANCE = 1e-5  # float32 logits of order 1, sums of at most 64 terms


def model_of(name: str) -> dslc.Model:
    return dslc.load(TEXT.format(body=BODIES[name]))


def window_of(model: dslc.Model, target: str = "cpu") -> WindowModel:
    return WindowModel(program_of(model, "run", target), None, "logits")


def close(window: WindowModel, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> bool:
    """True where the first token that differs was a tie."""
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), None)
    if at is None:
        return len(ours) == len(theirs)
    logits = window.logits([[*prompt, *theirs[:at]]])[0]
    return abs(float(logits[ours[at]] - logits[theirs[at]])) <= TOLERANCE


@pytest.mark.parametrize("name", BODIES)
def test_greedy_tokens_are_those_of_whole_windows(name: str) -> None:
    """Five prompts of several lengths through a batch of three, to the end of the window."""
    model = model_of(name)
    cached, window = decoder_of(model, "cpu"), window_of(model)
    assert isinstance(cached, CachedModel)
    ours, theirs = (generate(m, PROMPTS, 11, Sampling(method="greedy")) for m in (cached, window))
    assert all(close(window, p, a, b) for p, a, b in zip(PROMPTS, ours, theirs))
    assert cached.prefills == 2  # one for each three prompts


def test_a_full_window_starts_again_from_its_last_tokens() -> None:
    model = model_of("mixed")
    cached, window = decoder_of(model, "cpu"), window_of(model)
    assert isinstance(cached, CachedModel)
    sequence = [int(t) for t in np.random.default_rng(0).integers(0, 29, 40)]
    start, fills = 0, 1
    for length in range(10, 41):
        if length - start > cached.time:
            start, fills = length - cached.keep, fills + 1
        found, wanted = cached.logits([sequence[:length]]), window.logits([sequence[start:length]])
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert cached.prefills == fills == 6


def test_rows_change_places_and_other_sequences_fill_anew() -> None:
    model = model_of("lstm")
    cached, window = decoder_of(model, "cpu"), window_of(model)
    assert isinstance(cached, CachedModel)
    for sequences in ([[1, 2], [3], [4, 5, 6]], [[4, 5, 6, 7], [1, 2, 9]], [[1, 2, 9, 9]], [[7, 7]]):
        np.testing.assert_allclose(cached.logits(sequences), window.logits(sequences), atol=TOLERANCE, rtol=TOLERANCE)
    assert cached.prefills == 2


@pytest.mark.parametrize("name", BODIES)
def test_short_prompts_of_one_length_go_in_token_by_token(name: str) -> None:
    """Also after other sequences, whose caches and carries must not be seen."""
    model = dslc.load(TEXT.format(body=BODIES[name]), time=64)
    cached, window = decoder_of(model, "cpu"), window_of(model)
    assert isinstance(cached, CachedModel)
    cached.logits([[int(t) for t in np.random.default_rng(0).integers(0, 29, 70)]])  # longer than the window, which then begins later
    cached.prefills = 0
    for sequences in ([[3, 1, 4], [1, 5, 9]], [[2, 6], [5, 3], [5, 8]], [[2, 6, 7], [5, 8, 8]], [[7, 9, 3, 2]]):
        np.testing.assert_allclose(cached.logits(sequences), window.logits(sequences), atol=TOLERANCE, rtol=TOLERANCE)
    assert cached.prefills == 0
    cached.logits([[1], [2, 3]])
    assert cached.prefills == 1


def test_a_model_that_looks_ahead_runs_windows_and_says_so_once() -> None:
    told: list[str] = []
    model = dslc.load(TEXT.format(body="x = x + self_attention(x, 2)"))
    assert isinstance(decoder_of(model, "cpu", told.append), WindowModel)
    assert len(told) == 1 and "looks ahead" in told[0] and "attention.dsl" in told[0]


def test_a_device_goes_on_by_itself_with_greedy_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the emulator, through full windows and past stops: the tokens and the caches are those of single steps."""
    model = model_of("mixed")
    ahead, single = decoder_of(model, "cuda-emulated"), decoder_of(model, "cuda-emulated")
    assert isinstance(ahead, CachedModel) and isinstance(single, CachedModel) and ahead._ahead
    single._ahead = False
    turns: list[int] = []
    again = ahead.step.again
    monkeypatch.setattr(ahead.step, "again", lambda given, n, **how: turns.append(n) or again(given, n, **how), raising=False)
    for prompts, length, stop in ((PROMPTS, 25, Stop()), (PROMPTS[:3], 9, Stop(frozenset(range(12)))), ([[7, 9, 3, 2]], 20, Stop())):
        told: tuple[list[tuple[int, int]], ...] = ([], [])
        listeners = [lambda row, token, heard=heard: heard.append((row, token)) for heard in told]
        found = [generate(m, prompts, length, Sampling(method="greedy"), stop=stop, listener=f) for m, f in zip((ahead, single), listeners)]
        assert found[0] == found[1]
        assert sorted(told[0]) == sorted(told[1])  # rows side by side are told in another order
        np.testing.assert_allclose(ahead.logits([[*prompts[0], 5]]), single.logits([[*prompts[0], 5]]), atol=TOLERANCE, rtol=TOLERANCE)
    assert max(turns) > 4
    turns.clear()
    assert generate(ahead, [[7, 9, 3, 2]], 5, Sampling(method="greedy")) == generate(single, [[7, 9, 3, 2]], 5, Sampling(method="greedy"))
    assert turns == [4]  # nobody listens and nothing stops it: all behind the first, which the prompt's fill gives


def test_a_device_is_led_through_short_prompts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dslc.load(TEXT.format(body=BODIES["attention"]), time=64)
    ahead, single = decoder_of(model, "cuda-emulated"), decoder_of(model, "cpu")
    assert isinstance(ahead, CachedModel)
    turns: list[int] = []
    again = ahead.step.again
    monkeypatch.setattr(ahead.step, "again", lambda given, n, **how: turns.append(n) or again(given, n, **how), raising=False)
    for prompts in ([[3, 1, 4], [1, 5, 9]], [[7]], [[2, 6, 5, 3], [5, 8, 9, 7]]):
        assert generate(ahead, prompts, 6, Sampling(method="greedy")) == generate(single, prompts, 6, Sampling(method="greedy"))
    assert turns == [2 + 6, 6, 3 + 6] and ahead.prefills == 0


def test_logits_that_are_not_finite_end_a_device_that_goes_on_by_itself() -> None:
    model = model_of("mixed")
    decoder = decoder_of(model, "cuda-emulated")
    generate(decoder, [[1, 2]], 3, Sampling(method="greedy"))
    path = next(p for p in model.params if model.params[p].shape == (29,))
    model.params[path] = np.full(29, np.nan, np.float32)
    with pytest.raises(DataError, match="the logits of row 0 are not finite"):
        generate(decoder, [[1, 2, 3, 4]], 5, Sampling(method="greedy"))


def test_what_caches_have_seen_is_not_known_behind_a_failure() -> None:
    """A carry has gone on with tokens that nobody was told: the sequence that goes on from there is filled anew."""
    model = model_of("lstm")
    ahead, single = decoder_of(model, "cuda-emulated"), decoder_of(model, "cuda-emulated")
    assert isinstance(ahead, CachedModel) and isinstance(single, CachedModel)
    ahead.logits([[1, 2, 3]])
    again = ahead.step.again

    def damaged(given, turns, **how):
        found = again(given, turns, **how)
        return found | {name: np.full_like(v, np.nan) for name, v in found.items() if name.endswith(GREATEST)}

    ahead.step.again = damaged
    with pytest.raises(DataError, match="not finite"):
        ahead.greedy([[1, 2, 3, 4]], 4)
    np.testing.assert_allclose(ahead.logits([[1, 2, 3, 4, 5]]), single.logits([[1, 2, 3, 4, 5]]), atol=TOLERANCE, rtol=TOLERANCE)
