"""Errors that point into the model file.

Every mistake of a user ends as one `Error`: a class, a message, the places it is about, notes and a way out. It prints as

    m.dsl:6:34: shape error: index 'd' is 3 in x[b, d] but 4 in w[d, k]
        6 |     y[b, k] = sum[d](x[b, d] * w[d, k])
          |                      ^^^^^^^   ^^^^^^^
       = x is float32[2, 3] (line 3); w is float32[4, 3] (line 4)
       = help: the axes of w are [4, d]: did you mean w[k, d]?
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """A stretch of a file: lines and columns count from 1, `end_column` is one past the last character."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of `other`."""
        return Span(self.file, self.line, self.column, other.end_line, other.end_column)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


_texts: dict[str, list[str]] = {}


def remember_source(file: str, text: str) -> None:
    """Keeps the text of a file that is not on disk (a string given to `dslc.load`), so that errors can quote it."""
    _texts[file] = _lines(text)


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


@lru_cache(maxsize=64)
def _lines_on_disk(file: str) -> list[str]:
    try:
        return _lines(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return []


def source_line(file: str, line: int) -> str | None:
    """Line `line` (from 1) of a file, or None where it cannot be read."""
    lines = _texts.get(file) or _lines_on_disk(file)
    return lines[line - 1] if 0 < line <= len(lines) else None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` is most likely a slip of."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'relu'?`, or nothing."""
    name = nearest(word, known)
    return f"; did you mean '{name}'?" if name else ""


class Error(Exception):
    """A mistake in a model, its data or its use, with its place.

    `spans`: the places meant, the first one heads the message (it may be empty: errors of the command line have no place).
    """

    label = "error"

    def __init__(self, message: str, spans: Span | Sequence[Span] | None = None, *, notes: Sequence[str] = (), help: str | None = None):
        self.message = message
        self.spans = [spans] if isinstance(spans, Span) else list(spans or [])
        self.notes = list(notes)
        self.help = help
        super().__init__(message)

    def __str__(self) -> str:
        return render(self)


class SyntaxError_(Error):
    label = "syntax error"


class NameError_(Error):
    label = "name error"


class TypeError_(Error):
    label = "type error"


class ShapeError(Error):
    label = "shape error"


class DataError(Error):
    label = "data error"


class UnsupportedOp(Error):
    label = "unsupported"


class BudgetError(Error):
    """A budget of bytes that no plan keeps within; `least` would do, but for what kernels need beside their operands."""

    label = "budget error"
    least = 0


class TargetError(Error):
    """The target is not there: no driver, no GPU, a processor without the instructions."""

    label = "target error"


class TrainingError(Error):
    """Training cannot go on: the loss is not finite, a checkpoint does not fit."""

    label = "training error"


for _class in (SyntaxError_, NameError_, TypeError_, ShapeError, DataError, UnsupportedOp, BudgetError, TargetError, TrainingError):
    setattr(Error, _class.__name__, _class)


def render(error: Error) -> str:
    """The whole message, without colours."""
    head = f"{error.label}: {error.message}"
    lines = [f"{error.spans[0]}: {head}" if error.spans else head]
    if error.spans:
        lines += _quote(error.spans)
    lines += [f"   = {note}" for note in error.notes]
    if error.help:
        lines.append(f"   = help: {error.help}")
    return "\n".join(lines)


_TAB = 4  # columns of a tab in a quoted line
_WINDOW = 150  # columns of a quoted line at most


def _quote(spans: Sequence[Span]) -> list[str]:
    """The first span's line with carets under every span of that line; of a very long line the part around the first span."""
    first = spans[0]
    text = source_line(first.file, first.line)
    if text is None:
        return []
    marked = [False] * (len(text) + 1)
    for span in spans:
        if span.file == first.file and span.line == first.line:
            end = span.end_column if span.end_line == span.line else len(text) + 1
            for column in range(span.column, min(max(end, span.column + 1), len(marked) + 1)):
                marked[column - 1] = True
    begin = max(0, first.column - _WINDOW // 2) if len(text) > _WINDOW else 0
    shown = text[begin : begin + _WINDOW]
    before, after = "... " if begin else "", " ..." if begin + _WINDOW < len(text) else ""
    under = "".join(("^" if mark else " ") * _columns(char) for char, mark in zip(shown + " ", marked[begin:]))
    quoted = shown.replace("\t", " " * _TAB)
    return [f"{first.line:5} | {before}{quoted}{after}".rstrip(), f"      | {' ' * len(before)}{under}".rstrip()]


def _columns(char: str) -> int:
    """How many columns of a terminal a character takes."""
    if char == "\t":
        return _TAB
    if char.isascii():
        return 1
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
