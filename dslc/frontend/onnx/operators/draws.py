"""Random operators: draws of the keyed generator, a stream for each node."""

from __future__ import annotations

from collections.abc import Sequence

from dslc.core import philox
from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import Value, cast, cumulative, exp, expand_axes, reduce


def _draw(call: Call, kind: str, shape: Sequence[int]) -> Value:
    run = call.run
    builder = run.builder
    run.draws += 1
    stream = philox.stream_hash(f"{run.path}/{call.scope.path}/{call.node.name or call.node.outputs[0]}/{run.draws}")
    turn = run.turns[-1] if run.turns else ops.constant(0)
    value = ops.Random.of(builder.scalar("seed"), builder.counter(), turn, kind=kind, stream=stream, shape=tuple(shape), low=0, high=1)
    return Value(value, types.FLOAT)


def uniform(call: Call, shape: Sequence[int]) -> Value:
    """float32 draws on [0, 1)."""
    return _draw(call, "uniform", shape)


def normal(call: Call, shape: Sequence[int]) -> Value:
    """float32 draws of the normal distribution."""
    return _draw(call, "normal", shape)


@operator("RandomUniform", "RandomUniformLike")
def _uniform(call: Call, like: Value | None = None) -> Value:
    low, high = call.number("low"), call.number("high", 1.0)
    shape = like.shape if like is not None else call.ints("shape")
    elem = call.elem("dtype", like.elem if like is not None and like.elem.is_float else types.FLOAT)
    return cast(uniform(call, shape) * (high - low) + low, elem)


@operator("RandomNormal", "RandomNormalLike")
def _normal(call: Call, like: Value | None = None) -> Value:
    shape = like.shape if like is not None else call.ints("shape")
    elem = call.elem("dtype", like.elem if like is not None and like.elem.is_float else types.FLOAT)
    return cast(normal(call, shape) * call.number("scale", 1.0) + call.number("mean"), elem)


@operator("Bernoulli")
def _bernoulli(call: Call, x: Value) -> Value:
    return cast(uniform(call, x.shape) < cast(x, types.FLOAT), call.elem("dtype", x.elem))


@operator("Multinomial")
def _multinomial(call: Call, x: Value) -> Value:
    """Inverse of the cumulated distribution at uniform draws."""
    count = call.integer("sample_size", 1)
    logits = cast(x, types.FLOAT)
    weights = exp(logits - reduce(logits, "max", [1], keep=True))
    edges = cumulative(weights, "sum", 1)
    at = uniform(call, (x.shape[0], count)) * reduce(weights, "sum", [1], keep=True)
    passed = cast(expand_axes(edges, [1]) <= expand_axes(at, [2]), types.INT32)
    last = Value(ops.full(passed.type.with_shape(passed.shape[:2]), x.shape[1] - 1), types.INT32)
    found = reduce(passed, "sum", [2])
    return cast(Value(ops.Min.of(found.value, last.value), types.INT32), call.elem("dtype", types.INT32))
