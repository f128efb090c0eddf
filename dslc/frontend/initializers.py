"""Starting values: zeros, ones, constants, keyed draws scaled by fans, orthogonal matrices, equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dslc.core import philox
from dslc.core.errors import NameError_, TypeError_, did_you_mean
from dslc.ir.types import TensorType

from . import syntax as s
from .signatures import by_name
from .statics import DYNAMIC, static_value
from .unparse import unparse
from .values import LayerValue

if TYPE_CHECKING:
    from .frame import Frame

Fans = tuple[int, int]


@dataclass(frozen=True)
class Initializer:
    """`kind` of `KINDS` with its arguments (and fans that the file gives), "equation", or "file": the `values` of an imported graph, an
    `onnx.graph.Literal`."""

    kind: str
    arguments: tuple[float, ...] = ()
    fans: tuple[int | None, int | None] = (None, None)
    equation: Any = None
    path: str | None = None  # of the parameter that this one starts equal to
    values: Any = field(default=None, compare=False, repr=False)

    def make(self, path: str, t: TensorType, fans: Fans, seed: int) -> np.ndarray:
        """The values float64 of a tensor: draws are keyed by the seed and the path."""
        if self.kind == "equation":
            return _by_equation(*self.equation)
        if self.kind == "file":
            found: np.ndarray = self.values.array
            return found
        given = (self.fans[0] or fans[0], self.fans[1] or fans[1])
        return np.asarray(KINDS[self.kind].make(t.shape, given, philox.stream_hash(self.path or path), seed, *self.arguments), np.float64)

    @property
    def drawn(self) -> bool:
        """Whether the values take a generator, and so time."""
        return self.kind in KINDS

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{a:g}' for a in self.arguments)})"


@dataclass(frozen=True)
class Kind:
    """`parameters` with their defaults (None: needed)."""

    parameters: dict[str, float | None]
    make: Callable[..., Any]


def _normal(shape: tuple[int, ...], stream: int, seed: int, std: float) -> np.ndarray:
    return philox.normal(seed, stream, 0, 0, 0, math.prod(shape)).reshape(shape) * std


def _uniform(shape: tuple[int, ...], stream: int, seed: int, low: float, high: float) -> np.ndarray:
    return low + philox.uniform(seed, stream, 0, 0, 0, math.prod(shape)).reshape(shape) * (high - low)


def _symmetric(shape: tuple[int, ...], stream: int, seed: int, limit: float) -> np.ndarray:
    return _uniform(shape, stream, seed, -limit, limit)


def _truncated(shape: tuple[int, ...], stream: int, seed: int, std: float) -> np.ndarray:
    """Normal within two standard deviations, by the inverse distribution function."""
    from scipy.special import ndtri

    low = 0.022750131948179195  # the distribution function at -2
    return ndtri(low + philox.uniform(seed, stream, 0, 0, 0, math.prod(shape)) * (1 - 2 * low)).reshape(shape) * std


def _orthogonal(shape: tuple[int, ...], stream: int, seed: int, gain: float) -> np.ndarray:
    """Saxe et al. 2014: rows or columns of the matrix [first axis, all others] are orthonormal."""
    if len(shape) < 2:
        return _normal(shape, stream, seed, gain)
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(_normal((max(rows, columns), min(rows, columns)), stream, seed, 1.0))
    q = q * np.sign(np.diag(r))
    return gain * (q if rows >= columns else q.T).reshape(shape)


KINDS = {
    "zeros": Kind({}, lambda shape, fans, stream, seed: np.zeros(shape)),
    "ones": Kind({}, lambda shape, fans, stream, seed: np.ones(shape)),
    "constant": Kind({"v": None}, lambda shape, fans, stream, seed, v: np.full(shape, v)),
    "normal": Kind({"std": 1.0}, lambda shape, fans, stream, seed, std: _normal(shape, stream, seed, std)),
    "uniform": Kind({"lo": 0.0, "hi": 1.0}, lambda shape, fans, stream, seed, lo, hi: _uniform(shape, stream, seed, lo, hi)),
    "truncated_normal": Kind({"std": 1.0}, lambda shape, fans, stream, seed, std: _truncated(shape, stream, seed, std)),
    "orthogonal": Kind({"gain": 1.0}, lambda shape, fans, stream, seed, gain: _orthogonal(shape, stream, seed, gain)),
    # Glorot and Bengio 2010
    "xavier_uniform": Kind({"gain": 1.0}, lambda shape, fans, stream, seed, gain: _symmetric(shape, stream, seed, gain * math.sqrt(6 / sum(fans)))),
    "xavier_normal": Kind({"gain": 1.0}, lambda shape, fans, stream, seed, gain: _normal(shape, stream, seed, gain * math.sqrt(2 / sum(fans)))),
    # He et al. 2015
    "he_uniform": Kind({"gain": 2**0.5}, lambda shape, fans, stream, seed, gain: _symmetric(shape, stream, seed, gain * math.sqrt(3 / fans[0]))),
    "he_normal": Kind({"gain": 2**0.5}, lambda shape, fans, stream, seed, gain: _normal(shape, stream, seed, gain / math.sqrt(fans[0]))),
}  # fmt: skip


def initializer(frame: Frame, node: s.Expr, t: TensorType) -> Initializer:
    """The initializer that stands after `~`."""
    if isinstance(node, s.Conditional):
        condition = static_value(frame, node.condition)
        if condition is DYNAMIC:
            raise TypeError_("'if' is decided at compile time", node.condition.span)
        return initializer(frame, node.then if condition else node.otherwise, t)
    if isinstance(node, s.Name):
        value = frame.find(node.name)
        name, call = getattr(value, "name", node.name), None
    elif isinstance(node, s.Call) and isinstance(node.function, s.Name):
        name, call = node.function.name, node
    else:
        raise TypeError_(f"{unparse(node)} is no initializer", node.span, help="write w[d, k] ~ xavier_uniform()")
    if name not in KINDS:
        raise NameError_(f"unknown initializer '{name}'{did_you_mean(name, KINDS)}", node.span, help=f"there are {', '.join(KINDS)}")
    parameters = KINDS[name].parameters
    given: dict[str, float] = {}
    if call is not None:
        numbers = [_number(frame, a) for a in call.arguments], {k.name: _number(frame, k.value) for k in call.keywords}
        given = by_name(name, list(parameters), *numbers, call, named=("fan_in", "fan_out"))
    fans = tuple(int(given[k]) if k in given else None for k in ("fan_in", "fan_out"))
    values = []
    for key, default in parameters.items():
        value = given.get(key, default)
        if value is None:
            raise TypeError_(f"{name} needs '{key}'", node.span)
        values.append(value)
    return Initializer(name, tuple(values), (fans[0], fans[1]))


def _number(frame: Frame, node: s.Expr) -> float:
    value = static_value(frame, node)
    if value is DYNAMIC or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError_("an initializer takes numbers known at compile time", node.span)
    return float(value)


def _by_equation(frame: Frame, target: s.Target, value: s.Expr) -> np.ndarray:
    """The equation's tensor, computed by the reference in a module of its own."""
    import copy

    from dslc.ir import reference
    from dslc.ir.mlir import ir
    from dslc.ir.op import context
    from dslc.ir.program import Slot, finish_program

    from .elaborate import Builder
    from .equations import Equation

    with context(), ir.Location.unknown():
        builder = Builder(frame.builder.source, frame.builder.training)
        alone = copy.copy(frame)
        alone.builder, alone.caller = builder, None
        alone.names = {k: v for k, v in frame.names.items() if isinstance(v, (int, float, list, str, LayerValue))}
        with ir.InsertionPoint(builder.program.entry_block):
            made = Equation(alone, target, target.span).elaborate(value)
        finish_program(builder.program, [(Slot("value", "output", made.type), made.value)])
        return reference.run(builder.module, {})["value"]
