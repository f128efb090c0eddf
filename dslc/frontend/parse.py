"""From text to the syntax tree: lark's LALR parser, keywords decided by place, errors in words of the language."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.indenter import DedentError, Indenter

from dslc.core.errors import DataError, Error, Span, SyntaxError_, nearest, remember_source

from . import syntax
from .build import Builder, span_of_token
from .mistakes import explain

# Reserved everywhere.
RESERVED = {w: "_" + w.upper() for w in "if elif else and or not true false use import return emit".split()}
# Keywords as a statement's first word, unless one of NAME_FOLLOWS comes next.
OPENERS = {
    w: "_" + w.upper()
    for w in "layer model train generate from dims let param state input output loss metric wrap repeat scan with minimize over".split()
}
NAME_FOLLOWS = {"_EQUAL", "_LSQB", "_DOT", "_COMMA", "_ARROW"}
# Keywords inside one kind of statement only.
HELPERS = {"_REPEAT": {"as"}, "_SCAN": {"carry"}, "_MINIMIZE": {"over", "with"}, "_WRAP": {"with"}, "_OVER": {"from"}, "_FROM": {"as"}}
MAX_BRACKETS = 80  # nesting; deeper text is a mistake, or an attack


class Words(Indenter):
    """Between lexer and parser: indentation, and words by their place."""

    NL_type = "_NL"
    OPEN_PAREN_types = ["_LPAR", "_LSQB"]  # noqa: RUF012  (lark's interface)
    CLOSE_PAREN_types = ["_RPAR", "_RSQB"]  # noqa: RUF012
    INDENT_type = "_INDENT"
    DEDENT_type = "_DEDENT"
    tab_len = 8

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        tokens = list(super().process(_split_dots(stream)))
        fresh, opener, depth = True, "", 0
        for k, token in enumerate(tokens):
            following = tokens[k + 1].type if k + 1 < len(tokens) else ""
            if token.type == "_ARROW" and (depth or opener != "NAME"):  # `j <-1` inside an expression is `j < -1`
                yield Token.new_borrow_pos("LESS", "<", token)
                token = Token.new_borrow_pos("MINUS", "-", token)
            if token.type == "_EQUAL" and depth == 0:
                opener = "_EQUAL"
            depth += (token.type in self.OPEN_PAREN_types) - (token.type in self.CLOSE_PAREN_types)
            if depth > MAX_BRACKETS:
                raise SyntaxError_(f"brackets are nested more than {MAX_BRACKETS} deep", span_of_token(token, _file[-1]))
            if token.type == "NAME":
                token = _keyword(token, fresh, following, depth, opener)
            layout = token.type in ("_NL", "_INDENT", "_DEDENT")
            if fresh and not layout:
                opener = token.type
            fresh = layout or (depth == 0 and token.type in ("_SEMICOLON", "_COLON"))
            yield token


def _keyword(token: Token, fresh: bool, following: str, depth: int, opener: str) -> Token:
    word = str(token)
    if word in RESERVED:
        return Token.new_borrow_pos(RESERVED[word], word, token)
    if fresh and word in OPENERS and following not in NAME_FOLLOWS:
        return Token.new_borrow_pos(OPENERS[word], word, token)
    if depth == 0 and word in HELPERS.get(opener, ()):
        return Token.new_borrow_pos("_" + word.upper(), word, token)
    return token


def _split_dots(stream: Iterator[Token]) -> Iterator[Token]:
    """`net.0` arrives as NAME and the number `.0`; here it becomes NAME, dot, 0."""
    previous = None
    for token in stream:
        if token.type == "NUMBER" and token.startswith(".") and previous is not None and previous.end_pos == token.start_pos:
            if previous.type in ("NAME", "_RPAR", "_RSQB", "NUMBER"):
                yield Token.new_borrow_pos("_DOT", ".", token)
                token = Token(
                    "NUMBER", str(token)[1:], token.start_pos + 1, token.line, token.column + 1, token.end_line, token.end_column, token.end_pos
                )
        previous = token
        yield token


_file: list[str] = [""]  # of the text being parsed, for errors raised inside the post-lexer
_STARTS = ["start", "expr", "line", "setting", "formals", "declaration", "axes", "sampler", "minimize"]


@functools.cache
def _parser() -> Lark:
    grammar = (Path(__file__).parent / "grammar.lark").read_text()
    options: dict[str, Any] = {
        "parser": "lalr", "lexer": "basic", "postlex": Words(), "keep_all_tokens": True, "maybe_placeholders": False, "start": _STARTS,
        "transformer": Builder(lambda: _file[-1]),
    }  # fmt: skip
    return Lark(grammar, **options)


def parse_file(path: str | Path, shown: str | None = None) -> syntax.Program:
    """The tree of a `.dsl` file; `shown` is its name in messages. DataError where it cannot be read, SyntaxError_ where it is no program."""
    return parse_text(read_text(path), shown or str(path))


def read_text(path: str | Path) -> str:
    """The text of a model file."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder", help="name the model file in it") from None
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else None
        near = nearest(path.name, [p.name for p in folder.iterdir()]) if folder else None
        raise DataError(f"there is no file {path}" + (f"; did you mean '{path.parent / near}'?" if near else "")) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def parse_text(text: str, file: str = "<text>") -> syntax.Program:
    """The tree of a program's text."""
    remember_source(file, text)
    definitions = _parse(text + "\n", file, "start")
    if not definitions:
        raise SyntaxError_("the file is empty", Span(file, 1, 1, 1, 1), help="a program has a model: model Name: ...")
    return syntax.Program(span=definitions[0].span.to(definitions[-1].span), file=file, definitions=tuple(definitions))


def parse_part(text: str, file: str, start: str, line: int = 1, column: int = 1) -> Any:
    """A part of a program, `start` being a rule of the grammar, that stands at a place of a file."""
    padded = "\n" * 0 + text
    with _moved(file, line, column):
        return _parse(padded + ("\n" if start in ("line", "setting", "sampler", "minimize") else ""), file, start)


def parse_expression(text: str, file: str = "<text>", line: int = 1, column: int = 1) -> syntax.Expr:
    """An expression."""
    return parse_part(text, file, "expr", line, column)


class _moved:
    """While parsing a part: the place in the file where its text begins."""

    def __init__(self, file: str, line: int, column: int):
        self.place = (line - 1, column - 1)

    def __enter__(self) -> None:
        Builder.origin = self.place

    def __exit__(self, *_: object) -> None:
        Builder.origin = (0, 0)


def _parse(text: str, file: str, start: str) -> Any:
    _file.append(file)
    try:
        tab = next((n for n, row in enumerate(text.split("\n"), 1) if row[: len(row) - len(row.lstrip())].count("\t")), None)
        if tab is not None:
            at = text.split("\n")[tab - 1].index("\t") + 1
            raise SyntaxError_("a tab in the indentation", Span(file, tab, at, tab, at + 1), help="indent with spaces")
        return _parser().parse(text, start=start)
    except (UnexpectedToken, UnexpectedCharacters, DedentError) as error:
        raise explain(error, text, file, Builder.origin) from None
    except RecursionError:
        raise SyntaxError_("the program is nested too deeply", Span(file, 1, 1, 1, 1)) from None
    except Error:
        raise
    except Exception as error:
        cause = getattr(error, "orig_exc", None)
        if isinstance(cause, Error):
            raise cause from None
        raise
    finally:
        _file.pop()
