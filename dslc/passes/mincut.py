"""The least cut of a small network with integer capacities (Dinic 1970)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

ENDLESS = 1 << 60  # a capacity that no cut pays

Value = TypeVar("Value", bound=Hashable)


@dataclass
class Network:
    """Nodes are numbers, 0 the source and 1 the sink. Edge e leads to `to[e]` and has `room[e]` left; e ^ 1 is its reverse."""

    edges: list[list[int]] = field(default_factory=lambda: [[], []])
    to: list[int] = field(default_factory=list)
    room: list[int] = field(default_factory=list)

    def node(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def edge(self, a: int, b: int, capacity: int) -> None:
        for start, end, room in ((a, b, capacity), (b, a, 0)):
            self.edges[start].append(len(self.to))
            self.to.append(end)
            self.room.append(room)

    def sink_side(self) -> set[int]:
        """The nodes on the sink's side of the least cut that lies nearest to the sink. Raises ValueError where every cut is endless."""
        flow = 0
        while (levels := self._levels())[1] >= 0:
            following = [0] * len(self.edges)
            while pushed := self._push(levels, following):
                flow += pushed
                if flow >= ENDLESS:
                    raise ValueError("no cut separates the sink from the source")
        seen, stack = {1}, [1]
        while stack:
            for e in self.edges[stack.pop()]:
                if self.room[e ^ 1] and self.to[e] not in seen:
                    seen.add(self.to[e])
                    stack.append(self.to[e])
        return seen

    def _levels(self) -> list[int]:
        """The distance of each node from the source along edges with room; -1 where there is no way."""
        levels = [-1] * len(self.edges)
        levels[0] = 0
        queue = [0]
        for a in queue:
            for e in self.edges[a]:
                b = self.to[e]
                if self.room[e] and levels[b] < 0:
                    levels[b] = levels[a] + 1
                    queue.append(b)
        return levels

    def _push(self, levels: list[int], following: list[int]) -> int:
        """Sends what fits along one shortest way; 0 where none is left. `following[n]`: the edges of n before it lead nowhere."""
        path: list[int] = []
        at = 0
        while at != 1:
            if following[at] < len(self.edges[at]):
                e = self.edges[at][following[at]]
                if self.room[e] and levels[self.to[e]] == levels[at] + 1:
                    path.append(e)
                    at = self.to[e]
                else:
                    following[at] += 1
            elif path:
                at = self.to[path.pop() ^ 1]
                following[at] += 1
            else:
                return 0
        pushed = min(self.room[e] for e in path)
        for e in path:
            self.room[e] -= pushed
            self.room[e ^ 1] += pushed
        return pushed


def cheapest(
    wanted: Iterable[Value], price: Callable[[Value], int | None], reading: Callable[[Value], int], sources: Callable[[Value], Iterable[Value]]
) -> dict[Value, bool]:
    """Of the values wanted and what they are made from, in the order in which they are met: whether each is made rather than read where all together
    cost least. `price`: of making one from its sources; None: it is not made. Each has a node for being made and one for being there, with what
    reading it costs between them."""
    net = Network()
    nodes: dict[Value, int] = {}
    waiting: list[Value] = []

    def node(value: Value) -> int:
        if value not in nodes:
            nodes[value] = net.node()
            net.node()
            waiting.append(value)
        return nodes[value]

    for value in wanted:
        net.edge(node(value) + 1, 1, ENDLESS)
    while waiting:
        value = waiting.pop()
        cost = price(value)
        net.edge(nodes[value], nodes[value] + 1, reading(value))
        net.edge(0, nodes[value], ENDLESS if cost is None else cost)
        for source in sources(value) if cost is not None else ():
            net.edge(node(source) + 1, nodes[value], ENDLESS)
    made = net.sink_side()
    return {value: n in made for value, n in nodes.items()}
