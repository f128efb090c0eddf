"""An interpreter of index maps and scalar expressions in numpy: what an op gives at every point, from `maps` and `scalar` alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from dslc.ir import index
from dslc.ir.ops.elementwise import COMPARISONS, cast_array
from dslc.ir.ops.reduction import KINDS, identity
from dslc.ir.types import type_of


class Arithmetic:
    """`Scalars` on numpy values; `place` gives the index along each axis."""

    def __init__(self, place: tuple[np.ndarray, ...]):
        self.place = place

    def const(self, value: Any, dtype: Any) -> Any:
        return np.asarray(value).astype(dtype.numpy)

    def index(self, axis: int, dtype: Any) -> Any:
        return self.place[axis].astype(dtype.numpy)

    def cast(self, x: Any, source: Any, target: Any) -> Any:
        return cast_array(np.asarray(x), target)

    def compare(self, predicate: str, a: Any, b: Any) -> Any:
        return COMPARISONS[predicate](a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        return np.where(condition, a, b)

    def floordiv(self, a: Any, b: Any) -> Any:
        return np.floor(a / b) if a.dtype.kind == "f" else np.where(b == 0, 0, a // np.where(b == 0, 1, b))

    def mod(self, a: Any, b: Any) -> Any:
        return np.mod(a, b) if a.dtype.kind == "f" else np.where(b == 0, 0, a % np.where(b == 0, 1, b))

    def __getattr__(self, name: str) -> Any:
        return _PLAIN[name]


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


_PLAIN = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.abs, "sign": np.sign, "min": np.minimum,
    "max": np.maximum, "pow": np.power, "atan2": np.arctan2, "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": _erf, "round": np.round, "floor": np.floor, "ceil": np.ceil, "logical_and": np.bitwise_and,
    "logical_or": np.bitwise_or, "logical_xor": np.bitwise_xor, "logical_not": np.invert, "shift_left": np.left_shift, "shift_right": np.right_shift,
}  # fmt: skip


def evaluate_points(op: Any, operands: list[np.ndarray]) -> np.ndarray:
    """The result, by reading every operand through its map at every point of the iteration space, and folding the reduced axes."""
    maps = op.maps()
    place = tuple(np.indices(maps.domain, sparse=False)) if maps.domain else ()
    read: dict[int, Any] = {}

    def at(e: index.Expr) -> Any:
        match e:
            case index.Const(value):
                return np.full(maps.domain, value)
            case index.Dim(axis):
                return place[axis]
            case index.Symbol(operand):
                return value_of(operand)[0]
            case index.Sum(terms, constant):
                return sum((at(t) * f for t, f in terms), np.full(maps.domain, constant))
            case index.FloorDiv(dividend, divisor):
                return at(dividend) // divisor
            case index.Mod(dividend, divisor):
                return at(dividend) % divisor
        raise TypeError(e)

    def value_of(k: int) -> tuple[Any, Any]:
        """(values, whether the read was inside) of operand k."""
        if k not in read:
            x = operands[k]
            inside = np.ones(maps.domain, bool)
            where = []
            for e, n in zip(maps.reads[k], x.shape):
                i = at(e)
                inside &= (i >= 0) & (i < n)
                where.append(np.clip(i, 0, max(n - 1, 0)))
            for operand, guard in maps.guards:
                if operand == k:
                    inside &= at(guard) == 0
            if x.size == 0:
                values = np.zeros(maps.domain, x.dtype)
            else:
                values = x[tuple(where)] if where else np.broadcast_to(x, maps.domain)
            if maps.outside is not None:
                values = np.where(inside, values, np.asarray(maps.outside).astype(x.dtype))
            read[k] = (values, inside)
        return read[k]

    values = [value_of(k) for k in range(len(operands))]
    rank = type_of(op.results[0]).rank
    folded = tuple(range(rank, len(maps.domain)))
    match op.structure:
        case "view" | "gather":
            return values[0][0]
        case "join":
            out = values[-1][0]
            for value, inside in reversed(values[:-1]):
                out = np.where(inside, value, out)
            return out
        case "reduce":
            kind = getattr(op, "kind", "sum")
            start = np.asarray(identity(kind, type_of(op.results[0]).dtype)).astype(values[0][0].dtype)
            return KINDS[kind][0].reduce(values[0][0], axis=folded, initial=start)
        case "contract":
            wide = np.float64 if values[0][0].dtype.kind == "f" else np.int64
            return (values[0][0].astype(wide) * values[1][0].astype(wide)).sum(axis=folded)
    if op.operation.name == "nn.constant" and op.uniform is None:
        return op.reference()
    return np.broadcast_to(op.scalar(Arithmetic(place), *(v for v, _ in values)), maps.domain)
