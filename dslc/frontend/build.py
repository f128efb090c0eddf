"""Makes the nodes of the syntax tree: a method for each rule of `grammar.lark`, and the rules that the grammar cannot say.

A method takes the span of its rule's text and the rule's children: tokens, nodes, tuples of nodes, None for an optional part that is absent.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from dslc.core.errors import Span, SyntaxError_

from . import syntax as s
from .tokens import SourceText, Token
from .unparse import unparse

_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}


def sequence(*children: Any) -> tuple[Any, ...]:
    return children


class Builder:
    def __init__(self, source: SourceText):
        self.source = source

    def _at(self, token: Token) -> Span:
        return self.source.span(token.start, token.end)

    # --- Expressions

    def name(self, span: Span, token: Token) -> s.Name:
        return s.Name(token.text, span=span)

    def number(self, span: Span, token: Token) -> s.Number:
        text = token.text
        digits = text.replace("_", "")
        if digits.isdigit():
            if len(digits) > 400:
                raise SyntaxError_(f"a number of {len(digits)} digits", span)
            return s.Number(int(digits), text, span=span)
        value = float(digits)
        if value in (float("inf"), float("-inf")):
            raise SyntaxError_(f"{text} is larger than any float64", span, help="write inf")
        return s.Number(value, text, span=span)

    def string(self, span: Span, token: Token) -> s.String:
        return s.String(_string(token), span=span)

    def bool_(self, span: Span, token: Token) -> s.Bool:
        return s.Bool(token.text == "true", span=span)

    def group(self, span: Span, inner: s.Expr) -> s.Expr:
        return inner

    def list_(self, span: Span, *items: s.Expr) -> s.List:
        return s.List(items, span=span)

    def unary(self, span: Span, op: Token, operand: s.Expr) -> s.Unary:
        return s.Unary(op.text, operand, span=span)

    def binary(self, span: Span, left: s.Expr, op: Token, right: s.Expr) -> s.Binary:
        return s.Binary(op.text, left, right, span=span)

    def compare(self, span: Span, *parts: Any) -> s.Compare:
        return s.Compare(tuple(op.text for op in parts[1::2]), parts[::2], span=span)

    def or_(self, span: Span, *operands: s.Expr) -> s.Logical:
        return s.Logical("or", operands, span=span)

    def and_(self, span: Span, *operands: s.Expr) -> s.Logical:
        return s.Logical("and", operands, span=span)

    def conditional(self, span: Span, then: s.Expr, condition: s.Expr, otherwise: s.Expr) -> s.Conditional:
        return s.Conditional(then, condition, otherwise, span=span)

    def keyword(self, span: Span, name: Token, value: s.Expr) -> s.Keyword:
        return s.Keyword(name.text, value, span=span)

    def rest(self, span: Span) -> s.Rest:
        return s.Rest(span=span)

    def call(self, span: Span, function: s.Expr, arguments: tuple[Any, ...] | None) -> s.Call:
        values, keywords = _arguments(arguments or ())
        return s.Call(function, values, keywords, span=span)

    def read(self, span: Span, base: s.Expr, entries: tuple[Any, ...] | None) -> s.Read:
        values, keywords = _arguments(entries or ())
        _one_rest(values)
        return s.Read(base, values, keywords, span=span)

    def attribute(self, span: Span, base: s.Expr, name: Token) -> s.Attribute:
        return s.Attribute(base, name.text, span=span)

    def use(self, span: Span, call: s.Expr) -> s.Use:
        if not isinstance(call, s.Call):
            raise SyntaxError_("'use' makes an instance of LAYER(options)", call.span, help=f"write use {unparse(call)}()")
        if isinstance(call.function, s.Call):
            made = unparse(call.function)
            raise SyntaxError_("'use' makes an instance and does not call it", call.span, help=f"on a line before: f = use {made}")
        return s.Use(call, span=span)

    def import_(self, span: Span, what: Any) -> s.Import:
        if isinstance(what, Token):
            return s.Import(_string(what), (), span=span)
        values, keywords = _arguments(what)
        if len(values) != 1 or not isinstance(values[0], s.String):
            raise SyntaxError_("import takes the name of one file", span, help='import("net.onnx", train="*.weight")')
        return s.Import(values[0].value, keywords, span=span)

    def quantity(self, span: Span, number: Token, unit: Token) -> s.Quantity:
        return s.Quantity(self.number(self._at(number), number), unit.text, span=span)

    # --- Left sides and declarations

    def axes(self, span: Span, entries: tuple[Any, ...] | None) -> tuple[s.Axis, ...]:
        for entry in entries or ():
            if isinstance(entry, s.Keyword):
                raise SyntaxError_("an axis is a name, index < size, a size, or '...'", entry.span)
        _one_rest(entries or ())
        return tuple(_axis(entry) for entry in entries or ())

    def declaration(self, span: Span, name: Token, axes: tuple[s.Axis, ...] | None, type: Token | None) -> s.Declaration:
        return s.Declaration(name.text, axes, _text(type), span=span)

    def formal(self, span: Span, name: Token, axes: tuple[s.Axis, ...] | None, type: Token | None, default: s.Expr | None) -> s.Formal:
        return s.Formal(name.text, axes, _text(type), default, span=span)

    def carry(self, span: Span, name: Token, axes: tuple[s.Axis, ...] | None, type: Token | None, start: s.Expr) -> s.Carry:
        return s.Carry(name.text, axes, _text(type), start, span=span)

    def item(self, span: Span, left: s.Expr, right: s.Expr | None) -> s.Item:
        if right is None:
            return s.Item(None, left, span=span)
        return s.Item(target(left, right), right, span=span)

    # --- Statements

    def dims(self, span: Span, *entries: s.Dim) -> s.Dims:
        return s.Dims(entries, span=span)

    def dim(self, span: Span, name: Token, op: Token, value: s.Expr) -> s.Dim:
        if op.text not in ("=", "<="):
            raise SyntaxError_(f"'{op.text}' in dims", self._at(op), help=f"write {name.text}=8, or {name.text}<=8 for any size up to 8")
        return s.Dim(name.text, value, op.text == "<=", span=span)

    def let(self, span: Span, *bindings: s.Binding) -> s.Let:
        return s.Let(bindings, span=span)

    def binding(self, span: Span, name: Token, value: s.Expr) -> s.Binding:
        return s.Binding(name.text, value, span=span)

    def drawn(self, span: Span, value: s.Expr) -> tuple[s.Expr, bool]:
        return value, True

    def valued(self, span: Span, value: s.Expr) -> tuple[s.Expr, bool]:
        return value, False

    def param(self, span: Span, declarations: tuple[s.Declaration, ...], start: Any, condition: s.Expr | None) -> s.Param:
        value, drawn = start or (None, False)
        return s.Param(declarations, value, drawn, condition, span=span)

    def state(self, span: Span, declarations: tuple[s.Declaration, ...], start: Any, condition: s.Expr | None) -> s.State:
        value, drawn = start or (None, False)
        return s.State(declarations, value, drawn, condition, span=span)

    def input(self, span: Span, declarations: tuple[s.Declaration, ...]) -> s.Input:
        return s.Input(declarations, span=span)

    def output(self, span: Span, *items: s.Item) -> s.Output:
        return s.Output(items, span=span)

    def loss(self, span: Span, item: s.Item) -> s.Loss:
        return s.Loss(item, span=span)

    def metric(self, span: Span, item: s.Item) -> s.Metric:
        return s.Metric(item, span=span)

    def return_(self, span: Span, *items: s.Item) -> s.Return:
        return s.Return(items, span=span)

    def emit(self, span: Span, *items: s.Item) -> s.Emit:
        for item in items:
            if item.target is None:
                raise SyntaxError_("an emitted value needs a name", item.span, help=f"emit y[t] = {unparse(item.value)}, with t where it stacks")
        return s.Emit(items, span=span)

    def assign(self, span: Span, left: tuple[s.Expr, ...], value: s.Expr) -> s.Assign:
        return s.Assign(tuple(target(e, value) for e in left), value, span=span)

    def update(self, span: Span, left: s.Expr, value: s.Expr) -> s.Update:
        return s.Update(left if isinstance(left, s.Attribute) else target(left, value), value, span=span)

    def alone(self, span: Span, values: tuple[s.Expr, ...]) -> NoReturn:
        first = values[0]
        if isinstance(first, s.Compare) and first.ops == ("==",) and isinstance(first.operands[0], (s.Name, s.Read)):
            left, right = (unparse(e) for e in first.operands)
            raise SyntaxError_("'==' compares, and a comparison alone does nothing", span, help=f"to define {left}, write {left} = {right}")
        if isinstance(first, s.Name) and first.name == "pass":
            raise SyntaxError_("'pass' is not a word of the language", span, help="leave the block out")
        text = ", ".join(unparse(v) for v in values)
        raise SyntaxError_("an expression alone does nothing", span, help=f"give it a name: y = {text}")

    def path(self, span: Span, *parts: Token) -> s.Path:
        text = ".".join(part.text for part in parts)
        return s.Path(text, "*" in text, span=span)

    def glob(self, span: Span, token: Token) -> s.Path:
        return s.Path(_string(token), True, span=span)

    def wrap(self, span: Span, pattern: tuple[s.Path, ...], layer: s.Expr) -> s.Wrap:
        return s.Wrap(pattern, _called(layer, "wrap PATTERN with LAYER(options)"), span=span)

    def if_(self, span: Span, *parts: Any) -> s.If:
        return s.If(parts[:-1], parts[-1] or (), span=span)

    def branch(self, span: Span, condition: s.Expr, body: tuple[s.Statement, ...]) -> s.Branch:
        return s.Branch(condition, body, span=span)

    def repeat(self, span: Span, count: s.Expr, index: Token | None, body: tuple[s.Statement, ...]) -> s.Repeat:
        return s.Repeat(count, _text(index), body, span=span)

    def scan(self, span: Span, index: Token, _less: Any, bound: s.Expr | None, carries: Any, body: tuple[s.Statement, ...]) -> s.Scan:
        return s.Scan(index.text, bound, carries or (), body, span=span)

    def with_(self, span: Span, settings: tuple[s.Expr, ...], body: tuple[s.Statement, ...]) -> s.With:
        return s.With(settings, body, span=span)

    # --- Files

    def layer(self, span: Span, name: Token, formals: tuple[s.Formal, ...] | None, body: tuple[s.Statement, ...]) -> s.Layer:
        _check_formals(formals or ())
        return s.Layer(name.text, formals or (), body, span=span)

    def model(self, span: Span, name: Token, body: tuple[s.Statement, ...]) -> s.Model:
        return s.Model(name.text, body, span=span)

    def setting(self, span: Span, key: Token, values: tuple[s.Expr, ...]) -> s.Setting:
        return s.Setting(key.text, values, span=span)

    def minimize(self, span: Span, losses: s.Expr, pattern: tuple[s.Path, ...], optimizer: s.Expr) -> s.Minimize:
        return s.Minimize(losses, pattern, _called(optimizer, "minimize LOSS over PATTERN with OPTIMIZER(options)"), span=span)

    def train(self, span: Span, name: Token | None, *lines: Any) -> s.Train:
        return s.Train(_text(name), lines, span=span)

    def sampler(self, span: Span, axis: Token, output: s.Path, method: s.Expr) -> s.Sampler:
        return s.Sampler(axis.text, output.text, _called(method, "over AXIS from OUTPUT sample(options)"), span=span)

    def generate(self, span: Span, *lines: Any) -> s.Generate:
        return s.Generate(lines, span=span)

    def alias(self, span: Span, name: Token, alias: Token | None) -> s.Alias:
        return s.Alias(name.text, _text(alias), span=span)

    def from_import(self, span: Span, path: Token, *names: s.Alias) -> s.FromImport:
        return s.FromImport(_string(path), names, span=span)

    def program(self, span: Span, *definitions: s.Definition) -> s.Program:
        return s.Program(self.source.file, definitions, span=span)


def target(left: s.Expr, value: s.Expr) -> s.Target:
    """The left side of a definition; `value` is its right side, for the help."""
    if isinstance(left, s.Name):
        return s.Target(left.name, None, span=left.span)
    if not isinstance(left, s.Read) or not isinstance(left.base, s.Name):
        raise SyntaxError_("only a name, or a name with axes, can be defined", left.span)
    axes = []
    for entry in (*left.entries, *left.keywords):
        axis = _axis(entry)
        if isinstance(axis, s.Size):
            raise SyntaxError_("the left side holds index names only", entry.span, help=_solved(left, entry, value))
        axes.append(axis)
    names = [axis.name for axis in axes if isinstance(axis, s.Index)]
    if len(set(names)) < len(names):
        raise SyntaxError_("an index stands twice on the left side", left.span)
    return s.Target(left.base.name, tuple(axes), span=left.span)


def _solved(left: s.Read, entry: Any, value: s.Expr) -> str:
    """How to write `y[2*i] = e` with the index alone on the left, where that is simple."""
    if isinstance(entry, s.Keyword):
        return f"{entry.name}= stands in what is read, on the right"
    condition = inverse = index = ""
    match entry:
        case s.Binary("*", s.Number(int(n)), s.Name(index)) | s.Binary("*", s.Name(index), s.Number(int(n))) if n > 1:
            condition, inverse = f"{index} % {n} == 0", f"{index} // {n}"
        case s.Binary("+" | "-" as op, s.Name(index), s.Number(_, text)):
            inverse = f"{index} {'-' if op == '+' else '+'} {text}"
        case s.Compare(_, (s.Name(index), size)) | s.Compare(_, (_, s.Name(index), size)):
            return f"a range is written {index} < {unparse(size)}"
    if not inverse or len(left.entries) > 1 or left.keywords:
        return "solve for the index: the left side names it alone, the right side computes with it"
    moved = unparse(_with_name(value, index, inverse))
    plain = f"{unparse(left.base)}[{index}] ="
    return f"solve for the index: {plain} where({condition}, {moved}, 0)" if condition else f"solve for the index: {plain} {moved}"


def _with_name(node: Any, name: str, text: str) -> Any:
    """The tree with the name replaced by other text; brackets keep it together unless it stands alone in them."""
    if isinstance(node, tuple):
        return tuple(s.Name(text, span=n.span) if n == s.Name(name, span=n.span) else _with_name(n, name, text) for n in node)
    if not isinstance(node, s.Node):
        return node
    if isinstance(node, s.Name):
        return s.Name(f"({text})", span=node.span) if node.name == name else node
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    return type(node)(**{key: value if key == "span" else _with_name(value, name, text) for key, value in fields.items()})


def _axis(entry: Any) -> s.Axis:
    match entry:
        case s.Rest():
            return entry
        case s.Name(name):
            return s.Index(name, None, span=entry.span)
        case s.Compare(("<",), (s.Name(name), bound)):
            return s.Index(name, bound, span=entry.span)
    return s.Size(entry, span=entry.span)


def _arguments(parts: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[s.Keyword, ...]]:
    """Values and keywords apart."""
    keywords = tuple(part for part in parts if isinstance(part, s.Keyword))
    if not keywords:
        return tuple(parts), ()
    values = tuple(part for part in parts if not isinstance(part, s.Keyword))
    names = [k.name for k in keywords]
    for k, keyword in enumerate(keywords):
        if keyword.name in names[:k]:
            raise SyntaxError_(f"'{keyword.name}' is given twice", [keyword.span, keywords[names.index(keyword.name)].span])
    for value in parts[parts.index(keywords[0]) :]:
        if not isinstance(value, s.Keyword):
            raise SyntaxError_("a value without a name stands after one with a name", value.span, help="values without names come first")
    return values, keywords


def _one_rest(entries: Sequence[Any]) -> None:
    rests = [entry for entry in entries if isinstance(entry, s.Rest)]
    if len(rests) > 1:
        raise SyntaxError_("'...' stands twice in the same brackets", [rests[1].span, rests[0].span])


def _check_formals(formals: Sequence[s.Formal]) -> None:
    """No name twice, no option named like a dimension of a port."""
    dims = {axis.name for f in formals for axis in f.axes or () if isinstance(axis, s.Index)}
    seen: dict[str, s.Formal] = {}
    for formal in formals:
        if formal.name in seen:
            raise SyntaxError_(f"'{formal.name}' stands twice in the brackets of the layer", [formal.span, seen[formal.name].span])
        seen[formal.name] = formal
        if formal.axes is None and formal.name in dims:
            raise SyntaxError_(f"option '{formal.name}' repeats a dimension's name", formal.span, help="leave it out: its size is known already")


def _called(node: s.Expr, form: str) -> s.Call:
    if not isinstance(node, s.Call):
        raise SyntaxError_(f"this must be a call: {form}", node.span, help=f"write {unparse(node)}()" if isinstance(node, s.Name) else None)
    return node


def _text(token: Token | None) -> str | None:
    return token.text if token is not None else None


def _string(token: Token) -> str:
    """The text of a string; a backslash before another character than those of _ESCAPES stands for itself."""
    text = token.text[1:-1]
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1], m[0]), text) if "\\" in text else text
