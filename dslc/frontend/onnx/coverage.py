"""Which operators there are: for the page of operators, and before a graph is built."""

from __future__ import annotations

from typing import Any

from .table import schema_of, table


def supported(name: str, domain: str, version: int) -> bool:
    """The table has the operator, or the standard defines it by others."""
    schema = schema_of(name, domain, version)
    body = schema is not None and (schema.has_function or schema.has_context_dependent_function)
    return (domain, name) in table() or body


def missing(model: Any) -> list[tuple[str, str]]:
    """(domain, name) of the operators of a ModelProto that are not there, inner graphs included."""
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    own = {(f.domain, f.name) for f in model.functions}
    found: dict[tuple[str, str], None] = {}

    def walk(nodes: Any) -> None:
        for node in nodes:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (node.domain, node.op_type) not in own and not supported(node.op_type, domain, versions.get(domain, 1)):
                found[domain, node.op_type] = None
            for a in node.attribute:
                for graph in (a.g, *a.graphs):
                    walk(graph.node)

    walk(model.graph.node)
    return list(found)
