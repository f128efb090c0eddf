"""A syntax tree as text again: for messages, and to check the parser (what is printed parses to the same tree)."""

from __future__ import annotations

from . import syntax as s

# binding strength of each kind of expression, weakest first; an operand that binds more weakly than its place asks for gets brackets
_STRENGTH = {
    "conditional": 0,
    "or": 1,
    "and": 2,
    "not": 3,
    "compare": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "//": 6,
    "%": 6,
    "unary": 7,
    "**": 8,
    "atom": 9,
}


def unparse(node: s.Expr | s.Rest | s.Keyword) -> str:
    """The text of an expression."""
    return _text(node)[0]


def _text(node: object) -> tuple[str, int]:
    """(text, how strongly it binds)"""
    match node:
        case s.Name(name=name):
            return name, 9
        case s.Number(text=text):
            return text, 9
        case s.String(value=value):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            return f'"{escaped}"', 9
        case s.Bool(value=value):
            return str(value).lower(), 9
        case s.List(items=items):
            return "[" + ", ".join(unparse(x) for x in items) + "]", 9
        case s.Rest():
            return "...", 9
        case s.Keyword(name=name, value=value):
            return f"{name}={unparse(value)}", 0
        case s.Quantity(number=number, unit=unit):
            return f"{number.text} {unit}", 0
        case s.Unary(op="not", operand=operand):
            return f"not {_in(operand, 3)}", 3
        case s.Unary(op=op, operand=operand):
            return f"{op}{_in(operand, 7)}", 7
        case s.Binary(op="**", left=left, right=right):
            return f"{_in(left, 9)} ** {_in(right, 7)}", 8
        case s.Binary(op=op, left=left, right=right):
            strength = _STRENGTH[op]
            return f"{_in(left, strength)} {op} {_in(right, strength + 1)}", strength
        case s.Compare(ops=ops, operands=operands):
            parts = [_in(operands[0], 5)]
            for op, operand in zip(ops, operands[1:]):
                parts += [op, _in(operand, 5)]
            return " ".join(parts), 4
        case s.Logical(op=op, operands=operands):
            strength = _STRENGTH[op]
            return f" {op} ".join(_in(x, strength + 1) for x in operands), strength
        case s.Conditional(then=then, condition=condition, otherwise=otherwise):
            return f"{_in(then, 1)} if {_in(condition, 1)} else {_in(otherwise, 1)}", 0
        case s.Call(function=function, arguments=arguments, keywords=keywords):
            return f"{_in(function, 9)}({', '.join(unparse(x) for x in (*arguments, *keywords))})", 9
        case s.Read(base=base, entries=entries, keywords=keywords):
            return f"{_in(base, 9)}[{', '.join(unparse(x) for x in (*entries, *keywords))}]", 9
        case s.Attribute(base=base, name=name):
            return f"{_in(base, 9)}.{name}", 9
        case s.Use(call=call):
            return f"use {unparse(call)}", 0
        case s.Import(path=path, keywords=keywords):
            options = "".join(f", {unparse(k)}" for k in keywords)
            return (f'import("{path}"{options})' if options else f'import "{path}"'), 0
    raise TypeError(type(node).__name__)


def _in(node: object, strength: int) -> str:
    text, own = _text(node)
    return text if own >= strength else f"({text})"
