"""Activation functions."""

from __future__ import annotations

import math

import numpy as np

from ..call import Call
from ..table import operator
from ..values import Value, absolute, axis_of, cast, erf, exp, iota, log1p, log_softmax, maximum, minimum, reduce, reshape, sigmoid, softmax, tanh, where


@operator("Relu")
def relu(n: Call, x: Value) -> Value:
    return maximum(x, 0)


@operator("LeakyRelu")
def leaky_relu(n: Call, x: Value) -> Value:
    return where(x < 0.0, x * n.number("alpha", 0.01), x)


@operator("Elu")
def elu(n: Call, x: Value) -> Value:
    return where(x < 0.0, (exp(minimum(x, 0.0)) - 1.0) * n.number("alpha", 1.0), x)


@operator("Celu")
def celu(n: Call, x: Value) -> Value:
    """Barron 2017: max(0, x) + min(0, alpha (exp(x / alpha) - 1))"""
    alpha = n.number("alpha", 1.0)
    return maximum(x, 0.0) + minimum((exp(minimum(x, 0.0) / alpha) - 1.0) * alpha, 0.0)


@operator("Selu")
def selu(n: Call, x: Value) -> Value:
    """Klambauer et al. 2017"""
    alpha, gamma = n.number("alpha", 1.67326319217681884765625), n.number("gamma", 1.05070102214813232421875)
    return where(x <= 0.0, (exp(minimum(x, 0.0)) - 1.0) * alpha, x) * gamma


@operator("HardSigmoid")
def hard_sigmoid(n: Call, x: Value) -> Value:
    return minimum(maximum(x * n.number("alpha", 0.2) + n.number("beta", 0.5), 0.0), 1.0)


@operator("HardSwish")
def hard_swish(n: Call, x: Value) -> Value:
    return x * minimum(maximum(x / 6.0 + 0.5, 0.0), 1.0)


@operator("Softplus")
def softplus(n: Call, x: Value) -> Value:
    return maximum(x, 0.0) + log1p(exp(-absolute(x)))


@operator("Softsign")
def softsign(n: Call, x: Value) -> Value:
    return x / (absolute(x) + 1.0)


@operator("ThresholdedRelu")
def thresholded_relu(n: Call, x: Value) -> Value:
    return where(x > n.number("alpha", 1.0), x, 0)


@operator("Shrink")
def shrink(n: Call, x: Value) -> Value:
    bias, edge = n.number("bias", 0.0), n.number("lambd", 0.5)
    if not x.elem.is_float:
        return where(x > edge, x - bias, where(x < -edge, x + bias, 0))
    return where(x < -edge, x + bias, where(x > edge, x - bias, 0.0))


@operator("Mish")
def mish(n: Call, x: Value) -> Value:
    """Misra 2019: x tanh(softplus(x))"""
    return x * tanh(softplus(n, x))


@operator("Gelu")
def gelu(n: Call, x: Value) -> Value:
    """Hendrycks and Gimpel 2016, exact or with tanh"""
    if n.text("approximate", "none") == "tanh":
        return x * 0.5 * (tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1.0)
    return x * 0.5 * (erf(x * math.sqrt(0.5)) + 1.0)


@operator("Swish")
def swish(n: Call, x: Value) -> Value:
    return x * sigmoid(x * n.number("alpha", 1.0))


def along(x: Value, axis: int, version: int, function: object) -> Value:
    """softmax and its kin: before opset 13 over all axes from `axis` on, made one."""
    if version >= 13:
        return function(x, axis)  # type: ignore[operator]
    rows = int(np.prod(x.shape[:axis]))
    flat = reshape(x, [rows, x.size // rows if rows else 0])
    return reshape(function(flat, 1), x.shape)  # type: ignore[operator]


@operator("Softmax", "LogSoftmax")
def softmaxes(n: Call, x: Value) -> Value:
    axis = axis_of(n.integer("axis", -1 if n.version >= 13 else 1), x.rank)
    return along(x, axis, n.version, softmax if n.node.op == "Softmax" else log_softmax)


@operator("Hardmax")
def hardmax(n: Call, x: Value) -> Value:
    """1 at the first greatest element along the axis, else 0."""
    axis = axis_of(n.integer("axis", -1 if n.version >= 13 else 1), x.rank)

    def first(x: Value, axis: int) -> Value:
        place = iota(x.shape, axis)
        best = x.eq(reduce(x, "max", [axis], keep=True))
        chosen = reduce(where(best, place, x.shape[axis]), "min", [axis], keep=True)
        return cast(place.eq(chosen), x.elem)

    return along(x, axis, n.version, first)


