"""A graph as a model and as a layer: its ports, its symbolic dims, its parameters and states in the frame that runs it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dslc.core.errors import DataError, NameError_, ShapeError, Span, TypeError_, UnsupportedOp, did_you_mean
from dslc.ir.types import TensorType

from .. import syntax as s
from .. import wraps
from ..initializers import Initializer
from ..values import Instance, LayerValue, Tensor
from .graph import Graph, Literal, Port
from .run import NOTHING, Run, Scope, report
from .types import STRING
from .values import Value, constant
from .weights import weights_and_states

if TYPE_CHECKING:
    from ..frame import Frame
    from ..source import Source


def identifier(name: str) -> str:
    """A name of the graph as one of the language."""
    made = re.sub(r"\W", "_", name) or "_"
    return f"_{made}" if made[0].isdigit() else made


# --- from files -------------------------------------------------------------------------------------------------------------------------


def model_of(graph: Graph, fallback: str, options: Mapping[str, tuple[str, ...]] | None = None) -> s.Model:
    """The graph as a definition whose body is one statement."""
    span = Span(graph.file, 1, 1, 1, 1)
    return s.Model(identifier(graph.name or fallback), (s.Graph(graph, **(options or {}), span=span),), span=span)


def load_graph(path: Path, shown: str, source: Source, options: Mapping[str, tuple[str, ...]] | None = None) -> s.Model:
    """The model of an ONNX file; the file counts for the fingerprint of the program."""
    from .reader import read

    graph = read(path, shown)
    with path.open("rb") as file:
        source.texts[shown] = hashlib.file_digest(file, "sha256").hexdigest()
    return model_of(graph, path.stem, options)


def load_proto(proto: Any, source: Source) -> s.Model:
    """The model of a ModelProto in memory."""
    from .reader import decode

    source.texts["<onnx>"] = hashlib.sha256(proto.SerializeToString()).hexdigest()
    return model_of(decode(proto, "<onnx>", None), "graph")


def imported(frame: Frame, node: s.Import, name: str) -> Instance:
    """`name = import "file.onnx"`"""
    source = frame.builder.source
    path = (frame.file.folder / node.path).resolve()
    options = dict(_patterns(k) for k in node.keywords)
    if path.suffix != ".onnx":
        raise DataError(f"import takes an .onnx file, this is {node.path}", node.span, help=f'from "{node.path}" import name')
    if not path.is_file():
        raise DataError(f"there is no file {node.path}", node.span, notes=[f"looked for in {frame.file.folder}"])
    key = (str(path), *sorted(options.items()))
    if key not in source.graphs:
        source.graphs[key] = load_graph(path, str(frame.file.folder / node.path), source, options)
        source.scopes[id(source.graphs[key])] = frame.file
    return Instance(LayerValue(source.graphs[key]), frame.instance_name(name), {})


def _patterns(option: s.Keyword) -> tuple[str, tuple[str, ...]]:
    """`train="*.weight"`, `freeze=["stem.*", "*.bias"]`"""
    items = option.value.items if isinstance(option.value, s.List) else (option.value,)
    if option.name not in ("train", "freeze"):
        guess = did_you_mean(option.name, ["train", "freeze"])
        raise NameError_(f"import has no option '{option.name}'{guess}", option.span, help='import("net.onnx", train="*.weight", freeze="stem.*")')
    if not items or not all(isinstance(one, s.String) for one in items):
        raise TypeError_(f"{option.name} takes a pattern of names, or a list of them", option.value.span, help=f'{option.name}="*.weight"')
    return option.name, tuple(one.value for one in items)


# --- in a frame -------------------------------------------------------------------------------------------------------------------------


def run_graph(frame: Frame, node: s.Graph) -> None:
    """Elaborates the graph where the frame stands."""
    graph = node.graph
    run = Run(graph, frame.builder, frame.instance.path, frame.caller)
    names: dict[str, Any] = dict(_kept(frame, node, run))
    names |= _inputs(frame, graph, run)
    scope = Scope(names, graph.opsets, 0, frame.instance.path)
    for one in graph.nodes:
        run.node(one, scope)
    if run.gaps:
        raise report(run.gaps)
    for port in graph.outputs:
        _output(frame, port, port.name, run.item(names[port.name]))


def _output(frame: Frame, port: Port, name: str, item: Any) -> None:
    """A tensor is a result; a sequence is one for each element; an empty optional is none."""
    if item is NOTHING:
        return
    if isinstance(item, list):
        for k, one in enumerate(item):
            _output(frame, port, f"{name}.{k}", one)
        return
    if not isinstance(item, Value):
        raise UnsupportedOp(f"the output '{name}' is a text", port.span)
    tensor = Tensor(item.value)
    if frame.top:
        frame.add_result("output", name, tensor, port.span)
    frame.define(name, tensor)
    frame.give(name, tensor)


def _kept(frame: Frame, node: s.Graph, run: Run) -> Mapping[str, Any]:
    """The initializers: parameters, states and, as they are, constants."""
    graph = node.graph
    weights, states = weights_and_states(graph)
    out: dict[str, Any] = {}
    unused = {*node.train, *node.freeze}
    for name, literal in graph.constants.items():
        out[name] = literal
        if literal.elem is STRING or not literal.elem.is_float or literal.elem.small:
            continue
        chosen = [p for p in node.train if fnmatchcase(name, p)]
        if name in states and literal.shape:
            out[name] = _argument(frame, run, name, literal, "state", graph)
        elif chosen or (not node.train and name in weights and literal.shape and prod(literal.shape) > 1):
            frozen = [p for p in node.freeze if fnmatchcase(name, p)]
            unused -= {*chosen, *frozen}
            frame.builder.frozen += bool(frozen)
            out[name] = _argument(frame, run, name, literal, "param", graph)
            frame.builder.frozen -= bool(frozen)
    for item in out.values():
        if isinstance(item, Literal):
            item.keep()
    for pattern in (p for p in (*node.train, *node.freeze) if p in unused):
        what = "float initializer" if pattern in node.train else "parameter"
        raise NameError_(f'pattern "{pattern}" matches no {what} of {graph.file}', node.span)
    return out


def _argument(frame: Frame, run: Run, name: str, literal: Literal, role: str, graph: Graph) -> Value:
    builder, path = frame.builder, frame.path(name)
    t = TensorType(literal.elem.carrier, literal.shape)
    span = Span(graph.file, 1, 1, 1, 1)
    value = builder.parameter(path, t, Initializer("file", values=literal), span, role)
    run.known.arguments[value] = literal
    if role == "state":
        value = builder.next_states.get(path, value)
        run.state_paths[value] = path
    tensor = Tensor(value)
    if role == "param" and builder.wrappers:
        tensor = wraps.wrapped(frame, path, tensor, is_parameter=True)
        builder.paths[tensor.value] = path
    frame.instance.parameters[name] = tensor
    return Value(tensor.value, literal.elem)


def _inputs(frame: Frame, graph: Graph, run: Run) -> dict[str, Any]:
    """Ports: what the caller gives, else inputs of the program. Symbolic dims come from what is given, from `--set`, else are 1."""
    out: dict[str, Any] = {}
    for port in graph.inputs:
        if port.kind != "tensor" or port.elem is None or port.axes is None or port.elem is STRING:
            what = "a text" if port.elem is STRING else f"a {port.kind}" if port.kind != "tensor" else "of a type that the file does not say"
            raise UnsupportedOp(f"the input '{port.name}' is {what}", port.span)
        given = frame.instance.parameters.get(port.name) if not frame.top else None
        if given is None and not frame.top:
            raise TypeError_(f"the graph needs the input '{port.name}'", port.span)
        bound = frame.overridden().get(identifier(port.name)) if frame.top else None
        if bound is not None:
            out[port.name] = _bound(frame, port, bound)
            continue
        shape = _shape(frame, port, given.type.shape if given else None)
        t = TensorType(port.elem.carrier, shape)
        if given is not None and given.type.dtype != t.dtype:
            raise TypeError_(f"the input '{port.name}' is {t}, given {given.type}", port.span)
        value = given.value if given else frame.builder.input(port.name, t, port.span)
        labels = [a if isinstance(a, str) else str(n) for a, n in zip(port.axes, shape)]
        frame.label(value, labels, port.span)
        if given is None:
            run.inputs[value] = port.name
            frame.settable.add(identifier(port.name))
            frame.define(port.name, Tensor(value))
        out[port.name] = Value(value, port.elem)
    return out


def _shape(frame: Frame, port: Port, given: tuple[int, ...] | None) -> tuple[int, ...]:
    axes = port.axes or ()
    if given is not None and len(given) != len(axes):
        raise ShapeError(f"the input '{port.name}' has {len(axes)} axes, given {list(given)}", port.span)
    out = []
    for k, axis in enumerate(axes):
        name = identifier(axis if isinstance(axis, str) else f"{port.name}_{k}")
        if isinstance(axis, int):
            if given is not None and given[k] != axis:
                raise ShapeError(f"axis {k} of the input '{port.name}' is {axis}, given {given[k]}", port.span)
            out.append(axis)
            continue
        if name not in frame.dims:
            if given is not None:
                frame.dims[name] = given[k]
            else:
                frame.dims[name] = _size(frame, name, port.span)
        elif given is not None and isinstance(axis, str) and frame.dims[name] != given[k]:
            raise ShapeError(f"the dim '{axis}' is {frame.dims[name]}, and in the input '{port.name}' {given[k]}", port.span)
        out.append(given[k] if given is not None else frame.dims[name])
    return tuple(out)


def _size(frame: Frame, name: str, span: Span) -> int:
    """What `--set` or the caller gives for a dim, else 1."""
    from ..values import as_size

    return as_size(frame.setting(name, s.Number(1, "1", span=span)), span)


def _bound(frame: Frame, port: Port, given: Any) -> Value:
    """An input whose value is given at compile time."""
    assert port.elem is not None
    value = frame.setting(identifier(port.name), s.Number(0, "0", span=port.span)) if isinstance(given, str) else given
    frame.settable.add(identifier(port.name))
    try:
        return constant(np.asarray(value), port.elem)
    except (ValueError, TypeError) as error:
        raise TypeError_(f"the input '{port.name}' cannot be {value}: {error}", port.span) from None


__all__ = ["identifier", "imported", "load_graph", "load_proto", "run_graph"]
