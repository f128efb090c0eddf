"""Folds of later passes over memory that an earlier pass can make as well.

A sum whose terms are linear in what depends on no fold, with factors that are a row's alone, is made of the sums of that: sum(c * x) is c * sum(x),
as in the gradient of a normalization. The sum of squares about a row's mean is made together with the mean, as partial states (count, mean, squares
about that mean) which meet as Chan, Golub and LeVeque combine them ("Updating formulae and a pairwise algorithm for computing sample variances",
1979). A thread sums x - k and (x - k)^2 about the first of its own n values, so that sum((x - k)^2) is at most n + 1 times what remains of it.
Roundings on the way are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeGuard

from dslc.core.dtypes import DType
from dslc.ir import index
from dslc.ir.rows import Fold, Rows
from dslc.ir.trace import Apply, Given, Guard, Node, Read, children, dims_under, symbols_of

from ..scalars import Arithmetic, Val

MOST_SUMS = 8  # of a pass: each takes registers


@dataclass(frozen=True)
class Moments(Fold):
    """A sum together with the squares about its mean; the state is (count, mean, squares)."""

    @property
    def parts(self) -> list[DType]:
        return [super().parts[0]] * 3


@dataclass(frozen=True)
class Factor:
    """A number of the row that multiplies, or with `divides` divides."""

    node: Node
    divides: bool = False


@dataclass(frozen=True)
class Term:
    """`sign` times its factors times part `part` of fold `fold` of the pass, or the count of points where that is None."""

    sign: int
    factors: tuple[Factor, ...]
    fold: int | None
    part: int = 0


@dataclass(frozen=True)
class Made:
    """Result `number` of the kernel's folds as a sum of terms, computed in `wide`."""

    number: int
    dtype: DType
    wide: DType
    terms: tuple[Term, ...]

    def value(self, s: Arithmetic, states: Sequence[Sequence[Val]], points: int, value: Callable[[Node], Val]) -> Val:
        """Its text, from those of the pass's states (`parts_of`) and of the factors."""
        total: Val | None = None
        for t in self.terms:
            x = s.const(points, self.wide) if t.fold is None else states[t.fold][t.part]
            for f in t.factors:
                by = value(f.node)
                x = (s.div if f.divides else s.mul)(x, s.cast(by, by.dtype, self.wide))
            x = s.neg(x) if t.sign < 0 else x
            total = x if total is None else s.add(total, x)
        assert total is not None
        return Val(total.text, self.dtype)


@dataclass(frozen=True)
class Pass:
    """One pass: what it folds, and the results of the kernel's folds that follow from that, in order."""

    folds: list[Fold]
    made: list[Made]

    @property
    def factors(self) -> list[Node]:
        return [f.node for m in self.made for t in m.terms for f in t.factors]


def parts_of(s: Arithmetic, fold: Fold, state: Sequence[Val]) -> Sequence[Val]:
    """What a term takes of a state: of moments the sum and the squares about the mean."""
    return [s.mul(state[0], state[1]), state[2]] if isinstance(fold, Moments) else state


def moments_combined(s: Arithmetic, a: Sequence[Val], b: Sequence[Val]) -> list[Val]:
    """Two states as one, the same to the bit whichever comes first."""
    count, apart = s.add(a[0], b[0]), s.sub(b[1], a[1])
    one, half = s.const(1, count.dtype), s.const(0.5, count.dtype)
    part = s.div(one, s.max(count, one))
    mean = s.mul(half, s.add(s.add(a[1], b[1]), s.mul(apart, s.mul(s.sub(b[0], a[0]), part))))
    between = s.mul(s.mul(apart, apart), s.mul(s.mul(a[0], b[0]), part))
    return [count, mean, s.add(s.add(a[2], b[2]), between)]


def plain(rows: Rows) -> list[Pass]:
    """A pass for each level of folds."""
    passes, number = [], 0
    for level in rows.folds:
        passes.append(Pass(level, [_made(number + k, f, Term(1, (), k, f.result)) for k, f in enumerate(level)]))
        number += len(level)
    return passes


def passes_of(rows: Rows) -> list[Pass]:
    """A pass for each level of folds, without those that earlier passes make."""
    merging, number = _Merging(rows), 0
    for level in rows.folds:
        merging.level(list(enumerate(level, number)))
        number += len(level)
    return merging.passes


class _Merging:
    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.own = rows.trace.tidy(index.linearize(rows.row_axes, rows.space.rows))
        self.points = prod(rows.nest.sizes[rows.kept :])
        self.passes: list[Pass] = []
        self.pass_of: dict[int, int] = {}  # of the kernel's folds
        self.places: dict[int, int] = {}  # which fold of its pass a result is, where it is one

    def level(self, folds: Iterable[tuple[int, Fold]]) -> None:
        """Adds the folds of a level, by number."""
        own = Pass([], [])
        for number, fold in folds:
            if self._moments(number, fold) or self._linear(number, fold):
                continue
            self.pass_of[number], self.places[number] = len(self.passes), len(own.folds)
            own.made.append(_made(number, fold, Term(1, (), len(own.folds), fold.result)))
            own.folds.append(fold)
        if own.folds:
            self.passes.append(own)

    def _moments(self, number: int, fold: Fold) -> bool:
        """Whether a fold is the sum of squares about the mean of an earlier one, which then is one of moments."""
        root = _unrounded(fold.node)
        if fold.kind != "sum" or not _is(root, "nn.mul") or not _same(*root.arguments):
            return False
        apart = _unrounded(root.arguments[0])
        if not _is(apart, "nn.sub"):
            return False
        of = self._mean_of(apart.arguments[1])
        if of is None or of not in self.places:
            return False
        p, k = self.pass_of[of], self.places[of]
        sums = self.passes[p].folds[k]
        if sums.kind != "sum" or sums.parts[0] != fold.parts[0] or not _same(apart.arguments[0], sums.node):
            return False
        self.passes[p].folds[k] = Moments(sums.kind, sums.dtype, sums.node)
        self.passes[p].made.append(_made(number, fold, Term(1, (), k, 1)))
        self.pass_of[number] = p
        return True

    def _mean_of(self, node: Node) -> int | None:
        """The number of the sum of which a node is the mean."""
        node = _unrounded(node)
        if not _is(node, "nn.mul", "nn.div"):
            return None
        a, b = (_unrounded(x) for x in node.arguments)
        if _is(node, "nn.mul") and _number(a) is not None:
            a, b = b, a
        by = _number(b)
        if not by:
            return None
        count = by if _is(node, "nn.div") else 1 / by
        return self._fold_of(a) if abs(count - self.points) <= 1e-6 * self.points else None

    def _linear(self, number: int, fold: Fold) -> bool:
        """Whether a fold is made of sums that an earlier pass makes."""
        terms = self._terms(fold.node) if fold.kind == "sum" and fold.dtype.is_float and self.passes else None
        if terms is None:
            return False
        needed = [self._folds_under(f.node) for _, factors, _ in terms for f in factors]
        if any(n is None or not n <= self.pass_of.keys() for n in needed):
            return False
        p = max((self.pass_of[k] for n in needed if n for k in n), default=0)
        folds, made = list(self.passes[p].folds), []
        for sign, factors, base in terms:
            k = None
            if base is not None:
                wanted = Fold("sum", fold.dtype, base)
                k = next((k for k, f in enumerate(folds) if f.kind == "sum" and f.parts[0] == wanted.parts[0] and _same(f.node, base)), len(folds))
                folds += [wanted] if k == len(folds) else []
            made.append(Term(sign, factors, k))
        if len(folds) > MOST_SUMS and len(folds) > len(self.passes[p].folds):
            return False
        self.passes[p].folds[:] = folds
        self.passes[p].made.append(_made(number, fold, *made))
        self.pass_of[number] = p
        return True

    def _terms(self, node: Node, sign: int = 1, factors: tuple[Factor, ...] = ()) -> list[tuple[int, tuple[Factor, ...], Node | None]] | None:
        """A node as a sum of signs times factors of the row times nodes that need no fold (None: 1); None where it is no such sum."""
        if not self._is_fixed(node) and self._folds_under(node) == set():
            return [(sign, factors, node)]
        if self._is_fixed(node):
            return [(sign, (*factors, Factor(node)), None)]
        node = _unrounded(node)
        if _is(node, "nn.neg"):
            return self._terms(node.arguments[0], -sign, factors)
        if _is(node, "nn.add", "nn.sub"):
            a, b = node.arguments
            parts = self._terms(a, sign, factors), self._terms(b, sign if _is(node, "nn.add") else -sign, factors)
            return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        if _is(node, "nn.mul", "nn.div"):
            a, b = node.arguments
            if self._is_fixed(b):
                return self._terms(a, sign, (*factors, Factor(b, _is(node, "nn.div"))))
            if _is(node, "nn.mul") and self._is_fixed(a):
                return self._terms(b, sign, (*factors, Factor(a)))
        return None

    def _is_fixed(self, node: Node) -> bool:
        """Whether a node is a number of the row."""
        return all(d < self.rows.kept for d in dims_under(self.rows.trace, [node])[id(node)])

    def _fold_of(self, node: Node) -> int | None:
        """Which fold's result at the own row a node is."""
        if isinstance(node, Given) and node.key is not None and node.at == self.rows.row_axes:
            return node.key
        behind = len(self.rows.body.operands)
        return node.operand - behind if isinstance(node, Read) and node.operand >= behind and node.address == self.own and not node.tests else None

    def _folds_under(self, node: Node) -> set[int] | None:
        """The folds whose results at the own row a node needs; None if it needs those of other rows."""
        found, seen, stack = set(), set(), [node]
        while stack:
            n = stack.pop()
            if id(n) in seen:
                continue
            seen.add(id(n))
            k = self._fold_of(n)
            if k is not None:
                found.add(k)
            elif (isinstance(n, Given) and n.key is not None) or (isinstance(n, Read) and n.operand >= len(self.rows.body.operands)):
                return None
            else:
                parts, expressions = children(n)
                stack += [*parts, *(self.rows.trace.symbols[i] for e in expressions for i in symbols_of(e))]
        return found


def _made(number: int, fold: Fold, *terms: Term) -> Made:
    return Made(number, fold.parts[fold.result] if fold.place is not None else fold.dtype, fold.parts[0], terms)


def _is(node: Node, *names: str) -> TypeGuard[Apply]:
    return isinstance(node, Apply) and node.op.operation.name in names


def _unrounded(node: Node) -> Node:
    """What a float is rounded from, or widened."""
    while _is(node, "nn.cast") and node.dtype.is_float and node.arguments[0].dtype.is_float:
        (node,) = node.arguments
    return node


def _number(node: Node) -> float | None:
    """The value of a constant."""
    node = _unrounded(node)
    return float(node.op.uniform) if _is(node, "nn.constant") and node.op.uniform is not None else None


def _same(a: Node, b: Node) -> bool:
    """Whether two nodes are one value, but for roundings."""
    a, b = _unrounded(a), _unrounded(b)
    if a is b:
        return True
    if isinstance(a, Read) and isinstance(b, Read):
        return (a.operand, a.address, a.tests) == (b.operand, b.address, b.tests)
    if isinstance(a, Guard) and isinstance(b, Guard):
        return (a.tests, a.outside) == (b.tests, b.outside) and _same(a.value, b.value)
    if not isinstance(a, Apply) or not isinstance(b, Apply) or len(a.arguments) != len(b.arguments) or a.at != b.at:
        return False
    alike = a.op.operation.name == b.op.operation.name and a.dtype == b.dtype and _attributes(a) == _attributes(b)
    return alike and all(map(_same, a.arguments, b.arguments))


def _attributes(node: Apply) -> dict[str, str]:
    return {a.name: str(a.attr) for a in node.op.operation.attributes}
