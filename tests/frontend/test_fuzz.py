"""Whatever the text, there is a tree or a `dslc.Error`, and the tree prints and parses to itself."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.core.errors import Error
from dslc.frontend.parse import parse_expression, parse_file, parse_text
from dslc.frontend.tokens import OPENERS, RESERVED, SIGNS
from dslc.frontend.unparse import unparse
from dslc.frontend.yaml_form import parse_yaml

SAMPLES = Path(__file__).parent / "samples"
DSL = [path.read_text() for path in sorted(SAMPLES.glob("*.dsl"))]
YAML = [path.read_text() for path in sorted(SAMPLES.glob("*.yaml"))]
PIECES = [
    *OPENERS,
    *RESERVED,
    *SIGNS,
    "x",
    "f",
    "3",
    ".5",
    '"a"',
    "\n",
    "\n    ",
    "\n        ",
    "# c\n",
    "as",
    "carry",
    "\t",
    "'",
    "- ",
    ": ",
    "{",
    "}",
    "é",
    "²",
    "\0",
]


def check(parse, text):
    """Parses; an error must also be printable, with carets that lie in the text."""
    try:
        tree = parse(text)
    except Error as error:
        assert str(error)
        rows = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for span in error.spans:
            assert 1 <= span.line <= len(rows) and 1 <= span.column <= len(rows[span.line - 1]) + 1
        return None
    return tree


@st.composite
def mutated(draw, texts):
    """A sample with a few stretches deleted, doubled, moved, or replaced by pieces of the language."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        middle = draw(st.one_of(st.just(""), st.just(text[start:end] * 2), st.sampled_from(PIECES), st.text(max_size=3)))
        text = text[:start] + middle + text[end:]
    return text


@settings(max_examples=250, deadline=None)
@given(mutated(DSL))
def test_mutated_program(text):
    tree = check(parse_text, text)
    if tree:
        assert parse_text(unparse(tree)) == tree


@settings(max_examples=120, deadline=None)
@given(mutated(YAML))
def test_mutated_yaml(text):
    check(parse_yaml, text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_random_pieces(pieces):
    check(parse_text, " ".join(pieces))
    check(parse_text, "model M:\n    " + "".join(pieces))
    check(parse_yaml, "".join(pieces))
    tree = check(parse_expression, " ".join(pieces))
    if tree:
        assert parse_expression(unparse(tree)) == tree


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_random_text(text):
    for parse in (parse_text, parse_expression, parse_yaml):
        check(parse, text)


@pytest.mark.parametrize("suffix", [".dsl", ".yaml"])
@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=60))
def test_random_bytes(tmp_path_factory, suffix, data):
    path = tmp_path_factory.mktemp("fuzz") / f"m{suffix}"
    path.write_bytes(data)
    try:
        parse_file(path)
    except Error as error:
        assert str(error)
