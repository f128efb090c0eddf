"""Which sets of ops are a kernel, and of which kind: the rules of docs/architecture.md as functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dslc.ir import ops
from dslc.ir.bodies import KINDS
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.types import type_of

from .simplify import only_units

if TYPE_CHECKING:
    from .fuse import Graph

CONTROL = (ops.Scan, ops.Cond, ops.Kernel)
PLACEMENT = (ops.Constant, ops.Iota, ops.View, ops.Reshape)
CONTRACTIONS = (ops.Contract, ops.Conv)

AGAIN = "nn.again"  # marks an op that computes an early value anew, which must not go back into the kernel of what it reads

# of the scalar primitives, those that cost about one instruction
CHEAP = (ops.Compare, ops.And, ops.Or, ops.Not, ops.Add, ops.Sub, ops.Mul, ops.Cast, ops.Abs, ops.Select, ops.Min, ops.Max)
MOST_BY_INDEX = 128  # ops that are repeated at each point rather than kept; also what keeps a look down a deep network's residuals short


def is_placement(op: Op) -> bool:
    """Only says where elements lie, or what they are by their index (a mask `j <= i`): costs little to repeat, and needs no memory."""
    return isinstance(op, PLACEMENT) or (isinstance(op, CHEAP) and _by_index(op.operands))


def _by_index(values: Iterable[ir.Value]) -> bool:
    """Values made of indices, constants and integers of the run (a length, a turn) by cheap ops, and not by too many."""
    waiting, seen = list(values), set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        if isinstance(value.owner, ir.Block) or type_of(value).rank == 0 or len(seen) > MOST_BY_INDEX:
            return False
        op = value.owner.opview
        if not isinstance(op, (*PLACEMENT, *CHEAP)):
            return False
        waiting += [v for v in op.operands if not _is_number(v)]
    return True


def _is_number(value: ir.Value) -> bool:
    t = type_of(value)
    return t.rank == 0 and t.dtype.is_integer


def widens_bytes(op: Op) -> bool:
    """An 8-bit integer made wider, or such a value minus a zero point that is spread over it."""
    if isinstance(op, ops.Cast):
        return type_of(op.x).dtype.is_integer and type_of(op.x).dtype.bits == 8 and op.dtype.bits > 8
    return isinstance(op, ops.Sub) and _made_by(op.a, widens_bytes) and _made_by(op.b, _is_spread)


def _made_by(value: ir.Value, rule: Callable[[Op], bool]) -> bool:
    return not isinstance(value.owner, ir.Block) and rule(value.owner.opview)


def _is_spread(op: Op) -> bool:
    return isinstance(op, ops.Constant) or (isinstance(op, ops.View) and type_of(op.operands[0]).size < type_of(op.results[0]).size)


def read_by_product(op: Op) -> bool:
    """Whether what an op makes is read, through views, by a product of matrices."""
    return any(_for_product(use.owner.opview) for use in op.results[0].uses)


def is_read_along(op: Op) -> bool:
    """Bytes made wider for products alone, and matrices that a product gathers, one for each point of its batch: each reads them where they lie."""
    return (widens_bytes(op) and all(_for_product(use.owner.opview) for use in op.results[0].uses)) or _is_matrix_of_batch(op)


def _is_matrix_of_batch(op: Op) -> bool:
    if not isinstance(op, ops.Gather) or op.batch or len(op.operands) != 2 or op.outside != 0:
        return False
    rank = type_of(op.operands[1]).rank
    readers = [use.owner.opview for use in op.results[0].uses]
    return type_of(op.operands[0]).rank >= 3 and all(isinstance(r, ops.Contract) and _is_batch(r, op.results[0], rank) for r in readers)


def _is_batch(product: ops.Contract, value: ir.Value, rank: int) -> bool:
    """Whether the first `rank` axes of an operand are axes of the other one and of the result."""
    sides = list(zip(product.operands, (product.lhs, product.rhs)))
    mine = [k for k, (v, _) in enumerate(sides) if v == value]
    return len(mine) == 1 and all(i in sides[1 - mine[0]][1] and i in product.out for i in sides[mine[0]][1][:rank])


def _for_product(reader: Op) -> bool:
    if isinstance(reader, (ops.View, ops.Reshape)):
        return all(_for_product(use.owner.opview) for use in reader.results[0].uses)
    return isinstance(reader, ops.Contract) or (isinstance(reader, Op) and is_read_along(reader))


def kind_of(graph: Graph, members: set[int]) -> str | None:
    """The kind of kernel that these core ops are together; None where they are none."""
    if not graph.controls.isdisjoint(members):
        return None
    body = sorted(members)
    anchors = [n for n in body if n in graph.anchors]
    if not anchors:
        return "map" if _one_shape(graph, members, body) else None
    if len({type(graph.anchors[n]) for n in anchors}) > 1:
        return None
    first = type(graph.anchors[anchors[0]])
    if first in CONTRACTIONS:
        return "contract" if len(anchors) == 1 and _contract(graph, members, body, anchors[0]) else None
    if first is ops.Reduce:
        return "reduce" if _reduce(graph, members, body, anchors) else None
    return KINDS.get(first.OPERATION_NAME) if len(anchors) == 1 and _anchor_last(graph, members, anchors[0]) else None


def _one_shape(graph: Graph, members: set[int], body: list[int]) -> bool:
    """A map: every op has the points of the results, and passes within the kernel are at the same point; or what is ahead is taken apart."""
    shape = graph.type_of(graph.results[body[-1]][0]).shape
    inner = graph.inner(members)
    ahead = [n for n in body if any(graph.type_of(r).shape != shape for r in graph.results[n])]
    if not ahead:
        return all(_direct(graph, members, inner, n) for n in body)
    return _taken_apart(graph, members, ahead, [n for n in body if n not in ahead])


def _taken_apart(graph: Graph, members: set[int], ahead: list[int], after: list[int]) -> bool:
    """Elementwise work on more points ahead of a map's own, all of it read there alone and through views that together have no more points: none is
    made twice. Gates of a recurrent layer are parts of one sum."""
    first = graph.inner(ahead)
    if any(graph.structures[n] != "elementwise" or not _direct(graph, set(ahead), first, n) for n in ahead):
        return False
    if not first.isdisjoint(graph.outputs(members)):
        return False
    own = graph.inner(after)
    parts: dict[ir.Value, dict[ir.Value, None]] = {}
    for n in after:
        for v in graph.operands[n]:
            if v in own or not any(p in members for p, _ in graph.source_of(v)):
                continue
            view = None if isinstance(v.owner, ir.Block) else v.owner.opview
            if graph.structures[n] != "elementwise" or not isinstance(view, ops.View) or view.operands[0] not in first:
                return False
            parts.setdefault(view.operands[0], {})[v] = None
    return all(sum(graph.type_of(v).size for v in views) <= graph.type_of(whole).size for whole, views in parts.items())


def _direct(graph: Graph, members: set[int], inner: set[ir.Value], n: int) -> bool:
    """What an op reads from its own group it reads at its own point: not through views, nor as a gather's table."""
    operands = graph.operands[n]
    if graph.structures[n] in ("gather", "join", "view") and any(v in inner for v in operands):
        return False
    return all(v in inner or not any(p in members for p, _ in graph.source_of(v)) for v in operands)


def _anchor_last(graph: Graph, members: set[int], anchor: int) -> bool:
    """Pointwise work before one op that needs an axis at once; nothing else leaves the kernel. Sorts and transforms stand alone."""
    op, results = graph.anchors[anchor], graph.results[anchor]
    if isinstance(op, (ops.Sort, ops.FFT)):
        return len(members) == 1
    if isinstance(op, ops.Put) and any(p in members for p, _ in graph.source_of(op.base)):
        return False
    outputs = graph.outputs(members)
    return all(v in results for v in outputs) and not any(r in results for n in members for _, r in graph.uses[n] if n != anchor)


def _contract(graph: Graph, members: set[int], body: list[int], anchor: int) -> bool:
    """A contraction whose operands are read through views alone, and elementwise work on its result, point by point; axes of one element may come and
    go between them."""
    if any(p in members for p, _ in graph.uses[anchor]):
        return False
    after = [n for n in body if n != anchor]
    if not all(graph.structures[n] in ("elementwise", "generator") for n in after):
        return False
    points = _wide_axes(graph, graph.results[anchor][0])
    inner = graph.inner(members)
    return all(_wide_axes(graph, graph.results[n][0]) == points for n in after) and all(_by_points(graph, members, inner, n) for n in after)


def _wide_axes(graph: Graph, value: ir.Value) -> list[int]:
    return [n for n in graph.type_of(value).shape if n != 1]


def _by_points(graph: Graph, members: set[int], inner: set[ir.Value], n: int) -> bool:
    """What an elementwise op reads from its own group it reads at its own point, whatever axes of one element lie between."""
    return all(_under_units(v) in inner or not any(p in members for p, _ in graph.source_of(v)) for v in graph.operands[n])


def _under_units(value: ir.Value) -> ir.Value:
    """The value before axes of one element came or went."""
    while not isinstance(value.owner, ir.Block) and only_units(op := value.owner.opview):
        value = op.operands[0]
    return value


def _reduce(graph: Graph, members: set[int], body: list[int], anchors: list[int]) -> bool:
    """Folds over the same axes of the same space; other ops have the space's points or a row's; rows come back by repeating."""
    space, axes = graph.folds(anchors[0])
    if any(graph.folds(n) != (space, axes) for n in anchors):
        return False
    row = tuple(n for k, n in enumerate(space) if k not in axes)
    kept = [k for k in range(len(space)) if k not in axes]
    folded: set[ir.Value] = set()
    inner = graph.inner(members)
    for n in body:
        shape = graph.type_of(graph.results[n][0]).shape
        folds = n in graph.anchors
        if not folds and shape not in (space, row):
            return False
        for operand in graph.operands[n]:
            if operand in inner:
                if graph.structures[n] in ("gather", "join", "view"):
                    return False
                if graph.type_of(operand).shape != (space if folds else shape):
                    return False
            elif any(p in members for p, _ in graph.source_of(operand)):
                if shape != space or not _repeats_rows(graph, operand, inner, row, space, kept):
                    return False
        if folds or any(p in members and v in folded for p, v in graph.uses[n]):
            folded.update(graph.results[n])
    outputs = graph.outputs(members)
    return all(graph.type_of(v).shape in (space, row) for v in outputs)


def _repeats_rows(graph: Graph, value: ir.Value, inner: set[ir.Value], row: tuple[int, ...], space: tuple[int, ...], kept: list[int]) -> bool:
    """The value is a row's of this kernel, repeated over the folded axes by one view (a reshape between axes of size 1 does not count)."""
    found = graph.repeats(value)
    if found is None or found[0] not in inner or graph.type_of(found[0]).shape != row:
        return False
    return graph.type_of(value).shape == space and all(f == (kept[a] == k) for a, line in enumerate(found[1]) for k, f in enumerate(line))
