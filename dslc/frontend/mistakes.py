"""Says what is wrong with a text that is no program, in words of the language."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.errors import SyntaxError_, nearest

from .tokens import OPENERS, RESERVED, SIGNS, SourceText, Token, Tokens

_LAYOUT = ("_NL", "_INDENT", "_DEDENT", "$END")
_VALUES = ("NAME", "NUMBER", "STRING", "TRUE", "FALSE", "RPAR", "RSQB")  # ends of a value
_OPERATORS = {"COMPARE", "LESS", "PLUS", "MINUS", "STAR", "SLASH", "FLOOR", "PERCENT", "POWER", "_AND", "_OR"}
_EXPRESSION = {"NUMBER", "STRING", "TRUE", "FALSE", "NOT", "MINUS", "PLUS", "LPAR", "LSQB", "NAME", "_USE", "_IMPORT"}
_DEFINITIONS = {"_LAYER", "_MODEL", "_TRAIN", "_GENERATE"}
_STATEMENTS = {
    "_DIMS", "_PARAM", "_STATE", "_INPUT", "_OUTPUT", "_LOSS", "_METRIC", "_RETURN", "_EMIT", "_WRAP", "_IF", "_REPEAT", "_SCAN", "_WITH",
}  # fmt: skip
_BLOCKS = {"_LAYER", "_MODEL", "_TRAIN", "_GENERATE", "_IF", "_ELIF", "_ELSE", "_REPEAT", "_SCAN", "_WITH"}

# What a statement needs after its first word.
_NEEDS = {
    "_LAYER": "a layer needs a name", "_MODEL": "a model needs a name", "_DIMS": "dims need NAME=SIZE", "_LET": "a let needs NAME = VALUE",
    "_PARAM": "a param needs a name", "_STATE": "a state needs a name", "_INPUT": "an input needs a name", "_OUTPUT": "an output needs a name",
    "_LOSS": "a loss needs an expression", "_METRIC": "a metric needs an expression", "_WRAP": "a wrap needs a pattern",
    "_REPEAT": "a repeat needs a number of turns", "_SCAN": "a scan needs an index", "_WITH": "a with needs a setting",
    "_MINIMIZE": "a minimize needs a loss", "_OVER": "an over needs an axis", "_FROM": "a from needs a file in quotes",
    "_TRAIN": "a train needs ':'", "_GENERATE": "a generate needs ':'",
}  # fmt: skip
_FORMS = {
    "_FROM": 'from "file.dsl" import name', "_MINIMIZE": "minimize LOSS over PATTERN with OPTIMIZER(options)",
    "_OVER": "over AXIS from OUTPUT sample(options)", "_WRAP": "wrap PATTERN with LAYER(options)",
}  # fmt: skip

# Words of other languages at the beginning of a statement.
_FOREIGN = {
    "def": "a layer is written layer name(x[b, d], option=1): ...",
    "fn": "a layer is written layer name(x[b, d], option=1): ...",
    "function": "a layer is written layer name(x[b, d], option=1): ...",
    "class": "a model is written model Name: ...",
    "for": "copies are made by repeat n as i: ..., recurrences by scan t: ...",
    "while": "recurrences are made by scan t < n: ...",
    "elseif": "write elif",
    "elsif": "write elif",
    "var": "write name = value, or let name = value for a compile-time one",
    "const": "write let name = value",
    "del": "a name may just be defined again",
    "global": "a layer sees its file's names and its arguments",
    "assert": "sizes are checked by naming them: x[b, 4]",
    "try": "a model has no exceptions",
    "print": "a value is shown by metric name = e, or fetched when the program runs",
    "raise": "a model has no exceptions",
    "yield": "a scan stacks values by emit y[b, t] = e",
}
# The same inside an expression.
_FOREIGN_INSIDE = {
    "lambda": "write a layer and give its name",
    "is": "write ==",
    "in": "write out the comparisons: i == 0 or i == 2",
    "for": "copies are made by repeat, lists are written out",
    "then": "write a if c else b",
}

# Kinds in words of the language; other kinds are quoted as they are written.
_WORDS = {
    "_NL": "the end of the line", "_INDENT": "an indented block", "_DEDENT": "the end of the block", "$END": "the end of the text",
    "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "COMPARE": "a comparison",
}  # fmt: skip
_WRITTEN = {kind: sign for sign, kind in SIGNS.items()} | {kind: word for word, kind in (OPENERS | RESERVED).items()}


@dataclass(frozen=True)
class _Place:
    """Where the automaton stopped: at `token`, with what could stand there instead."""

    source: SourceText
    token: Token
    before: Token | None  # the token before it, also across lines
    line: list[Token]  # the tokens of the statement, up to the token
    around: str  # kind of the keyword that opens the enclosing definition, "" on the file's level
    accepts: set[str]

    @property
    def first(self) -> Token:
        return self.line[0] if self.line else self.token

    @property
    def found(self) -> str:
        return f"'{self.token.text}'" if self.token.text else _WORDS.get(self.token.kind, "").removeprefix("the ")

    def error(self, message: str, help: str | None = None, at: Token | None = None) -> SyntaxError_:
        token = at or self.token
        return SyntaxError_(message, self.source.span(token.start, token.end), help=help)


def explain(source: SourceText, tokens: Tokens, index: int, accepts: set[str]) -> SyntaxError_:
    """The error for token `index`, where only the kinds `accepts` fit."""
    begin = index
    while begin and not _begins_statement(tokens, begin):
        begin -= 1
    place = _Place(source, tokens[index], tokens[index - 1] if index else None, list(tokens[begin:index]), _around(tokens, index), accepts)
    for rule in _RULES:
        error = rule(place)
        if error is not None:
            return error
    return place.error(f"unexpected {place.found}", help=_expected(accepts))


def _begins_statement(tokens: Tokens, index: int) -> bool:
    before = tokens[index - 1]
    if before.kind in ("_NL", "_INDENT", "_DEDENT", "SEMICOLON"):
        return True
    if before.kind != "COLON":
        return False
    line = _line_before(tokens, index)
    return any(t.kind in _BLOCKS for t in line) and not _in_brackets(line)


def _line_before(tokens: Tokens, index: int) -> list[Token]:
    line = []
    for token in reversed(tokens[:index]):
        if token.kind in ("_NL", "_INDENT", "_DEDENT", "SEMICOLON"):
            break
        line.append(token)
    return line


def _around(tokens: Tokens, index: int) -> str:
    """The definition that the token is inside of."""
    depth, around, fresh = 0, "", True
    for token in tokens[:index]:
        depth += (token.kind == "_INDENT") - (token.kind == "_DEDENT")
        if token.kind in _DEFINITIONS and depth == 0:
            around = token.kind
            fresh = True
        elif depth == 0 and (token.kind == "_DEDENT" or (token.kind == "_NL" and not fresh)):
            around = ""
        fresh = token.kind == "COLON" if token.kind != "_NL" else False
    return around


def _indented(p: _Place) -> SyntaxError_ | None:
    if p.token.kind == "_INDENT":
        return p.error("this line is indented, and no block is open", "only a block after ':' is indented deeper than the line before it")
    if p.accepts == {"_INDENT"}:
        return p.error("the block after ':' is empty", "its lines are indented deeper than the line with ':'", p.before)
    return None


def _foreign(p: _Place) -> SyntaxError_ | None:
    first = p.first
    if first.kind == "_IMPORT" and (len(p.line) == 1 or first is p.token):
        return p.error("'import' opens no statement", 'write from "file.dsl" import name, or net = import "net.onnx"', first)
    if first.kind == "NAME" and first.text in _FOREIGN and len(p.line) == 1:
        return p.error(f"'{first.text}' is not a word of the language", _FOREIGN[first.text], first)
    if p.token.text == "in" and first.kind in ("_SCAN", "_REPEAT"):
        return p.error("'in' is not a word of the language", "write scan t < n" if first.kind == "_SCAN" else "write repeat n as i")
    for token in (p.token, *p.line[-1:]):
        if token.kind == "NAME" and token.text in _FOREIGN_INSIDE and token is not first:
            return p.error(f"'{token.text}' is not a word of the language", _FOREIGN_INSIDE[token.text], token)
    return None


def _else_if(p: _Place) -> SyntaxError_ | None:
    if p.token.kind == "_IF" and p.before and p.before.kind == "_ELSE" and p.first is p.before:
        return p.error("'else if' is one word here", "write elif")
    if p.token.kind in ("_ELSE", "_ELIF") and not p.line:
        return p.error(f"'{p.token.text}' follows no if", "it stands right below the block of an if, at the same depth")
    return None


def _misplaced(p: _Place) -> SyntaxError_ | None:
    if p.line:
        return None
    kind, word = p.token.kind, p.token.text
    if p.around in ("_TRAIN", "_GENERATE") and kind in _STATEMENTS | _DEFINITIONS:
        return p.error(f"'{word}' has no meaning in a {p.around[1:].lower()} block", "its lines are KEY VALUE, one key a line")
    if kind == "_MINIMIZE" and p.around != "_TRAIN":
        return p.error("'minimize' belongs in a train block", "train: ...")
    if kind == "_OVER" and p.around != "_GENERATE":
        return p.error("'over' belongs in a generate block", "generate: ...")
    if kind in _DEFINITIONS | {"_FROM"} and p.around:
        return p.error(f"'{word}' opens a definition, and this is inside of another", "a definition begins at the left margin")
    if kind in _STATEMENTS and not p.around:
        return p.error(f"'{word}' belongs in a layer or a model", "indent it below layer NAME(...): or model NAME:")
    return None


def _several_losses(p: _Place) -> SyntaxError_ | None:
    if p.first.kind == "_MINIMIZE" and p.token.kind == "COMMA" and "_OVER" in p.accepts:
        return p.error("',' between losses", "write their sum: minimize a + b over ...")
    return None


def _no_colon(p: _Place) -> SyntaxError_ | None:
    if "COLON" not in p.accepts or p.first.kind not in _BLOCKS or p.first is p.token:
        return None
    if p.token.kind in _LAYOUT:
        return p.error(f"':' is missing after '{_line_text(p)}'", "a block begins with ':'")
    if p.token.kind == "EQUAL":
        return p.error("'=' defines and does not compare", "write ==")
    if p.token.kind in ("NAME", *_STATEMENTS) and p.before and p.before.kind in _VALUES and not _in_brackets(p.line):
        return p.error(f"':' is missing before '{p.token.text}'", "a block begins with ':'")
    return None


def _line_text(p: _Place) -> str:
    end = p.line[-1].end
    return p.source.text[p.first.start : end].replace("\n", " ")


def _opened(p: _Place) -> SyntaxError_ | None:
    first = p.first
    if len(p.line) != 1 or first.kind not in _NEEDS or not first.text:
        return None
    word = first.text
    if p.token.text in RESERVED:
        return _reserved(p)
    form = f"write {_FORMS[first.kind]}" if first.kind in _FORMS else f"to define a value called {word}, write {word} = ..."
    return p.error(f"'{word}' opens a statement here, and {_NEEDS[first.kind]}", form)


def _reserved(p: _Place) -> SyntaxError_ | None:
    if p.token.kind == "EQUAL" and p.before and p.before.text in RESERVED:
        return p.error(f"'{p.before.text}' is a word of the language and cannot be a name", f"take another one: {p.before.text}_", p.before)
    if p.token.text in RESERVED and "NAME" in p.accepts and not (p.token.kind in _STATEMENTS and not p.line):
        return p.error(f"'{p.token.text}' is a word of the language and cannot be a name", f"take another one: {p.token.text}_")
    return None


def _equal_signs(p: _Place) -> SyntaxError_ | None:
    token, before = p.token, p.before
    if token.text == "==" and "EQUAL" in p.accepts:
        return p.error("'==' compares", "write = to define")
    if token.kind != "EQUAL" or before is None:
        return None
    if before.kind in _OPERATORS and before.end == token.start and len(p.line) >= 2:
        name = p.source.text[p.first.start : before.start].rstrip()
        return p.error(f"there is no '{before.text}='", f"write {name} = {name} {before.text} ...", before)
    if p.around in ("_TRAIN", "_GENERATE") and len(p.line) == 1:
        return p.error(f"a {p.around[1:].lower()} line has no '='", f"write {before.text} VALUE")
    if any(t.kind == "EQUAL" for t in p.line):
        return p.error("a second '=' in one definition", "write == to compare, or a line for each definition")
    if "COMPARE" in p.accepts:
        return p.error("'=' defines and does not compare", "write ==")
    return None


def _two_values(p: _Place) -> SyntaxError_ | None:
    token, before = p.token, p.before
    if before is None or not p.line or before.kind not in _VALUES or token.kind not in (*_VALUES[:5], "_USE", "_IMPORT", "NOT"):
        return None
    if not p.accepts & _OPERATORS and "EQUAL" not in p.accepts:
        return None
    first = p.first
    if (first.kind == "NAME" and "EQUAL" in p.accepts and not _in_brackets(p.line)) or len(p.line) == 1:
        near = nearest(first.text, [*OPENERS, *RESERVED]) if len(p.line) == 1 else None
        if near and near != first.text:
            return p.error(f"'{first.text}' is not a word of the language; did you mean '{near}'?", at=first)
        if first.text not in OPENERS:
            left, right = _line_text(p), p.source.rest_of_line(token.start).split("#")[0].strip()
            return p.error(f"'=' is missing after '{left}'", f"write {left} = {right}")
    if "COMMA" in p.accepts and _in_brackets(p.line):
        missing = "a comma or an operator" if p.accepts & _OPERATORS else "a comma"
        return p.error(f"{missing} is missing before '{token.text}'")
    if before.kind == "NUMBER" and token.kind == "NAME":
        return p.error(f"an operator is missing between '{before.text}' and '{token.text}'", f"write {before.text} * {token.text}")
    return p.error(f"an operator is missing before '{token.text}'")


def _in_brackets(line: list[Token]) -> bool:
    return sum(t.kind in ("LPAR", "LSQB") for t in line) > sum(t.kind in ("RPAR", "RSQB") for t in line)


def _in_axes(p: _Place) -> SyntaxError_ | None:
    """Slips in brackets and in what declares names."""
    token, before = p.token, p.before
    inside = _in_brackets(p.line)
    if token.kind == "COLON" and inside:
        if p.first.kind == "_LAYER":
            return p.error("a type stands after a port's name and brackets", "write x[b, d]: int32")
        return p.error("there are no slices", "a slice is an equation: y[i < n] = x[i + start]")
    if token.kind == "LSQB" and len(p.line) > 2 and p.line[-2].kind == "COLON" and before:
        name = p.line[-3].text
        return p.error("a type stands after the brackets", f"write {name}[...]: {before.text}")
    if token.kind == "COMMA" and p.first.kind in ("_PARAM", "_STATE") and not inside:
        word = p.first.text
        return p.error(f"the start stands after the last name of a {word}", f"begin a new {word}: ...; {word} ...")
    if token.kind == "COMMA" and any(t.kind == "EQUAL" for t in p.line) and p.first.kind == "NAME" and not inside:
        return p.error("one value on the right of '='", "write [a, b] for a list, or a line for each definition")
    if token.kind == "_REST":
        return p.error("'...' stands only in the brackets of axes", "write x[..., d]")
    if token.kind in ("LESS", "COMPARE") and p.first.kind == "_DIMS" and before:
        return p.error(f"'{token.text}' in dims", f"write {before.text}=8, or {before.text}<=8 for any size up to 8")
    return None


def _signs(p: _Place) -> SyntaxError_ | None:
    """Signs of other languages."""
    token, before = p.token, p.before
    if before is None or not p.line:
        return None
    if before.kind == "DOT" and len(p.line) > 1 and p.line[-2].kind == "NUMBER":
        return p.error("a number does not end in '.'", f"write {p.line[-2].text}.0", before)
    if token.text == ">" and before.end == token.start and before.text in ("-", "=", "<"):
        help_ = "write !=" if before.text == "<" else "an update is written m <- e"
        return p.error(f"there is no '{before.text}>'", help_, before)
    if token.kind == "COLON" and p.source.text.startswith(":=", token.start):
        return p.error("there is no ':='", "write =")
    if token.kind == "_ARROW":
        return p.error("'<-' updates a state, and stands only after its name", "write m <- e")
    if token.kind in _LAYOUT and "_ELSE" in p.accepts and any(t.kind == "_IF" for t in p.line):
        return p.error("a value with 'if' needs 'else'", "write a if c else b")
    return None


def _ends(p: _Place) -> SyntaxError_ | None:
    if p.token.kind in _LAYOUT and p.before and p.before.text and p.accepts & {"NUMBER", "STRING"}:
        return p.error(f"the line ends after '{p.before.text}', where an expression must follow")
    return None


_RULES = (
    _indented, _else_if, _foreign, _misplaced, _reserved, _equal_signs, _opened, _several_losses, _no_colon, _in_axes, _signs, _two_values, _ends,
)  # fmt: skip


def _expected(accepts: set[str]) -> str | None:
    """What may stand here, where that is short enough to help."""
    kinds = set(accepts)
    words = []
    if {"NUMBER", "NAME", "LPAR"} <= kinds:
        words.append("an expression")
        kinds -= _EXPRESSION
    if kinds >= _OPERATORS - {"_AND", "_OR", "COMPARE", "LESS"}:
        words.append("an operator")
        kinds -= _OPERATORS | {"_IF", "LPAR", "LSQB", "DOT"}
    if "_PARAM" in kinds:
        words.append("a statement")
        kinds -= _STATEMENTS | {"_LET", "NAME", "_DEDENT", "_NL"}
    if kinds & _DEFINITIONS:
        words.append("a definition (layer, model, train, generate, let)")
        kinds -= _DEFINITIONS | {"_LET", "_FROM", "_NL", "$END"}
    words += sorted(_WORDS.get(kind) or f"'{_WRITTEN.get(kind, kind)}'" for kind in kinds)
    if not words or len(words) > 6:
        return None
    return f"{words[0]} must stand here" if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]} may stand here"
