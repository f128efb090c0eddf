"""Small helpers over MLIR's builders: constants, index arithmetic, loops, typed memory, vectors.

A value is an `ir.Value`, a scalar or a vector of `lanes` elements; every helper takes both. An index may also be a Python int: sums and products of
ints stay ints. All helpers build at the insertion point in force.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dslc.core.dtypes import DType
from dslc.ir.mlir import arith, func, ir, math, memref, scf, vector

from . import casts
from .types import const, element_of, i1, index_type, is_vector, lanes_of, memory_type, vec

Value = Any  # ir.Value
Index = Any  # ir.Value of type index, or int


# index arithmetic


def idx(v: Index) -> Value:
    """An index as a value."""
    return v if isinstance(v, ir.Value) else arith.constant(index_type(), int(v))


def _fold(python: Callable[[int, int], int], build: Callable[[Value, Value], Value], zero: int | None) -> Callable[..., Index]:
    def operation(a: Index, *rest: Index) -> Index:
        for b in rest:
            if not isinstance(a, ir.Value) and not isinstance(b, ir.Value):
                a = python(int(a), int(b))
            elif zero is not None and not isinstance(b, ir.Value) and b == zero:
                continue
            else:
                a = build(idx(a), idx(b))
        return a

    return operation


iadd = _fold(lambda a, b: a + b, arith.addi, 0)
isub = _fold(lambda a, b: a - b, arith.subi, 0)
imul = _fold(lambda a, b: a * b, arith.muli, 1)
idiv = _fold(lambda a, b: a // b, arith.divui, 1)
irem = _fold(lambda a, b: a % b, arith.remui, None)
imin = _fold(min, arith.minsi, None)
imax = _fold(max, arith.maxsi, None)


def ceil_div(a: Index, b: int) -> Index:
    return idiv(iadd(a, b - 1), b)


def icmp(predicate: str, a: Index, b: Index) -> Value:
    """An i1: predicate is "lt", "le", "gt", "ge", "eq" or "ne", of signed integers or indices (vectors too)."""
    signed = predicate if predicate in ("eq", "ne") else "s" + predicate
    if not isinstance(a, ir.Value) and isinstance(b, ir.Value):
        a = idx(a)
    if not isinstance(b, ir.Value):
        b = const(b, a.type) if isinstance(a, ir.Value) else idx(b)
    return arith.cmpi(getattr(arith.CmpIPredicate, signed), idx(a), b)


def fcmp(predicate: str, a: Value, b: Value) -> Value:
    """An i1 of floats: false where either is NaN, but for "ne" and the unordered forms ("ugt", "ult", ...)."""
    name = {"ne": "UNE", "eq": "OEQ", "lt": "OLT", "le": "OLE", "gt": "OGT", "ge": "OGE"}.get(predicate, predicate.upper())
    return arith.cmpf(getattr(arith.CmpFPredicate, name), a, b)


# control


def loop(low: Index, high: Index, step: Index, body: Callable[..., Sequence[Value] | None], carried: Sequence[Value] = ()) -> list[Value]:
    """`for i in range(low, high, step)`: body(i, *carried) gives the next carried values; the last ones come back."""
    op = scf.ForOp(idx(low), idx(high), idx(step), list(carried))
    with ir.InsertionPoint(op.body):
        result = body(op.induction_variable, *op.inner_iter_args)
        scf.YieldOp(list(result or []))
    return list(op.results)


def when(condition: Value, body: Callable[[], None]) -> None:
    op = scf.IfOp(condition)
    with ir.InsertionPoint(op.then_block):
        body()
        scf.YieldOp([])


def choose(condition: Value, types: Sequence[ir.Type], then: Callable[[], Sequence[Value]], otherwise: Callable[[], Sequence[Value]]) -> list[Value]:
    """The values of one of two branches; `condition` is a scalar i1."""
    op = scf.IfOp(condition, list(types), has_else=True)
    for block, branch in ((op.then_block, then), (op.else_block, otherwise)):
        with ir.InsertionPoint(block):
            scf.YieldOp(list(branch()))
    return list(op.results)


def share(total: Index, tid: Value, nt: Value) -> tuple[Value, Value]:
    """[from, to) of `total` equal tasks for thread `tid` of `nt`: the static split of every kernel."""
    t = idx(total)
    return arith.divui(arith.muli(t, tid), nt), arith.divui(arith.muli(t, iadd(tid, 1)), nt)


def share_in_steps(total: int, step: int, tid: Value, nt: Value) -> tuple[Value, Value]:
    """As `share`, with borders at multiples of `step`, so that threads split a flat range between whole vectors."""
    low, high = share(-(-total // step), tid, nt)
    return imul(low, step), imin(imul(high, step), total)


def vector_loop(low: Index, high: Index, lanes: int, body: Callable[..., Sequence[Value] | None], carried: Sequence[Value] = ()) -> list[Value]:
    """body(i, lanes, mask, *carried) over [low, high): whole vectors with mask None, then at most one masked rest. `low` and `high` may be values."""
    if lanes == 1:
        return loop(low, high, 1, lambda i, *c: body(i, 1, None, *c), carried)
    whole = iadd(low, imul(idiv(isub(high, low), lanes), lanes))
    none = isinstance(whole, int) and whole == low  # then the body for whole vectors would be made for nothing
    values = list(carried) if none else loop(low, whole, lanes, lambda i, *c: body(i, lanes, None, *c), carried)
    if isinstance(whole, int) and whole == high:
        return values

    def rest(i: Value, *c: Value) -> Sequence[Value] | None:
        return body(i, lanes, mask_below(isub(high, i), lanes), *c)

    return loop(whole, high, lanes, rest, values)


# vectors


def splat(x: Value, lanes: int) -> Value:
    """A scalar in every lane; vectors pass."""
    return x if lanes == 1 or is_vector(x) else vector.broadcast(vec(lanes, x.type), x)


def mask_below(count: Index, lanes: int) -> Value:
    """True in the first `count` lanes (count may exceed lanes)."""
    return vector.create_mask(vec(lanes, i1()), [idx(count)])


def reduce_lanes(kind: str, x: Value) -> Value:
    """The lanes of a vector folded by "add", "mul", "minnumf", "maxnumf", "minsi", "maxsi", "or", "and", ... in a fixed tree order for floats."""
    if not is_vector(x):
        return x
    if not isinstance(x.type.element_type, ir.FloatType) or kind not in ("add", "mul"):
        return vector.reduction(x.type.element_type, kind, x)
    build = arith.addf if kind == "add" else arith.mulf
    while lanes_of(x) > 1:  # halves: the same order everywhere, and shorter than a chain
        half = lanes_of(x) // 2
        low, high = (vector.extract_strided_slice(ir.VectorType.get([half], x.type.element_type), x, [at], [half], [1]) for at in (0, half))
        x = build(low, high) if half > 1 else build(vector.extract(low, [], [0]), vector.extract(high, [], [0]))
    return x


def extract(x: Value, lane: int) -> Value:
    return vector.extract(x, [], [lane]) if is_vector(x) else x


def insert(scalar: Value, x: Value, lane: int) -> Value:
    return vector.insert(scalar, x, [], [lane]) if is_vector(x) else scalar


def fma(a: Value, b: Value, c: Value) -> Value:
    """a * b + c, rounded once."""
    return vector.fma(a, b, c) if is_vector(a) else math.fma(a, b, c)


# memory


@dataclass(frozen=True)
class Memory:
    """A memref with the type of its elements. Loads give values in register form, stores round to the type in memory."""

    ref: Value
    dtype: DType

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.ref.type.shape)

    def load(self, at: Sequence[Index], lanes: int = 1, mask: Value = None) -> Value:
        """The element at `at`, or `lanes` from there along the last axis; lanes outside the mask are not read and give 0."""
        where, element = [idx(i) for i in at], memory_type(self.dtype)
        if lanes == 1:
            raw = memref.load(self.ref, where)
        elif mask is None:
            raw = vector.load(vec(lanes, element), self.ref, where)
        else:
            raw = vector.maskedload(vec(lanes, element), self.ref, where, mask, const(0, vec(lanes, element)))
        return casts.from_memory(raw, self.dtype)

    def gather(self, at: Sequence[Index], offsets: Value, mask: Value = None) -> Value:
        """Elements at `at` plus each lane's offset (a vector of index) along the last axis; masked lanes give 0."""
        lanes, element = lanes_of(offsets), memory_type(self.dtype)
        mask = const(1, vec(lanes, i1())) if mask is None else mask
        raw = vector.gather(vec(lanes, element), self.ref, [idx(i) for i in at], offsets, mask, const(0, vec(lanes, element)))
        return casts.from_memory(raw, self.dtype)

    def store(self, value: Value, at: Sequence[Index], mask: Value = None) -> None:
        """Writes a scalar, or a vector along the last axis where the mask is true."""
        raw, where = casts.to_memory(value, self.dtype), [idx(i) for i in at]
        if not is_vector(raw):
            memref.store(raw, self.ref, where)
        elif mask is None:
            vector.store(raw, self.ref, where)
        else:
            vector.maskedstore(self.ref, where, mask, raw)

    def scatter(self, value: Value, at: Sequence[Index], offsets: Value, mask: Value = None) -> None:
        """Writes each lane at `at` plus its offset along the last axis."""
        raw, lanes = casts.to_memory(value, self.dtype), lanes_of(offsets)
        mask = const(1, vec(lanes, i1())) if mask is None else mask
        vector.scatter(None, self.ref, [idx(i) for i in at], offsets, mask, raw)

    def fetch(self, at: Sequence[Index]) -> None:
        """Has the cache line of an element brought near. It should exist: a page that does not is looked for each time."""
        memref.PrefetchOp(self.ref, [idx(i) for i in at], False, 2, True)

    def place_in_line(self, at: Index) -> Index:
        """How many elements of flat memory lie before this one in its cache line."""
        first = idiv(memref.extract_aligned_pointer_as_index(self.ref), self.dtype.bytes)
        return irem(iadd(first, at), 64 // self.dtype.bytes)


def memory_of(bytes_ref: Value, offset: Index, dtype: DType, *shape: int) -> Memory:
    """A typed view into a memref of bytes (a thread's scratch area)."""
    return Memory(memref.view(ir.MemRefType.get(list(shape), memory_type(dtype)), bytes_ref, idx(offset), []), dtype)


def call_libm(name: str, *operands: Value) -> Value:
    """A function of the C library, lane by lane; operands and result have one type."""
    element = element_of(operands[0])
    block = ir.InsertionPoint.current.block
    owner = block.owner
    while owner.name != "builtin.module":
        owner = owner.parent
    module_block = owner.regions[0].blocks[0]
    if name not in {ir.StringAttr(op.attributes["sym_name"]).value for op in module_block if "sym_name" in op.attributes}:
        with ir.InsertionPoint.at_block_begin(module_block):
            func.FuncOp(name, ir.FunctionType.get([element] * len(operands), [element]), visibility="private")
    callee = ir.FlatSymbolRefAttr.get(name)
    if not is_vector(operands[0]):
        return func.CallOp([element], callee, list(operands)).results[0]
    result = operands[0]
    for lane in range(lanes_of(result)):
        result = insert(func.CallOp([element], callee, [extract(x, lane) for x in operands]).results[0], result, lane)
    return result


def instruction(name: str, *operands: Value, of: Value = None) -> Value:
    """A processor's instruction by LLVM's name for it; the result has the type of `of`, or of the first operand."""
    attributes = {
        "intrin": ir.StringAttr.get(name),
        "op_bundle_sizes": ir.DenseI32ArrayAttr.get([]),
        "operandSegmentSizes": ir.DenseI32ArrayAttr.get([len(operands), 0]),
    }
    return ir.Operation.create("llvm.call_intrinsic", [(operands[0] if of is None else of).type], list(operands), attributes).result
