"""Generation over a window: growing, sliding, stopping, beams, and batches that do not show."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fakes import Counting

from dslc.core.errors import DataError
from dslc.runtime.data.vocabulary import Characters
from dslc.runtime.generation import Stop, WindowModel, generate, generate_text
from dslc.runtime.sampling import Sampling, log_softmax

GREEDY = Sampling("greedy")


def expected(prompt, length, time=5, vocab=7):
    sequence = list(prompt)
    for _ in range(length):
        sequence.append(sum(sequence[-time:]) % vocab)
    return sequence[len(prompt) :]


def test_the_window_grows_then_slides():
    program = Counting()
    assert generate(WindowModel(program), [[1, 2]], 8, GREEDY) == [expected([1, 2], 8)]
    assert program.windows[0][0].tolist() == [1, 2, 0, 0, 0]
    assert program.windows[4][0].tolist() == [1, 2, *expected([1, 2], 8)][1:6]
    long = [1, 2, 3, 4, 5, 6, 1]
    assert generate(WindowModel(Counting()), [long], 3, GREEDY) == [expected(long, 3)]


def test_prompts_of_any_number_and_length():
    prompts = [[1], [1, 2, 3], [6, 6, 6, 6, 6, 6], [5], [2, 2]]
    program = Counting(extra=True)
    got = generate(WindowModel(program, "tokens", "logits"), prompts, 6, GREEDY)
    assert got == [expected(p, 6) for p in prompts] and len(program.windows) == 3 * 6


def test_samples_depend_on_seed_and_row_alone():
    prompts = [[1], [2], [3]]
    how = Sampling(temperature=2.0)
    wide, narrow = (generate(WindowModel(Counting(batch=b)), prompts, 12, how, seed=4) for b in (3, 1))
    assert wide == narrow != generate(WindowModel(Counting()), prompts, 12, how, seed=5)
    assert generate(WindowModel(Counting()), prompts, 12, Sampling(temperature=0)) == [expected(p, 12) for p in prompts]


def test_stop_tokens_and_told_tokens():
    told = []
    got = generate(WindowModel(Counting()), [[1], [3]], 9, GREEDY, stop=Stop(frozenset([4])), listener=lambda r, t: told.append((r, t)))
    assert got == [list(itertools.takewhile(lambda t: t != 4, expected([p], 9))) for p in (1, 3)]
    assert [[t for r, t in told if r == row] for row in (0, 1)] == got


def test_beam_search_is_exhaustive_when_wide():
    program = Counting(time=4, vocab=3)
    model = WindowModel(program)
    length = 3

    def score(tokens):
        return sum(log_softmax(model.logits([[1, *tokens[:i]]]))[0, t] for i, t in enumerate(tokens))

    best = max(itertools.product(range(3), repeat=length), key=score)
    assert generate(model, [[1]], length, Sampling("beam", width=27)) == [list(best)]
    assert generate(model, [[1], [2]], length, Sampling("beam", width=1)) == [expected([p], length, 4, 3) for p in (1, 2)]


def test_text_in_and_out():
    v = Characters("abcdefg")
    pieces = []
    text = generate_text(WindowModel(Counting()), v, "bc", 8, GREEDY, listener=pieces.append)
    assert text == "".join(pieces) == v.decode(expected([1, 2], 8))
    stop = text[3:5]
    pieces.clear()
    cut = generate_text(WindowModel(Counting()), v, "bc", 8, GREEDY, stop=[stop, "zzz"], listener=pieces.append)
    assert cut == text[: text.index(stop)] == "".join(pieces)
    assert generate_text(WindowModel(Counting()), v, "", 2, GREEDY) == "aa"


def test_models_and_prompts_that_do_not_fit():
    model = WindowModel(Counting())
    with pytest.raises(DataError, match="prompt 1 is empty"):
        generate(model, [[1], []], 1)
    with pytest.raises(DataError, match=r"prompt 0 has the id 7 at position 1; the model knows \[0, 7\)"):
        generate(model, [[1, 7]], 1)
    with pytest.raises(DataError, match="the model has no 'logit'; did you mean 'logits'"):
        WindowModel(Counting(), output="logit")
    with pytest.raises(DataError, match="the model has no 'tokens'"):
        WindowModel(Counting(), output="tokens")
    assert np.array_equal(model.logits([[1]]), WindowModel(Counting()).logits([[1]]))
