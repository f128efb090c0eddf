"""Writes the values of a trace at one point of an iteration space as CUDA C++, each once.

Tests stand only where the trace could not prove them. What neighbouring points read as one chunk of memory is found by `chunked`; a generator
loads it before a loop over the points and presets it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set

from dslc.core.dtypes import BOOL, FLOAT32, INT32, INT64
from dslc.ir import index
from dslc.ir.index import Const, Dim, Expr, FloorDiv, Mod, Sum, Symbol
from dslc.ir.trace import Apply, Given, Guard, Join, Node, Product, Read, Rounded, Test, Trace, dims_under, symbols_of

from .scalars import Arithmetic, Val
from .stage import Memory
from .text import Writer
from .types import computed_type


class Point:
    """One point. `dims[k]` is the text of dim k's index; `memory(k)` gives operand k; `given` answers for `Given` nodes; `known` are node values
    that are already in the text, by id; of the tests `passed` the text has asked; for the nodes `narrowed`, by id, functions that are nearly right
    will do (`trace.narrowed`)."""

    def __init__(
        self,
        writer: Writer,
        trace: Trace,
        memory: Callable[[int], Memory],
        dims: Sequence[str],
        given: Callable[[Given], Val] | None = None,
        known: Mapping[int, Val] | None = None,
        integer: str = "int",
        passed: Collection[Test] = (),
        narrowed: Set[int] = frozenset(),
    ) -> None:
        self.writer, self.trace, self.memory, self.dims, self.given, self.index_type = writer, trace, memory, list(dims), given, integer
        self.s, self.passed, self.narrowed = Arithmetic(writer), passed, narrowed
        self._values: dict[int, Val] = dict(known or {})
        self._parts: dict[Expr, str] = {}
        self._tests: dict[Test, str] = {}

    # ---- values

    def value(self, node: Node) -> Val:
        """The value of a node."""
        found = self._values.get(id(node))
        if found is None:
            found = self._values[id(node)] = self._written(node)
        return found

    def stored(self, node: Node) -> Val:
        """The value of a node, to be stored in its type: a store rounds float32 by itself."""
        if isinstance(node, Apply) and node.op.operation.name == "nn.cast" and node.dtype.is_float and node.dtype.bits == 16:
            (x,) = node.arguments
            return self.value(x if x.dtype == FLOAT32 and id(node) not in self._values else node)
        return self.value(node)

    def _written(self, node: Node) -> Val:
        match node:
            case Apply():
                return self._applied(node)
            case Read():
                return self._read(node)
            case Guard(value=value):
                if any(self.trace.never(t) for t in node.tests):
                    return self.s.const(node.outside, node.dtype)
                inside, asked = self.value(value), self.open(node.tests)
                return self.s.select(Val(self.all_of(asked), BOOL), inside, self.s.const(node.outside, node.dtype)) if asked else inside
            case Join():
                found = self.value(node.branches[-1][1])
                for tests, branch in reversed(node.branches[:-1]):
                    found = self.s.select(Val(self.all_of(tests), BOOL), self.value(branch), found)
                return found
            case Product():
                a, b = (self.s.cast(v, v.dtype, node.dtype) for v in (self.value(node.a), self.value(node.b)))
                return self.s.mul(a, b)
            case Rounded():
                return self.s.rounded_to_tf32(self.value(node.value))
            case Given():
                assert self.given is not None
                return self.given(node)
        raise TypeError(node)

    def _applied(self, node: Apply) -> Val:
        if id(node) in self.narrowed and (below := _below_one_plus(node)) is not None:
            return self.s.call(f"one_plus_{below.op.operation.name[3:]}", self.value(below.arguments[0]))
        values = [self.value(a) for a in node.arguments]
        self.s.near = id(node) in self.narrowed
        self.s.index_of = lambda axis: self.integer(node.at[axis])
        self.s.position_of = lambda e: self.integer(self.trace.tidy(index.substitute(e, node.at)))
        return node.op.scalar(self.s, *values)

    def _read(self, node: Read) -> Val:
        memory = self.memory(node.operand)
        element = f"decode({memory.name}[{self.index(node.address)}])"
        if node.dtype.bits == 4:
            element = f"wrap_int4({element})"  # only four bits of the byte are said to hold the value
        if tests := self.open(node.tests):
            zero = self.s.const(0, node.dtype).text
            element = f"{self.all_of(tests)} ? {element} : {zero}"
        return Val(self.writer.value("x", computed_type(node.dtype), element), node.dtype)

    # ---- index arithmetic

    def index(self, e: Expr) -> str:
        """The text of an index expression."""
        match e:
            case Const(value):
                return str(value)
            case Dim(axis):
                return self.dims[axis]
            case Symbol(number):
                read = self.value(self.trace.symbols[number])
                if computed_type(read.dtype) == self.index_type:
                    return read.text
                return f"near_index({read.text})" if read.dtype.bits > 32 else f"({self.index_type}){read.text}"
            case Sum(terms, constant):
                wide = "(long long)" if self._is_large(e) else ""  # each term: a dim is an int where its extent allows it
                parts = [wide + self.index(t) if f == 1 else f"{f} * {wide}{self.index(t)}" for t, f in terms]
                if constant:
                    parts.append(str(constant))
                return "(" + " + ".join(parts).replace("+ -", "- ") + ")"
            case FloorDiv(dividend, divisor) | Mod(dividend, divisor):
                found = self._parts.get(e)
                if found is None:
                    integer = "long long" if self._is_large(e) else self.index_type
                    found = self._parts[e] = self.writer.value("q", integer, self._divided(e, dividend, divisor))
                return found
        raise TypeError(e)

    def _divided(self, e: Expr, dividend: Expr, divisor: int) -> str:
        x = self.index(dividend)
        negative, large = index.bounds(dividend, self.trace.sizes)[0] < 0, self.index_type != "int" or self._is_large(dividend)
        if negative or large:
            if not negative:
                return f"{x} {'/' if isinstance(e, FloorDiv) else '%'} {divisor}"
            return f"{'divide_down' if isinstance(e, FloorDiv) else 'modulo_down'}{'<long long>' if large else ''}({x}, {divisor})"
        return f"{x} {'/' if isinstance(e, FloorDiv) else '%'} {divisor}u"  # unsigned: a multiplication and a shift

    def near(self, e: Expr) -> str:
        """A bound of a stream (`Stream.bound`) as an int whose neighbours and negative are ints too: a number that was read may be the greatest or
        the least of its type."""
        if not symbols_of(e):
            return f"(int){self.index(e)}"
        terms, constant = (e.terms, e.constant) if isinstance(e, Sum) else (((e, 1),), 0)
        return f"near_index({' + '.join([*(f'{f}LL * {self._near_term(t)}' for t, f in terms), f'{constant}LL'])})"

    def _near_term(self, e: Expr) -> str:
        if not isinstance(e, Symbol):
            return self.index(e)
        read = self.value(self.trace.symbols[e.operand])
        return f"near_index({read.text})" if read.dtype.bits > 32 else read.text

    def _is_large(self, e: Expr) -> bool:
        """Whether 32 bits do not hold an expression: a position in a value that no memory holds, as the draws over an attention's scores."""
        low, high = index.bounds(e, self.trace.sizes, (0, 0))
        return low < -(2**31) or high >= 2**31

    def integer(self, e: Expr) -> Val:
        """An index expression as a value."""
        wide = self.index_type != "int" or self._is_large(e) or any(self.trace.symbols[n].dtype.bits > 32 for n in symbols_of(e))
        dtype = INT64 if wide else INT32
        text = self.index(e)
        return Val(text if text.isidentifier() or text.isdigit() else self.writer.value("n", computed_type(dtype), text), dtype)

    def open(self, tests: Sequence[Test]) -> list[Test]:
        """Those that the text has not asked yet."""
        return [t for t in tests if t not in self.passed]

    def all_of(self, tests: Sequence[Test]) -> str:
        """The conjunction of tests, as text of a bool."""
        return " && ".join(self._test(t) for t in tests)

    def _test(self, t: Test) -> str:
        found = self._tests.get(t)
        if found is None:
            x = self.index(t.expr)
            low, high = index.bounds(t.expr, self.trace.sizes)
            if low >= 0:
                text = f"{x} < {t.size}"
            elif high < t.size:
                text = f"{x} >= 0"
            else:
                large = self.index_type != "int" or self._is_large(t.expr)
                text = f"(unsigned{' long long' if large else ''}){x} < {t.size}u"
            found = self._tests[t] = self.writer.value("inside", "bool", text)
        return found


def _below_one_plus(node: Apply) -> Apply | None:
    """erf or tanh where a node is 1 + it: near -1 such a sum keeps few digits, the function of the sum all."""
    if node.op.operation.name != "nn.add":
        return None
    for one, other in (node.arguments, node.arguments[::-1]):
        if isinstance(other, Apply) and other.op.operation.name in ("nn.erf", "nn.tanh"):
            if isinstance(one, Apply) and one.op.operation.name == "nn.constant" and one.op.uniform == 1:
                return other
    return None


def chunked(address: Expr, dim: int, width: int) -> bool:
    """Whether `width` points along a dim, from a multiple of `width` on, read that many neighbouring elements from a multiple of `width` on."""
    if isinstance(address, Const):
        return False
    return _step(address, dim, width) == 1


def _step(e: Expr, dim: int, width: int) -> int | None:
    """By how much an expression that is a multiple of `width` at the first point of a chunk grows from point to point: 0 or 1; None otherwise."""
    terms, constant = (e.terms, e.constant) if isinstance(e, Sum) else (((e, 1),), 0)
    total = 0
    for t, f in terms:
        step = _term_step(t, dim, width)
        if step is None or (step == 0 and f % width):
            return None
        total += step * f
    return total if constant % width == 0 and total in (0, 1) else None


def _term_step(t: Expr, dim: int, width: int) -> int | None:
    """The same of a term; where it does not grow, it may be any number."""
    if t == Dim(dim):
        return 1
    if dim not in index.dims_of(t):
        return 0
    if not isinstance(t, (FloorDiv, Mod)):
        return None
    if _is_still(t.dividend, dim, width):
        return 0
    if t.divisor % width or _step(t.dividend, dim, width) != 1:
        return None
    return 1 if isinstance(t, Mod) else 0


def _is_still(e: Expr, dim: int, width: int) -> bool:
    """Whether an expression has one value in a chunk."""
    terms = e.terms if isinstance(e, Sum) else ((e, 1),)
    return all(_term_step(t, dim, width) == 0 for t, _ in terms)


def steady(trace: Trace, e: Expr, dim: int, width: int) -> bool:
    """Whether an index expression has one value at `width` points along a dim, from a multiple of `width` on."""
    return not moves_with(trace, e, dim) or (not symbols_of(e) and _is_still(e, dim, width))


def moves_with(trace: Trace, e: Expr, dim: int) -> bool:
    """Whether an index expression, or data that it stands for, changes along a dim."""
    return dim in index.dims_of(e) or any(_depends(trace, trace.symbols[n], dim) for n in symbols_of(e))


def _depends(trace: Trace, node: Node, dim: int) -> bool:
    return dim in dims_under(trace, [node])[id(node)]
