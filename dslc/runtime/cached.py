"""A decoder with caches: next-token logits from `prefill` and `decode` programs, one token of work a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..core.errors import DataError
from ..core.executable import BEST, GREATEST
from .generation import check_prompts, check_room
from .program import Program
from .sampling import check_finite, greedy
from .store import ParameterStore, aligned_zeros

SHORT = 16  # a window of so many times the tokens of a prompt costs more than a step for each of them


class CachedModel:
    """Next-token logits like `WindowModel`, with caches that follow each sequence.

    A call that lengthens the sequences of the last one by a token each runs `decode`; any other runs `prefill` over whole windows first, or
    `decode` for each token where they are short. Sequences may have different lengths. One longer than the model's `time` starts again from its last
    `keep` tokens, three quarters of a window where nothing is said; up to that length the logits are those of the whole sequence. `store` holds the
    parameters; the caches lie beside it. `fill(n)` gives the prefill program for windows of n tokens, n being among `sizes`, whose last is `time`;
    None where it fills other caches than the step's. With a `bound` (dimension, size) nothing starts again: a sequence beyond it
    is a DataError.
    """

    groups = True  # at most `batch` sequences at a time: further ones would take each other's caches

    def __init__(
        self,
        fill: Callable[[int], Program | None],
        sizes: Sequence[int],
        decode: Program,
        store: ParameterStore,
        keep: int | None = None,
        bound: tuple[str, int] | None = None,
    ):
        self._fill_of, self._sizes, self.step, self._store, self.bound = fill, tuple(sizes), decode, store.beside(), bound
        self.time = self._sizes[-1]
        self._windows: dict[int, tuple[Program, np.ndarray]] = {}  # the prefill programs that were needed so far, by length
        self._bind(decode)
        self.tokens = next(p for p in decode.executable.ports_of("input") if p.name != "position")
        inputs = [p.name for p in decode.executable.ports_of("input")]
        self.output = decode.executable.ports_of("output")[0]
        if len(inputs) != 2 or len(self.tokens.shape) != 2 or not self.tokens.dtype.is_integer or len(self.output.shape) != 2:
            raise DataError(f"generation needs one input of tokens [batch, time] and logits; the inputs are {', '.join(inputs)}")
        outputs = {p.name: p for p in decode.executable.ports_of("output")}
        best = outputs.get(self.output.name + BEST)
        self._ahead = best is not None and best.dtype == self.tokens.dtype and hasattr(decode, "again")
        self.batch = self.tokens.shape[0]
        self.vocab = self.output.shape[1]
        self.keep = min(keep or max(1, self.time * 3 // 4), self.time)
        self.prefills = 0  # how often a window was filled
        kind = self.tokens.dtype.numpy
        self._token = np.zeros((self.batch, 1), kind)
        self._position = np.zeros(self.batch, np.int32)
        self._out = {self.output.name: aligned_zeros([self.output])[0]}
        self._held: list[list[int] | None] = [None] * self.batch  # the sequence that each row's caches have seen
        self._starts = [0] * self.batch  # the place in it of the window's first token

    def _bind(self, program: Program) -> None:
        self._store.extend(program.executable.ports)
        program.bind(self._store)

    def _window(self, length: int) -> tuple[Program, np.ndarray]:
        """The prefill program of the shortest window that holds so many tokens, and what it is fed."""
        for size in self._sizes:
            if size >= length and size not in self._windows and (program := self._fill_of(size)) is not None:
                self._bind(program)
                self._windows[size] = program, np.zeros((self.batch, size), self.tokens.dtype.numpy)
            if size >= length and size in self._windows:
                return self._windows[size]
        raise AssertionError("no window is as long as time")

    def logits(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits float32 [rows, vocab] for the token after each sequence (none of them empty)."""
        check_room(sequences, self.bound)
        out = np.empty((len(sequences), self.vocab), np.float32)
        for start in range(0, len(sequences), self.batch):
            part = [list(s) for s in sequences[start : start + self.batch]]
            rows = self._rows(part)
            found = self._step(part, rows) if rows is not None else self._fill(part)
            out[start : start + len(part)] = found
        return out

    def greedy(self, sequences: Sequence[Sequence[int]], most: int) -> np.ndarray:
        """The tokens int64 [rows, n] that follow each sequence where the greatest logit is always taken, 1 <= n <= most: several where the device
        goes on by itself. DataError for logits that are not finite."""
        part = [list(s) for s in sequences]
        rows = self._rows(part) if self._ahead and len(part) <= self.batch else None
        unseen = 1  # tokens at the end of each sequence that the caches have yet to see
        if rows is None and self._ahead and self._is_short(part):
            rows, unseen = self._begun(part), len(part[0])
        room = min((self.time + 1 - len(s) + self._starts[row] for s, row in zip(part, rows or ())), default=0)
        turns = min(most, room)
        if rows is None or turns < 1:
            return greedy(self.logits(sequences))[:, None]
        fed = []
        for n in range(unseen):  # the last one first
            self._at_end([s[: len(s) - n] for s in part], rows)
            fed.append(self._token.copy())
        best, greatest = self.output.name + BEST, self.output.name + GREATEST
        given = {self.tokens.name: self._token, "position": self._position}
        self._held = [None] * self.batch  # where this fails nobody knows what the caches have seen
        how = {"carried": self.tokens.name, "found": best, "counted": "position", "led": fed[:-1][::-1]}
        found = self.step.again(given, unseen - 1 + turns, **how)  # type: ignore[attr-defined]
        for top in found[greatest][unseen - 1 :]:
            check_finite(top[rows])
        tokens = found[best][unseen - 1 :, rows].T.astype(np.int64)
        for sequence, row, more in zip(sequences, rows, tokens):
            self._held[row] = [*sequence, *more[:-1].tolist()]
        return tokens

    def check(self, prompts: Sequence[Sequence[int]]) -> None:
        """DataError for an empty prompt or an id that the model does not know."""
        check_prompts(prompts, self.tokens.bounds or (0, self.vocab))

    def _rows(self, part: list[list[int]]) -> list[int] | None:
        """The row that holds each sequence but its last token; None where one is in none, or its window is full."""
        rows: list[int] = []
        for tokens in part:
            before = tokens[:-1]
            row = next((r for r, held in enumerate(self._held) if held is not None and r not in rows and held == before), None)
            if row is None or len(tokens) - self._starts[row] > self.time:
                return None
            rows.append(row)
        return rows

    def _step(self, part: list[list[int]], rows: list[int]) -> np.ndarray:
        self._at_end(part, rows)
        return self._run(self.step, self._token)[rows]

    def _at_end(self, part: list[list[int]], rows: list[int]) -> None:
        """The step program's inputs: the last token of each sequence."""
        self._token[...] = 0
        self._position[...] = 0
        held: list[list[int] | None] = [None] * self.batch  # the other rows run on a token of no meaning
        for tokens, row in zip(part, rows):
            self._token[row, 0] = tokens[-1]
            self._position[row] = len(tokens) - 1 - self._starts[row]
            held[row] = tokens
        self._held = held

    def _is_short(self, part: list[list[int]]) -> bool:
        """Whether token by token takes fewer steps than a whole window is worth: sequences of one length, all of it within the window."""
        length = len(part[0])
        longest = max(map(len, part))
        window = next((n for n in self._sizes if n >= longest), self.time)
        return len(part) <= self.batch and length <= window // SHORT and all(len(tokens) == length for tokens in part)

    def _begun(self, part: list[list[int]]) -> list[int]:
        """The rows of sequences that begin anew."""
        self._starts[: len(part)] = [0] * len(part)
        return list(range(len(part)))

    def _fill(self, part: list[list[int]]) -> np.ndarray:
        """A whole window at once; short sequences token by token."""
        longest = max(map(len, part))
        if self._is_short(part):
            rows = self._begun(part)
            for n in range(1, longest):
                self._step([tokens[:n] for tokens in part], rows)
            return self._step(part, rows)
        self.prefills += 1
        program, window = self._window(min(longest, self.time))
        window[...] = 0
        self._position[...] = 0
        self._held = [None] * self.batch
        for row, tokens in enumerate(part):
            self._starts[row] = 0 if len(tokens) <= self.time else len(tokens) - self.keep
            seen = tokens[self._starts[row] :]
            window[row, : len(seen)] = seen
            self._position[row] = len(seen) - 1
            self._held[row] = tokens
        return self._run(program, window)[: len(part)]

    def _run(self, program: Program, tokens: np.ndarray) -> np.ndarray:
        return program({self.tokens.name: tokens, "position": self._position}, out=self._out)[self.output.name]
