"""What of a program depends on the lengths of a run, found by comparing it with the same model's programs at other lengths.

The programs must be alike op by op. A size, an offset or a constant that differs is fitted by a `Length`; what fits none, and whatever else differs,
cannot be told at run time, and is an error with the model's line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import exp, isclose, log, sqrt
from typing import Any

import numpy as np

from dslc.core.errors import Error, ShapeError, Span
from dslc.core.lengths import DIVISORS, Length, fitted, length, parts_of, quotient, size_of
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.program import Slot, arguments_of, program_of, results_of
from dslc.ir.types import TensorType, spans_of, type_of

Sizes = Mapping[str, int]
Shape = tuple[Length, ...]

# How a number may follow from a length: (name, what it makes a length of, what it makes of a length).
FITS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "itself": (lambda v: v, lambda n: n),
    "reciprocal": (lambda v: 1 / v, lambda n: 1 / n),
    "sqrt": (lambda v: v * v, sqrt),
    "rsqrt": (lambda v: 1 / (v * v), lambda n: 1 / sqrt(n)),
    "log": (exp, log),
}


ODD = 16  # lengths that may have programs of their own


@dataclass(frozen=True)
class Number:
    """A constant's value: `fit` of a length."""

    fit: str
    of: Length

    @property
    def dims(self) -> set[str]:
        return self.of.dims


@dataclass
class Sample:
    """The program at some sizes of the dimensions."""

    sizes: Sizes
    module: ir.Module
    compared: Sequence[tuple[str, float, float, Span]] = ()  # numbers that the model compares at compile time
    swap: dict[ir.Value, ir.Value] = field(default_factory=dict)  # values of the base program: the same here

    @property
    def program(self) -> func.FuncOp:
        return program_of(self.module)


@dataclass
class Varying:
    """A program with what depends on lengths: the shape of each value, and the attributes of ops (by their first result) that are not always the
    same. `base`: the program itself; `low` and `high`: the sizes between which lengths were fitted."""

    base: func.FuncOp
    low: Sizes
    high: Sizes
    shapes: dict[ir.Value, Shape] = field(default_factory=dict)
    attributes: dict[ir.Value, dict[str, Any]] = field(default_factory=dict)
    odd: dict[str, set[int]] = field(default_factory=dict)  # lengths at which the model decides otherwise, between `low` and `high`
    bounds: dict[str, Length] = field(default_factory=dict)  # one past the greatest value of inputs that are used as indices


def compare(samples: Sequence[Sample], low: Sizes, high: Sizes) -> Varying:
    """What depends on lengths in the program of the first sample, whose sizes are `high`. There is a sample at every corner of the box from `low` to
    `high`, and others beside it, which confirm what was fitted. ShapeError where the programs differ in another way."""
    return _Comparison(list(samples), Varying(samples[0].program, low, high)).run()


class _Comparison:
    def __init__(self, samples: list[Sample], found: Varying):
        self.samples, self.base, self.others, self.found = samples, samples[0], samples[1:], found
        self.base.swap = _Same()

    def run(self) -> Varying:
        slots = [arguments_of(s.program) for s in self.samples]
        if any([(a.name, a.role) for a in own] != [(a.name, a.role) for a in slots[0]] for own in slots):
            raise ShapeError(f"another length of {self.names()} makes a program with other inputs or parameters")
        for at in zip(*slots):
            self._bounds(at)
        self._block([s.program.entry_block for s in self.samples])
        ends = [results_of(s.program) for s in self.samples]
        for at in zip(*ends):
            if len({s.name for s, _ in at}) > 1 or any(sample.swap[at[0][1]] != v for sample, (_, v) in zip(self.others, at[1:])):
                raise ShapeError(f"another length of {self.names()} makes another '{at[0][0].name}'")
        self._decisions()
        return self.found

    def _decisions(self) -> None:
        """Lengths at which something that the model compares at compile time comes out otherwise than in the base program."""
        told = [[(op, span) for op, _, _, span in s.compared] for s in self.samples]
        if any(other != told[0] for other in told):
            raise ShapeError(f"another length of {self.names()} makes the model compare other numbers")
        for at in zip(*(s.compared for s in self.samples)):
            op, span = at[0][0], at[0][3]
            apart = [a - b for _, a, b, _ in at]
            if all((a, b) == at[0][1:3] for _, a, b, _ in at):
                continue
            found: Length | None = self._fitted(apart)
            if not self._tells(found, apart):
                found = self._quotients([int(v) for v in apart], None) if all(int(v) == v for v in apart) else None
            if found is None:
                raise self._undecided(span, "what is compared here follows from it in a way that is known at compile time only")
            for dim in {parts_of(name)[0] for name in found.dims}:
                if len(self.found.low) > 1 and len(found.dims) > 1:
                    raise self._undecided(span, "it is compared with another length")
                lengths = range(self.found.low[dim], self.found.high[dim])
                odd = {n for n in lengths if _holds(op, found.at({dim: n})) != _holds(op, apart[0])}
                self.found.odd.setdefault(dim, set()).update(odd)
                if len(self.found.odd[dim]) > ODD:
                    raise self._undecided(span, f"for {len(self.found.odd[dim])} lengths the model decides otherwise than for the others")

    def _tells(self, found: Length | None, values: Sequence[float]) -> bool:
        return found is not None and all(isclose(found.at(s.sizes), v, abs_tol=1e-9) for s, v in zip(self.samples, values))

    def _undecided(self, span: Span, why: str) -> ShapeError:
        return ShapeError(f"the length of {self.names()} cannot vary here: {why}", span,
                          help=f"a fixed length: dims {', '.join(f'{name}=SIZE' for name in self.found.high)}")  # fmt: skip

    def names(self) -> str:
        return " and ".join(f"'{name}'" for name in self.found.high)

    # --- values and ops

    def _bounds(self, slots: Sequence[Slot]) -> None:
        """The bounds of an input: those of the slots."""
        if slots[0].bounds is not None and all(s.bounds is not None for s in slots):
            self.found.bounds[slots[0].name] = self._length([s.bounds[1] for s in slots], None)  # type: ignore[index]

    def _block(self, blocks: Sequence[ir.Block]) -> None:
        for at in zip(*(b.arguments for b in blocks)):
            self._same(list(at), None)
        rest = [iter(list(b.operations)) for b in blocks[1:]]
        cursors = [_Cursor(r, next(r, None)) for r in rest]
        for op in blocks[0].operations:
            if isinstance(op, func.ReturnOp):
                return
            self._op(op, cursors)

    def _op(self, op: Op, cursors: Sequence[_Cursor]) -> None:
        found = [op]
        told: list[dict[str, Any]] = [_values(op)]
        for sample, cursor in zip(self.others, cursors):
            other = cursor.op
            operands = [sample.swap.get(v) for v in op.operands]
            if _alike(op, other) and list(other.operands) == operands:  # type: ignore[union-attr]
                found.append(other)  # type: ignore[arg-type]
                told.append(_values(other))  # type: ignore[arg-type]
                cursor.step()
            elif isinstance(op, (ops.View, ops.Reshape)) and operands[0] is not None:  # it moves nothing there, and was left out
                sample.swap[op.results[0]] = operands[0]
                found.append(None)  # type: ignore[arg-type]
                told.append(_identity(op, type_of(operands[0])))
            else:
                raise self._error(op, "this is computed in another way at other lengths")
        for k in range(len(op.results)):
            self._same([self._result(s, op, other, k) for s, other in zip(self.samples, found)], op)
        varying = {name: v for name in told[0] if (v := self._attribute(name, [t[name] for t in told], op)) is not None}
        if varying:
            self.found.attributes[op.results[0]] = varying
        for k in range(len(op.regions)):
            self._block([o.regions[k].blocks[0] for o in found])

    def _result(self, sample: Sample, op: Op, other: Op | None, k: int) -> ir.Value:
        if other is None:
            return sample.swap[op.results[0]]
        if sample is not self.base:
            sample.swap[op.results[k]] = other.results[k]
        return other.results[k]

    def _same(self, values: list[ir.Value], op: Op | None) -> None:
        """One value in every program: its shape."""
        for sample, value in zip(self.others, values[1:]):
            sample.swap[values[0]] = value
        types = [type_of(v) for v in values]
        if any((t.dtype, t.rank) != (types[0].dtype, types[0].rank) for t in types):
            raise self._error(op, "this has other axes at other lengths")
        self.found.shapes[values[0]] = tuple(self._length(sizes, op) for sizes in zip(*(t.shape for t in types)))

    # --- numbers

    def _attribute(self, name: str, given: Sequence[Any], op: Op) -> Any:
        """What stands for an attribute that is not always the same: Lengths of integers, a Number of a uniform constant; None where it is."""
        first = given[0]
        if isinstance(op, ops.Constant):
            return self._constant(given, op)
        if all(v == first for v in given):
            return None
        if isinstance(first, tuple) and all(len(v) == len(first) for v in given):
            return tuple(self._length(entries, op) for entries in zip(*given))
        if isinstance(first, int) and not isinstance(first, bool):
            return self._length(given, op)
        raise self._error(op, f"{name} is not the same at other lengths")

    def _constant(self, values: Sequence[Any], op: Op) -> Number | None:
        if any(isinstance(v, np.ndarray) for v in values):
            if all(np.array_equal(v, values[0]) for v in values):
                return None
            raise self._error(op, "a table of numbers is not the same at other lengths")
        if all(v == values[0] or (v != v and values[0] != values[0]) for v in values):
            return None
        for fit in FITS if type_of(op.results[0]).dtype.is_float else ("itself",):
            try:
                made = [FITS[fit][0](v) for v in values]
                near = [round(v) for v in made]
                stepping = self._quotients(near, op) if all(isclose(a, b, rel_tol=1e-5) for a, b in zip(made, near)) else None
                for found in (self._fitted(made), stepping):
                    if found and all(isclose(FITS[fit][1](found.at(s.sizes)), v, rel_tol=1e-5) for s, v in zip(self.samples, values)):
                        return Number(fit, found)
            except (ZeroDivisionError, OverflowError, ValueError):
                continue
        raise self._error(op, "a number follows from the length in a way that is known at compile time only")

    def _length(self, values: Sequence[int], op: Op | None) -> Length:
        if all(v == values[0] for v in values):
            return length(values[0])
        found = self._fitted(values)
        if self._fits(found, values):
            return found
        stepping = self._quotients(values, op)
        if not stepping:
            raise self._error(op, "a size follows from the length neither by sums nor by products with, or quotients by, fixed numbers")
        return stepping

    def _fits(self, found: Length, values: Sequence[int]) -> bool:
        return all(found.at(s.sizes) == v for s, v in zip(self.samples, values)) and all(int(f) == f for _, f in found.terms)

    def _quotients(self, values: Sequence[int], op: Op | None) -> Length | None:
        """The size with a quotient in the place of one dimension, or of all of them. Unclear where the samples do not tell which one."""
        low, high = self.found.low, self.found.high
        found: list[Length] = []
        for stepping in [*((name,) for name in low), *([tuple(low)] if len(low) > 1 else [])]:
            for by in range(2, DIVISORS + 1):
                for plus in range(by):
                    names = {d: quotient(d, plus, by) if d in stepping else d for d in low}
                    least, most = ({name: size_of(name, sizes) for name in names.values()} for sizes in (low, high))
                    if any(least[name] == most[name] for name in least):
                        continue
                    at = {tuple(size_of(name, s.sizes) for name in names.values()): v for s, v in zip(self.samples, values)}
                    made = fitted(least, most, partial(_told, at))
                    if self._fits(made, values) and not any(_same_between(made, other, low, high) for other in found):
                        found.append(made)
        if len(found) > 1:
            raise self._error(op, "the sizes that were looked at do not tell how a size follows from it", Unclear)
        return found[0] if found else None

    def _fitted(self, values: Sequence[float]) -> Length:
        at = {tuple(s.sizes.values()): v for s, v in zip(self.samples, values)}
        return fitted(self.found.low, self.found.high, lambda sizes: at[tuple(sizes.values())])

    def _error(self, op: Op | None, why: str, kind: type[ShapeError] = ShapeError) -> ShapeError:
        return cannot_vary(kind, list(self.found.high), op, why)


def _holds(op: str, apart: float) -> bool:
    """Whether a comparison holds of two numbers that are so far apart."""
    apart = 0.0 if abs(apart) < 1e-9 else apart
    return {"<": apart < 0, "<=": apart <= 0, ">": apart > 0, ">=": apart >= 0, "==": apart == 0, "!=": apart != 0}[op]


def _told(at: Mapping[tuple[int, ...], int], sizes: Sizes) -> int:
    return at[tuple(sizes.values())]


def _same_between(a: Length, b: Length, low: Sizes, high: Sizes) -> bool:
    """Whether two lengths are the same for all sizes between two, looked at along the diagonal of the box and its edges at the low end."""
    for name in (None, *low):
        span = max(high[d] - low[d] for d in low)
        for k in range(min(span, 2 * DIVISORS * DIVISORS) + 1):
            sizes = {d: low[d] + (min(k, high[d] - low[d]) if name in (None, d) else 0) for d in low}
            if a.at(sizes) != b.at(sizes):
                return False
    return True


class Unclear(ShapeError):
    """More sizes must be looked at to tell how one follows from a length."""


def cannot_vary(kind: type[Error], dims: Sequence[str], op: Op | None, why: str) -> Any:
    """The error for an op that needs fixed lengths, at the model's own line."""
    places = spans_of(op.location) if op is not None else []
    notes = [f"in {places[0]}"] if len(places) > 1 else []
    names = " and ".join(f"'{name}'" for name in dims)
    return kind(f"the length of {names} cannot vary here: {why}", places[-1:], notes=notes,
                help=f"a fixed length: dims {', '.join(f'{name}=SIZE' for name in dims)}")  # fmt: skip


class _Same(dict):
    """The base program's own values."""

    def __missing__(self, value: ir.Value) -> ir.Value:
        return value


@dataclass
class _Cursor:
    """The next op of a block."""

    rest: Iterator[Op]
    op: Op | None

    def step(self) -> None:
        self.op = next(self.rest, None)


def _alike(a: Op, b: Op | None) -> bool:
    """Ops of one kind with the same regions, results and tags."""
    return (
        b is not None
        and type(a) is type(b)
        and (len(a.results), len(a.regions), len(a.operands)) == (len(b.results), len(b.regions), len(b.operands))
    )


def _values(op: Op) -> dict[str, Any]:
    """The attributes as Python values; of a uniform constant the one number."""
    if isinstance(op, ops.Constant):
        uniform = op.uniform
        return {"value": op.value if uniform is None else uniform}
    return op.values()


def _identity(op: Op, t: TensorType) -> dict[str, Any]:
    """The attributes of a view or reshape that gives the whole operand as it is."""
    values = {**op.values(), "shape": t.shape}
    if isinstance(op, ops.View):
        values |= {"offsets": (0,) * t.rank, "strides": tuple(int(a == k) for a in range(t.rank) for k in range(t.rank))}
    return values


__all__ = ["FITS", "Number", "Sample", "Shape", "Varying", "cannot_vary", "compare"]
