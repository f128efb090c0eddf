"""Training as operators: gradients of a graph, one step of an optimizer."""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir import ops

from ..call import Call
from ..table import operator
from ..values import Value, cast, like, reduce, reshape, sqrt, where

DOMAIN = "ai.onnx.preview.training"


def _scalar(x: Value, like: Value) -> Value:
    return cast(reshape(x, ()), like.elem)


def _groups(inputs: tuple[Value, ...], count: int) -> list[tuple[Value, ...]]:
    """The tensors of each optimized value: the inputs hold all values, then all gradients, then all first states, ..."""
    n = len(inputs) // count
    return [tuple(inputs[k + j * n] for j in range(count)) for k in range(n)]


def _columns(rows: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    return tuple(v for column in zip(*rows) for v in column)


@operator("Gradient", domain=DOMAIN)
def _gradient(call: Call, *given: Value) -> tuple[Value, ...]:
    """Of the sum of a value of the graph with respect to others; through inputs named in `zs` nothing flows that is not theirs."""
    names, target = call.texts("xs", []), call.text("y")
    scope = call.scope.names
    found = [scope.get(name) for name in [target, *names]]
    values = [v for v in found if isinstance(v, Value) and v.elem.is_float]
    if len(values) != len(found) or not names:
        raise call.mistake(f"it names '{target}' and {names}, which are no float tensors of the graph")
    total = reduce(values[0], "sum", list(range(values[0].rank)))
    call.run.builder.has_gradients = True
    made = ops.Grad.of(total.value, *[v.value for v in values[1:]])
    return tuple(Value(g, v.elem) for g, v in zip(made if isinstance(made, list) else [made], values[1:]))


@operator("Momentum", domain=DOMAIN)
def _momentum(call: Call, rate: Value, turn: Value, *inputs: Value) -> tuple[Value, ...]:
    alpha, decay = call.number("alpha"), call.number("norm_coefficient")
    rows = []
    for x, g, v in _groups(inputs, 3):
        g = g + x * decay
        beta = where_later(turn, x, call.number("beta"))
        v = v * alpha + g * beta
        rows.append((x - _scalar(rate, x) * (g + v * alpha if call.text("mode") == "nesterov" else v), v))
    return _columns(rows)


def where_later(turn: Value, x: Value, later: float) -> Value:
    """1 at the first turn, else `later`."""
    first = reshape(turn > 0, ())
    one = like(_scalar(turn, x), 1.0)
    return where(first, one * later, one)


@operator("Adagrad", domain=DOMAIN)
def _adagrad(call: Call, rate: Value, turn: Value, *inputs: Value) -> tuple[Value, ...]:
    decay, epsilon, factor = call.number("norm_coefficient"), call.number("epsilon"), call.number("decay_factor")
    rows = []
    for x, g, h in _groups(inputs, 3):
        r = _scalar(rate, x) / (_scalar(turn, x) * factor + 1.0)
        g = g + x * decay
        h = h + g * g
        rows.append((x - r * g / (sqrt(h) + epsilon), h))
    return _columns(rows)


@operator("Adam", domain=DOMAIN)
def _adam(call: Call, rate: Value, turn: Value, *inputs: Value) -> tuple[Value, ...]:
    alpha, beta, epsilon = call.number("alpha", 0.9), call.number("beta", 0.999), call.number("epsilon", 1e-6)
    decay, after = call.number("norm_coefficient"), call.number("norm_coefficient_post")
    rows = []
    for x, g, v, h in _groups(inputs, 4):
        t, r = _scalar(turn, x), _scalar(rate, x)
        g = g + x * decay
        v, h = v * alpha + g * (1.0 - alpha), h * beta + g * g * (1.0 - beta)
        corrected = r * sqrt(1.0 - beta_power(beta, t)) / (1.0 - beta_power(alpha, t))
        step = where(t > 0.0, corrected, r)
        rows.append(((x - step * v / (sqrt(h) + epsilon)) * (1.0 - after), v, h))
    return _columns(rows)


def beta_power(base: float, t: Value) -> Value:
    """base ** t for t > 0; 0 elsewhere, so that nothing is divided by 0."""
    return where(t > 0.0, like(t, base) ** t, 0.0)
