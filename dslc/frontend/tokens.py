"""Cuts text into tokens: words and signs, the indentation, and which words are keywords where they stand.

A token's kind is a terminal of `grammar.lark`. Outside brackets a line ends in `_NL`, and a change of indentation is `_INDENT` or `_DEDENT`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from dslc.core.errors import Span, SyntaxError_

from .syntax import MAX_DEPTH

_RESERVED_WORDS = "if elif else and or not true false use import return emit"
_OPENING_WORDS = "layer model train generate from dims let param state input output loss metric wrap repeat scan with minimize over"
_OPERATOR_WORDS = {"not": "NOT", "true": "TRUE", "false": "FALSE"}

# Keywords everywhere.
RESERVED = {word: _OPERATOR_WORDS.get(word, f"_{word.upper()}") for word in _RESERVED_WORDS.split()}
# Keywords as a statement's first word, but not where one of `= [ . , <-` follows: `loss = 3` defines a name.
OPENERS = {word: f"_{word.upper()}" for word in _OPENING_WORDS.split()}
_DEFINES = re.compile(r"\.(?!\.\.)|[ \t]*(?:=(?!=)|\[|,|<-|\.(?![.0-9]))")
# Keywords inside one kind of statement.
HELPERS = {"_REPEAT": ("as",), "_SCAN": ("carry",), "_MINIMIZE": ("over", "with"), "_WRAP": ("with",), "_OVER": ("from",), "_FROM": ("as",)}
_SPECIAL = {*RESERVED, *OPENERS, *(word for words in HELPERS.values() for word in words)}

SIGNS = {
    "...": "_REST", "<-": "_ARROW", "<=": "COMPARE", ">=": "COMPARE", "==": "COMPARE", "!=": "COMPARE", "**": "POWER", "//": "FLOOR",
    "+": "PLUS", "-": "MINUS", "*": "STAR", "/": "SLASH", "%": "PERCENT", "<": "LESS", ">": "COMPARE", "=": "EQUAL", "(": "LPAR", ")": "RPAR",
    "[": "LSQB", "]": "RSQB", ",": "COMMA", ":": "COLON", ";": "SEMICOLON", ".": "DOT", "~": "TILDE",
}  # fmt: skip

# After `name.` stand digits, not a number: `net.0.w`, `net.*.0`.
_TOKEN = re.compile(
    r"""[ \t]*(?:
      (?P<NAME> [^\W\d]\w*)
    | (?P<NUMBER> (?<=[\w)\]*]\.)[0-9]+
                | (?: [0-9][0-9_]*(?:\.[0-9]+)? | (?<![\w)\]])(?<!\.\*)\.[0-9]+ ) (?:[eE][+-]?[0-9]+)? )
    | (?P<SIGN> \.\.\. | <- | [<>=!]= | \*\* | // | [-+*/%<>=()\[\],:;.~])
    | (?P<STRING> "(?:[^"\\\n]|\\.)*")
    | (?P<NEWLINE> (?:\#[^\n]*)?\n (?:[ \t]*(?:\#[^\n]*)?\n)*)
    | (?P<COMMENT> \#[^\n]*)
    | (?P<END> \Z)
    | (?P<BAD> .))""",
    re.VERBOSE,
)
_SPACE = re.compile(r"[ \t]*")

_BAD_CHARACTERS = {
    "'": 'a string stands in double quotes: "..."',
    "{": "a list stands in [ ], a block is indented after ':'",
    "}": "a list stands in [ ], a block is indented after ':'",
    "&": "write and",
    "|": "write or",
    "!": "write not, or != for 'differs from'",
    "^": "a power is **",
    "@": "write the product as a sum: sum[k](a[i, k] * b[k, j])",
    "\\": "a line goes on inside ( ) and [ ], without a sign",
    "$": "names hold letters, digits and _",
    "?": "write a if c else b",
    "`": 'a string stands in double quotes: "..."',
    "\N{NO-BREAK SPACE}": "this is a no-break space: write a plain one",
    "\N{EN DASH}": "this is a dash: write - for minus",
    "\N{EM DASH}": "this is a dash: write - for minus",
    "\N{MINUS SIGN}": "write - for minus",
    "\N{MULTIPLICATION SIGN}": "write * for times",
    "\N{LEFT DOUBLE QUOTATION MARK}": 'a string stands in straight quotes: "..."',
    "\N{RIGHT DOUBLE QUOTATION MARK}": 'a string stands in straight quotes: "..."',
    "\N{LEFT SINGLE QUOTATION MARK}": 'a string stands in straight quotes: "..."',
    "\N{RIGHT SINGLE QUOTATION MARK}": 'a string stands in straight quotes: "..."',
    "\N{LESS-THAN OR EQUAL TO}": "write <=",
    "\N{GREATER-THAN OR EQUAL TO}": "write >=",
    "\N{NOT EQUAL TO}": "write !=",
    "\N{LEFTWARDS ARROW}": "write <-",
    "\N{SUPERSCRIPT TWO}": "write ** 2",
    "\N{SUPERSCRIPT THREE}": "write ** 3",
    "\N{BYTE ORDER MARK}": "delete this invisible character",
    "\N{ZERO WIDTH SPACE}": "delete this invisible character",
}


class Token(NamedTuple):
    """`start` and `end` are offsets into the text."""

    kind: str
    text: str
    start: int
    end: int


class SourceText:
    """A text and where it stands in its file.

    It begins at `line` and `column`; where it is not in one piece there, `places` has the (line, column) of each of its characters.
    """

    def __init__(self, text: str, file: str, line: int = 1, column: int = 1, places: Sequence[tuple[int, int]] | None = None):
        self.text, self.file = text, file
        self._line, self._column, self._places = line, column, places
        self._starts = [0, *(m.end() for m in re.finditer("\n", text)), len(text) + 1]

    def place(self, offset: int) -> tuple[int, int]:
        if self._places is not None:
            return self._places[min(offset, len(self._places) - 1)]
        row = min(bisect_right(self._starts, offset), len(self._starts) - 1)
        column = offset - self._starts[row - 1] + 1
        return row + self._line - 1, column + self._column - 1 if row == 1 else column

    def span(self, start: int, end: int) -> Span:
        starts = self._starts
        row = bisect_right(starts, start)
        if 1 < row < len(starts) and end < starts[row] and self._places is None:  # the usual case: on one line, and not on the first
            line, before = row + self._line - 1, starts[row - 1] - 1
            return Span(self.file, line, start - before, line, end - before)
        line, column = self.place(start)
        if end <= start:
            return Span(self.file, line, column, line, column)
        end_line, end_column = self.place(end - 1)
        return Span(self.file, line, column, end_line, end_column + 1)

    def rest_of_line(self, offset: int) -> str:
        end = self.text.find("\n", offset)
        return self.text[offset : end if end >= 0 else None]


class Tokens(list[Token]):
    """All tokens of a text, the last of kind `$END`; `deep`: some statement is long enough to hold a tree deeper than MAX_DEPTH."""

    deep = False


def cut(source: SourceText, *, file: bool = True, opener: str = "", lead: bool = False) -> Tokens:
    """The tokens of a source: of a whole file, or of a part without lines and blocks.

    `opener` makes a part the inside of a statement: it is the kind of the keyword that opens it (`_MINIMIZE`), or `EQUAL` for a value.
    With `lead`, a token of that kind comes before the part's own.
    """
    cutter = _Cutter(source, file, opener)
    if lead and opener:
        cutter.tokens.append(Token(opener, "", 0, 0))
    return cutter.run()


class _Cutter:
    def __init__(self, source: SourceText, file: bool, opener: str):
        self.source, self.text, self.file = source, source.text, file
        self.tokens = Tokens()
        self.brackets: list[tuple[str, int]] = []
        self.indents = [0]
        self.last_end = 0  # of the last token that has text
        self.statement = 0  # where the running statement's tokens begin
        self.fresh = not opener  # at a statement's beginning
        self.opener = opener  # kind of the statement's first token; EQUAL once its `=` is past

    def run(self) -> Tokens:
        tokens, brackets = self.tokens, self.brackets
        if self.file:
            self.layout(0)
        for match in _TOKEN.finditer(self.text):
            group = match.lastgroup
            start, end = match.span(group)  # type: ignore[arg-type]
            word = match.group(group)  # type: ignore[arg-type]
            if group == "NAME":
                kind = self.word(word, start, end) if word in _SPECIAL or not word.isascii() else "NAME"
            elif group == "SIGN":
                if word == "<-" and (brackets or self.opener != "NAME"):  # `j <-1` inside an expression is `j < -1`
                    tokens.append(Token("LESS", "<", start, start + 1))
                    word, start = "-", start + 1
                kind = self.sign(word, start)
            elif group == "NUMBER" or group == "STRING":
                kind = group
            elif group == "NEWLINE":
                if self.file and not brackets:
                    self.end_line()
                    self.layout(end)
                continue
            elif group == "BAD":
                self.bad(word, start)
            elif group == "END":
                break
            else:
                continue
            tokens.append(Token(kind, word, start, end))
            self.last_end = end
            if self.fresh:
                self.opener = kind
                self.fresh = False
            if (kind == "SEMICOLON" or kind == "COLON") and not brackets:
                self.fresh = True
        self.finish()
        return tokens

    def word(self, word: str, start: int, end: int) -> str:
        """The kind of a word that may be a keyword."""
        if not word.isascii() and not word.isidentifier():
            at = next((k for k, c in enumerate(word) if not ("_" + c).isidentifier()), 0)
            self.bad(word[at], start + at)
        if word in RESERVED:
            return RESERVED[word]
        if self.fresh and word in OPENERS and not _DEFINES.match(self.text, end):
            return OPENERS[word]
        if not self.brackets and word in HELPERS.get(self.opener, ()):
            return f"_{word.upper()}"
        return "NAME"

    def sign(self, word: str, start: int) -> str:
        kind = SIGNS[word]
        if kind == "LPAR" or kind == "LSQB":
            self.brackets.append((word, start))
            if len(self.brackets) > MAX_DEPTH:
                raise SyntaxError_(f"brackets are nested more than {MAX_DEPTH} deep", self.source.span(start, start + 1))
        elif kind == "RPAR" or kind == "RSQB":
            self.close(word, start)
        elif (kind == "EQUAL" or kind == "_ARROW") and not self.brackets:
            self.opener = "EQUAL"
        return kind

    def close(self, word: str, start: int) -> None:
        here = self.source.span(start, start + 1)
        if not self.brackets:
            raise SyntaxError_(f"'{word}' closes no bracket", here)
        opened, place = self.brackets.pop()
        if opened + word not in ("()", "[]"):
            line, column = self.source.place(place)
            raise SyntaxError_(f"'{word}' cannot close the '{opened}' of {line}:{column}", [here, self.source.span(place, place + 1)])

    def end_line(self) -> None:
        tokens = self.tokens
        if tokens and tokens[-1].kind not in ("_NL", "_INDENT", "_DEDENT"):
            tokens.append(Token("_NL", "", self.last_end, self.last_end))
        if len(tokens) - self.statement > MAX_DEPTH:
            tokens.deep = True
        self.statement = len(tokens)
        self.fresh, self.opener = True, ""

    def layout(self, start: int) -> None:
        """Compares the indentation of the line that begins at `start` with that of the blocks that are open."""
        space = _SPACE.match(self.text, start).group()  # type: ignore[union-attr]
        end = start + len(space)
        if self.text[end : end + 1] in ("", "\n", "#"):
            return
        if "\t" in space:
            tab = start + space.index("\t")
            raise SyntaxError_("a tab in the indentation", self.source.span(tab, tab + 1), help="indent with spaces")
        if len(space) > self.indents[-1]:
            self.indents.append(len(space))
            self.tokens.append(Token("_INDENT", "", start, end))
            if len(self.indents) > MAX_DEPTH // 4:
                raise SyntaxError_(f"blocks are nested more than {MAX_DEPTH // 4} deep", self.source.span(end, end + 1))
        while len(space) < self.indents[-1]:
            self.indents.pop()
            self.tokens.append(Token("_DEDENT", "", self.last_end, self.last_end))
        if len(space) != self.indents[-1]:
            known = " or ".join(str(n) for n in self.indents)
            message = f"this line is indented by {len(space)}, and the blocks around it by {known}"
            raise SyntaxError_(message, self.source.span(end, end + len(self.source.rest_of_line(end))))

    def bad(self, char: str, start: int) -> NoReturn:
        if char == '"':
            end = self.text.find("\n", start)
            span = self.source.span(start, end if end >= 0 else len(self.text))
            raise SyntaxError_("a string is not closed on its line", span, help='a string ends with ", and " inside it is written \\"')
        name = char if char.isprintable() else f"U+{ord(char):04X}"
        raise SyntaxError_(f"the character {name} has no meaning here", self.source.span(start, start + 1), help=_BAD_CHARACTERS.get(char))

    def finish(self) -> None:
        if self.brackets:
            opened, place = self.brackets[-1]
            raise SyntaxError_(f"'{opened}' is never closed", self.source.span(place, place + 1))
        end = Token("", "", self.last_end, self.last_end)
        self.end_line()
        if not self.file and self.tokens and self.tokens[-1].kind == "_NL":
            self.tokens.pop()
        self.tokens.extend([end._replace(kind="_DEDENT")] * (len(self.indents) - 1))
        self.tokens.append(end._replace(kind="$END"))
