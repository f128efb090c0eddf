"""Building a graph: its nodes in order, each by its entry of the table, by the model's own function, or by the standard's body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dslc.core.errors import DataError, Error, UnsupportedOp
from dslc.ir.mlir import ir
from dslc.ir.types import location_of

from . import functions, types
from .call import Call, NeedsValue
from .graph import Graph, Literal, Node
from .known import Known
from .older import aligned
from .table import Entry, entry_of, schema_of
from .values import Value, constant

if TYPE_CHECKING:
    from ..elaborate import Builder

MOST_CALLS = 24  # of functions in functions


class Missing:
    """Stands for a value that a node which is not supported would have given."""


class Nothing:
    """An empty optional."""


MISSING, NOTHING = Missing(), Nothing()
UNFIT = (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError, AttributeError, AssertionError, RuntimeError, MemoryError)


@dataclass(frozen=True, eq=False)
class Scope:
    """The values by name where a node stands. `path`: of the scans around, for random streams."""

    names: dict[str, Any]
    opsets: Mapping[str, int]
    depth: int = 0
    path: str = ""

    def inner(self, names: Mapping[str, Any], path: str = "") -> Scope:
        """For a graph inside a node: it sees what is around it."""
        return Scope({**self.names, **names}, self.opsets, self.depth, f"{self.path}/{path}")


class Run:
    """One elaboration of one graph. `gaps`: what is not supported; the nodes behind a gap are passed over, so that all gaps are found."""

    def __init__(self, graph: Graph, builder: Builder, path: str, caller: ir.Location | None = None):
        self.graph, self.builder, self.path, self.caller = graph, builder, path, caller
        self.known = Known()
        self.gaps: list[tuple[Node, Error]] = []
        self.inputs: dict[ir.Value, str] = {}
        self.state_paths: dict[ir.Value, str] = {}
        self.turns: list[ir.Value] = []  # of the scans around
        self.draws = 0

    def input_name(self, value: ir.Value) -> str | None:
        return self.inputs.get(value)

    # --- graphs

    def inside(self, graph: Graph, scope: Scope, inputs: Sequence[Any], path: str) -> list[Any]:
        """The outputs of a graph in a node."""
        names: dict[str, Any] = dict(graph.constants)
        names |= dict(zip((p.name for p in graph.inputs), inputs))
        inner = scope.inner(names, path)
        for node in graph.nodes:
            self.node(node, inner)
        return [self.item(inner.names.get(p.name)) for p in graph.outputs]

    def item(self, item: Any) -> Any:
        """A tensor of the file becomes a constant where it is first used."""
        if isinstance(item, Literal) and item.elem is not types.STRING:
            return constant(item.array, item.elem)
        return item

    # --- nodes

    def node(self, node: Node, scope: Scope) -> None:
        """Builds one node into the names of its scope."""
        names = scope.names
        items: list[Any] = []
        for name in node.inputs:
            if name and name not in names:
                raise DataError(f"{node.title} reads '{name}', which nothing gives", node.span)
            if name:
                names[name] = self.item(names[name])
            items.append(names[name] if name else None)
        if any(item is MISSING for item in items):
            names.update(dict.fromkeys(filter(None, node.outputs), MISSING))
            return
        location = location_of(node.span)
        with ir.Location.callsite(location, [self.caller]) if self.caller is not None else location:
            try:
                results = self._built(node, items, scope)
            except NeedsValue:
                raise
            except UnsupportedOp as error:
                error.spans = error.spans or [node.span]
                self.gaps.append((node, error))
                names.update(dict.fromkeys(filter(None, node.outputs), MISSING))
                return
            except Error as error:
                if not error.spans:
                    error.message, error.spans = f"{node.title}: {error.message}", [node.span]
                raise
            except (*UNFIT, ir.MLIRError) as error:
                raise _unfit(node, items, error) from error
        for name, result in zip(node.outputs, results):
            if name:
                names[name] = result

    def _built(self, node: Node, items: list[Any], scope: Scope) -> Sequence[Any]:
        if node.domain not in scope.opsets and node.key not in self.graph.functions and node.domain not in IMPLIED:
            raise DataError(f"{node.title} is of domain '{node.domain}', which the model does not import", node.span)
        call = Call(node, self, scope.opsets.get(node.domain, 1), scope)
        results = self._results(call, items)
        if isinstance(results, (Value, Literal, list, Nothing)):
            results = (results,)
        wanted = [k for k, name in enumerate(node.outputs) if name]
        if wanted and (wanted[-1] >= len(results) or results[wanted[-1]] is None):
            raise call.gap(f"output {wanted[-1]} is not supported")
        return results

    def _results(self, call: Call, items: list[Any]) -> Any:
        node = call.node
        if node.key in self.graph.functions:
            return functions.expand(call, self.graph.functions[node.key], items)
        entry = entry_of(node)
        if entry is not None:
            self._check_call(call, entry, items)
            return entry.build(call, *aligned(call, items))
        body = functions.body_of(call, items) if functions.has_body(node, call.scope.opsets) else None
        if body is None:
            raise UnsupportedOp(f"{node.title}: there is no operator {node.op}" + (f" of domain '{node.domain}'" if node.domain else ""), node.span)
        return functions.expand(call, body, items)

    def _check_call(self, call: Call, entry: Entry, items: list[Any]) -> None:
        """The number of inputs is what the standard says."""
        schema = schema_of(call.node.op, call.node.domain, call.version)
        if schema is None:
            if not entry.domain or entry.domain.startswith("ai.onnx"):
                raise call.gap(f"opset {call.version} has no operator {call.node.op}")
            return
        given = [i for i, item in enumerate(items) if item is not None]
        if len(items) > schema.max_input or (given[-1] + 1 if given else 0) < schema.min_input:
            raise call.mistake(f"{len(items)} inputs, {call.node.op} takes {schema.min_input} to {schema.max_input}")
        strings = [item for item in items if isinstance(item, Literal)]
        if strings and not entry.folded:
            raise call.gap("texts are not supported")


IMPLIED = ("", "ai.onnx.ml", "com.microsoft")


def _unfit(node: Node, items: Iterable[Any], error: Exception) -> Error:
    shown = ", ".join(str(item) if isinstance(item, Value) else type(item).__name__ for item in items)
    return DataError(f"{node.title} does not fit its inputs {shown}: {error}", node.span)


def report(gaps: Sequence[tuple[Node, Error]]) -> Error:
    """One error for all gaps of a graph: each operator, how often, at which nodes."""
    if len(gaps) == 1:
        return gaps[0][1]
    by_reason: dict[str, list[tuple[Node, Error]]] = {}
    for node, error in gaps:
        by_reason.setdefault(f"{node.domain}.{node.op}" if node.domain else node.op, []).append((node, error))
    notes = []
    for name, found in by_reason.items():
        places = ", ".join(f"'{n.name or next(iter(n.outputs), '')}' (line {n.span.line})" for n, _ in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        notes.append(f"{name}, {len(found)} time{'s' if len(found) > 1 else ''}: {places}{more}: {found[0][1].message}")
    spans = [e.spans[0] for _, e in gaps if e.spans]
    kinds = len(by_reason)
    return UnsupportedOp(f"{len(gaps)} nodes of {kinds} operator{'s' if kinds > 1 else ''} cannot be imported", spans[:1], notes=notes)
