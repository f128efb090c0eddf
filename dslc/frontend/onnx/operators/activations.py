"""Activations, softmax and its kin, dropout."""

from __future__ import annotations

from math import prod

from dslc.ir import ops

from .. import types
from ..call import Call
from ..table import operator
from ..values import (
    Value,
    absolute,
    axis_of,
    cast,
    expm1,
    iota,
    log_softmax,
    maximum,
    minimum,
    reshape,
    sigmoid,
    softmax,
    tanh,
    where,
)  # fmt: skip
from .draws import uniform
from .elementwise import gelu, softplus


@operator("Relu")
def _relu(call: Call, x: Value) -> Value:
    return maximum(x, 0)


@operator("LeakyRelu")
def _leaky(call: Call, x: Value) -> Value:
    return where(x < 0.0, x * call.number("alpha", 0.01), x)


@operator("PRelu", weights=(1,))
def _prelu(call: Call, x: Value, slope: Value) -> Value:
    return where(x < 0, x * slope, x)


@operator("Elu")
def _elu(call: Call, x: Value) -> Value:
    return where(x < 0.0, expm1(minimum(x, 0.0)) * call.number("alpha", 1.0), x)


@operator("Selu")
def _selu(call: Call, x: Value) -> Value:
    alpha, gamma = call.number("alpha", 1.67326319217681884765625), call.number("gamma", 1.05070102214813232421875)
    return where(x > 0.0, x, expm1(where(x > 0.0, 0.0, x)) * alpha) * gamma  # at 0 the slope is that from below


@operator("Celu")
def _celu(call: Call, x: Value) -> Value:
    alpha = call.number("alpha", 1.0)
    return where(x > 0.0, x, expm1(where(x > 0.0, 0.0, x) / alpha) * alpha)


@operator("ThresholdedRelu")
def _thresholded(call: Call, x: Value) -> Value:
    return where(x > call.number("alpha", 1.0), x, 0.0)


@operator("Softplus")
def _softplus(call: Call, x: Value) -> Value:
    return softplus(x)


@operator("Softsign")
def _softsign(call: Call, x: Value) -> Value:
    return x / (absolute(x) + 1.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, x: Value) -> Value:
    return minimum(maximum(x * call.number("alpha", 0.2) + call.number("beta", 0.5), 0.0), 1.0)


@operator("HardSwish")
def _hard_swish(call: Call, x: Value) -> Value:
    return x * minimum(maximum(x * (1 / 6) + 0.5, 0.0), 1.0)


@operator("Gelu")
def _gelu(call: Call, x: Value) -> Value:
    return gelu(x, call.text("approximate", "none"))


@operator("FastGelu", domain="com.microsoft")
def _fast_gelu(call: Call, x: Value, bias: Value | None = None) -> Value:
    return gelu(x + bias if bias is not None else x, "tanh")


@operator("Mish")
def _mish(call: Call, x: Value) -> Value:
    return x * tanh(softplus(x))


@operator("Swish")
def _swish(call: Call, x: Value) -> Value:
    return x * sigmoid(x * call.number("alpha", 1.0))


@operator("Shrink")
def _shrink(call: Call, x: Value) -> Value:
    lambd, bias = call.number("lambd", 0.5), call.number("bias")
    wide = x if x.elem.is_float else cast(x, types.FLOAT)
    return cast(where(wide < -lambd, wide + bias, where(wide > lambd, wide - bias, 0.0)), x.elem)


def _of_rows(call: Call, x: Value, make: object) -> Value:
    """Along one axis; before opset 13 along all axes from `axis` on, as one."""
    if call.version >= 13:
        return make(x, axis_of(call.integer("axis", -1), x.rank))  # type: ignore[operator]
    axis = call.integer("axis", 1)
    axis += x.rank if axis < 0 else 0
    rows = reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))
    return reshape(make(rows, 1), x.shape)  # type: ignore[operator]


@operator("Softmax")
def _softmax(call: Call, x: Value) -> Value:
    return _of_rows(call, x, softmax)


@operator("LogSoftmax")
def _log_softmax(call: Call, x: Value) -> Value:
    return _of_rows(call, x, log_softmax)


@operator("Hardmax")
def _hardmax(call: Call, x: Value) -> Value:
    def first(x: Value, axis: int) -> Value:
        best = Value(ops.ArgReduce.of(x.value, kind="max", axis=axis), types.INT32)
        return cast(iota(x.shape, axis).eq(reshape(best, [1 if k == axis else n for k, n in enumerate(x.shape)])), x.elem)

    return _of_rows(call, x, first)


@operator("Dropout")
def _dropout(call: Call, x: Value, ratio: Value | None = None, training: Value | None = None) -> tuple[Value, Value]:
    """Active in training programs, and where the node itself says so."""
    rate = float(call.static(ratio, "ratio")) if ratio is not None else call.number("ratio", 0.5)
    said = training is not None and bool(call.static(training, "training_mode"))
    if not (said or (call.training and training is None)) or rate == 0.0:
        return x, Value(ops.full(x.type.with_dtype(types.BOOL.carrier), True), types.BOOL)
    if not 0.0 <= rate < 1.0:
        raise call.mistake(f"ratio must be in [0, 1), it is {rate:g}")
    kept = uniform(call, x.shape) >= rate
    return where(kept, x * (1.0 / (1.0 - rate)), 0.0), kept
