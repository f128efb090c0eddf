"""Recurrent layers: one scan a direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..call import Call
from ..loops import scan
from ..table import operator
from ..values import (
    Value,
    absolute,
    broadcast_to,
    concat,
    expand_axes,
    expm1,
    full,
    gather,
    iota,
    matmul,
    maximum,
    minimum,
    places,
    reshape,
    sigmoid,
    slice_axis,
    tanh,
    transpose,
    where,
)  # fmt: skip
from .elementwise import softplus

ACTIVATIONS: dict[str, tuple[Callable[[Value, float, float], Value], float, float]] = {
    "relu": (lambda x, a, b: maximum(x, 0.0), 0.0, 0.0),
    "tanh": (lambda x, a, b: tanh(x), 0.0, 0.0),
    "sigmoid": (lambda x, a, b: sigmoid(x), 0.0, 0.0),
    "affine": (lambda x, a, b: x * a + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: where(x < 0.0, x * a, x), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, b: where(x >= a, x, 0.0), 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: tanh(x * b) * a, 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: minimum(maximum(x * a + b, 0.0), 1.0), 0.2, 0.5),
    "elu": (lambda x, a, b: where(x >= 0.0, x, expm1(minimum(x, 0.0)) * a), 1.0, 0.0),
    "softsign": (lambda x, a, b: x / (absolute(x) + 1.0), 0.0, 0.0),
    "softplus": (lambda x, a, b: softplus(x), 0.0, 0.0),
}
Activation = Callable[[Value], Value]


@dataclass(frozen=True)
class Layer:
    """What the directions of one node share. x is [time, batch, inputs]."""

    call: Call
    x: Value
    hidden: int
    lengths: Value | None
    functions: list[Activation]

    def clipped(self, x: Value) -> Value:
        limit = self.call.number("clip", None)
        return x if limit is None else minimum(maximum(x, -limit), limit)


def _functions(call: Call, default: Sequence[str], directions: int) -> list[Activation]:
    names = call.texts("activations", [*default] * directions)
    alphas, betas = iter(call.floats("activation_alpha", [])), iter(call.floats("activation_beta", []))
    out: list[Activation] = []
    for name in names:
        if name.lower() not in ACTIVATIONS:
            raise call.gap(f"activation '{name}' is not supported")
        apply, a, b = ACTIVATIONS[name.lower()]
        takes = {"affine": 2, "scaledtanh": 2, "hardsigmoid": 2, "leakyrelu": 1, "thresholdedrelu": 1, "elu": 1}.get(name.lower(), 0)
        a, b = next(alphas, a) if takes else a, next(betas, b) if takes == 2 else b
        out.append(lambda x, apply=apply, a=a, b=b: apply(x, a, b))  # type: ignore[misc]
    return out


def _reversed(x: Value, lengths: Value | None) -> Value:
    """Turned round in time, each row within its length."""
    n = x.shape[0]
    if lengths is None:
        return slice_axis(x, 0, n - 1, n, -1)
    shape = x.shape[:2]
    ends, at = broadcast_to(expand_axes(places(lengths), [0]), shape), iota(shape, 0)
    return gather(x, [where(at < ends, ends - at - 1, at), iota(shape, 1)])


Step = Callable[[Value, list[Value]], list[Value]]


def _direction(layer: Layer, inputs: Value, starts: list[Value], step: Step, backward: bool) -> tuple[Value, list[Value]]:
    """(hidden of each time, last carries) of one direction; `inputs` is what a step takes of x, [time, batch, ...]."""
    lengths = layer.lengths
    given = _reversed(inputs, lengths) if backward else inputs
    stacked = [given]
    if lengths is not None:
        shape = given.shape[:2]
        stacked.append(iota(shape, 0) < broadcast_to(expand_axes(places(lengths), [0]), shape))

    def turn(slices: list[Value], carries: list[Value]) -> tuple[list[Value], list[Value]]:
        new = step(slices[0], carries)
        if lengths is None:
            return new, [new[0]]
        alive = expand_axes(slices[1], [1])
        return [where(broadcast_to(alive, v.shape), v, old) for v, old in zip(new, carries)], [where(broadcast_to(alive, new[0].shape), new[0], 0.0)]

    last, (ys,) = scan(layer.call, given.shape[0], starts, stacked, turn)
    return (_reversed(ys, lengths) if backward else ys), last


def _part(x: Value | None, direction: int) -> Value | None:
    """One direction's slice of weights or states."""
    return None if x is None else reshape(slice_axis(x, 0, direction, 1), x.shape[1:])


def _gates(x: Value, axis: int, count: int) -> list[Value]:
    size = x.shape[axis] // count
    return [slice_axis(x, axis, k * size, size) for k in range(count)]


Cell = Callable[[Layer, Value, Value, "Value | None", "Value | None", list[Activation]], "tuple[Value, Step]"]


def _recurrent(
    call: Call, cell: Cell, gates: int, default: Sequence[str], x: Value, w: Value, r: Value, b: Value | None, lengths: Value | None,
    starts: Sequence[Value | None], peepholes: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    directions = w.shape[0]
    how, hidden = call.text("direction", "forward"), call.integer("hidden_size", w.shape[1] // gates)
    if directions != (2 if how == "bidirectional" else 1) or w.shape[1] != gates * hidden:
        raise call.misfit(f"weights {w} for a {how} layer of {hidden} units")
    rows = call.integer("layout") == 1
    if rows:
        x, starts = transpose(x, [1, 0, 2]), [transpose(s, [1, 0, 2]) if s is not None else None for s in starts]
    layer = Layer(call, x, hidden, lengths, _functions(call, default, directions))
    each = len(default)
    outputs, lasts = [], []
    for d in range(directions):
        wd, rd = _part(w, d), _part(r, d)
        assert wd is not None and rd is not None
        inputs, step = cell(layer, wd, rd, _part(b, d), _part(peepholes, d), layer.functions[d * each : (d + 1) * each])
        begin = [_part(s, d) or full((x.shape[1], hidden), 0.0, x.elem) for s in starts]
        ys, last = _direction(layer, inputs, begin, step, how == "reverse" or d == 1)
        outputs.append(expand_axes(ys, [1]))
        lasts.append([expand_axes(v, [0]) for v in last])
    y = concat(outputs, 1)
    ends = [concat([v[k] for v in lasts], 0) for k in range(len(starts))]
    if rows:
        y, ends = transpose(y, [2, 0, 1, 3]), [transpose(v, [1, 0, 2]) for v in ends]
    return (y, *ends)


def _products(x: Value, w: Value, bias: Value | None) -> Value:
    """x w.T + bias for all times at once."""
    y = matmul(x, transpose(w, [1, 0]))
    return y if bias is None else y + bias


def _halves(b: Value | None) -> tuple[Value | None, Value | None]:
    return (None, None) if b is None else (slice_axis(b, 0, 0, b.size // 2), slice_axis(b, 0, b.size // 2, b.size // 2))


def _rnn_cell(layer: Layer, w: Value, r: Value, b: Value | None, p: Value | None, fs: list[Activation]) -> tuple[Value, Step]:
    bw, br = _halves(b)
    turned = transpose(r, [1, 0])

    def step(x: Value, carries: list[Value]) -> list[Value]:
        y = x + matmul(carries[0], turned)
        return [fs[0](layer.clipped(y if br is None else y + br))]

    return _products(layer.x, w, bw), step


def _gru_cell(layer: Layer, w: Value, r: Value, b: Value | None, p: Value | None, fs: list[Activation]) -> tuple[Value, Step]:
    bw, br = _halves(b)
    rz, rr, rh = _gates(transpose(r, [1, 0]), 1, 3)
    bz, br_, bh = _gates(br, 0, 3) if br is not None else (None, None, None)

    def plus(x: Value, bias: Value | None) -> Value:
        return x if bias is None else x + bias

    def step(x: Value, carries: list[Value]) -> list[Value]:
        (h,) = carries
        xz, xr, xh = _gates(x, 1, 3)
        z = fs[0](layer.clipped(plus(xz + matmul(h, rz), bz)))
        gate = fs[0](layer.clipped(plus(xr + matmul(h, rr), br_)))
        if layer.call.integer("linear_before_reset"):
            new = xh + gate * plus(matmul(h, rh), bh)
        else:
            new = plus(xh + matmul(gate * h, rh), bh)
        new = fs[1](layer.clipped(new))
        return [(1.0 - z) * new + z * h]

    return _products(layer.x, w, bw), step


def _lstm_cell(layer: Layer, w: Value, r: Value, b: Value | None, p: Value | None, fs: list[Activation]) -> tuple[Value, Step]:
    bw, br = _halves(b)
    bias = bw + br if bw is not None and br is not None else None
    turned = transpose(r, [1, 0])
    pi, po, pf = _gates(p, 0, 3) if p is not None else (None, None, None)

    def peeked(x: Value, weight: Value | None, c: Value) -> Value:
        return layer.clipped(x if weight is None else x + weight * c)

    def step(x: Value, carries: list[Value]) -> list[Value]:
        h, c = carries
        i, o, f, g = _gates(x + matmul(h, turned), 1, 4)
        i = fs[0](peeked(i, pi, c))
        f = 1.0 - i if layer.call.integer("input_forget") else fs[0](peeked(f, pf, c))
        new = f * c + i * fs[1](layer.clipped(g))
        return [fs[0](peeked(o, po, new)) * fs[2](new), new]

    return _products(layer.x, w, bias), step


@operator("RNN", weights=(1, 2, 3))
def _rnn(call: Call, x: Value, w: Value, r: Value, b: Value | None = None, lengths: Value | None = None, h: Value | None = None) -> tuple[Value, ...]:
    return _recurrent(call, _rnn_cell, 1, ["Tanh"], x, w, r, b, lengths, [h])


@operator("GRU", weights=(1, 2, 3))
def _gru(call: Call, x: Value, w: Value, r: Value, b: Value | None = None, lengths: Value | None = None, h: Value | None = None) -> tuple[Value, ...]:
    return _recurrent(call, _gru_cell, 3, ["Sigmoid", "Tanh"], x, w, r, b, lengths, [h])


@operator("LSTM", weights=(1, 2, 3, 7))
def _lstm(
    call: Call, x: Value, w: Value, r: Value, b: Value | None = None, lengths: Value | None = None, h: Value | None = None, c: Value | None = None,
    p: Value | None = None,
) -> tuple[Value, ...]:  # fmt: skip
    return _recurrent(call, _lstm_cell, 4, ["Sigmoid", "Tanh", "Tanh"], x, w, r, b, lengths, [h, c], p)
