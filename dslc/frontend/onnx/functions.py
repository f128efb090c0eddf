"""Operators that are functions: the model's own, and those of the standard that are defined by a body of other operators."""

from __future__ import annotations

from typing import Any

from dslc.core.errors import DataError

from .call import Call
from .graph import Graph, Node
from .order import ordered
from .reader import Reader
from .table import schema_of
from .values import Value


def has_body(node: Node, opsets: Any) -> bool:
    """The standard defines the operator by other operators."""
    schema = schema_of(node.op, node.domain, opsets.get(node.domain, 1))
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body_of(call: Call, items: list[Any]) -> Any:
    """The FunctionProto of the standard for a call; None where it has none for these types."""
    import onnx

    schema = schema_of(call.node.op, call.node.domain, call.version)
    opset = call.scope.opsets.get("", onnx.defs.onnx_opset_version())
    if schema.has_context_dependent_function:
        given = [_type_of(item).SerializeToString() for item in items]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        data = (
            schema.get_context_dependent_function_with_opset_version(max(versions), call.node.proto.SerializeToString(), given) if versions else b""
        )
    else:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(max(versions)) if versions else b""
    if isinstance(data, bytes):
        return onnx.FunctionProto.FromString(data) if data else None
    return data


def _type_of(item: Any) -> Any:
    import onnx

    if isinstance(item, Value):
        return onnx.helper.make_tensor_type_proto(item.elem.code, item.shape)
    if isinstance(item, list) and item:
        return onnx.helper.make_sequence_type_proto(_type_of(item[0]))
    return onnx.TypeProto()


def expand(call: Call, function: Any, items: list[Any]) -> tuple[Any, ...]:
    """The results of a function's body for a call; its nodes have the call's place."""
    from .run import MOST_CALLS, Scope

    if call.scope.depth >= MOST_CALLS:
        raise DataError(f"{call.node.title} calls itself, directly or through others", call.node.span)
    opsets = dict(call.scope.opsets) | {("" if o.domain == "ai.onnx" else o.domain): int(o.version) for o in function.opset_import}
    graph = instance_of(call.node, function, opsets)
    names: dict[str, Any] = dict.fromkeys(function.input)
    names |= dict(zip(function.input, items))
    scope = Scope(names, opsets, call.scope.depth + 1, call.scope.path)
    for node in graph.nodes:
        call.run.node(node, scope)
    return tuple(names.get(name) for name in function.output)


def instance_of(node: Node, function: Any, opsets: Any) -> Graph:
    """The body with the call's attributes put where it refers to them."""
    given = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.proto.attribute}
    reader = Reader(f"{node.span.file} (function {function.name})", None)
    nodes = []
    for proto in function.node:
        copy = type(proto)()
        copy.CopyFrom(proto)
        _resolve(copy, given)
        nodes.append(reader.node(copy, opsets, 1))
    placed = [_placed(n, node) for n in ordered(nodes, set(function.input), ())]
    return Graph(function.name, (), (), {}, tuple(placed), opsets)


def _placed(node: Node, call: Node) -> Node:
    return Node(node.op, node.domain, node.name or f"{call.name}.{node.op}", node.inputs, node.outputs, node.attributes, call.span, node.proto)


def _resolve(node: Any, given: dict[str, Any]) -> None:
    """Attributes that refer to the call's become them; one that the call leaves out goes."""
    kept = []
    for a in node.attribute:
        if a.ref_attr_name:
            if a.ref_attr_name not in given:
                continue
            source = given[a.ref_attr_name]
            made = type(a)()
            made.CopyFrom(source)
            made.name = a.name
            kept.append(made)
            continue
        for graph in (a.g, *a.graphs) if a.type in (5, 10) else ():
            for inner in graph.node:
                _resolve(inner, given)
        kept.append(a)
    copies = []
    for a in kept:
        made = type(a)()
        made.CopyFrom(a)
        copies.append(made)
    del node.attribute[:]
    node.attribute.extend(copies)
