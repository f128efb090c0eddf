"""Sort kernels: a stable merge sort of each row, in scratch, on integer keys in the order of the values.

A key of up to 32 bits lies with its index in one 64-bit integer, so that all keys differ; wider ones keep the index beside them. Values are read
again at the sorted indices. Rows are shared between threads.
"""

from __future__ import annotations

from typing import Any

from dslc.core.dtypes import INT32, INT64, DType
from dslc.ir import index
from dslc.ir.trace import Trace
from dslc.ir.types import type_of

from .. import emit
from ..pull import Point
from ..scalars import Val
from ..space import unravel
from ..stage import Frame, Generated, Request, Stage
from .scan import line_axes
from .whole import Whole

Value = Any  # an ir.Value


def generate(request: Request) -> Generated:
    """One stage, and one more where other results are made from the sorted values."""
    whole = Whole.of(request, ["nn.sort"])
    t = type_of(whole.op.x)
    if t.size == 0:
        return Generated(())
    arrays = 1 if t.dtype.bits <= 32 else 2
    scratch = 2 * arrays * 8 * t.shape[whole.op.axis]
    return Generated([Stage(lambda frame: _emit(frame, whole, arrays), scratch), *whole.finish()], whole.workspace_bytes)


def _emit(frame: Frame, whole: Whole, arrays: int) -> None:
    op, b = whole.op, frame.b
    shape = type_of(op.x).shape
    sizes, axes = line_axes(shape, op.axis)
    trace = Trace(whole.request.body, sizes)
    axes = tuple(trace.tidy(e) for e in axes)
    node, address = trace.at(op.x, axes), trace.tidy(index.linearize(axes, shape))
    n = sizes[1]
    keys = [emit.memory_of(frame.scratch, k * 16 * n, INT64, 2 * n) for k in range(arrays)]
    first, last = emit.share(sizes[0] * sizes[2], frame.tid, frame.threads)

    def row(t: Value) -> None:
        before, behind = unravel(frame, t, [sizes[0], sizes[2]])

        def read(i: Value) -> None:
            point = Point(b, trace, frame.operands, [before, i, behind])
            for memory, v in zip(keys, _keys(point, point.value(node), i, op.descending, arrays)):
                memory.store(v, [i])

        emit.loop(0, n, 1, read)
        start = _merge_sort(frame, keys, n)

        def write(i: Value) -> None:
            word = keys[-1].load([b.add(start, i)])
            if arrays == 1:
                word = b.same("arith.andi", word, b.const("i64", 0xFFFFFFFF))
            came = b.to("arith.index_cast", word, "index", 1)
            value = Point(b, trace, frame.operands, [before, came, behind]).value(node)
            target = Point(b, trace, frame.operands, [before, i, behind])
            target.store(value, whole.memory(frame, 0), address)
            target.store(Val(b.to("arith.trunci", word, "i32", 1), INT32), whole.memory(frame, 1), address)

        emit.loop(0, n, 1, write)

    emit.loop(first, last, 1, row)


def _keys(point: Point, x: Val, i: Value, descending: bool, arrays: int) -> list[Value]:
    """The words that are sorted: key and index in one, or the key, then the index."""
    b, s = point.b, point.s
    key = _ordered(point, x)
    if descending:
        key = s.logical_not(key)
    if x.dtype.is_float:  # NaN comes last in both orders
        missing = s.compare("ne", x, x)
        key = s.select(missing, s.const((1 << (key.dtype.bits - 1)) - 1, key.dtype), key)
    place = b.to("arith.index_cast", i, "i64", 1)
    wide = s.cast(key, key.dtype, INT64).ssa
    if arrays == 2:
        return [wide, place]
    return [b.same("arith.ori", b.same("arith.shli", wide, b.const("i64", 32)), place)]


def _ordered(point: Point, x: Val) -> Val:
    """A signed integer in the order of the value; both zeros are one."""
    b, s = point.b, point.s
    if not x.dtype.is_float:
        return x if x.dtype.bits == 64 else s.cast(x, x.dtype, INT32)
    whole: DType = INT64 if x.dtype.bits == 64 else INT32
    element = f"i{whole.bits}"
    plain = s.add(x, s.const(0.0, x.dtype))
    bits = b.to("arith.bitcast", plain.ssa, element, 1)
    sign = b.same("arith.shrsi", bits, b.const(element, whole.bits - 1))
    return Val(b.same("arith.xori", bits, b.same("arith.andi", sign, b.const(element, (1 << (whole.bits - 1)) - 1))), whole)


def _merge_sort(frame: Frame, keys: list[emit.Memory], n: int) -> Value:
    """Sorts keys[0][0:n] with what stands beside it; where the sorted row starts, 0 or n."""
    b = frame.b
    turns = (n - 1).bit_length()

    def turn(level: Value) -> None:
        width = b.same("arith.shli", b.index(1), level)
        source = b.mul(b.rem(level, 2), n)
        target = b.sub(b.index(n), source)

        def pair(low: Value) -> None:
            middle = emit.imin(b.add(low, width), n)
            high = emit.imin(b.add(middle, width), n)
            _merge(frame, keys, n, source, target, (low, middle, high))

        emit.loop(0, n, b.add(width, width), pair)

    emit.loop(0, turns, 1, turn)
    return b.index(turns % 2 * n)


def _merge(frame: Frame, keys: list[emit.Memory], n: int, source: Value, target: Value, run: tuple[Value, Value, Value]) -> None:
    """Merges two neighbouring runs; of equal keys the left one goes first."""
    b = frame.b
    low, middle, high = run

    def step(k: Value, i: Value, j: Value) -> list[Value]:
        left, right = (b.add(source, emit.imin(at, n - 1)) for at in (i, j))
        a, c = keys[0].load([left]), keys[0].load([right])
        none_left, none_right = b.compare("ge", i, middle, "int", 1), b.compare("ge", j, high, "int", 1)
        smaller = b.same("arith.ori", none_right, b.compare("le", a, c, "int", 1))
        take = b.same("arith.andi", smaller, b.same("arith.xori", none_left, b.const("i1", 1)))
        at = b.add(target, k)
        keys[0].store(b.select(take, a, c), [at])
        for memory in keys[1:]:
            memory.store(memory.load([b.select(take, left, right)]), [at])
        one = b.to("arith.index_castui", take, "index", 1)
        return [b.add(i, one), b.sub(b.add(j, 1), one)]

    emit.loop(low, high, 1, step, [low, middle])
