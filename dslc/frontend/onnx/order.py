"""The nodes of a graph in an order in which every value exists before it is read."""

from __future__ import annotations

from collections.abc import Sequence

from dslc.core.errors import NameError_, did_you_mean

from .graph import Graph, Node, Port


def reads(node: Node) -> set[str]:
    """Names that a node reads, those its inner graphs take from outside included."""
    found = {name for name in node.inputs if name}
    for value in node.attributes.values():
        for graph in value if isinstance(value, tuple) else (value,):
            if isinstance(graph, Graph):
                found |= free_names(graph)
    return found


def free_names(graph: Graph) -> set[str]:
    """What an inner graph reads from outside."""
    own = {p.name for p in graph.inputs} | set(graph.constants) | {name for n in graph.nodes for name in n.outputs}
    used = {p.name for p in graph.outputs}.union(*(reads(n) for n in graph.nodes))
    return used - own


def ordered(nodes: Sequence[Node], known: set[str] | None, outputs: Sequence[Port]) -> tuple[Node, ...]:
    """The nodes sorted by what they read, otherwise in the file's order. `known`: the names from outside; None: any.

    NameError_ for a name that nothing gives, two nodes that give one name, and nodes that wait for each other.
    """
    maker: dict[str, Node] = {}
    for node in nodes:
        for name in node.outputs:
            if name and (name in maker or (known is not None and name in known)):
                raise NameError_(f"{node.title} gives '{name}', which is given already", node.span)
            maker[name] = node
    if known is not None:
        for node in nodes:
            for name in sorted(reads(node)):
                if name not in maker and name not in known:
                    raise NameError_(f"{node.title} reads '{name}', which nothing gives{did_you_mean(name, {*maker, *known})}", node.span)
        for port in outputs:
            if port.name not in maker and port.name not in known:
                raise NameError_(f"nothing gives the output '{port.name}'{did_you_mean(port.name, {*maker, *known})}", port.span)
    done: dict[int, Node] = {}
    ready: set[int] = set()
    waiting = {id(n): {id(maker[name]) for name in reads(n) if name in maker} for n in nodes}
    rest = list(nodes)
    while rest:
        late = []
        for node in rest:
            if waiting[id(node)] <= ready:
                done[id(node)] = node
                ready.add(id(node))
            else:
                late.append(node)
        if len(late) == len(rest):
            raise NameError_(f"{late[0].title} waits for itself: {len(late)} nodes make a cycle", late[0].span, notes=[n.title for n in late[1:4]])
        rest = late
    return tuple(done.values())
