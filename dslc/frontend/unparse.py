"""A syntax tree as text again: for messages, and to check the parser (what is printed parses to the same tree)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import syntax as s

# How strongly each operator binds; an operand that binds more weakly than its place asks for gets parentheses.
_OPEN, _OR, _AND, _NOT, _COMPARE, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(10)
_BINARY = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "//": _PRODUCT, "%": _PRODUCT}
_LOGICAL = {"or": _OR, "and": _AND}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def unparse(node: s.Node) -> str:
    """The text of an expression, a statement (its lines, without a newline at the end), a definition or a whole program."""
    if isinstance(node, s.Program):
        return "\n".join(unparse(d) for d in node.definitions) + "\n"
    lines = _lines(node)
    return "\n".join(lines) if lines else _expr(node)[0]


def _expr(node: s.Node) -> tuple[str, int]:
    """The text and how strongly its outermost operator binds."""
    match node:
        case s.Name(name) | s.Number(_, name):
            return name, _ATOM
        case s.String(value):
            return _quoted(value), _ATOM
        case s.Bool(value):
            return str(value).lower(), _ATOM
        case s.List(items):
            return f"[{_list(items)}]", _ATOM
        case s.Rest():
            return "...", _ATOM
        case s.Quantity(number, unit):
            return f"{number.text} {unit}", _OPEN
        case s.Unary("not", operand):
            return f"not {_in(operand, _NOT)}", _NOT
        case s.Unary(op, operand):
            return f"{op}{_in(operand, _SIGN)}", _SIGN
        case s.Binary("**", left, right):
            return f"{_in(left, _ATOM)} ** {_in(right, _SIGN)}", _POWER
        case s.Binary(op, left, right):
            return f"{_in(left, _BINARY[op])} {op} {_in(right, _BINARY[op] + 1)}", _BINARY[op]
        case s.Compare(ops, operands):
            pairs = (f" {op} {_in(operand, _SUM)}" for op, operand in zip(ops, operands[1:]))
            return _in(operands[0], _SUM) + "".join(pairs), _COMPARE
        case s.Logical(op, operands):
            return f" {op} ".join(_in(x, _LOGICAL[op] + 1) for x in operands), _LOGICAL[op]
        case s.Conditional(then, condition, otherwise):
            return f"{_in(then, _OR)} if {_in(condition, _OR)} else {_expr(otherwise)[0]}", _OPEN
        case s.Keyword(name, value):
            return f"{name}={_expr(value)[0]}", _OPEN
        case s.Call(function, arguments, keywords):
            return f"{_in(function, _ATOM)}({_list((*arguments, *keywords))})", _ATOM
        case s.Read(base, entries, keywords):
            return f"{_in(base, _ATOM)}[{_list((*entries, *keywords))}]", _ATOM
        case s.Attribute(base, name):
            return f"{_in(base, _ATOM)}.{name}", _ATOM
        case s.Use(call):
            return f"use {_expr(call)[0]}", _OPEN
        case s.Import(path, ()):
            return f"import {_quoted(path)}", _OPEN
        case s.Import(path, keywords):
            return f"import({_quoted(path)}, {_list(keywords)})", _OPEN
        case _:
            return _piece(node), _OPEN


def _piece(node: s.Node) -> str:
    """The text of a part of a statement."""
    match node:
        case s.Index(name, None) | s.Target(name, None) | s.Alias(name, None):
            return name
        case s.Index(name, s.Expr() as bound):
            return f"{name} < {_in(bound, _SUM)}"
        case s.Size(value):
            return _expr(value)[0]
        case s.Target(name, axes):
            return _declared(name, axes, None)
        case s.Declaration(name, axes, dtype):
            return _declared(name, axes, dtype)
        case s.Carry(name, axes, dtype, start):
            return f"{_declared(name, axes, dtype)} = {_expr(start)[0]}"
        case s.Formal(name, axes, dtype, default):
            return _declared(name, axes, dtype) + (f"={_expr(default)[0]}" if default else "")
        case s.Item(None, value):
            return _expr(value)[0]
        case s.Item(s.Target() as target, value):
            return f"{_piece(target)} = {_expr(value)[0]}"
        case s.Binding(name, value):
            return f"{name} = {_expr(value)[0]}"
        case s.Dim(name, value, bounded):
            return f"{name}{'<=' if bounded else '='}{_expr(value)[0]}"
        case s.Path(text, glob):
            return _quoted(text) if glob else text
        case s.Alias(name, alias):
            return f"{name} as {alias}"
    raise TypeError(type(node).__name__)


def _lines(node: s.Node) -> list[str]:
    """The lines of a statement or a definition; none where the node is neither."""
    match node:
        case s.If(branches, otherwise):
            words = ["if"] + ["elif"] * (len(branches) - 1)
            lines = [line for word, b in zip(words, branches) for line in _block(f"{word} {_expr(b.condition)[0]}", b.body)]
            return lines + (_block("else", otherwise) if otherwise else [])
        case s.Repeat(count, index, body):
            return _block(f"repeat {_expr(count)[0]}" + (f" as {index}" if index else ""), body)
        case s.Scan(index, bound, carries, body):
            carry = f" carry {_list(carries)}" if carries else ""
            return _block(f"scan {index}" + (f" < {_in(bound, _SUM)}" if bound else "") + carry, body)
        case s.With(settings, body):
            return _block(f"with {_list(settings)}", body)
        case s.Layer(name, formals, body):
            return _block(f"layer {name}({_list(formals)})", body)
        case s.Model(name, body):
            return _block(f"model {name}", body)
        case s.Train(name, lines):
            return _block(f"train {name}" if name else "train", lines)
        case s.Generate(lines):
            return _block("generate", lines)
    line = _line(node)
    return [line] if line else []


def _line(node: s.Node) -> str:
    """A statement or definition that takes one line; "" for other nodes."""
    match node:
        case s.Dims(entries):
            return f"dims {_list(entries)}"
        case s.Let(bindings):
            return f"let {_list(bindings)}"
        case s.Param(declarations, start, drawn, condition) | s.State(declarations, start, drawn, condition):
            word = type(node).__name__.lower()
            begin = f" {'~' if drawn else '='} {_in(start, _OR)}" if start else ""
            return f"{word} {_list(declarations)}{begin}" + (f" if {_in(condition, _OR)}" if condition else "")
        case s.Input(items) | s.Output(items) | s.Emit(items) | s.Return(items):
            return f"{type(node).__name__.lower()} {_list(items)}"
        case s.Loss(item) | s.Metric(item):
            return f"{type(node).__name__.lower()} {_piece(item)}"
        case s.Assign(targets, value):
            return f"{_list(targets)} = {_expr(value)[0]}"
        case s.Update(target, value):
            return f"{_expr(target)[0]} <- {_expr(value)[0]}"
        case s.Wrap(pattern, layer):
            return f"wrap {_list(pattern)} with {_expr(layer)[0]}"
        case s.Setting(key, values):
            return f"{key} {_list(values)}"
        case s.Minimize(losses, pattern, optimizer):
            return f"minimize {_expr(losses)[0]} over {_list(pattern)} with {_expr(optimizer)[0]}"
        case s.Sampler(axis, output, method):
            return f"over {axis} from {output} {_expr(method)[0]}"
        case s.FromImport(path, names):
            return f"from {_quoted(path)} import {_list(names)}"
    return ""


def _block(head: str, body: Iterable[s.Node]) -> list[str]:
    return [f"{head}:"] + [f"    {line}" for node in body for line in _lines(node)]


def _declared(name: str, axes: tuple[s.Axis, ...] | None, dtype: str | None) -> str:
    return name + (f"[{_list(axes)}]" if axes is not None else "") + (f": {dtype}" if dtype else "")


def _list(nodes: Iterable[Any]) -> str:
    return ", ".join(_expr(n)[0] for n in nodes)


def _in(node: s.Node, strength: int) -> str:
    text, own = _expr(node)
    return text if own >= strength else f"({text})"


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
