"""The grammar: what each construct becomes in the tree, where words are keywords, spans, files, and that printing and parsing agree."""

import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dslc.frontend
from dslc.core.errors import DataError, Error, SyntaxError_
from dslc.frontend import syntax as s
from dslc.frontend import tables
from dslc.frontend.parse import parse_expression, parse_file, parse_text
from dslc.frontend.unparse import unparse

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.dsl"))
LIBRARY = sorted((Path(dslc.frontend.__file__).parent / "library").glob("*.dsl"))


def statements(*lines):
    """The body of a model."""
    return parse_text("model M:\n" + "".join(f"    {line}\n" for line in lines)).definitions[0].body


def statement(line):
    (only,) = statements(line)
    return only


def shape(node):
    """An expression as nested tuples."""
    match node:
        case s.Name(text) | s.Number(_, text):
            return text
        case s.Unary(op, operand):
            return op, shape(operand)
        case s.Binary(op, left, right):
            return op, shape(left), shape(right)
        case s.Compare(ops, operands):
            return "cmp", ops, *map(shape, operands)
        case s.Logical(op, operands):
            return op, *map(shape, operands)
        case s.Conditional(then, condition, otherwise):
            return "if", shape(condition), shape(then), shape(otherwise)
        case s.List(items):
            return "list", *map(shape, items)
        case s.Call(function, arguments, keywords):
            return "call", shape(function), *map(shape, arguments), *((k.name, shape(k.value)) for k in keywords)
        case s.Read(base, entries, keywords):
            return "read", shape(base), *map(shape, entries), *((k.name, shape(k.value)) for k in keywords)
        case s.Attribute(base, name):
            return ".", shape(base), name
        case s.Rest():
            return "..."
        case s.Use(call):
            return "use", shape(call)
        case s.Bool(value) | s.String(value):
            return value
    raise AssertionError(node)


EXPRESSIONS = {
    "a + b * c": ("+", "a", ("*", "b", "c")),
    "a - b - c": ("-", ("-", "a", "b"), "c"),
    "(a - b) * c": ("*", ("-", "a", "b"), "c"),
    "a // b % c": ("%", ("//", "a", "b"), "c"),
    "-a ** 2": ("-", ("**", "a", "2")),
    "a ** -b ** c": ("**", "a", ("-", ("**", "b", "c"))),
    "-a * b": ("*", ("-", "a"), "b"),
    "0 <= i < n": ("cmp", ("<=", "<"), "0", "i", "n"),
    "a < b == c": ("cmp", ("<", "=="), "a", "b", "c"),
    "(a < b) == c": ("cmp", ("==",), ("cmp", ("<",), "a", "b"), "c"),
    "not a == b and c or d": ("or", ("and", ("not", ("cmp", ("==",), "a", "b")), "c"), "d"),
    "a and b and c": ("and", "a", "b", "c"),
    "a if b else c if d else e": ("if", "b", "a", ("if", "d", "c", "e")),
    "a or b if c else d": ("if", "c", ("or", "a", "b"), "d"),
    "j <-1": ("cmp", ("<",), "j", ("-", "1")),
    "where(j<-1, a, b)": ("call", "where", ("cmp", ("<",), "j", ("-", "1")), "a", "b"),
    "f(x)[b, 2*i, ...].w": (".", ("read", ("call", "f", "x"), "b", ("*", "2", "i"), "..."), "w"),
    "sum[j, k < n, ...](x[j])": ("call", ("read", "sum", "j", ("cmp", ("<",), "k", "n"), "..."), ("read", "x", "j")),
    "x[i - 1, outside=-inf]": ("read", "x", ("-", "i", "1"), ("outside", ("-", "inf"))),
    "f(a, b=1, c=(2, 3),)": ("call", "f", "a", ("b", "1"), ("c", ("list", "2", "3"))),
    "f()": ("call", "f"),
    "[]": ("list",),
    "(a,)": ("list", "a"),
    "[a, b,]": ("list", "a", "b"),
    "(a)": "a",
    "net.block.0.w": (".", (".", (".", "net", "block"), "0"), "w"),
    "net.1.2": (".", (".", "net", "1"), "2"),
    "x[0].5": (".", ("read", "x", "0"), "5"),
    "use f(3, k=1)": ("use", ("call", "f", "3", ("k", "1"))),
    "α * x_1": ("*", "α", "x_1"),
    "true and not false": ("and", True, ("not", False)),
    r'"a\"b\n\\ \d"': 'a"b\n\\ \\d',
    "loss + state * input + over": ("+", ("+", "loss", ("*", "state", "input")), "over"),
    "f(input=x, with=1, from=2)": ("call", "f", ("input", "x"), ("with", "1"), ("from", "2")),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expression(text):
    assert shape(parse_expression(text)) == EXPRESSIONS[text]


GROUPED = [
    "a - (b - c)", "(a ** b) ** c", "(-a) ** b", "(a if b else c) + 1", "(a or b) and c", "not (a and b)", "(use f(1))(x)", "-(-a)", "[(a, b), c]",
    'import "x.onnx"', 'import("x.onnx", train="*.w", k=[1])',
]  # fmt: skip


@pytest.mark.parametrize("text", [*EXPRESSIONS, *GROUPED])
def test_unparsed_expression_parses_to_the_same(text):
    tree = parse_expression(text)
    assert parse_expression(unparse(tree)) == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("2_000", 2000),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.5e+2", 150.0),
        ("007", 7),
        ("1_0.2_5", None),
        ("9" * 400, int("9" * 400)),
    ],
)
def test_number(text, value):
    if value is None:
        with pytest.raises(SyntaxError_):
            parse_expression(text)
    else:
        number = parse_expression(text)
        assert (number.value, type(number.value), number.text) == (value, type(value), text)


def test_statement_words_are_names_where_they_define():
    texts = ("loss = 3", "state[b, n] = x[b, n]", "input.output <- 2", "metric, over = f(x)", "param <- 1", "loss = loss + 1", "model = dims")
    for text, kind in zip(texts, (s.Assign, s.Assign, s.Update, s.Assign, s.Update, s.Assign, s.Assign)):
        assert type(statement(text)) is kind
    assert statement("loss loss") == s.Loss(s.Item(None, s.Name("loss", span=None), span=None), span=None)
    assert statement("loss -x").item.value == parse_expression("-x")
    assert statement("loss (a, b)").item.value == parse_expression("[a, b]")
    assert type(statement("loss .5")) is s.Loss


def test_helper_words_are_names_elsewhere():
    assert parse_text("layer f(x[b], over, carry=1, as=2):\n    over = carry + as\n    return over\n").definitions[0].formals[1].name == "over"
    scan = statement("scan t < over carry h[b] = as: carry = over")
    assert (scan.bound, scan.carries[0].start, scan.body[0].targets[0].name) == (parse_expression("over"), parse_expression("as"), "carry")
    assert statement("repeat f(as) as i: y = as").count == parse_expression("f(as)")
    minimize = parse_text("train:\n    minimize a + f(with, over) over b with g(over=with)\n").definitions[0].lines[0]
    assert minimize.losses == parse_expression("a + f(with, over)")
    assert [p.text for p in minimize.pattern] == ["b"] and minimize.optimizer == parse_expression("g(over=with)")


def test_arrow_only_after_a_target():
    assert statement("m <- -1").target == s.Target("m", None, span=None)
    assert statement("m[c] <- m[c] <-1").value == parse_expression("m[c] < -1")
    assert statement("net.params <- tree").target == parse_expression("net.params")
    assert statement("y = a <-1").value == parse_expression("a < -1")
    assert statement("if a <-1: y = 1").branches[0].condition == parse_expression("a < -1")


def test_declarations():
    param = statement("param w[d, 4, 2*k, ...], v: float16 ~ normal(std=1) if bias and deep")
    w, v = param.declarations
    assert [type(a) for a in w.axes] == [s.Index, s.Size, s.Size, s.Rest] and w.type is None
    assert (v.axes, v.type) == (None, "float16")
    assert param.drawn and param.start == parse_expression("normal(std=1)") and param.condition == parse_expression("bias and deep")
    conditional = statement("param w[3] ~ (zeros() if a else ones()) if b")
    assert conditional.start == parse_expression("zeros() if a else ones()") and conditional.condition == parse_expression("b")
    equation = statement("param a[i < d, j < n] = log(j + 1)")
    assert not equation.drawn and equation.declarations[0].axes[0] == s.Index("i", parse_expression("d"), span=None)
    state = statement("state count: int32 = 0")
    assert (state.declarations[0].type, state.drawn, state.start) == ("int32", False, parse_expression("0"))
    assert statement("state m[c]").start is None
    inputs = statement("input x[b, t]: int32, m[b]: bool, z").declarations
    assert [(d.name, d.type) for d in inputs] == [("x", "int32"), ("m", "bool"), ("z", None)]


def test_dims_and_let():
    dims = statement("dims a=32, b<=2 * 64")
    assert [(d.name, d.bounded) for d in dims.entries] == [("a", False), ("b", True)]
    assert dims.entries[1].value == parse_expression("2 * 64")
    assert [b.name for b in statement("let c = a // 4, d = [1, 2]").bindings] == ["c", "d"]


def test_left_sides():
    many = statement("a, b[i, j < 3, ...] = f(x)")
    assert [t.name for t in many.targets] == ["a", "b"] and many.targets[0].axes is None
    assert many.targets[1].axes == (s.Index("i", None, span=None), s.Index("j", parse_expression("3"), span=None), s.Rest(span=None))
    assert statement("y[] = 3").targets[0].axes == ()
    for line, kind in (("output a, p[i] = a[i]", s.Output), ("return a, p[i] = a[i]", s.Return)):
        node = statement(line)
        assert type(node) is kind and [i.target and i.target.name for i in node.items] == [None, "p"]
    assert statement("metric top[a] = b[a]").item.target.axes == (s.Index("a", None, span=None),)


def test_blocks():
    body = statements(
        "if a: x = 1; y = 2", "elif b:", "    x = 2", "else:", "    x = 3", "repeat 3: x = f(x)", "with frozen, precision(float32):", "    y = x"
    )
    branch = body[0]
    assert [len(b.body) for b in branch.branches] == [2, 1] and len(branch.otherwise) == 1
    assert (body[1].index, len(body[1].body)) == (None, 1)
    assert body[2].settings == (parse_expression("frozen"), parse_expression("precision(float32)"))
    scan = statement("scan t < n - 1 carry h[b, u]: float16 = 0, c = start: emit y[b, t] = h[b, 0]")
    assert scan.bound == parse_expression("n - 1") and [(c.name, c.type) for c in scan.carries] == [("h", "float16"), ("c", None)]
    assert scan.carries[1].axes is None and scan.body[0].items[0].target.name == "y"
    assert statement("scan k: y = 1").bound is None


def test_patterns():
    wrap = statement('wrap "net.*.w", net.block.0, net.*.0.w with lora(rank=8)')
    assert [(p.text, p.glob) for p in wrap.pattern] == [("net.*.w", True), ("net.block.0", False), ("net.*.0.w", True)]
    assert wrap.layer == parse_expression("lora(rank=8)")


def test_train_and_generate():
    text = 'train warm:\n    data f(x), [1]\n    let a = 1; seed -1\n    memory 2GiB, .5 MiB\n    stop "x"\ntrain: steps 3\n'
    warm, plain, generate = parse_text(text + "generate:\n    over t from net.logits beam(width=2)\n    length 3\n").definitions
    assert (warm.name, plain.name) == ("warm", None)
    data, _, seed, memory, stop = warm.lines
    assert (data.key, len(data.values)) == ("data", 2) and seed.values == (parse_expression("-1"),)
    assert [(q.number.value, q.unit) for q in memory.values] == [(2, "GiB"), (0.5, "MiB")] and stop.values[0].value == "x"
    sampler, length = generate.lines
    assert (sampler.axis, sampler.output, sampler.method) == ("t", "net.logits", parse_expression("beam(width=2)")) and length.key == "length"


def test_file_level():
    program = parse_text('from "a.dsl" import b, c as d\nlet x = 1; let y = 2\nnet = import "n.onnx"\nlayer f(x[b], k=1): return x\n')
    assert [type(d) for d in program.definitions] == [s.FromImport, s.Let, s.Let, s.Assign, s.Layer]
    assert [(a.name, a.alias) for a in program.definitions[0].names] == [("b", None), ("c", "d")]
    port, option = program.definitions[4].formals
    assert port.axes == (s.Index("b", None, span=None),) and option.axes is None and option.default == parse_expression("1")


@pytest.mark.parametrize("path", [*SAMPLES, *LIBRARY], ids=lambda path: path.name)
def test_unparsed_program_parses_to_the_same(path):
    program = parse_file(path)
    assert parse_text(unparse(program)) == program


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_spans_hold_their_node(path):
    """A node's span lies inside of its parent's and, for an expression, its text parses to the expression."""
    lines = path.read_text().split("\n")
    program, checked = parse_file(path, "sample"), 0
    todo = [(program, None)]
    while todo:
        node, parent = todo.pop()
        begin, end = (node.span.line, node.span.column), (node.span.end_line, node.span.end_column)
        assert node.span.file == "sample" and begin <= end
        if parent:
            assert (parent.span.line, parent.span.column) <= begin and end <= (parent.span.end_line, parent.span.end_column)
        if isinstance(node, s.Expr) and begin[0] == end[0] and not isinstance(node, s.Quantity):
            assert parse_expression(lines[begin[0] - 1][begin[1] - 1 : end[1] - 1]) == node
            checked += 1
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            todo += [(child, node) for child in (value if isinstance(value, tuple) else (value,)) if isinstance(child, s.Node)]
    assert checked > 50


def test_place_of_an_expression_in_a_file():
    with pytest.raises(SyntaxError_) as caught:
        parse_expression("a +\n  b c", "m.dsl", line=7, column=5)
    assert str(caught.value).startswith("m.dsl:8:5: ")
    assert parse_expression("ab + c", "m.dsl", 3, 10).right.span.column == 15
    with pytest.raises(SyntaxError_) as caught:
        parse_expression("a b", "--set depth")
    assert "    1 | a b" in str(caught.value)


@pytest.mark.parametrize("ending", ["\r\n", "\r", "\n"])
def test_line_ends_and_byte_order_mark(ending, tmp_path):
    text = "\ufeffmodel M:\n\n    # comment\n    x = (1 +   # more\n  2)\n\n\n    y = x" if ending == "\n" else "model M:\n    x = 1\n    y = x"
    path = tmp_path / "m.dsl"
    path.write_bytes(text.replace("\n", ending).encode())
    assert len(parse_file(path).definitions[0].body) == 2


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "model.dsl").write_text("model M: x = 1")
    (tmp_path / "latin.dsl").write_bytes(b"model M: x = 1 # \xe9")
    expected = {
        tmp_path / "modle.dsl": f"there is no file {tmp_path}/modle.dsl; did you mean '{tmp_path}/model.dsl'?",
        tmp_path / "zzzzzzzz": f"there is no file {tmp_path}/zzzzzzzz",
        tmp_path / "sub" / "m.dsl": f"there is no file {tmp_path}/sub/m.dsl, and no folder {tmp_path}/sub",
        tmp_path / "latin.dsl": f"{tmp_path}/latin.dsl is not UTF-8 text: byte 17 is 0xe9",
        tmp_path: f"{tmp_path} is a folder",
        tmp_path / "a\0b": f"{tmp_path}/a\0b cannot be read: embedded null byte",
    }
    for path, message in expected.items():
        with pytest.raises(DataError) as caught:
            parse_file(path)
        assert caught.value.message == message


DEEP = {
    "parentheses": "(" * 10_000 + "x" + ")" * 10_000,
    "brackets": "[" * 10_000 + "]" * 10_000,
    "calls": "f(" * 5000 + ")" * 5000,
    "sum": "+".join(["x"] * 10_000),
    "power": "**".join(["x"] * 10_000),
    "minus": "-" * 10_000 + "x",
    "not": "not " * 10_000 + "x",
    "conditionals": "a if b else " * 10_000 + "c",
    "reads": "x" + "[0]" * 10_000,
    "attributes": "x" + ".a" * 10_000,
}


@pytest.mark.parametrize("kind", DEEP)
def test_absurd_depth_is_an_error(kind):
    with pytest.raises(SyntaxError_):
        parse_text(f"model M:\n    y = {DEEP[kind]}\n")
    with pytest.raises(SyntaxError_):
        parse_expression(DEEP[kind])


def test_absurd_depth_of_blocks():
    with pytest.raises(SyntaxError_, match="nested more than"):
        parse_text("model M:\n" + "".join(" " * k + "if a:\n" for k in range(1, 500)) + " " * 500 + "y = 1\n")


def test_what_is_long_but_not_deep_parses_and_may_be_walked():
    assert len(parse_expression(f"[{','.join(['x'] * 10_000)}]").items) == 10_000
    assert len(parse_expression(" and ".join(["x"] * 10_000)).operands) == 10_000
    body = statements("if a: y = 1", *["elif a: y = 1"] * 2000)
    assert len(body[0].branches) == 2001
    edge = parse_expression("+".join(["x"] * s.MAX_DEPTH))
    with pytest.raises(SyntaxError_, match="too long"):
        parse_expression("+".join(["x"] * (s.MAX_DEPTH + 1)))
    assert parse_expression(unparse(edge)) == edge and hash(edge) == hash(parse_expression(unparse(edge)))
    assert pickle.loads(pickle.dumps(edge)) == edge and repr(edge)


def test_trees_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_expression("x").name = "y"


RUN = """
import sys
from dslc.frontend.parse import parse_text
print(len(parse_text(open(sys.argv[1]).read()).definitions), "lark" in sys.modules)
"""


def test_the_tables_are_those_of_the_grammar():
    """As `python -m dslc.frontend.tables` writes them; lark numbers states and rules as it comes."""
    made, kept = tables.computed(tables._GRAMMAR.read_bytes()), json.loads(tables._TABLES.read_text())
    assert kept["grammar"] == made["grammar"] and len(kept["states"]) == len(made["states"])
    assert sorted(map(str, kept["rules"])) == sorted(map(str, made["rules"]))
    assert sorted(map(sorted, kept["states"])) == sorted(map(sorted, made["states"]))


def _parsed(sample):
    command = [sys.executable, "-c", RUN, str(sample)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout.strip()


def test_nothing_is_computed_to_parse():
    assert _parsed(Path(__file__).parent / "samples" / "masks.dsl") == "2 False"


def test_a_changed_grammar_has_its_own_tables(monkeypatch, tmp_path):
    changed = tmp_path / "grammar.lark"
    changed.write_bytes(tables._GRAMMAR.read_bytes() + b"\n")
    monkeypatch.setattr(tables, "_GRAMMAR", changed)
    monkeypatch.setattr(tables, "computed", lambda grammar: {"states": [{}], "rules": [], "starts": {}, "ends": {}})
    assert tables.tables.__wrapped__().states == [{}]


def test_every_rule_of_the_grammar_has_its_method():
    from dslc.frontend.build import Builder

    actions = {rule.action for rule in tables.tables().rules} - {None, "", "sequence"}
    actions = {a for a in actions if not a.startswith("$")}
    assert all(hasattr(Builder, action) for action in actions)
    methods = {name for name in vars(Builder) if not name.startswith("_")}
    assert methods == actions


def test_error_classes_are_dslc_errors():
    with pytest.raises(Error):
        parse_text("")
