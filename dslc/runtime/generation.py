"""Generation of tokens and text, from any model of the next token; `WindowModel` runs a whole window for every token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np

from ..core.errors import DataError, did_you_mean
from ..core.executable import Port
from .bounded import BoundedProgram
from .data.vocabulary import Vocabulary
from .program import Program
from .sampling import Sampling, beam_step, choose, greedy

MOST_AHEAD = 16  # greedy tokens that are asked for at once: what stands behind a stop is work for nothing, and listeners wait
MOST_UNHEARD = 256  # where no stop can end a row, and nobody listens
Listener = Callable[[int, int], None]
"""`listener(row, token)` for each new token; a beam search tells the tokens of the best beam at the end."""


class NextToken(Protocol):
    """What generation needs of a model. `groups`: it serves at most `batch` sequences at a time well. `bound`: (the dimension, tokens that a sequence
    may have at most); None where what is too old is forgotten."""

    batch: int
    groups: bool
    bound: tuple[str, int] | None

    def logits(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [rows, vocab] for the token after each sequence."""
        ...

    def greedy(self, sequences: Sequence[Sequence[int]], most: int) -> np.ndarray:
        """The tokens int64 [rows, n] that follow each sequence where the greatest logit is always taken; 1 <= n <= most."""
        ...

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """DataError for a prompt that the model cannot start from."""
        ...


class WindowModel:
    """Next-token logits from a `run` program with tokens [batch, time] and logits [batch, time, vocab].

    A window holds the last `time` tokens, left-aligned; the logits at the last token's place are read, which in a causal model no later
    place changes. Other inputs of the program (targets) are fed zeros. Rows beyond the program's batch run in further calls. Where `time` is bounded
    a window is as long as its sequences, those of one length run together, and a sequence beyond the bound is a DataError.
    DataError where the program has no such ports.
    """

    groups = False

    def __init__(self, program: Program, tokens: str | None = None, output: str | None = None):
        self.program = program
        inputs = program.executable.ports_of("input")
        self.tokens = _port(inputs, tokens, lambda p: len(p.shape) == 2 and p.dtype.is_integer, "an integer input [batch, time]")
        self.batch, self.time = self.tokens.shape
        outputs = program.executable.ports_of("output")
        self.output = _port(outputs, output, lambda p: len(p.shape) == 3 and p.shape[:2] == self.tokens.shape, "an output [batch, time, vocab]")
        if self.output.shape[:2] != self.tokens.shape:
            raise DataError(f"'{self.output.name}' is {list(self.output.shape)}, and '{self.tokens.name}' is {list(self.tokens.shape)}")
        self.vocab = self.output.shape[2]
        self._inputs = {p.name: np.zeros(p.shape, p.dtype.numpy) for p in inputs}
        self._out = {self.output.name: np.zeros(self.output.shape, self.output.dtype.numpy)}
        self.bound = _bound(program, self.tokens)

    def logits(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [rows, vocab] for the token after each sequence (none of them empty)."""
        check_room(sequences, self.bound)
        out = np.empty((len(sequences), self.vocab), np.float32)
        for rows in self._together(sequences):
            part = [sequences[r][-self.time :] for r in rows]
            inputs = self._inputs if self.bound is None else self._at(self.bound[0], len(part[0]))
            window = inputs[self.tokens.name]
            window[...] = 0
            for row, tokens in enumerate(part):
                window[row, : len(tokens)] = tokens
            results = self.program(inputs, out=self._out if self.bound is None else None)
            out[rows] = results[self.output.name][np.arange(len(part)), [len(t) - 1 for t in part]]
        return out

    def greedy(self, sequences: Sequence[Sequence[int]], most: int) -> np.ndarray:
        """One token each."""
        return greedy(self.logits(sequences))[:, None]

    def _together(self, sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows that run in one call."""
        rows = list(range(len(sequences)))
        for _, alike in groupby(rows if self.bound is None else sorted(rows, key=lambda r: len(sequences[r])),
                                key=lambda r: None if self.bound is None else len(sequences[r])):  # fmt: skip
            group = list(alike)
            yield from (group[start : start + self.batch] for start in range(0, len(group), self.batch))

    def _at(self, dim: str, size: int) -> dict[str, np.ndarray]:
        """Inputs of one length of the bounded dimension."""
        assert isinstance(self.program, BoundedProgram)
        sizes = {**self.program.bounds, dim: size}
        return {name: self._inputs[name][tuple(slice(0, n.at(sizes)) for n in self.program.inputs[name].axes)] for name in self._inputs}

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """DataError for an empty prompt or an id that the model does not know."""
        check_prompts(prompts, self.tokens.bounds or (0, self.vocab))


def check_prompts(prompts: Sequence[Sequence[int]], known: tuple[int, int]) -> None:
    """DataError for an empty prompt, or an id outside of [low, high)."""
    low, high = known
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise DataError(f"prompt {row} is empty", help="give at least one token to start from")
        for at, token in enumerate(prompt):
            if not low <= token < high:
                raise DataError(f"prompt {row} has the id {token} at position {at}; the model knows [{low}, {high})")


def check_room(sequences: Sequence[Sequence[int]], bound: tuple[str, int] | None, more: int = 0) -> None:
    """DataError for a sequence that would have more tokens, with `more` behind it, than a bounded dimension may have."""
    if bound is None:
        return
    dim, most = bound
    for tokens in sequences:
        if len(tokens) + more > most:
            behind = f", and the {more} behind them that are read too," if more else ""
            room = most - len(tokens) + 1
            raise DataError(f"the cache is full: {len(tokens)} tokens{behind} are more than '{dim}', which is at most {most}",
                            help=f"at most {room} new tokens, or a greater bound: --set {dim}={len(tokens) + more}" if room > 0 else
                            f"a shorter text, or a greater bound: --set {dim}={len(tokens) + more}")  # fmt: skip


def _bound(program: Program, tokens: Port) -> tuple[str, int] | None:
    """The bounded dimension that the tokens' second axis is, with its bound."""
    if not isinstance(program, BoundedProgram):
        return None
    dims = program.inputs[tokens.name].axes[1].dims
    return next(((dim, program.bounds[dim]) for dim in dims), None)


def _port(ports: list[Port], name: str | None, fits: Callable[[Port], bool], wanted: str) -> Port:
    """The port of a name, or the only one that fits."""
    if name is not None:
        found = [p for p in ports if p.name == name]
        if not found:
            raise DataError(f"the model has no '{name}'{did_you_mean(name, [p.name for p in ports])}")
        if not fits(found[0]):
            raise DataError(f"'{name}' is {found[0].dtype}{list(found[0].shape)}, generation needs {wanted}")
        return found[0]
    found = [p for p in ports if fits(p)]
    named = [p for p in found if p.name in ("tokens", "logits")]
    chosen = found if len(found) == 1 else named
    if len(chosen) != 1:
        listed = ", ".join(p.name for p in found)
        raise DataError(f"generation needs {wanted}" + (f"; which of {listed}?" if found else ""), help="generate: over AXIS from OUTPUT ...")
    return chosen[0]


@dataclass(frozen=True)
class Stop:
    """When a row ends: `tokens` end it (and are left out), or `texts`, found in what `vocabulary` decodes the new tokens to."""

    tokens: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = field(default=None, repr=False)

    def cut(self, new: list[int]) -> list[int] | None:
        """The new tokens that stay where the row ends here, else None."""
        if new and new[-1] in self.tokens:
            return new[:-1]
        if self.texts and self.vocabulary is not None and any(t in self.vocabulary.decode(new) for t in self.texts):
            return new
        return None


NEVER = Stop()


def generate(
    model: NextToken,
    prompts: Sequence[Sequence[int]],
    length: int,
    how: Sampling | None = None,
    *,
    seed: int = 0,
    stop: Stop = NEVER,
    listener: Listener | None = None,
) -> list[list[int]]:
    """The new tokens, at most `length`, for each prompt of token ids; the same seed gives the same tokens.

    A row draws by (seed, its place in its text, its row), whatever the program's batch is. DataError where a sequence would be longer than a bounded
    dimension may be: at once where no stop can end it before.
    """
    how = how or Sampling()
    model.check(prompts)
    check_room(prompts, model.bound, length - 1 if stop is NEVER else 0)  # the last new token is not read
    started = [[int(t) for t in prompt] for prompt in prompts]
    if how.method == "beam":
        return _all_beams(model, started, length, how, stop, listener)
    new: list[list[int]] = [[] for _ in started]
    size = model.batch if model.groups else max(len(started), 1)
    for first in range(0, len(started), size):
        _group(model, started, new, list(range(first, min(first + size, len(started)))), length, how, seed, stop, listener)
    return new


def _group(
    model: NextToken,
    started: list[list[int]],
    new: list[list[int]],
    live: list[int],
    length: int,
    how: Sampling,
    seed: int,
    stop: Stop,
    listener: Listener | None,
) -> None:
    """Adds to the new tokens of the rows `live`."""
    hurries = listener is not None or stop.tokens or stop.texts
    ahead, most = (1, MOST_AHEAD) if hurries else (MOST_UNHEARD, MOST_UNHEARD)
    step = 0
    while step < length and live:
        sequences = [started[r] + new[r] for r in live]
        if how.is_greedy:
            tokens = model.greedy(sequences, min(ahead, length - step))
            ahead = min(2 * ahead, most)
        else:
            logits = model.logits(sequences)
            tokens = np.stack([choose(logits[place : place + 1], how, seed, step, row) for place, row in enumerate(live)])
        live = [row for row, found in zip(live, tokens.tolist()) if not _grown(new, row, found, stop, listener)]
        step += tokens.shape[1]


def _grown(new: list[list[int]], row: int, tokens: list[int], stop: Stop, listener: Listener | None) -> bool:
    """Adds tokens to a row until it ends, whether it does; those behind its end are left out."""
    for token in tokens:
        new[row].append(token)
        ended = stop.cut(new[row])
        if listener is not None and (ended is None or len(ended) == len(new[row])):
            listener(row, token)
        if ended is not None:
            new[row] = ended
            return True
    return False


def _all_beams(model: NextToken, prompts: list[list[int]], length: int, how: Sampling, stop: Stop, listener: Listener | None) -> list[list[int]]:
    found = [_beam(model, prompt, length, how, stop) for prompt in prompts]
    if listener is not None:
        for row, tokens in enumerate(found):
            for token in tokens:
                listener(row, token)
    return found


def _beam(model: NextToken, prompt: list[int], length: int, how: Sampling, stop: Stop) -> list[int]:
    """Beam search for one prompt: the finished or longest beam of the best score."""
    beams: list[list[int]] = [[]]
    scores = np.zeros(1)
    finished: list[tuple[float, list[int]]] = []
    for step in range(length):
        logits = model.logits([prompt + b for b in beams])
        source, tokens, scores = beam_step(scores, logits, how.width)
        grown = [[*beams[s], int(t)] for s, t in zip(source, tokens)]
        cuts = [stop.cut(b) for b in grown]
        finished += [(float(s) / (step + 1) ** how.length_penalty, c) for s, c in zip(scores, cuts) if c is not None]
        keep = [i for i, c in enumerate(cuts) if c is None]
        beams, scores = [grown[i] for i in keep], scores[keep]
        if not beams or len(finished) >= how.width:
            break
    steps = max((len(b) for b in beams), default=1) or 1
    finished += [(float(s) / steps**how.length_penalty, b) for s, b in zip(scores, beams)]
    return max(finished, key=lambda f: f[0])[1] if finished else []


def generate_text(
    model: NextToken,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    how: Sampling | None = None,
    *,
    seed: int = 0,
    stop: Sequence[str] = (),
    listener: Callable[[str], None] | None = None,
) -> str:
    """The text that follows `prompt`, cut before the first of the `stop` texts; `listener` gets pieces of it as they come.

    An empty prompt starts from a line end where the vocabulary has one, else from id 0.
    """
    ids = vocabulary.encode(prompt) if prompt else _start(vocabulary)
    pieces = _Pieces(vocabulary, tuple(stop), listener)
    rule = Stop(texts=tuple(stop), vocabulary=vocabulary)
    generate(model, [[int(i) for i in ids]], length, how, seed=seed, stop=rule, listener=pieces.take)
    return pieces.end()


class _Pieces:
    """Turns tokens into pieces of text. What may still become a stop text, or half a character, is held back."""

    def __init__(self, vocabulary: Vocabulary, stop: tuple[str, ...], listener: Callable[[str], None] | None):
        self.vocabulary, self.stop, self.listener = vocabulary, stop, listener
        self.tokens: list[int] = []
        self.shown = ""
        self.held = max((len(s) - 1 for s in stop), default=0)

    def take(self, row: int, token: int) -> None:
        self.tokens.append(token)
        text = self._cut()
        safe = text.rstrip("\N{REPLACEMENT CHARACTER}")
        self._show(safe[: len(safe) - self.held] if self.held else safe)

    def end(self) -> str:
        text = self._cut()
        self._show(text)
        return text

    def _cut(self) -> str:
        text = self.vocabulary.decode(self.tokens)
        ends = [text.index(s) for s in self.stop if s in text]
        return text[: min(ends)] if ends else text

    def _show(self, text: str) -> None:
        if self.listener is not None and text.startswith(self.shown) and len(text) > len(self.shown):
            self.listener(text[len(self.shown) :])
            self.shown = text


def _start(vocabulary: Vocabulary) -> np.ndarray:
    try:
        ids = vocabulary.encode("\n")
    except DataError:
        ids = np.zeros(0, np.int32)
    return ids if len(ids) else np.zeros(1, np.int32)
