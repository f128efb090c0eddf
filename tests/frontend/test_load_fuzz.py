"""Whatever is wrong with a program, `dslc.load` gives a model or a `dslc.Error` whose carets lie in the text, never another exception."""

import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dslc

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = (ROOT / "docs" / "language.md").read_text()
PROGRAMS = [
    *re.findall(r"^```dsl\n(.*?)^```", PAGE, re.S | re.M),
    *((ROOT / "examples" / f"{name}.dsl").read_text() for name in ("char_gpt", "char_lstm", "digits_cnn", "digits_mlp", "xor")),
    *(path.read_text() for path in sorted((HERE.parent / "errors" / "elaborate").glob("*.dsl"))),
    *(path.read_text() for path in sorted((HERE / "programs").glob("*.dsl"))),
]
TOKENS = re.compile(r"[A-Za-z_]\w*|\d+\.?\d*|<-|<=|>=|==|!=|//|\*\*|\.\.\.|\S|\s+")
WORDS = [
    "sum",
    "softmax",
    "x",
    "n",
    "d",
    "0",
    "1",
    "-1",
    "2.5",
    "1e9",
    "100000000000",
    "true",
    "inf",
    '"text"',
    "grad",
    "normal()",
    "size(n)",
    "[1,2]",
    "relu",
    "linear",
    "use",
    "training",
    "step",
    "...",
    "i",
    "concat",
    "topk",
    "argsort[d]",
    "categorical[d]",
    "uniform()",
    "x.y",
    "min",
    "where",
    "beta(1,2)",
    "params",
    "split",
    "float16",
    "int32",
    "bool",
    "dropout",
    "max(x)",
    "not",
    "inf-inf",
    "randint(0,0)",
    "net",
    "net.params",
    "wrap",
    "all",
]


@st.composite
def mutated(draw, texts=PROGRAMS):
    """A program with one to three of its tokens dropped, doubled, exchanged, or replaced by others of the text or of the language."""
    tokens = TOKENS.findall(draw(st.sampled_from(texts)))
    places = [k for k, t in enumerate(tokens) if not t.isspace()]
    for _ in range(draw(st.integers(1, 3))):
        k, other = draw(st.sampled_from(places)), draw(st.sampled_from(places))
        match draw(st.integers(0, 5)):
            case 0:
                tokens[k] = ""
            case 1:
                tokens[k] += " " + tokens[k]
            case 2:
                tokens[k], tokens[other] = tokens[other], tokens[k]
            case 3 | 4:
                tokens[k] = tokens[other]
            case 5:
                tokens[k] = draw(st.sampled_from(WORDS))
    lines = "".join(tokens).split("\n")
    if draw(st.integers(0, 3)) == 0:  # a line is dropped, doubled or moved
        k, other = draw(st.integers(0, len(lines) - 1)), draw(st.integers(0, len(lines) - 1))
        moved = lines.pop(k) if draw(st.booleans()) else lines[k]
        lines[other:other] = [moved] * draw(st.integers(0, 1))
    return "\n".join(lines)


def check(text):
    """Loads; an error must be printable, with carets that lie in the text or in a file of the library."""
    try:
        dslc.load(text + "\n")
    except dslc.Error as error:
        assert str(error)
        assert error.spans or "no model" in str(error)
        rows = text.split("\n")
        for span in error.spans:
            assert span.file != "<text>" or (1 <= span.line <= len(rows) + 1 and span.column >= 1)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutated_program(text):
    check(text)
