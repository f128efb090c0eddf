"""scale_weights: factors of a product's result go into its weights, which `prepare` scales once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir import index, ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION, Op
from dslc.ir.program import program_of
from dslc.ir.types import fuse_locations, type_of

from .prepare import Behind, behind_each, fixed_arguments, is_small, widens
from .prune import remove_dead
from .simplify import maker, uniform


@dataclass(frozen=True)
class ScaleWeights:
    """A contraction whose result is multiplied by what follows from parameters and fixed states alone, along axes that one such operand (the weights)
    has too, becomes one of scaled weights; what is added on the way is scaled and added at once. So a normalization by known statistics is a sum, and
    a layer's scale nothing. Only where `prepare` keeps the scaled weights; a factor that is one number stays, as it costs less than a copy of them.

    before: %1 = contract %x, %w; %2 = sub %1, %mean; %3 = mul %2, %f
    after: %1 = mul %w, %f; %2 = contract %x, %1; %3 = neg %mean; %4 = mul %3, %f; %5 = add %2, %4
    """

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        block = program.entry_block
        behind = behind_each(block, fixed_arguments(program))
        for op in list(block.operations):
            if isinstance(op, (ops.Contract, ops.Conv)):
                _scale(op, behind)
        remove_dead(block)


@dataclass(frozen=True)
class Part:
    """A tensor that depends on some axes of a shape alone: its value over those, in order, and the parameters that it is made from."""

    value: ir.Value
    axes: tuple[int, ...]
    parameters: frozenset[ir.Value]


@dataclass(frozen=True)
class Affine:
    """factor * product + shift, over the product's axes; None: 1 and 0."""

    factor: Part | None = None
    shift: Part | None = None


def _scale(product: Op, behind: Behind) -> None:
    t = product.type
    fixed = [k for k, v in enumerate(product.operands) if behind.get(v)]
    if len(fixed) != 1 or t.size == 0 or any(s.dtype not in (FLOAT32, FLOAT64) or s.dtype != t.dtype for s in product.types()):
        return
    side = fixed[0]
    weights = product.operands[side]
    if not isinstance(weights.owner, ir.Block) and widens(weights.owner.opview):
        return  # they lie in a narrow type, and would no longer
    axes = {e.axis: a for a, e in enumerate(product.maps().reads[side]) if isinstance(e, index.Dim) and e.axis < t.rank}  # of the result: theirs

    def fits(found: Affine) -> bool:
        f, s = found.factor, found.shift
        scales = f is None or (set(f.axes) <= set(axes) and is_small(type_of(weights), behind[weights] | f.parameters))
        return scales and (s is None or not s.axes or is_small(type_of(s.value), s.parameters))

    chain = _Chain(product, behind)
    for _ in chain.steps(fits):
        pass
    factor = chain.found.factor
    if factor is None or not factor.axes:
        return
    end, kept = chain.end, chain.passed[: chain.placed]
    with ir.InsertionPoint(end), fuse_locations([op.location for op in (product, *chain.done)]):
        operands = list(product.operands)
        operands[side] = ops.Mul.of(weights, ops.broadcast(factor.value, type_of(weights).shape, [axes[d] for d in factor.axes]))
        made = type(product).of(*operands, **product.values())
        if PRECISION in product.attributes:
            made.owner.attributes[PRECISION] = product.attributes[PRECISION]
        made, shift = _placed(made, kept), chain.found.shift
        if shift is not None:  # behind what only places elements, where other work on the result is
            made = ops.Add.of(made, _placed(ops.broadcast(shift.value, t.shape, shift.axes), kept))
    end.results[0].replace_all_uses_with(made)


def _placed(value: ir.Value, views: Sequence[Op]) -> ir.Value:
    for op in views:
        value = type(op).of(value, **op.values())
    return value


class _Chain:
    """The ops behind a product, each the only reader of the one before: sums and products with fixed values, and ops that only place elements."""

    def __init__(self, product: Op, behind: Behind) -> None:
        self.product, self.behind = product, behind
        self.found = Affine()
        self.end = product  # the last op that `found` tells of
        self.done: list[Op] = []
        self.passed: list[Op] = []  # ops that only place elements, on the way
        self.placed = 0  # as many of them lie before `end`

    def steps(self, fits: Callable[[Affine], bool]) -> Iterator[Op]:
        """Goes on as long as what is found fits."""
        value = self.product.results[0]
        while len(uses := list(value.uses)) == 1 and isinstance(op := uses[0].owner.opview, Op):
            if isinstance(op, (ops.View, ops.Reshape)):
                if not _moves_axes(op):
                    return
                self.passed.append(op)
            else:
                rule = _RULES.get(type(op))
                place = list(op.operands).index(value)
                others = [v for k, v in enumerate(op.operands) if k != place]
                if rule is None or PRECISION in op.attributes or any(v not in self.behind for v in others):
                    return
                with ir.InsertionPoint(op), op.location:
                    after = rule(self.found, place, self.part(others[0]) if others else _minus_one(value))
                if after is None or not fits(after):
                    return
                self.found, self.end, self.placed = after, op, len(self.passed)
                self.done.append(op)
            value = op.results[0]
            yield op

    def part(self, value: ir.Value) -> Part:
        """A value with the points of the chain's, as a part over the product's axes."""
        axes = sorted(_axes_of(value))
        part = Part(_narrowed(value, axes), tuple(axes), self.behind[value])
        for op in reversed(self.passed):
            part = _before_reshape(part, op) if isinstance(op, ops.Reshape) else _before_view(part, op)
        return part


# --- what an op makes of factor * product + shift; `place`: of the product among its operands --------------------------------------------


def _both(kind: type[Op], a: Part, b: Part) -> Part:
    """An elementwise op of two parts, over the axes of either."""
    sizes = dict(zip(a.axes, type_of(a.value).shape)) | dict(zip(b.axes, type_of(b.value).shape))
    axes = sorted(sizes)
    x, y = (ops.broadcast(p.value, [sizes[k] for k in axes], [axes.index(k) for k in p.axes]) for p in (a, b))
    return Part(kind.of(x, y), tuple(axes), a.parameters | b.parameters)


def _minus_one(like: ir.Value) -> Part:
    return Part(ops.full(type_of(like).with_shape(()), -1), (), frozenset())


def _mul(x: Affine, _place: int, f: Part) -> Affine:
    return Affine(f if x.factor is None else _both(ops.Mul, x.factor, f), None if x.shift is None else _both(ops.Mul, x.shift, f))


def _div(x: Affine, place: int, f: Part) -> Affine | None:
    return _mul(x, 0, Part(ops.Div.of(ops.full_like(f.value, 1), f.value), f.axes, f.parameters)) if place == 0 else None


def _add(x: Affine, _place: int, f: Part) -> Affine:
    return Affine(x.factor, f if x.shift is None else _both(ops.Add, x.shift, f))


def _sub(x: Affine, place: int, f: Part) -> Affine:
    return _add(x, 0, Part(ops.Neg.of(f.value), f.axes, f.parameters)) if place == 0 else _add(_mul(x, 0, _minus_one(f.value)), 0, f)


_RULES: dict[type, Callable[[Affine, int, Part], Affine | None]] = {ops.Mul: _mul, ops.Div: _div, ops.Add: _add, ops.Sub: _sub, ops.Neg: _mul}


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _axes_of(value: ir.Value) -> set[int]:
    """The axes, of more than one element, that a value depends on."""
    op, t = maker(value), type_of(value)
    if uniform(value) is not None:
        return set()
    if isinstance(op, ops.View):
        unused = set(op.unused)
    elif op is not None and op.structure == "elementwise":
        unused = set(range(t.rank)) - set().union(*(_axes_of(v) for v in op.operands))
    else:
        unused = set()
    return {a for a, n in enumerate(t.shape) if n > 1 and a not in unused}


def _narrowed(value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """The value over these axes alone, at the first place of the others, on which it does not depend."""
    op, t = maker(value), type_of(value)
    shape = [t.shape[a] for a in axes]
    known = uniform(value)
    if known is not None:
        return ops.full(t.with_shape(shape), known)
    if isinstance(op, ops.View):
        return ops.view(op.operands[0], [[row[a] for a in axes] for row in op.matrix], op.offsets, shape, op.outside)
    if op is not None and op.structure == "elementwise" and len(axes) < t.rank:
        return type(op).of(*[_narrowed(v, axes) for v in op.operands], **op.values())
    return ops.view(value, [[int(a == k) for k in axes] for a in range(t.rank)], [0] * t.rank, shape)


def _moves_axes(op: Op) -> bool:
    """Whether an op only gives elements other places, each one: a reshape, or a view that puts whole axes into another order (those of one element
    may come and go)."""
    if isinstance(op, ops.Reshape):
        return True
    x = type_of(op.operands[0]).shape
    places = _places(op)
    return op.inside and prod(x) == prod(op.shape) and len(places) == sum(n > 1 for n in x) and all(op.shape[k] == x[a] for k, a in places.items())


def _places(view: ops.View) -> dict[int, int]:
    """For each axis of a view's result, of more than one element, the axis that it goes along step by step."""
    x = type_of(view.operands[0]).shape
    rows = [(a, [k for k, f in enumerate(row) if f and view.shape[k] > 1]) for a, row in enumerate(view.matrix)]
    return {used[0]: a for a, used in rows if len(used) == 1 and view.matrix[a][used[0]] == 1 and x[a] > 1 and view.offsets[a] == 0}


def _before_view(part: Part, view: ops.View) -> Part:
    """A part over the axes of the view's operand."""
    places = _places(view)
    axes = sorted(places[k] for k in part.axes)
    order = [part.axes.index(next(k for k in part.axes if places[k] == a)) for a in axes]
    return Part(ops.transpose(part.value, order), tuple(axes), part.parameters)


def _before_reshape(part: Part, reshape: ops.Reshape) -> Part:
    """A part over the axes of the reshape's operand: all that make up the axes it depends on."""
    before, after = type_of(reshape.operands[0]).shape, reshape.shape
    groups = [(old, new) for old, new in _groups(before, after) if set(new) & set(part.axes)]
    old, new = ([a for group in groups for a in group[k]] for k in (0, 1))
    whole = ops.broadcast(part.value, [after[a] for a in new], [new.index(a) for a in part.axes])
    axes = [a for a in old if before[a] > 1]
    return Part(ops.reshape(whole, [before[a] for a in axes]), tuple(axes), part.parameters)


def _groups(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """The fewest axes of two shapes, in order, that have as many elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        old: list[int] = []
        new: list[int] = []
        m = n = 1
        while not (old or new) or m != n:
            if i < len(before) and m <= n:
                old.append(i)
                m, i = m * before[i], i + 1
            else:
                new.append(j)
                n, j = n * after[j], j + 1
        yield old, new
