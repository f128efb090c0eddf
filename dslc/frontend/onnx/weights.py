"""Which initializers are parameters: float tensors that reach the weights of an operator, directly or through operators that only rearrange, and
what is added to a product as its bias."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph, Node
from .table import entry_of

PASSING = {"Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Split", "Slice", "Concat", "Expand", "Pad"}

PRODUCTS = {"MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose"}


def weights_and_states(graph: Graph) -> tuple[set[str], set[str]]:
    """Names that are used as weights, and as running statistics."""
    weights: set[str] = set()
    states: set[str] = set()
    _mark(graph.nodes, graph, weights, states)
    return weights, states


def _mark(nodes: Sequence[Node], graph: Graph, weights: set[str], states: set[str]) -> None:
    makers = {name: node for node in nodes for name in node.outputs}
    for node in reversed(nodes):
        for value in node.attributes.values():
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, Graph):
                    _mark(inner.nodes, graph, weights, states)
        if node.key in graph.functions:
            weights |= _of_function(node, graph)
            continue
        if node.key == ("", "Add") and len(node.inputs) == 2:
            weights |= {bias for bias, product in (node.inputs, node.inputs[::-1]) if product in makers and makers[product].op in PRODUCTS}
        entry = entry_of(node)
        if entry is None:
            continue
        weights |= {node.inputs[k] for k in entry.weights if k < len(node.inputs)}
        states |= {node.inputs[k] for k in entry.states if k < len(node.inputs)}
        if node.domain == "" and node.op in PASSING and any(name in weights for name in node.outputs):
            weights |= set(node.inputs[: None if node.op == "Concat" else 1])


def _of_function(node: Node, graph: Graph) -> set[str]:
    """Inputs of a call of the model's own function that its body uses as weights."""
    from .functions import instance_of

    function = graph.functions[node.key]
    rest = {k: v for k, v in graph.functions.items() if k != node.key}  # a function that calls itself is found later
    inside: set[str] = set()
    nodes = instance_of(node, function, graph.opsets).nodes
    _mark(nodes, Graph("", (), (), {}, nodes, graph.opsets, rest), inside, set())
    return {given for given, formal in zip(node.inputs, function.input) if formal in inside}
