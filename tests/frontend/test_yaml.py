"""The YAML form: the same trees as the .dsl twins, spans in the YAML file, and its own rules."""

import dataclasses
from pathlib import Path

import pytest

from dslc.core.errors import Error, NameError_, SyntaxError_
from dslc.frontend import syntax as s
from dslc.frontend.parse import parse_expression, parse_file, parse_text
from dslc.frontend.unparse import unparse
from dslc.frontend.yaml_form import parse_yaml

SAMPLES = Path(__file__).parent / "samples"
HEAD = "model: M\ninputs:\n  x[b, 3]:\n"


def body(text):
    """The statements of a model after its input."""
    return list(parse_yaml(HEAD + text).definitions[0].body[1:])


def lines(*texts):
    """Statements of the .dsl form."""
    return list(parse_text("model M:\n" + "".join(f"    {text}\n" for text in texts)).definitions[0].body)


@pytest.mark.parametrize("name", ["char_gpt", "chain"])
def test_twins(name):
    assert parse_file(SAMPLES / f"{name}.yaml") == parse_file(SAMPLES / f"{name}.dsl")


@pytest.mark.parametrize("name", ["char_gpt", "chain"])
def test_spans_point_into_the_yaml_file(name):
    path = SAMPLES / f"{name}.yaml"
    text, checked = path.read_text().split("\n"), 0
    todo = [parse_file(path, "sample")]
    while todo:
        node = todo.pop()
        if isinstance(node, (s.Number, s.Binary, s.Read)) and node.span.line == node.span.end_line:
            assert parse_expression(text[node.span.line - 1][node.span.column - 1 : node.span.end_column - 1]) == node
            checked += 1
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            todo += [child for child in (value if isinstance(value, tuple) else (value,)) if isinstance(child, s.Node)]
    assert checked > 20


SAME = {
    "layers: [relu]": ["_ = relu(x)"],
    "layers:\n  - linear: {out: 3, bias: false}": ["_ = linear(x, out=3, bias=false)"],
    "layers:\n  - linear: [3]\n    as: h\n  - relu:": ["h = linear(x, 3)", "_ = relu(h)"],
    "layers:\n  - h: 2 * x\n  - relu": ["h = 2 * x", "_ = relu(h)"],
    "layers:\n  - h = 2 * x\n  - relu": ["h = 2 * x", "_ = relu(h)"],
    "layers:\n  - a, b: f(x)\n  - relu": ["a, b = f(x)", "_ = relu(x)"],
    "layers:\n  - y[b, k < 2]: x[b, k]": ["y[b, k < 2] = x[b, k]"],
    'layers:\n  - param w[3] ~ zeros() if bias\n  - m <- 3\n  - wrap "net.*" with f()': [
        "param w[3] ~ zeros() if bias",
        "m <- 3",
        'wrap "net.*" with f()',
    ],
    "layers:\n  - 'state count: int32 = 0'": ["state count: int32 = 0"],
    "layers:\n  - net.linear: {act: gelu, sizes: [1, 2], init: {normal: {std: 0.1}}}": [
        "_ = net.linear(x, act=gelu, sizes=[1, 2], init=normal(std=0.1))"
    ],
    "layers:\n  - repeat: 3\n    do: [relu]": ["_ = x", "repeat 3: _ = relu(_)"],
    "layers:\n  - relu\n  - repeat: n\n    as: i\n    do:\n      - linear: [i]\n        as: h": [
        "_ = relu(x)",
        "repeat n as i: h = linear(_, i); _ = h",
    ],
    "layers:\n  - repeat: 3\n    do:\n      - x: f(x)\n  - relu": ["repeat 3: x = f(x)", "_ = relu(x)"],
    "layers:\n  - if: a > 1\n    do: [relu]\n    else: gelu\n  - relu": ["_ = x", "if a > 1: _ = relu(_)", "else: _ = gelu(_)", "_ = relu(_)"],
    "layers:\n  - if: a\n    do:\n      - x: f(x)\n  - relu": ["if a: x = f(x)", "_ = relu(x)"],
    "layers:\n  - if: a\n    do: [y = 1]\n    else:\n      - if: b\n        do: [y = 2]\n        else: [y = 3]": [
        "if a: y = 1",
        "elif b: y = 2",
        "else: y = 3",
    ],
    "layers:\n  - with: frozen\n    do: [y = x]": ["with frozen: y = x"],
    "layers:\n  - with: precision(float32), frozen\n    do: [y = x]": ["with precision(float32), frozen: y = x"],
    "layers:\n  - scan: t\n    carry: {h: 0}\n    do:\n      - h: h + 1": ["scan t carry h = 0: h = h + 1"],
    "dims: {a: 3, c: <=2 * a}": ["dims a=3, c<=2 * a"],
    "dims: a=3, c<=5": ["dims a=3, c<=5"],
    "dims:\n  a<=5:\n  c: 1": ["dims a<=5, c=1"],
    "let: {a: 1e-3, c: true, d: [1, [2, 3]], f: gelu, t: '\"text\"', n: -1}": ['let a=1e-3, c=true, d=[1, [2, 3]], f=gelu, t="text", n=-1'],
    "output: x": ["output x"],
    "output: [x, y = 2 * x]": ["output x, y = 2 * x"],
    "output:\n  y[b]: x[b, 0]\n  x: x": ["output y[b] = x[b, 0], x = x"],
    "loss: mean(x)": ["loss mean(x)"],
    "loss: [mean(x), {l: mean(x)}]": ["loss mean(x)", "loss l = mean(x)"],
    "metrics:\n  m: mean(x)\n  top[b]: x[b, 0]": ["metric m = mean(x)", "metric top[b] = x[b, 0]"],
    "layers:\n  - y: >\n      x +\n      2 * x\n  - z: |\n      (x +\n       y)": ["y = x + 2 * x", "z = x + y"],
    'layers:\n  - y: "x[b, 0]\n      + 1"': ["y = x[b, 0] + 1"],
}


@pytest.mark.parametrize("text", SAME)
def test_same_statements(text):
    key = text.split(":")[0]
    order = ["dims", "let", "inputs"].index(key) if key in ("dims", "let") else 3
    found = list(parse_yaml(HEAD + text + "\n").definitions[0].body)
    del found[0 if order == 3 else 1]  # the input
    assert found == lines(*SAME[text]), "\n".join(map(unparse, found))


def test_sections_come_in_a_fixed_order():
    text = "loss: mean(x)\noutput: x\nlayers: [y = x]\ninputs: {x: int32}\nlet: {a: 1}\ndims: {b: 2}\nmodel: M\n"
    kinds = [type(node) for node in parse_yaml(text).definitions[0].body]
    assert kinds == [s.Dims, s.Let, s.Input, s.Assign, s.Output, s.Loss]


def test_train_and_generate():
    text = HEAD + (
        "train pretrain: {steps: 1}\ntrain:\n  optimizer: {adamw: [0.1]}\n  memory: 1.5 GiB\n  data: [f(x), y]\n"
        "  minimize: a over all with sgd()\ngenerate:\n  over: time from y.logits beam(width=2)\n  stop: '\"\\n\"'\n"
    )
    twin = "train pretrain:\n    steps 1\ntrain:\n    optimizer adamw(0.1)\n    memory 1.5 GiB\n    data [f(x), y]\n" + (
        '    minimize a over all with sgd()\ngenerate:\n    over time from y.logits beam(width=2)\n    stop "\\n"\n'
    )
    assert parse_yaml(text).definitions[1:] == parse_text(twin).definitions


@pytest.mark.parametrize(
    "scalar",
    [
        "y: x[b, 0] ** )",
        'y: "x[b, 0] ** )"',
        "y: 'x[b, 0] ** )'",
        'y: "f(\\"a\\") ** )"',
        'y: "f(\\x61) ** )"',
        "y:   {f: [x ** )]}",
        "y: {k: {f: {a: 1, b: x ** )}}}",
    ],
)
def test_caret_in_a_scalar(scalar):
    with pytest.raises(SyntaxError_) as caught:
        body(f"layers:\n  - {scalar}\n")
    (span,) = caught.value.spans
    assert (span.line, span.column) == (5, f"  - {scalar}".rindex(")") + 1)


@pytest.mark.parametrize(
    ("scalar", "line", "column"),
    [
        ("y: x +\n      1 * )", 6, 11),
        ("y: >-\n      x +\n      1 * )", 7, 11),
        ("y: |\n      x +\n\n        1 * )", 8, 13),
        ('y: "x +\\\n      1 * )"', 6, 11),
        ("y: 'x +\n      1 * )'", 6, 11),
    ],
)
def test_caret_across_lines(scalar, line, column):
    with pytest.raises(SyntaxError_) as caught:
        body(f"layers:\n  - {scalar}\n")
    assert (caught.value.spans[0].line, caught.value.spans[0].column) == (line, column)


def test_nearest_key():
    with pytest.raises(NameError_, match="unknown key 'metric' of a program; did you mean 'metrics'"):
        body("metric: {m: x}\n")
    with pytest.raises(NameError_, match="unknown key 'els' of 'if'; did you mean 'else'"):
        body("layers:\n  - if: a\n    do: [relu]\n    els: [relu]\n")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        "{a: " * 3000,
        "a: " + "[" * 3000 + "]" * 3000,
        "- " * 3000 + "a",
        "a: &a [*a]",
        "? [a]\n: b",
        "--- a\n--- b",
        "%YAML 9.9\n---\nmodel: M",
        "model: !!python/object:os.system M",
    ],
    ids=range(9),
)
def test_hostile_documents(text):
    with pytest.raises(Error):
        parse_yaml(text)
