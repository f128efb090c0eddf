"""bounded: a program for any lengths up to those that it is compiled for, which are scalars of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from dslc.core import dtypes
from dslc.core.dtypes import DType
from dslc.core.errors import UnsupportedOp
from dslc.core.lengths import Length, extent_name, length, parts_of
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.program import Slot, add_argument, arguments_of, finish_program, results_of, start_program
from dslc.ir.types import TensorType, type_of

from .lengths import Number, Varying, cannot_vary

NOTE = "nn.lengths"  # of a module: what the runtime must know of its inputs and results, as JSON
INT = TensorType(dtypes.INT32, ())


# What lies where a value does not count: numbers like those that count, others (zeros, where a read was outside), anything, infinities too.
ALIKE, OTHERS, ANYTHING = 2, 1, 0


@dataclass(frozen=True)
class Axis:
    """An axis of a value. Its elements are those of the exact program, in blocks: `parts` are the sizes of which it is the row-major product, and of
    a part that varies the first ones count. `free`: elements are the same along it, so that any order of blocks will do."""

    parts: tuple[Length, ...]
    free: bool = False

    @property
    def length(self) -> Length:
        out = length(1)
        for part in self.parts:
            out = out * part
        return out

    @property
    def fixed(self) -> bool:
        return all(part.fixed for part in self.parts)

    @property
    def plain(self) -> bool:
        """Whether its first elements count, and no others."""
        return self.fixed or self.free or all(part.fixed for part in self.parts[1:])

    def like(self, other: Axis) -> bool:
        """Whether the same elements count along both."""
        return self.parts == other.parts or (self.plain and other.plain and self.length == other.length)


@dataclass(frozen=True)
class Value:
    """A tensor of the new program, and its axes. `zero`: axes along which it is 0 where it does not count. `behind` says what else lies there."""

    value: ir.Value
    axes: tuple[Axis, ...]
    zero: frozenset[int] = frozenset()
    behind: int | None = None  # None, in a rule's result: the least of its operands

    @property
    def type(self) -> TensorType:
        return type_of(self.value)

    @property
    def varying(self) -> list[int]:
        return [k for k, a in enumerate(self.axes) if not a.fixed]


@dataclass(frozen=True)
class Bounded:
    """Puts into the module the program of `varying` with its dimensions at `sizes`, and with the lengths of a run as rank-0 inputs `size(NAME)`.

    What a value holds at the lengths of a run is what the exact program of these lengths would hold, in the first elements of each axis; anything
    lies behind. Elementwise work, and all that reads one element for one, needs nothing for that. Where an axis is folded, ordered, carried along or
    read elsewhere, elements that do not count are replaced first by what changes nothing: the fold's empty value, a view's value outside. With
    `gradients`, which come to 0 there, no slope may be infinite: what might be is replaced too.

    before: y = reduce sum x over [64]      after: y = reduce sum select(iota < size(time), x, 0) over [64]

    `kept`: the types of parameters and states, which have the sizes of the bounds; a program reads and writes the first part of them. `bounds`: the
    greatest sizes, by whose shapes random draws are counted, so that an element's draw is the same whatever the sizes are.
    """

    varying: Varying
    sizes: Mapping[str, int]
    least: Mapping[str, int]
    bounds: Mapping[str, int]
    kept: Mapping[str, TensorType]
    gradients: bool = False

    def run(self, module: ir.Module) -> None:
        for op in list(module.body.operations):
            op.operation.erase()
        program = start_program(module, "main", [])
        emit = Emitter(self)
        with ir.InsertionPoint(program.entry_block), ir.Location.unknown():
            emit.extents = {dim: add_argument(program, Slot(extent_name(dim), "input", INT)) for dim in self.sizes}
            told = self._arguments(program, emit)
            emit.block(self.varying.base.entry_block)
            results = [self._result(emit, slot, value, told) for slot, value in results_of(self.varying.base)]
        finish_program(program, results)
        module.operation.attributes[NOTE] = ir.StringAttr.get(json.dumps({"sizes": dict(self.sizes), "least": dict(self.least), **told}))

    def _arguments(self, program: func.FuncOp, emit: Emitter) -> dict[str, Any]:
        """New arguments for the base program's, and what the note tells of them."""
        told: dict[str, Any] = {"axes": {}, "bounds": {}}
        for slot, old in zip(arguments_of(self.varying.base), self.varying.base.entry_block.arguments):
            shape = self.varying.shapes[old]
            axes = tuple(Axis((n,)) for n in shape)
            t = slot.type.with_shape(emit.at(shape))
            if slot.role in ("param", "state"):
                whole = self.kept.get(slot.name, t)
                argument = add_argument(program, replace(slot, type=whole))
                emit.kept[slot.name] = argument
                emit.env[old] = Value(resized(argument, t.shape), axes)
                continue
            bound = self.varying.bounds.get(slot.name)
            if bound is not None and not bound.fixed:
                told["bounds"][slot.name] = bound.terms
                slot = replace(slot, bounds=None)
            if any(not n.fixed for n in shape):
                told["axes"][slot.name] = [n.terms for n in shape]
            emit.env[old] = Value(add_argument(program, replace(slot, type=t)), axes)
        return told

    def _result(self, emit: Emitter, slot: Slot, old: ir.Value, told: dict[str, Any]) -> tuple[Slot, ir.Value]:
        """A result; a next value of a parameter or state takes the first part of it."""
        x = emit.env[old]
        if any(not a.plain for a in x.axes):
            raise UnsupportedOp(f"'{slot.name}' joins an axis of any length with others", help="give it an axis for each dimension")
        if slot.role not in ("param", "state"):
            if x.varying:
                told["axes"][slot.name] = [a.length.terms for a in x.axes]
            return slot, x.value
        whole = emit.kept[slot.name]
        if type_of(whole) == x.type and not x.varying:
            return slot, x.value
        wide = Value(resized(x.value, type_of(whole).shape), x.axes)
        cut = [k for k, a in enumerate(x.axes) if a.length != length(type_of(whole).shape[k])]
        return slot, ops.Select.of(emit.inside(wide, cut), wide.value, whole)


def resized(x: ir.Value, shape: Sequence[int]) -> ir.Value:
    """The first elements along each axis; 0 where x has none."""
    rank = len(shape)
    return ops.view(x, [[int(a == k) for k in range(rank)] for a in range(rank)], [0] * rank, shape)


class Emitter:
    """The new program while it is made."""

    def __init__(self, made: Bounded):
        self.sizes, self.least, self.bounds, self.varying = made.sizes, made.least, made.bounds, made.varying
        self.gradients = made.gradients
        self.env: dict[ir.Value, Value] = {}
        self.kept: dict[str, ir.Value] = {}
        self.extents: dict[str, ir.Value] = {}
        self._made: dict[Any, ir.Value] = {}  # numbers and masks of the block

    # --- lengths

    def at(self, shape: Iterable[Length]) -> tuple[int, ...]:
        """Sizes in this program."""
        return tuple(n.at(self.sizes) for n in shape)

    def shape(self, old: ir.Value) -> tuple[Length, ...]:
        return self.varying.shapes[old]

    def attribute(self, op: Op, name: str) -> Any:
        """An attribute as Lengths, whether it varies or not."""
        found = self.varying.attributes.get(op.results[0], {}).get(name)
        given = getattr(op, name) if found is None else found
        return tuple(length(n) for n in given) if isinstance(given, tuple) else length(given)

    def dims_in(self, op: Op) -> set[str]:
        """The dimensions that matter in the bodies of an op, by themselves or in quotients."""
        found: set[str] = set()
        for region in op.regions:
            block = region.blocks[0]
            for inner in block.operations:
                for v in (*inner.operands, *inner.results):
                    found |= {d for n in self.shape(v) for d in n.dims}
                if inner.results and (given := self.varying.attributes.get(inner.results[0])):
                    found |= {d for value in given.values() for n in (value if isinstance(value, tuple) else (value,)) for d in n.dims}
                found |= self.dims_in(inner)
        return {parts_of(name)[0] for name in found}

    def fits(self, top: Length, size: Length) -> bool:
        """Whether a place is below a size at all lengths."""
        return (size - top).least(self.least, self.sizes) > 0

    def extent(self, n: Length) -> ir.Value:
        """A length in this run, int32 of rank 0."""
        return self._once(("extent", n), lambda: self._sum(n, dtypes.INT32))

    def _sum(self, n: Length, dtype: DType) -> ir.Value:
        total = None
        for names, factor in n.terms:
            term = ops.full(TensorType(dtype, ()), factor)
            for name in names:
                term = ops.Mul.of(term, ops.cast(self.extent_of(name), dtype))
            total = term if total is None else ops.Add.of(total, term)
        return total if total is not None else ops.full(TensorType(dtype, ()), 0)

    def extent_of(self, name: str) -> ir.Value:
        """A dimension or quotient in this run, int32 of rank 0."""
        dim, plus, by = parts_of(name)
        if by == 1:
            return self.extents[dim]
        return self._once(("quotient", name), lambda: ops.FloorDiv.of(ops.Add.of(self.extents[dim], ops.full(INT, plus)), ops.full(INT, by)))

    def number(self, n: Number, dtype: DType) -> ir.Value:
        """A constant that follows from a length, of rank 0."""
        if not dtype.is_float:
            return ops.cast(self.extent(n.of), dtype)
        x = self._sum(n.of, dtypes.FLOAT32)
        one = ops.full(type_of(x), 1)
        build: dict[str, Callable[[], ir.Value]] = {
            "itself": lambda: x, "reciprocal": lambda: ops.Div.of(one, x), "sqrt": lambda: ops.Sqrt.of(x), "rsqrt": lambda: ops.Rsqrt.of(x),
            "log": lambda: ops.Log.of(x),
        }  # fmt: skip
        return ops.cast(build[n.fit](), dtype)

    def _once(self, key: Any, build: Callable[[], ir.Value]) -> ir.Value:
        if key not in self._made:
            self._made[key] = build()
        return self._made[key]

    @contextmanager
    def region(self, extents: Mapping[str, ir.Value]) -> Iterator[None]:
        """In a body of its own, which gets the lengths as arguments."""
        outer = self.extents, self._made
        self.extents, self._made = dict(extents), {}
        yield
        self.extents, self._made = outer

    # --- masks

    def along(self, axis: Axis) -> ir.Value:
        """bool of rank 1: which elements of an axis count."""
        return self._once(("along", axis.parts), lambda: self._along(axis.parts))

    def _along(self, parts: Sequence[Length]) -> ir.Value:
        shape = self.at(parts)
        out = None
        for k, part in enumerate(parts):
            if not part.fixed:
                place = ops.Iota.of(axis=k, shape=shape, dtype=dtypes.INT32)
                one = ops.Compare.of(place, ops.spread(self.extent(part), type_of(place)), predicate="lt")
                out = one if out is None else ops.And.of(out, one)
        assert out is not None
        return ops.reshape(out, [prod(shape)])

    def inside(self, x: Value, axes: Iterable[int]) -> ir.Value:
        """bool of the shape of x: what counts along some axes. An axis may be longer than its length says."""
        shape, out = x.type.shape, None
        for k in axes:
            axis = x.axes[k]
            parts = (axis.length,) if axis.free else axis.parts
            if self.at([axis.length])[0] == shape[k] and not axis.fixed:
                mask = self.along(Axis(parts))
            else:
                place = ops.Iota.of(axis=0, shape=[shape[k]], dtype=dtypes.INT32)
                mask = ops.Compare.of(place, ops.spread(self.extent(axis.length), type_of(place)), predicate="lt")
            wide = ops.broadcast(mask, shape, [k])
            out = wide if out is None else ops.And.of(out, wide)
        assert out is not None
        return out

    def masked(self, x: Value, axes: Iterable[int], fill: float | int | bool) -> ir.Value:
        """x with `fill` where it does not count along some axes."""
        cut = [k for k in axes if not x.axes[k].fixed and not (fill == 0 and k in x.zero)]
        if not cut:
            return x.value
        return ops.Select.of(self.inside(x, cut), x.value, ops.full(x.type, fill))

    def tamed(self, x: Value, behind: int = OTHERS, fill: float = 0) -> Value:
        """x with `fill` where it does not count, if less than `behind` lies there and gradients ask for it."""
        cut = [k for k in x.varying if not x.axes[k].free]  # along the others all are like those that count
        if not self.gradients or self.behind(x) >= behind or not cut or not x.type.dtype.is_float:
            return x
        return Value(self.masked(x, cut, fill), x.axes, behind=OTHERS)

    @staticmethod
    def behind(x: Value) -> int:
        return ALIKE if x.behind is None else x.behind

    # --- ops

    def block(self, block: ir.Block) -> list[Value]:
        """Makes the ops of a block anew; what it yields."""
        for op in block.operations:
            if isinstance(op, func.ReturnOp):
                return []
            if isinstance(op, ops.Yield):
                return [self.env[v] for v in op.operands]
            self.op(op)
        return []

    def op(self, op: Op) -> None:
        from .bounded_rules import RULES, VARYING, elementwise

        xs = [self.env[v] for v in op.operands]
        for name in self.varying.attributes.get(op.results[0], ()):
            if name not in VARYING.get(type(op), ()):
                raise self.unsupported(op, f"'{name}' of this {op.operation.name.removeprefix('nn.')} follows from it")
        with op.location:
            if any(x.varying for x in xs) or any(not n.fixed for r in op.results for n in self.shape(r)) or op.results[0] in self.varying.attributes:
                rule = RULES.get(type(op), elementwise if op.structure == "elementwise" else None)
                if rule is None:
                    raise self.unsupported(op, f"{op.operation.name.removeprefix('nn.')} works on fixed lengths only")
                made = rule(self, op, *xs)
            else:
                made = self._copied(op, xs)
        least = min((self.behind(x) for x in xs), default=ALIKE)
        for old, new in zip(op.results, made if isinstance(made, list) else [made]):
            self.env[old] = replace(new, behind=least) if new.behind is None else new

    def _copied(self, op: Op, xs: Sequence[Value]) -> list[Value]:
        """The op as it is; a scan or cond of fixed sizes may hold what varies."""
        if op.regions:
            from .bounded_rules import RULES

            made = RULES[type(op)](self, op, *xs)
            return made if isinstance(made, list) else [made]
        copy = op.operation.clone()
        for k, x in enumerate(xs):
            copy.operands[k] = x.value
        return [Value(r, tuple(Axis((length(n),)) for n in type_of(r).shape)) for r in copy.results]

    def again(self, op: Op, *operands: ir.Value, **attributes: Any) -> list[ir.Value]:
        """The op on other operands, with some attributes replaced and its tags kept."""
        made = type(op).of(*operands, **{**op.values(), **attributes})
        results = made if isinstance(made, list) else [made]
        for named in op.attributes:
            name = named.name if hasattr(named, "name") else named
            if name not in op._codecs:
                results[0].owner.attributes[name] = op.attributes[name]
        return results

    def unsupported(self, op: Op, why: str) -> UnsupportedOp:
        return cannot_vary(UnsupportedOp, list(self.sizes), op, why)
