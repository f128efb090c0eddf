"""Compile-time evaluation: dims, lets, options, conditions. What depends on a tensor or on an index of an equation is DYNAMIC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc.core.errors import Error, Span, TypeError_

from . import functions as fn
from . import syntax as s
from .signatures import bound
from .values import Function, Instance, LayerValue, Tensor, is_static, located

if TYPE_CHECKING:
    from .equations import Env, Equation
    from .frame import Frame

DYNAMIC: Any = type("Dynamic", (), {"__repr__": lambda self: "DYNAMIC"})()


def static_value(frame: Frame, node: Any, env: Env | None = None, eq: Equation | None = None) -> Any:
    """The value of an expression, or DYNAMIC."""
    try:
        return _static(frame, node, env or {}, eq)
    except Error as error:
        raise located(error, node.span) from None


def _static(frame: Frame, node: Any, env: Env, eq: Equation | None) -> Any:
    match node:
        case s.Number(value=value) | s.Bool(value=value) | s.String(value=value):
            return value
        case s.Name(name=name):
            if name in env:
                return DYNAMIC
            if name == "step" and name not in frame.names:
                return DYNAMIC
            value = frame.find(name)
            if value is None:
                if name in frame.names:
                    return DYNAMIC
                raise frame.unknown(name, node.span)
            return value if is_static(value) else DYNAMIC
        case s.List(items=items):
            values = [static_value(frame, x, env, eq) for x in items]
            return DYNAMIC if any(v is DYNAMIC for v in values) else values
        case s.Unary(op=op, operand=operand):
            value = static_value(frame, operand, env, eq)
            return DYNAMIC if value is DYNAMIC else fn.static_unary(op, value)
        case s.Binary(op=op, left=left, right=right):
            a, b = static_value(frame, left, env, eq), static_value(frame, right, env, eq)
            return DYNAMIC if a is DYNAMIC or b is DYNAMIC else fn.static_binary(op, a, b)
        case s.Compare(ops=ops, operands=operands):
            return _compare([static_value(frame, x, env, eq) for x in operands], ops, frame.builder.compared, node.span)
        case s.Logical(op=op, operands=operands):
            return _logical(op, [static_value(frame, x, env, eq) for x in operands])
        case s.Conditional():
            condition = static_value(frame, node.condition, env, eq)
            return DYNAMIC if condition is DYNAMIC else static_value(frame, node.then if condition else node.otherwise, env, eq)
        case s.Call():
            return _call(frame, node, env, eq)
        case s.Read(base=base, entries=entries):
            value = static_value(frame, base, env, eq)
            places = [static_value(frame, e, env, eq) for e in entries if not isinstance(e, s.Rest)]
            if value is DYNAMIC or any(p is DYNAMIC for p in places) or not isinstance(value, list):
                return DYNAMIC
            return frame.static_read(value, places, node)
    return DYNAMIC


def _compare(values: Sequence[Any], ops: Sequence[str], seen: list[Any], span: Span) -> Any:
    if any(v is DYNAMIC for v in values):
        return DYNAMIC
    for op, a, b in zip(ops, values, values[1:]):
        if isinstance(a, (Function, LayerValue, Instance)) or isinstance(b, (Function, LayerValue, Instance)):
            same = getattr(a, "name", a) == getattr(b, "name", b)
            if same != (op == "=="):
                return False
        elif not fn.static_compare(op, a, b, seen, span):
            return False
    return True


def _logical(op: str, values: Sequence[Any]) -> Any:
    known = [v for v in values if v is not DYNAMIC]
    decided = [v for v in known if bool(v) == (op == "or")]
    if decided:
        return decided[0]
    return DYNAMIC if len(known) < len(values) else bool(op == "and")


def _call(frame: Frame, node: s.Call, env: Env, eq: Equation | None) -> Any:
    if not isinstance(node.function, s.Name):
        return DYNAMIC
    value = frame.find_function(node.function.name)
    if not isinstance(value, Function):
        return DYNAMIC
    if value.name in fn.RANDOM:
        return DYNAMIC
    if value.name == "size" and len(node.arguments) == 1:
        return _size(frame, node.arguments[0], env, eq)
    if value.name == "rank" and len(node.arguments) == 1:
        return _rank(frame, node.arguments[0])
    arguments = [static_value(frame, a, env, eq) for a in node.arguments]
    keywords = {k.name: static_value(frame, k.value, env, eq) for k in node.keywords}
    if any(v is DYNAMIC for v in [*arguments, *keywords.values()]):
        return DYNAMIC
    return frame.static_function(value.name, *bound(value.name, arguments, keywords, node), node)


def _rank(frame: Frame, node: Any) -> int:
    """rank(x): the number of axes of a tensor that has a name."""
    value = frame.whole(node) if isinstance(node, (s.Name, s.Attribute)) else None
    if not isinstance(value, Tensor):
        raise TypeError_("rank takes a tensor by its name", node.span)
    return value.type.rank


def _size(frame: Frame, node: Any, env: Env, eq: Equation | None) -> Any:
    """size(j) of an index, size(d) of a dimension, size(list)."""
    if isinstance(node, s.Name):
        var = env.get(node.name) or (next((v for v in eq.vars if v.name == node.name), None) if eq is not None else None)
        if var is not None:
            return var.size if var.size >= 0 else DYNAMIC
        if eq is None and node.name in (scan_sizes := {x.index: x.trip for x in frame.builder.scans}):
            return scan_sizes[node.name]
        for scan in frame.builder.scans:
            if scan.index == node.name:
                return scan.trip
        known = frame.named_size(node.name)
        if known is not None:
            return known
    value = static_value(frame, node, env, eq)
    if isinstance(value, list):
        return len(value)
    if value is DYNAMIC:
        return DYNAMIC
    raise TypeError_("size takes an index, a dimension or a list", node.span)
