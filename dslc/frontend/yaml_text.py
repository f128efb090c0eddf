"""YAML documents as nodes, without the parts of YAML that are no use here, and where each character of a scalar stands in the file."""

from __future__ import annotations

from typing import Any

import yaml

from dslc.core.errors import SyntaxError_

from .syntax import MAX_DEPTH
from .tokens import SourceText

_HEX_ESCAPES = {"x": 4, "u": 6, "U": 10}  # lengths of \xNN, \uNNNN, \UNNNNNNNN

_QUOTES = "inside { } and [ ] a text that holds a bracket or a comma needs quotes"

# A part of PyYAML's message; ours; the way out.
_PROBLEMS = (
    ("mapping values are not allowed", "': ' cannot stand here", "a text that holds ': ' needs quotes"),
    ("'\\t'", "a tab in the indentation", "indent with spaces"),
    ("cannot start any token", "a value cannot begin with this character", "a text that begins with % @ or ` needs quotes"),
    ("sequence entries are not allowed", "a list cannot begin here", "a text that begins with '- ' needs quotes"),
    ("expected <block end>", "the value ends before this", "a text that begins with [ { or a quote needs quotes around all of it"),
    ("expected ',' or", "a comma or the closing bracket must stand here", _QUOTES),
    ("expected the node content", "a value must stand here", _QUOTES),
    ("could not find expected ':'", "this line has no ': '", "a line is KEY: VALUE, or an entry that begins with '- '"),
    ("while scanning a directive", "a value cannot begin with %", "a text that begins with % needs quotes"),
    ("expected a single document", "a second document begins here", "a program is one document: leave '---' out"),
)


def compose(whole: SourceText) -> yaml.Node | None:
    """The root of the document, None of an empty one. SyntaxError_ where the text is no YAML, or has anchors, aliases or tags."""
    try:
        loader = _Loader(whole)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = f"{error.context or ''} {error.problem or ''}"
        known = ((message, help_) for part, message, help_ in _PROBLEMS if part in text)
        message, help_ = next(known, (f"this is no YAML: {error.problem or error.context}", None))
        index = mark.index if mark else 0
        raise SyntaxError_(message, whole.span(index, index + 1), help=help_) from None
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        span = whole.span(error.position, error.position + 1)
        raise SyntaxError_(f"the character U+{code:04X} has no place in YAML", span) from None


class _Loader(yaml.SafeLoader):
    """Composes plain nodes only, up to a depth."""

    def __init__(self, whole: SourceText):
        super().__init__(whole.text)
        self.whole = whole
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        start = event.start_mark.index
        at = self.whole.span(start, start + 1)
        if isinstance(event, yaml.AliasEvent):
            raise SyntaxError_("'*' begins an alias of YAML", at, help="a text that begins with * needs quotes")
        if getattr(event, "anchor", None) is not None:
            raise SyntaxError_("'&' begins an anchor of YAML", at, help="a text that begins with & needs quotes")
        if getattr(event, "tag", None) is not None:
            raise SyntaxError_("'!' begins a tag of YAML", at, help="a text that begins with ! needs quotes")
        if self.depth > MAX_DEPTH // 2:
            raise SyntaxError_(f"lists and mappings are nested more than {MAX_DEPTH // 2} deep", at)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def scalar_text(whole: SourceText, node: yaml.ScalarNode, blank: int = 0) -> SourceText:
    """The text of a scalar with its places in the file, the first `blank` characters turned to spaces."""
    value = " " * blank + node.value[blank:]
    begin = node.start_mark.index + (1 if node.style in ("'", '"') else 0)
    if "\n" not in value and whole.text.startswith(node.value, begin):  # the usual case: as it stands there
        line, column = whole.place(begin)
        return SourceText(value, whole.file, line, column)
    return SourceText(value, whole.file, places=[whole.place(k) for k in _offsets(whole.text, node, begin)])


def _offsets(text: str, node: yaml.ScalarNode, begin: int) -> list[int]:
    """The offset into the file of each character of a scalar, and of its end: across quotes, escapes, folded lines and block indentation."""
    at, end = begin, node.end_mark.index
    if node.style in ("|", ">"):
        at = text.find("\n", begin) + 1
    at = _skip_space(text, at, end) if node.style in ("|", ">", None) else at
    offsets = []
    for char in node.value:
        if node.style == '"' and text.startswith("\\\n", at):  # a line that goes on
            at = _skip_space(text, at + 1, end)
        offsets.append(min(at, end))
        if node.style == "'" and char == "'":
            at += 2
        elif node.style == '"' and text.startswith("\\", at):
            at += _HEX_ESCAPES.get(text[at + 1 : at + 2], 2)
        elif char in " \n" and _is_fold(text, at):
            at = _skip_space(text, at, end)
        elif text.startswith(char, at):
            at += 1
    return [*offsets, min(at, end)]


def _is_fold(text: str, at: int) -> bool:
    """Whether the spaces at `at` run into a line's end."""
    rest = text[at : at + 200].lstrip(" \t")
    return rest.startswith("\n")


def _skip_space(text: str, at: int, end: int) -> int:
    while at < end and text[at] in " \t\n":
        at += 1
    return at
