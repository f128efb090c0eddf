"""Calls of layers: ports and options are bound, dimensions named, results handed back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import NameError_, ShapeError, TypeError_, did_you_mean
from dslc.ir import ops

from . import syntax as s
from .signatures import by_name
from .statics import DYNAMIC, static_value
from .unparse import unparse
from .values import Results, Tensor, Turn, axis_text, described, number

if TYPE_CHECKING:
    from .frame import Frame


def call_layer(frame: Frame, arguments: list[Any], keywords: dict[str, Any], node: s.Call) -> Any:
    """Runs a layer's body in its frame: the value, or the Results, of the call."""
    definition = frame.definition
    if isinstance(definition, s.Model):
        return _call_model(frame, arguments, keywords, node)
    bind_ports(frame, arguments, keywords, node)
    frame.run(definition.body)
    if frame.returned is None:
        raise TypeError_(f"layer {definition.name} returns nothing", definition.span, help="end it with: return y")
    results = frame.returned
    return results.values[0] if len(results.values) == 1 else results


def bind_ports(frame: Frame, arguments: list[Any], keywords: dict[str, Any], node: s.Call) -> None:
    """Arguments fill ports, then options, by position or by name."""
    definition = frame.definition
    assert isinstance(definition, s.Layer)
    name, formals = definition.name, definition.formals
    chosen = [f.name for f in formals if f.axes is None and f.name in frame.instance.options]  # by `use`; a call may say otherwise by name
    places = [f.name for f in formals if f.name not in chosen]
    given = {**frame.instance.options, **by_name(name, places, arguments, keywords, node, named=chosen)}
    for formal in formals:
        if formal.axes is not None:
            if formal.name not in given:
                raise TypeError_(f"{name} needs '{formal.name}'", node.span)
            _port(frame, formal, given[formal.name], node)
        else:
            _option(frame, formal, given, node)


def _option(frame: Frame, formal: s.Formal, given: dict[str, Any], node: s.Call) -> None:
    if formal.name in given:
        value = given[formal.name]
        if isinstance(value, (Results,)):
            raise TypeError_(f"option '{formal.name}' is given {described(value)}", node.span)
    elif formal.default is None:
        raise TypeError_(f"{frame.definition.name} needs '{formal.name}'", node.span)
    else:
        value = static_value(frame, formal.default)
        if value is DYNAMIC:
            value = frame.whole(formal.default)
    frame.define(formal.name, value)


def _port(frame: Frame, formal: s.Formal, value: Any, node: s.Call) -> None:
    if isinstance(value, Turn):
        value = Tensor(value.scan.turn)
    if isinstance(value, (int, float)):
        value = Tensor(number(value))
    if not isinstance(value, Tensor):
        raise TypeError_(f"'{formal.name}' of {frame.definition.name} is a tensor, given {described(value)}", node.span)
    if formal.type is not None:
        value = _typed(frame, formal, value, node)
    shape = value.type.shape
    axes = formal.axes or ()
    plain = [a for a in axes if not isinstance(a, s.Rest)]
    if len(plain) > len(shape) or (len(plain) == len(axes) and len(plain) != len(shape)):
        wanted = ", ".join(axis_text(a) for a in axes)
        raise ShapeError(f"'{formal.name}' of {frame.definition.name} is [{wanted}], given {value.type}", node.span,
                         notes=[f"{frame.definition.name} is called at {node.span}"] if frame.caller is not None else [])  # fmt: skip
    at = 0
    for axis in axes:
        if isinstance(axis, s.Rest):
            run = shape[at : at + len(shape) - len(plain)]
            if frame.rest is not None and frame.rest != run:
                raise ShapeError(
                    f"'...' of {frame.definition.name} stands for {list(frame.rest)} and, in '{formal.name}', for {list(run)}", node.span
                )
            frame.rest = run
            at += len(run)
            continue
        _axis(frame, formal, axis, shape[at], node)
        at += 1
    frame.label(value.value, [axis_text(a) for a in axes], formal.span)
    frame.define(formal.name, value)


def _axis(frame: Frame, formal: s.Formal, axis: s.Axis, size: int, node: s.Call) -> None:
    name = frame.definition.name
    where = f" ({name}, called at {node.span})"
    if isinstance(axis, s.Index) and axis.bound is None:
        known = frame.dims.get(axis.name)
        if known is None:
            frame.dims[axis.name] = size
            frame.first_port[axis.name] = formal.name
        elif known != size:
            first = frame.first_port.get(axis.name, "an option")
            raise ShapeError(f"axis '{axis.name}' of {formal.name} is {size}, of {first} is {known}{where}", formal.span)
    elif isinstance(axis, s.Size):
        wanted = frame.size(axis.value)
        if wanted != size:
            raise ShapeError(f"axis {unparse(axis.value)} of {formal.name} is {wanted}, given {size}{where}", formal.span)


def _typed(frame: Frame, formal: s.Formal, value: Tensor, node: s.Call) -> Tensor:
    if formal.type not in dtypes.BY_NAME:
        raise NameError_(f"unknown type '{formal.type}'{did_you_mean(formal.type or '', dtypes.BY_NAME)}", formal.span)
    wanted = dtypes.BY_NAME[formal.type]
    if wanted.kind != value.type.dtype.kind and not (wanted.is_float and not value.type.dtype.is_float):
        raise TypeError_(f"'{formal.name}' of {frame.definition.name} is {wanted}, given {value.type}", node.span, help=f"cast it: {wanted}(...)")
    return Tensor(ops.cast(value.value, wanted))


def _call_model(frame: Frame, arguments: list[Any], keywords: dict[str, Any], node: s.Call) -> Any:
    """A model as a layer: its inputs are ports, its outputs and losses the results."""
    definition = frame.definition
    names = [d.name for st in definition.body if isinstance(st, s.Input) for d in st.declarations]
    names += [port.name for st in definition.body if isinstance(st, s.Graph) for port in st.graph.inputs]
    given = by_name(definition.name, names, arguments, keywords, node, noun="input")
    for name in names:
        if name not in given:
            raise TypeError_(f"{definition.name} needs '{name}'", node.span)
        if not isinstance(given[name], Tensor):
            raise TypeError_(f"'{name}' of {definition.name} is a tensor, given {described(given[name])}", node.span)
    kept = dict(frame.instance.parameters)
    frame.instance.parameters |= given
    try:
        frame.run(definition.body)
    finally:
        frame.instance.parameters = kept | {k: v for k, v in frame.instance.parameters.items() if k not in given}
    results = frame.given
    if len(results) == 1 and any(isinstance(st, s.Graph) for st in definition.body):
        return results[0][1]
    return Results(tuple(n for n, _ in results), tuple(v for _, v in results), definition.name, of_model=True)


__all__ = ["bind_ports", "call_layer"]
