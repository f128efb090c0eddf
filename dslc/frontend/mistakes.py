"""What a text that is no program did wrong, in words of the language."""

from __future__ import annotations

import re

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.indenter import DedentError

from dslc.core.errors import Span, SyntaxError_

from .build import span_of_token

# tokens as a reader of the language would call them
_WORDS = {
    "_NL": "the end of the line", "_INDENT": "an indented line", "_DEDENT": "the end of the block", "$END": "the end of the file", "NAME": "a name",
    "NUMBER": "a number", "STRING": "a text", "_EQUAL": "'='", "_COLON": "':'", "_COMMA": "','", "_LPAR": "'('", "_RPAR": "')'", "_LSQB": "'['",
    "_RSQB": "']'", "_ARROW": "'<-'", "_TILDE": "'~'", "_DOT": "'.'", "_SEMICOLON": "';'", "_REST": "'...'",
}  # fmt: skip
_PYTHON = {
    "def": "a layer is written layer name(x[b, d]): ...",
    "class": "a model is written model Name: ...",
    "for": "copies are made by repeat, recurrences by scan",
    "while": "recurrences are made by scan",
    "lambda": "write a layer instead of a lambda",
    "None": "there is no None: leave the option out",
    "True": "write true",
    "False": "write false",
}
_NEEDS = {"_LOSS": "loss", "_METRIC": "metric", "_OUTPUT": "output", "_RETURN": "return", "_EMIT": "emit"}


def explain(error: UnexpectedToken | UnexpectedCharacters | DedentError, text: str, file: str, origin: tuple[int, int]) -> SyntaxError_:
    """The error for the user."""
    if isinstance(error, DedentError):
        return _dedent(text, file)
    if isinstance(error, UnexpectedCharacters):
        return _character(error, text, file, origin)
    return _token(error, text, file, origin)


def _dedent(text: str, file: str) -> SyntaxError_:
    """The first line whose indentation fits no block around it."""
    levels = [0]
    for number, row in enumerate(text.split("\n"), 1):
        stripped = row.strip()
        if not stripped or stripped.startswith("#"):
            continue
        depth = len(row) - len(row.lstrip())
        if depth > levels[-1]:
            levels.append(depth)
        while levels and depth < levels[-1]:
            levels.pop()
        if not levels or depth != levels[-1]:
            return SyntaxError_("the indentation fits no block above", Span(file, number, 1, number, depth + 1))
    return SyntaxError_("the indentation fits no block above", Span(file, 1, 1, 1, 2))


def _character(error: UnexpectedCharacters, text: str, file: str, origin: tuple[int, int]) -> SyntaxError_:
    line, column = error.line + origin[0], error.column + (origin[1] if error.line == 1 else 0)
    span = Span(file, line, column, line, column + 1)
    found = text[error.pos_in_stream] if error.pos_in_stream < len(text) else ""
    if found == '"':
        return SyntaxError_('a text is not closed by "', span)
    if found == "'":
        return SyntaxError_("unexpected character '", span, help='texts stand in double quotes: "..."')
    if found == "\t":
        return SyntaxError_("unexpected tab", span, help="use spaces")
    helps = {
        "{": "lists stand in [ ] or ( )",
        "&": "write and",
        "|": "write or",
        "!": "write not, or !=",
        "@": "write a sum: sum[k](a[i, k] * b[k, j])",
    }
    return SyntaxError_(f"unexpected character {found!r}", span, help=helps.get(found))


def _token(error: UnexpectedToken, text: str, file: str, origin: tuple[int, int]) -> SyntaxError_:
    token = error.token
    span = span_of_token(token, file, origin) if token.line else _end(text, file)
    if token.type in ("_NL", "_DEDENT", "_INDENT"):
        span = Span(file, span.line, span.column, span.line, span.column + 1)
    before = error.token_history[-1] if error.token_history else None
    opener = _unclosed(text)
    if opener and token.type in ("_NL", "$END", "_DEDENT", "_INDENT", "_EQUAL", "_COLON"):
        place, bracket = opener
        return SyntaxError_(f"'{bracket}' is never closed", Span(file, place[0], place[1], place[0], place[1] + 1))
    if isinstance(before, Token) and before.type in _NEEDS and token.type in ("_NL", "_EQUAL", "_COLON", "$END"):
        word = _NEEDS[before.type]
        return SyntaxError_(f"'{word}' opens a statement here, and a {word} needs an expression", span,
                            help=f"to define a value called {word}, write {word} = ...")  # fmt: skip
    first = _first_word(text, token.line or 1)
    if first in _PYTHON:
        return SyntaxError_(f"'{first}' is not of this language", _word_span(text, file, token.line or 1, first), help=_PYTHON[first])
    found = _WORDS.get(token.type, f"'{token}'") if token.type.startswith("_") and token.type in _WORDS else _named(token)
    return SyntaxError_(f"unexpected {found}", span, notes=_expected(error), help=_help(token, before, error))


def _named(token: Token) -> str:
    return "the end of the file" if token.type == "$END" else f"'{token}'"


def _expected(error: UnexpectedToken) -> list[str]:
    """What could stand here, where that is short enough to help."""
    words = sorted({_WORDS.get(t, f"'{t.lstrip('_').lower()}'") for t in error.expected})
    return [f"here could stand {', '.join(words[:-1]) + ' or ' if len(words) > 1 else ''}{words[-1]}"] if 0 < len(words) <= 5 else []


def _help(token: Token, before: object, error: UnexpectedToken) -> str | None:
    if token == "==":
        return "write = to define, == to compare"
    if token.type == "_EQUAL" and "COMPARE" in error.expected:
        return "write == to compare"
    if token.type == "_NL" and "_COLON" in error.expected:
        return "a block opens with ':'"
    if token.type in ("NAME", "NUMBER") and isinstance(before, Token) and before.type in ("NAME", "NUMBER", "_RPAR", "_RSQB"):
        return f"write an operator between '{before}' and '{token}'" if before.type in ("NAME", "NUMBER") else "write an operator between them"
    if token.type == "_INDENT":
        return "this line is deeper than the one above, and no block was opened"
    return None


def _end(text: str, file: str) -> Span:
    rows = text.rstrip("\n").split("\n")
    return Span(file, len(rows), len(rows[-1]) + 1, len(rows), len(rows[-1]) + 2)


def _unclosed(text: str) -> tuple[tuple[int, int], str] | None:
    """The innermost bracket that is opened and never closed; texts and comments do not count."""
    stack: list[tuple[tuple[int, int], str]] = []
    for number, row in enumerate(text.split("\n"), 1):
        plain = re.sub(r'"(\\.|[^"\\])*"', lambda m: " " * len(m.group()), row)
        for column, char in enumerate(plain.split("#", 1)[0], 1):
            if char in "([":
                stack.append(((number, column), char))
            elif char in ")]" and stack:
                stack.pop()
    return stack[-1] if stack else None


def _first_word(text: str, line: int) -> str:
    rows = text.split("\n")
    found = re.match(r"\s*([A-Za-z_]\w*)", rows[line - 1]) if line <= len(rows) else None
    return found.group(1) if found else ""


def _word_span(text: str, file: str, line: int, word: str) -> Span:
    column = text.split("\n")[line - 1].index(word) + 1
    return Span(file, line, column, line, column + len(word))
