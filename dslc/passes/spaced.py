"""spaced: convolutions of values with zeros between their elements, as transposed convolutions are written, become ones that skip the zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dslc.ir import index, ops
from dslc.ir.index import Dim, Expr
from dslc.ir.mlir import ir
from dslc.ir.program import blocks_of, functions_of
from dslc.ir.trace import tidy
from dslc.ir.types import type_of

from .prune import remove_dead
from .simplify import evenly, maker, uniform


@dataclass(frozen=True)
class Spaced:
    """A convolution whose operand is 0 wherever an index is no multiple of a step has the elements at the multiples as its operand, and the step as
    its spacing. Gradients are taken of that, so that none of them sums zeros.

    before: %up = select (compare eq (mod iota, 2), 0), (view %x repeated), 0; conv %up, %w      after: conv %x, %w {spacing = [2]}
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):
                _block(block)


def _block(block: ir.Block) -> None:
    for op in list(block.operations):
        if isinstance(op, ops.Conv):
            with ir.InsertionPoint(op), op.location:
                better = _spaced(op)
            if better is not None:
                op.results[0].replace_all_uses_with(better)
                op.operation.erase()
    remove_dead(block)


def _spaced(conv: ops.Conv) -> ir.Value | None:
    shape = type_of(conv.x).shape
    value, at = _source(conv.x, [Dim(k) for k in range(len(shape))], shape)
    chosen = maker(value)
    if not isinstance(chosen, ops.Select):
        return None
    condition, element, other = chosen.operands
    steps = _steps(condition, at, shape) if uniform(other) == 0 else None
    if not steps or any(axis < 3 for axis in steps):
        return None
    spacing = [steps.get(3 + k, 1) for k in range(len(shape) - 3)]
    fewer = (*shape[:3], *(-(-n // s) for n, s in zip(shape[3:], spacing)))
    spread = [Dim(0), Dim(1), Dim(2), *(Dim(3 + k) * s for k, s in enumerate(spacing))]
    value, at = _source(element, [tidy(index.substitute(e, spread), fewer) for e in at], fewer)
    found = [index.coefficients(e, len(fewer)) for e in at]
    assert all(f is not None for f in found), "_source gives affine places"
    x = ops.view(value, [f[0] for f in found], [f[1] for f in found], fewer)  # type: ignore[index]
    values = conv.values() | {"spacing": [a * b for a, b in zip(conv.spacing, spacing)]}
    return ops.Conv.of(x, conv.w, **values)


def _source(value: ir.Value, at: Sequence[Expr], sizes: Sequence[int]) -> tuple[ir.Value, list[Expr]]:
    """What a value shows the elements of, through views and reshapes, and where: the places stay affine."""
    at = list(at)
    while True:
        op = maker(value)
        if isinstance(op, ops.View) and op.inside:
            inner = [index.substitute(e, at) for e in op.maps().reads[0]]
        elif isinstance(op, ops.Reshape):
            inner = index.delinearize(index.linearize(at, type_of(value).shape), type_of(op.operands[0]).shape)
        else:
            return value, at
        inner = [tidy(e, sizes) for e in inner]
        if any(index.coefficients(e, len(sizes)) is None for e in inner):
            return value, at
        value, at = op.operands[0], inner


def _steps(condition: ir.Value, at: Sequence[Expr], sizes: Sequence[int]) -> dict[int, int] | None:
    """By axis, the number of which its index must be a multiple where a condition holds; None for another condition."""
    condition, at = _source(condition, at, sizes)
    op = maker(condition)
    if isinstance(op, ops.And):
        both = [_steps(v, at, sizes) for v in op.operands]
        if both[0] is None or both[1] is None or set(both[0]) & set(both[1]):
            return None
        return both[0] | both[1]
    if not isinstance(op, ops.Compare) or op.predicate != "eq" or uniform(op.b) != 0:
        return None
    rest, at = _source(op.a, at, sizes)
    mod = maker(rest)
    if not isinstance(mod, ops.Mod):
        return None
    step, grown = uniform(mod.b), evenly(mod.a)
    if not step or step < 2 or grown is None:
        return None
    place: Expr = index.Const(grown[0])
    for e, by in zip(at, grown[1]):
        place = place + e * by
    factors, offset = index.coefficients(tidy(place, sizes), len(sizes)) or ([], 0)
    axes = [k for k, f in enumerate(factors) if f]
    return {axes[0]: int(step)} if len(axes) == 1 and factors[axes[0]] == 1 and offset % int(step) == 0 else None
