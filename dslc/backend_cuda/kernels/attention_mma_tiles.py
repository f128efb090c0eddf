"""The tiles of a streaming kernel on tensor cores: whose each element of the tile is, what lies in shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dslc.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, DType
from dslc.ir import index
from dslc.ir.index import Dim, Expr
from dslc.ir.streams import Stream
from dslc.ir.trace import Apply, Guard, Join, Node, Product, Read, Test, dims_under, invariant, survey

from ..types import memory_type

TURNED = "turned"  # how the names of such tiles begin
PLACEHOLDER = 1 << 20  # the dim that stands for a row's terms when tiles are compared


@dataclass(frozen=True)
class Plan:
    """Tile sizes. `rows`, `columns`: of the tile that a thread holds; `type`: of what lies in shared memory; `stages`: blocks of y there."""

    type: DType
    bx: int
    by: int
    threads: int
    rows: int
    columns: int
    stages: int = 2

    @property
    def chunk(self) -> int:
        """Elements in 16 bytes."""
        return 16 // self.type.bytes

    @property
    def turned(self) -> bool:
        """Whether the second operand of a product with weights lies along y."""
        return False

    def feature_registers(self, n: int) -> int:
        """Registers of a thread for the sums of n features."""
        return self.rows * -(-n // 16) * 4

    # ---- which element is whose (see mma.cuh): i counts a thread's rows, j its columns, q its groups of two features

    def fragment(self, name: str) -> str:
        return f"{name}[{self.rows // 2}][{self.columns // 2}][4]"

    def sums(self, name: str, n: int) -> str:
        return f"{name}[{self.rows // 2}][{self.feature_groups(n)}][4]"

    def element(self, name: str, i: str = "i", j: str = "j") -> str:
        return f"{name}[{i} / 2][{j} / 2][{i} % 2 * 2 + {j} % 2]"

    def row(self) -> str:
        return "row + i / 2 * 16 + i % 2 * 8"

    def column(self) -> str:
        return "j / 2 * 8 + column + j % 2"

    def feature_groups(self, n: int) -> int:
        return -(-n // 16) * 2


def plans_for(narrow: DType) -> list[Plan]:
    """The plans to try, best first."""
    return [Plan(narrow, 16 * m * warps, by, 32 * warps, 2 * m, by // 4) for m, warps, by in
            ((2, 4, 64), (1, 8, 64), (1, 8, 32), (1, 4, 64), (1, 4, 32), (1, 2, 32), (1, 2, 16))]  # fmt: skip


def bare(node: Node) -> Node:
    """The node under casts that keep every value of a 16-bit float: to float32, whose products are exact, and from there back."""
    while (inner := _uncast(node, FLOAT32)) is not None and inner.dtype in (FLOAT16, BFLOAT16):
        node = inner
    inner = _uncast(node, FLOAT16, BFLOAT16)
    kept = bare(inner) if inner is not None and inner.dtype == FLOAT32 else None
    return kept if kept is not None and kept.dtype == node.dtype else node


def _uncast(node: Node, *types: DType) -> Node | None:
    """What a cast to one of these types is made of; None where the node is none."""
    return node.arguments[0] if isinstance(node, Apply) and node.op.operation.name == "nn.cast" and node.dtype in types else None


# ---- shared memory


@dataclass(frozen=True)
class Tile:
    """Rows of a node's values along `dim`, as chunks of 16 bytes. `chunks`: of a row as it lies, `used`: of those how many hold values. `turned`:
    rows are places along `dim`, as many as a product has, and lie along the stream."""

    name: str
    node: Node
    dim: int
    size: int
    rows: int
    chunks: int
    used: int
    turned: bool = False


@dataclass
class Areas:
    """What a block keeps in shared memory: byte offsets by name. Tiles of y and `columns` (values along y alone) lie there once a stage."""

    x: list[Tile] = field(default_factory=list)
    y: list[Tile] = field(default_factory=list)
    source_x: dict[int, Tile] = field(default_factory=dict)
    source_y: dict[int, Tile] = field(default_factory=dict)
    other: dict[int, Tile] = field(default_factory=dict)
    columns: list[Node] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


def areas_of(stream: Stream, sinks: Sequence[int], sources: Sequence[int], plan: Plan) -> Areas:
    """Tiles, each once however many products read it."""
    areas = Areas()
    known: dict[Any, Tile] = {}

    def tile(node: Node, dim: int, along: int, rows: int, out: list[Tile]) -> Tile:
        node = bare(node)
        key = (along, _key(node, dim, len(stream.sizes)))
        if key not in known:
            size = stream.sizes[dim]
            used = -(-size // 16) * 16 // plan.chunk
            known[key] = Tile(f"{('own', 'streamed')[along - stream.x]}{len(out)}", node, dim, size, rows, -(-used // 8) * 8, used)
            out.append(known[key])
        return known[key]

    def turned(node: Node, dim: int) -> Tile:
        key = (TURNED, _key(bare(node), dim, len(stream.sizes)))
        if key not in known:
            size, chunks = stream.sizes[dim], plan.by // plan.chunk
            known[key] = Tile(f"{TURNED}{len(areas.y)}", bare(node), dim, size, plan.feature_groups(size) * 8, chunks, chunks, True)
            areas.y.append(known[key])
        return known[key]

    for k in sources:
        s = stream.sources[k]
        areas.source_x[k] = tile(s.x_node, s.terms, stream.x, plan.bx, areas.x)
        areas.source_y[k] = tile(s.y_node, s.terms, stream.y, plan.by, areas.y)
    for k in sinks:
        sink = stream.sinks[k]
        if sink.other is not None and sink.features is not None:
            along = turned(sink.other, sink.features) if plan.turned else tile(sink.other, sink.features, stream.y, plan.by, areas.y)
            areas.other[k] = along
    areas.columns = columns_of(stream, sinks)
    at = 0
    for t in areas.x:
        areas.offsets[t.name] = at
        at += t.rows * t.chunks * 16
    for t in areas.y:
        areas.offsets[t.name] = at
        at += t.rows * t.chunks * 16 * plan.stages
    for n, _ in enumerate(areas.columns):
        areas.offsets[f"column{n}"] = at
        at += plan.by * 8 * plan.stages
    areas.bytes = at
    return areas


def columns_of(stream: Stream, sinks: Sequence[int]) -> list[Node]:
    """The largest values under some sinks that move with y and not with x, and come from memory."""
    roots = [stream.sinks[k].value for k in sinks]
    under = dims_under(stream.trace, roots)
    return [n for n in invariant(stream.trace, roots, {stream.x}) if stream.y in under[id(n)] and survey(stream.trace, [n]).reads]


def _key(node: Node, dim: int, rank: int) -> Any:
    """Equal for nodes that are equal but for which dim of the space their terms are."""
    dims: list[Expr] = [Dim(PLACEHOLDER) if k == dim else Dim(k) for k in range(rank)]

    def tests(found: Sequence[Test]) -> Any:
        return tuple((index.substitute(t.expr, dims), t.size) for t in found)

    match node:
        case Read():
            return ("read", node.operand, index.substitute(node.address, dims), tests(node.tests))
        case Apply():
            return (node.op.operation, tuple(index.substitute(e, dims) for e in node.at), tuple(_key(a, dim, rank) for a in node.arguments))
        case Guard():
            return (tests(node.tests), _key(node.value, dim, rank), node.outside)
        case Join():
            return tuple((tests(t), _key(n, dim, rank)) for t, n in node.branches)
        case Product():
            return ("product", _key(node.a, dim, rank), _key(node.b, dim, rank))
    return id(node)


def element_type(plan: Plan) -> str:
    """How an element of a tile is typed."""
    return memory_type(plan.type)
