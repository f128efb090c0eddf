"""Sort kernels: a stable merge sort of each row, in scratch, on integer keys in the order of the values.

A key of up to 32 bits lies with its index in one 64-bit integer, so that all keys differ; wider ones keep the index beside them. Values are read
again at the sorted indices. Rows are shared between threads.

Where very few of a row are wanted, they lie in registers, and each element goes through them. Where few are, a row is read once: what is less than
the last of those kept so far waits behind them, and when so many wait they are sorted with them. Of a row in random order, few are sorted; of any
row, each element at most once with those kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dslc.core.dtypes import INT32, INT64, DType
from dslc.ir import index
from dslc.ir.mlir import vector
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

IN_REGISTERS = 8  # elements at most
WAITING = 16  # elements that wait at least before they are sorted with those kept


def generate(request: Request) -> Generated:
    """One stage, and one more where other results are made from the sorted values."""
    whole = Whole.of(request, ["nn.sort"])
    t = type_of(whole.op.x)
    if t.size == 0:
        return Generated(())
    if whole.op.count == 0:
        return Generated(whole.finish())
    arrays = 1 if t.dtype.bits <= 32 else 2
    length = sorted_at_once(t.shape[whole.op.axis], whole.op.count, request.machine.lanes)
    scratch = 2 * arrays * 8 * length
    return Generated([Stage(lambda frame: _emit(frame, whole, arrays, length), scratch), *whole.finish()], whole.workspace_bytes)


def sorted_at_once(n: int, count: int, lanes: int) -> int:
    """How many elements of a row of n lie in scratch: all, or those kept and as many again that wait, in whole vectors."""
    some = -(-(count + max(count, WAITING)) // lanes) * lanes
    return some if 2 * some <= n else n


def _emit(frame: Frame, whole: Whole, arrays: int, length: int) -> None:
    op, b = whole.op, frame.b
    sizes, axes = line_axes(type_of(op.x).shape, op.axis)
    trace = Trace(whole.request.body, sizes)
    axes = tuple(trace.tidy(e) for e in axes)
    node, address = trace.at(op.x, axes), trace.tidy(index.linearize(axes, type_of(op.ordered).shape))
    n = sizes[1]
    keys = [emit.memory_of(frame.scratch, k * 16 * length, INT64, 2 * length) for k in range(arrays)]
    first, last = emit.share(sizes[0] * sizes[2], frame.tid, frame.threads)

    def row(t: Value) -> None:
        before, behind = unravel(frame, t, [sizes[0], sizes[2]])

        def key(i: Value, lanes: int = 1) -> Val:
            point = Point(b, trace, frame.operands, [before, i, behind], 1, lanes)
            return _key(point, point.value(node), op.descending)

        def read(i: Value) -> None:
            for memory, v in zip(keys, _words(frame, key(i), i, arrays)):
                memory.store(v, [i])

        lanes = whole.request.machine.lanes
        if op.count <= IN_REGISTERS and arrays == 1:
            start = _in_registers(frame, keys, key, n, op.count, lanes)
        else:
            emit.loop(0, length, 1, read)
            start = _merge_sort(frame, keys, length) if length == n else _select(frame, keys, key, (n, length, op.count), lanes)

        def write(i: Value) -> None:
            word = keys[-1].load([b.add(start, i)])
            if arrays == 1:
                word = b.same("arith.andi", word, b.const("i64", 0xFFFFFFFF))
            came = b.to("arith.index_cast", word, "index", 1)
            value = Point(b, trace, frame.operands, [before, came, behind]).value(node)
            target = Point(b, trace, frame.operands, [before, i, behind])
            target.store(value, whole.memory(frame, 0), address)
            target.store(Val(b.to("arith.trunci", word, "i32", 1), INT32), whole.memory(frame, 1), address)

        emit.loop(0, op.count, 1, write)

    emit.loop(first, last, 1, row)


def _in_registers(frame: Frame, keys: list[emit.Memory], key: Callable[..., Val], n: int, count: int, lanes: int) -> Value:
    """Sorts the first `count` of a row of n elements; where they start."""
    b = frame.b

    def one(i: Value, *best: Value) -> list[Value]:
        (word,), out = _words(frame, key(i), i, 1), []
        for held in best:
            less = b.compare("lt", word, held, "int", 1)
            out.append(b.select(less, word, held))
            word = b.select(less, held, word)
        return out

    first = min(-(-count // lanes) * lanes, n - n % lanes)
    best = emit.loop(0, first, 1, one, [b.const("i64", (1 << 63) - 1)] * count)
    best = _of_a_row(frame, key, (first, n), lanes, one, best)
    for k, word in enumerate(best):
        keys[0].store(word, [b.index(k)])
    return b.index(0)


def _select(frame: Frame, keys: list[emit.Memory], key: Callable[..., Val], sizes: tuple[int, int, int], lanes: int) -> Value:
    """Sorts the first `count` of a row of n elements, of which the first `length` lie in scratch; where they start."""
    b = frame.b
    n, length, count = sizes

    def sort() -> Value:
        start = _merge_sort(frame, keys, length)
        for memory in keys:
            emit.loop(0, count, 1, lambda i, memory=memory: memory.store(memory.load([b.add(start, i)]), [i]))
        return keys[0].load([b.index(count - 1)])

    def one(i: Value, end: Value, last: Value) -> list[Value]:
        words = _words(frame, key(i), i, len(keys))
        for memory, word in zip(keys, words):
            memory.store(word, [end])
        end = b.add(end, b.to("arith.index_castui", b.compare("lt", words[0], last, "int", 1), "index", 1))
        full = b.compare("eq", end, b.index(length), "int", 1)
        return emit.choose(full, [end.type, last.type], lambda: [b.index(count), sort()], lambda: [end, last])

    end, _ = _of_a_row(frame, key, (length, n), lanes, one, [b.index(count), sort()])
    for memory, word in zip(keys, [b.const("i64", (1 << 63) - 1), b.const("i64", n)]):
        emit.loop(end, length, 1, lambda i, memory=memory, word=word: memory.store(word, [i]))
    sort()
    return b.index(0)


def _of_a_row(
    frame: Frame, key: Callable[..., Val], span: tuple[int, int], lanes: int, one: Callable[..., list[Value]], carried: list[Value]
) -> list[Value]:
    """Carries values through the elements of a row, of which the last is the word that an element must be less than. Of as many elements as there are
    lanes nothing is done where none is."""
    b = frame.b
    first, n = span
    whole = n - n % lanes

    def some(i: Value, *held: Value) -> list[Value]:
        found, limit = key(i, lanes), held[-1]
        element = f"i{found.dtype.bits}"
        if element == "i32":  # a word holds its key above the index
            limit = b.to("arith.trunci", b.same("arith.shrsi", limit, b.const("i64", 32)), element, 1)
        here = b.compare("lt", b.spread(found.ssa, element, lanes // found.lanes), b.spread(limit, element, lanes), "int", lanes)
        if lanes > 1:
            here = vector.reduction(b.type("i1"), "or", here)
        return emit.choose(here, [v.type for v in held], lambda: emit.loop(i, b.add(i, lanes), 1, one, held), lambda: held)

    carried = emit.loop(first, whole, lanes, some, carried)
    return emit.loop(whole, n, 1, one, carried)


def _words(frame: Frame, key: Val, i: Value, arrays: int) -> list[Value]:
    """What is sorted: key and index in one word, or in two."""
    b = frame.b
    place = b.to("arith.index_cast", i, "i64", 1)
    if arrays == 2:
        return [key.ssa, place]
    wide = b.to("arith.extsi", key.ssa, "i64", 1)
    return [b.same("arith.ori", b.same("arith.shli", wide, b.const("i64", 32)), place)]


def _key(point: Point, x: Val, descending: bool) -> Val:
    """The signed integers that are sorted, of 64 bits where the values have as many, else of 32; NaN comes last in both orders."""
    s = point.s
    key = _ordered(point, x)
    if descending:
        key = s.logical_not(key)
    if not x.dtype.is_float:
        return key
    return s.select(s.compare("ne", x, x), s.const((1 << (key.dtype.bits - 1)) - 1, key.dtype), key)


def _ordered(point: Point, x: Val) -> Val:
    """Signed integers in the order of the values; both zeros are one."""
    b, s = point.b, point.s
    if not x.dtype.is_float:
        return x if x.dtype.bits == 64 else s.cast(x, x.dtype, INT32)
    whole: DType = INT64 if x.dtype.bits == 64 else INT32
    element, lanes = f"i{whole.bits}", x.lanes
    plain = s.add(x, s.const(0.0, x.dtype))
    bits = b.to("arith.bitcast", plain.ssa, element, lanes)
    sign = b.same("arith.shrsi", bits, b.const(element, whole.bits - 1, lanes))
    return Val(b.same("arith.xori", bits, b.same("arith.andi", sign, b.const(element, (1 << (whole.bits - 1)) - 1, lanes))), whole, lanes)


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
