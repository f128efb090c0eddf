"""Emits the values of a trace at one point of a loop nest, or at `lanes` points along one of its dims at once.

A load is a vector load where its address moves by one with the vector's dim, a scalar load where it does not move, a gather otherwise. Tests stand
only where the trace could not prove them. Within a point every node and every index expression is emitted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dslc.core.dtypes import BOOL, INT32, INT64
from dslc.ir import index
from dslc.ir.index import Const, Dim, Expr, FloorDiv, Mod, Sum, Symbol
from dslc.ir.mlir import vector
from dslc.ir.trace import Apply, Given, Guard, Join, Node, Product, Read, Rounded, Test, Trace, symbols_of

from . import casts, emit
from .emit import Memory
from .scalars import Arithmetic, Val
from .ssa import Builder, computed

Value = Any  # an ir.Value


def step_of(e: Expr, axis: int, lanes: int, depends: Callable[[Expr], bool]) -> int | None:
    """By how much an expression moves from lane to lane along a dim, over an aligned block of lanes; None where that differs. `depends`: whether it
    is made of anything that may be another value in another lane."""
    if e == Dim(axis):
        return 1
    if not depends(e):
        return 0
    match e:
        case Sum(terms, _):
            steps = [step_of(t, axis, lanes, depends) for t, _ in terms]
            return None if None in steps else sum(n * f for n, (_, f) in zip(steps, terms))  # type: ignore[operator,misc]
        case FloorDiv(dividend, divisor) | Mod(dividend, divisor):
            inner = step_of(dividend, axis, lanes, depends)
            if inner == 0:
                return 0
            if inner == 1 and divisor % lanes == 0 and _begins_a_block(dividend, axis, lanes, depends):
                return int(isinstance(e, Mod))
    return None


def _begins_a_block(e: Expr, axis: int, lanes: int, depends: Callable[[Expr], bool]) -> bool:
    """Whether an expression is a multiple of the lanes in lane 0."""
    terms, constant = (e.terms, e.constant) if isinstance(e, Sum) else (((e, 1),), 0)
    return constant % lanes == 0 and all(t == Dim(axis) or (f % lanes == 0 and not depends(t)) for t, f in terms)


class Point:
    """One point, or one vector of points, of a loop nest.

    `dims[k]` is the SSA index of dim k, of lane 0 along the dim `vector`; it is a multiple of `lanes` there. `mask` says which lanes exist (None:
    all). `given` answers for `Given` nodes. `inside`: all tests are known to hold.
    """

    def __init__(self, b: Builder, trace: Trace, operands: Sequence[Memory], dims: Sequence[Value], vector: int | None = None, lanes: int = 1,
                 mask: Value = None, given: Callable[[Point, Node], Val] | None = None, inside: bool = False) -> None:  # fmt: skip
        self.b, self.trace, self.operands, self.dims = b, trace, operands, list(dims)
        self.vector, self.lanes, self.mask, self.given = (vector if lanes > 1 else None), lanes, mask, given
        self.inside = inside
        self.s = Arithmetic(b)
        self._values: dict[int, Val] = {}
        self._scalars: dict[Expr, Value] = {}
        self._vectors: dict[tuple[Expr, int], Value] = {}
        self._tests: dict[Test, Val] = {}

    # ---- values

    def value(self, node: Node) -> Val:
        """The value of a node."""
        found = self._values.get(id(node))
        if found is None:
            found = self._values[id(node)] = self._emitted(node)
        return found

    def set(self, node: Node, value: Val) -> None:
        """Fixes the value of a node for this point."""
        self._values[id(node)] = value

    def take(self, other: Point, nodes: Iterable[Node], tests: Iterable[Test]) -> None:
        """Fixes values of nodes and outcomes of tests as they are at another point."""
        for node in nodes:
            self._values[id(node)] = other.value(node)
        for t in tests:
            self._tests[t] = other._test(t)

    def _emitted(self, node: Node) -> Val:
        match node:
            case Apply():
                return self._applied(node)
            case Read():
                return self._read(node)
            case Guard(value=value):
                if self.inside:
                    return self.value(value)
                if any(self.trace.never(t) for t in node.tests):
                    return self.s.const(node.outside, node.dtype)
                return self.s.select(self.all_of(node.tests), self.value(value), self.s.const(node.outside, node.dtype))
            case Join():
                found = self.value(node.branches[-1][1])
                for tests, branch in reversed(node.branches[:-1]):
                    found = self.s.select(self.all_of(tests), self.value(branch), found)
                return found
            case Product():
                a, b = (self.s.cast(v, v.dtype, node.dtype) for v in (self.value(node.a), self.value(node.b)))
                return self.s.mul(a, b)
            case Rounded():
                return self.s.rounded_to_tf32(self.value(node.value))
            case Given():
                assert self.given is not None
                return self.given(self, node)
        raise TypeError(node)

    def _applied(self, node: Apply) -> Val:
        values = [self.value(a) for a in node.arguments]
        self.s.index_of = lambda axis: self.integer(node.at[axis])
        self.s.position_of = lambda e: self.integer(self.trace.tidy(index.substitute(e, node.at)))
        return node.op.scalar(self.s, *values)

    # ---- index arithmetic

    def _varies(self, e: Expr) -> bool:
        """Whether an expression may differ between lanes."""
        return self._depends(e) and self.step(e) != 0

    def _depends(self, e: Expr) -> bool:
        """Whether an expression is made of the vector's dim, or of symbols that differ between lanes."""
        if self.vector is None:
            return False
        return self.vector in index.dims_of(e) or any(self.value(self.trace.symbols[n]).lanes > 1 for n in symbols_of(e))

    def scalar(self, e: Expr) -> Value:
        """An expression as an index; in a vector, at lane 0."""
        found = self._scalars.get(e)
        if found is None:
            found = self._scalars[e] = self._scalar(e)
        return found

    def near(self, e: Expr) -> Value:
        """A bound of a stream (`Stream.bound`) as an index whose neighbours and negative are none that overflow: a number that was read may be the
        greatest or the least of its type."""
        for number in symbols_of(e):
            v = self.value(self.trace.symbols[number])
            if v.dtype.bits > 32:
                b, limits = self.b, (self.b.const("i64", -(2**62)), self.b.const("i64", 2**62))
                unsigned = v.dtype.kind == "uint"
                cut = b.same("arith.minui" if unsigned else "arith.minsi", v.ssa, limits[1])
                self._scalars[Symbol(number)] = b.to("arith.index_cast", cut if unsigned else b.same("arith.maxsi", cut, limits[0]), "index", 1)
        return self.scalar(e)

    def _scalar(self, e: Expr) -> Value:
        b = self.b
        match e:
            case Const(value):
                return b.index(value)
            case Dim(axis):
                return self.dims[axis]
            case Symbol(number):
                v = self.value(self.trace.symbols[number])
                name = "arith.index_castui" if v.dtype.kind == "uint" else "arith.index_cast"
                return b.to(name, v.ssa, "index", 1)
            case Sum(terms, constant):
                parts = [b.mul(self.scalar(t), f) for t, f in terms]
                out = parts[0]
                for p in parts[1:]:
                    out = b.add(out, p)
                return b.add(out, constant)
            case FloorDiv(dividend, divisor) | Mod(dividend, divisor):
                x, d = self.scalar(dividend), b.index(divisor)
                positive = index.bounds(dividend, self.trace.sizes)[0] >= 0
                if isinstance(e, FloorDiv):
                    return b.same("arith.divui" if positive else "arith.floordivsi", x, d)
                if positive:
                    return b.same("arith.remui", x, d)
                return b.sub(x, b.mul(b.same("arith.floordivsi", x, d), d))
        raise TypeError(e)

    def _bits(self, e: Expr) -> int:
        """Width of vectors that hold an expression and what it is made of."""
        if any(self.trace.symbols[n].dtype.bits > 32 for n in symbols_of(e)):
            return 64
        low, high = index.bounds(e, self.trace.sizes, (0, 0))
        return 32 if low >= -(2**31) and high < 2**31 else 64

    def lanes_index(self, e: Expr, bits: int) -> Value:
        """An expression as a vector of integers."""
        found = self._vectors.get((e, bits))
        if found is None:
            found = self._vectors[e, bits] = self._lanes_index(e, bits)
        return found

    def _lanes_index(self, e: Expr, bits: int) -> Value:
        b, element, lanes = self.b, f"i{bits}", self.lanes
        if not self._varies(e):
            if isinstance(e, Const):
                return b.const(element, e.value, lanes)
            return b.spread(b.to("arith.index_cast", self.scalar(e), element, 1), element, lanes)
        match e:
            case Dim():
                return b.same("arith.addi", b.spread(b.to("arith.index_cast", self.scalar(e), element, 1), element, lanes), b.iota(element, lanes))
            case Symbol(number):
                v = self.value(self.trace.symbols[number])
                return casts.cast(v.ssa, v.dtype, INT32 if bits == 32 else INT64)
            case Sum(terms, constant):
                still: Expr = Const(constant)
                moving = []
                for t, f in terms:
                    if self._varies(t):
                        x = self.lanes_index(t, bits)
                        moving.append(x if f == 1 else b.same("arith.muli", x, b.const(element, f, lanes)))
                    else:
                        still = still + t * f
                out = moving[0]
                for x in moving[1:]:
                    out = b.same("arith.addi", out, x)
                return out if still == Const(0) else b.same("arith.addi", out, self.lanes_index(still, bits))
            case FloorDiv() | Mod() if self.step(e) == 1:
                return b.same("arith.addi", b.spread(b.to("arith.index_cast", self.scalar(e), element, 1), element, lanes), b.iota(element, lanes))
            case FloorDiv(dividend, divisor) | Mod(dividend, divisor):
                x, d = self.lanes_index(dividend, bits), b.const(element, divisor, lanes)
                positive = index.bounds(dividend, self.trace.sizes)[0] >= 0
                if isinstance(e, FloorDiv):
                    return b.same("arith.divui" if positive else "arith.floordivsi", x, d)
                if positive:
                    return b.same("arith.remui", x, d)
                return b.same("arith.subi", x, b.same("arith.muli", b.same("arith.floordivsi", x, d), d))
        raise TypeError(e)

    def integer(self, e: Expr) -> Val:
        """An expression as an integer value: int32 where that holds it, else int64."""
        bits = self._bits(e)
        dtype = INT32 if bits == 32 else INT64
        if self._varies(e):
            return Val(self.lanes_index(e, bits), dtype, self.lanes)
        return Val(self.b.to("arith.index_cast", self.scalar(e), f"i{bits}", 1), dtype)

    # ---- tests

    def all_of(self, tests: Sequence[Test]) -> Val:
        """The conjunction of tests as a bool."""
        found = None
        for t in tests:
            one = self._test(t)
            found = one if found is None else self.s.logical_and(found, one)
        assert found is not None
        return found

    def _test(self, t: Test) -> Val:
        found = self._tests.get(t)
        if found is None:
            b = self.b
            if self._varies(t.expr):
                bits = self._bits(t.expr)
                limit = b.const(f"i{bits}", t.size, self.lanes)
                found = Val(b.compare("lt", self.lanes_index(t.expr, bits), limit, "uint", self.lanes), BOOL, self.lanes)
            else:
                found = Val(b.compare("lt", self.scalar(t.expr), b.index(t.size), "uint", 1), BOOL)
            self._tests[t] = found
        return found

    # ---- memory

    def step(self, address: Expr) -> int | None:
        """By how much an address moves from lane to lane; None where that differs."""
        return 0 if self.vector is None else step_of(address, self.vector, self.lanes, self._depends)

    def _read(self, node: Read) -> Val:
        memory = self.operands[node.operand]
        condition = self.all_of(node.tests) if node.tests and not self.inside else None
        step = self.step(node.address)
        if step == 0 and (condition is None or condition.lanes == 1):
            return self._read_scalar(memory, node, condition)
        if step == 1:
            at, mask = self.scalar(node.address), self._mask(condition)
            return Val(memory.load([at], self.lanes, mask), node.dtype, self.lanes)
        return self._read_scattered(memory, node, condition, step)

    def _read_scalar(self, memory: Memory, node: Read, condition: Val | None) -> Val:
        b, at = self.b, self.scalar(node.address)
        if condition is None:
            return Val(memory.load([at]), node.dtype)
        raw = memory.load([b.select(condition.ssa, at, b.index(0))])
        return Val(b.select(condition.ssa, raw, b.const(computed(node.dtype), 0)), node.dtype)

    def _read_scattered(self, memory: Memory, node: Read, condition: Val | None, step: int | None) -> Val:
        """A gather; lanes that must not read anything read element 0."""
        b, lanes = self.b, self.lanes
        mask = self._mask(condition)
        bits = self._bits(node.address)
        if step in (2, -1):
            return Val(self._shuffled(memory, self.scalar(node.address), step, mask), node.dtype, lanes)
        if mask is None and step is not None:
            offsets = b.same("arith.muli", b.iota("i32", lanes), b.const("i32", step, lanes))
            raw = memory.gather([self.scalar(node.address)], offsets)
            return Val(raw, node.dtype, lanes)
        offsets = self.lanes_index(node.address, bits)
        if mask is not None:
            offsets = b.select(mask, offsets, b.const(f"i{bits}", 0, lanes))
        raw = memory.gather([b.index(0)], offsets)
        if condition is not None:
            raw = b.select(mask, raw, b.const(computed(node.dtype), 0, lanes))
        return Val(raw, node.dtype, lanes)

    def _shuffled(self, memory: Memory, at: Value, step: int, mask: Value) -> Value:
        """Every second element, or the elements backwards, by loads that stay between these elements and a shuffle; where the mask is false, 0."""
        lanes = self.lanes
        if step == -1:
            backwards = list(range(lanes))[::-1]
            whole = memory.load([self.b.add(at, 1 - lanes)], lanes, None if mask is None else vector.shuffle(mask, mask, backwards))
            return vector.shuffle(whole, whole, backwards)
        masks = [None, None]
        if mask is not None:  # element j of the first load is lane j / 2, of the second lane (j + lanes - 1) / 2
            never = self.b.const("i1", 0, lanes)
            masks = [
                vector.shuffle(mask, never, [(j + skip) // 2 if (j + skip) % 2 == 0 else lanes for j in range(lanes)]) for skip in (0, lanes - 1)
            ]
        low, high = memory.load([at], lanes, masks[0]), memory.load([self.b.add(at, lanes - 1)], lanes, masks[1])
        return vector.shuffle(low, high, [2 * i if 2 * i < lanes else 2 * i + 1 for i in range(lanes)])

    def _mask(self, condition: Val | None) -> Value:
        """Lanes that exist and where a condition holds; None: all."""
        if condition is None:
            return self.mask
        wide = condition.ssa if condition.lanes > 1 else self.b.spread(condition.ssa, "i1", self.lanes)
        return wide if self.mask is None else self.b.same("arith.andi", wide, self.mask)

    def store(self, value: Val, memory: Memory, address: Expr, streaming: bool = False) -> None:
        """Writes the value of this point, in every lane that exists."""
        step = self.step(address)
        if self.vector is None or step == 0:
            memory.store(emit.extract(value.ssa, 0), [self.scalar(address)])
            return
        b, lanes = self.b, self.lanes
        ssa = value.ssa if value.lanes > 1 else b.spread(value.ssa, computed(value.dtype), lanes)
        if step != 1:
            bits = self._bits(address)
            offsets = self.lanes_index(address, bits)
            memory.scatter(ssa, [b.index(0)], offsets, self.mask)
        elif streaming and self.mask is None:
            b.stream(casts.to_memory(ssa, memory.dtype), memory.ref, self.scalar(address), lanes * memory.dtype.bytes)
        else:
            memory.store(ssa, [self.scalar(address)], self.mask)
