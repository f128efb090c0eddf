"""Which sums of exponentials are made in the pass that finds their maximum: of the values less the maximum so far, corrected as that grows (online
softmax; Milakov and Gimelshein, arXiv:1805.02867).
"""

from __future__ import annotations

from typing import Any, TypeGuard

from dslc.core.dtypes import FLOAT32
from dslc.ir.rows import Rows
from dslc.ir.trace import Apply, Given, Guard, Join, Node, Read, children


def follows(rows: Rows, p: int) -> bool:
    """Whether level p is the maximum of some float32 values alone, and the level behind it the sum of e to these values less that maximum, or less 0
    where it is -inf."""
    if p + 1 >= len(rows.folds) or len(rows.folds[p]) != 1 or len(rows.folds[p + 1]) != 1:
        return False
    (top,), (total,) = rows.folds[p], rows.folds[p + 1]
    if (top.kind, total.kind) != ("max", "sum") or {top.dtype, total.dtype, top.node.dtype} != {FLOAT32}:
        return False
    exp = _bare(total.node)
    if not _is(exp, "nn.exp"):
        return False
    rest = _bare(exp.arguments[0])
    if not _is(rest, "nn.sub"):
        return False
    number = sum(map(len, rows.folds[:p]))
    return alike(top.node, rest.arguments[0]) and _finite(_bare(rest.arguments[1]), number)


def _is(node: Node, name: str) -> TypeGuard[Apply]:
    """Whether a node is made by the op of this name."""
    return isinstance(node, Apply) and node.op.operation.name == name


def _bare(node: Node) -> Node:
    """The node behind what changes gradients alone."""
    while _is(node, "nn.stop_gradient"):
        (node,) = node.arguments
    return node


def _uniform(node: Node) -> object:
    """The one value of a constant, else None."""
    return node.op.uniform if _is(node, "nn.constant") else None


def _finite(node: Node, number: int) -> bool:
    """Whether a node is the result of fold `number`, or 0 where that is -inf."""
    if not _is(node, "nn.select"):
        return False
    test, none, some = map(_bare, node.arguments)
    if not (_is(test, "nn.compare") and test.op.predicate == "eq"):
        return False
    a, b = map(_bare, test.arguments)
    results = all(isinstance(n, Given) and n.key == number for n in (a, some))
    return results and _uniform(b) == float("-inf") and _uniform(none) == 0


def _same(a: Any, b: Any) -> bool:
    """Whether two ops are one, or do the same to each of their operands' elements."""
    if a.operation == b.operation:
        return True
    return a.structure == "elementwise" and a.operation.name == b.operation.name and bool(a.values() == b.values())


def alike(a: Node, b: Node) -> bool:
    """Whether two nodes are the same value, made from the same operands by the same ops."""
    a, b = _bare(a), _bare(b)
    if a is b:
        return True
    if type(a) is not type(b) or a.dtype != b.dtype:
        return False
    match a, b:
        case Read(), Read():
            return (a.operand, a.address, a.tests) == (b.operand, b.address, b.tests)
        case Given(), Given():
            return (a.key, a.at) == (b.key, b.at)
        case Apply(), Apply():
            same = a.at == b.at and _same(a.op, b.op)
        case Guard(), Guard():
            same = (a.tests, a.outside) == (b.tests, b.outside)
        case Join(), Join():
            same = [tests for tests, _ in a.branches] == [tests for tests, _ in b.branches]
        case _:
            same = True
    return same and all(map(alike, children(a)[0], children(b)[0]))
