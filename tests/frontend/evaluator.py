"""The meaning of equations, straight from the syntax tree: loops over points, Python numbers, nothing shared with the elaborator.

`evaluate(text, arrays)` runs a model of `dims`, `input`, equations and `output` and gives the outputs as float64 arrays.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from dslc.frontend import syntax as s
from dslc.frontend.parse import parse_text

REDUCTIONS = ("sum", "mean", "max", "min", "prod", "any", "all", "argmax", "argmin", "logsumexp")
ALONG = ("softmax", "log_softmax", "cumsum", "cumprod", "sort", "argsort")
FUNCTIONS = {
    "exp": math.exp, "tanh": math.tanh, "sin": math.sin, "cos": math.cos, "abs": abs, "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "relu": lambda x: x if x > 0 else 0 * x, "floor": math.floor, "sign": lambda x: (x > 0) - (x < 0), "sqrt": math.sqrt,
    "int32": lambda x: math.trunc(x), "float32": float, "bool": bool, "min": min, "max": max, "leaky_relu": lambda x, a=0.01: x if x > 0 else a * x,
    "where": lambda c, a, b: a if c else b, "clip": lambda x, lo, hi: min(max(x, lo), hi), "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + math.exp(-x)), "softplus": lambda x: math.log1p(math.exp(x)), "int": math.trunc,
}  # fmt: skip


def evaluate(text: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    program = parse_text(text, "<evaluator>")
    model = next(d for d in program.definitions if isinstance(d, s.Model))
    dims: dict[str, int] = {}
    tensors: dict[str, np.ndarray] = {}
    out = {}
    for statement in model.body:
        match statement:
            case s.Dims(entries):
                dims |= {d.name: d.value.value for d in entries}
            case s.Input(declarations):
                tensors |= {d.name: arrays[d.name] for d in declarations}
            case s.Assign((target,), value):
                tensors[target.name] = _Equation(target, value, dims, tensors).array()
            case s.Output(items):
                for item in items:
                    name = item.target.name if item.target else item.value.name
                    if item.target is not None and item.target.axes is not None:
                        tensors[name] = _Equation(item.target, item.value, dims, tensors).array()
                    out[name] = tensors[name]
            case _:
                raise NotImplementedError(statement)
    return out


class _Equation:
    def __init__(self, target: s.Target, value: s.Expr, dims: dict[str, int], tensors: dict[str, np.ndarray]):
        self.target, self.expr, self.dims, self.tensors = target, value, dims, tensors
        self.rest: tuple[int, ...] | None = None
        self.sizes: dict[str, int] = {}  # by name, of the indices whose binder gives no bound
        self._ranges(value, {a.name for a in target.axes if isinstance(a, s.Index)})
        for a in target.axes:
            if isinstance(a, s.Index):
                self._bind(a.name, a.bound)

    def _bind(self, name: str, bound: s.Expr | None) -> None:
        if bound is not None:
            self.sizes[name] = self._size(bound)
        elif name not in self.sizes:
            self.sizes[name] = self.dims[name]

    def _size(self, node: s.Expr) -> int:
        return node.value if isinstance(node, s.Number) else self.dims[node.name]

    def _ranges(self, node: object, bound: set[str]) -> None:
        """Sizes from the axes where an index stands alone; the indices of reductions."""
        match node:
            case s.Read(s.Name(name), entries):
                shape, plain = self.tensors[name].shape, [e for e in entries if not isinstance(e, s.Rest)]
                axis = 0
                for e in entries:
                    if isinstance(e, s.Rest):
                        run = len(shape) - len(plain)
                        self.rest = shape[axis : axis + run] if self.rest is None else self.rest
                        axis += run
                        continue
                    if isinstance(e, s.Name) and e.name in bound:
                        self.sizes.setdefault(e.name, shape[axis])  # an explicit range replaces it
                    else:
                        self._ranges(e, bound)
                    axis += 1
            case s.Call(s.Read(s.Name(name), entries), arguments) if name in REDUCTIONS:
                inner = set(bound)
                for e in entries:
                    if isinstance(e, s.Compare):
                        inner.add(e.operands[0].name)
                    elif isinstance(e, s.Name):
                        inner.add(e.name)
                for a in arguments:
                    self._ranges(a, inner)
                for e in entries:
                    if isinstance(e, s.Compare):
                        self._bind(e.operands[0].name, e.operands[1])
                    elif isinstance(e, s.Name):
                        self._bind(e.name, None)
            case s.Call(_, arguments, keywords):
                for a in (*arguments, *(k.value for k in keywords)):
                    self._ranges(a, bound)
            case s.Binary(_, a, b):
                self._ranges(a, bound)
                self._ranges(b, bound)
            case s.Unary(_, a):
                self._ranges(a, bound)
            case s.Compare(_, operands) | s.Logical(_, operands):
                for a in operands:
                    self._ranges(a, bound)
            case s.Conditional(a, c, b):
                for x in (a, c, b):
                    self._ranges(x, bound)

    def array(self) -> np.ndarray:
        values = {point: self.at(self.expr, env) for point, env in self._points(self.target.axes, {})}
        shape = self._shape(self.target.axes)
        kind = bool if all(isinstance(v, bool) for v in values.values()) else int if all(isinstance(v, int) for v in values.values()) else float
        out = np.zeros(shape, kind if values else float)
        for point, value in values.items():
            out[point] = value
        return out

    def _shape(self, axes: tuple) -> tuple[int, ...]:
        out: list[int] = []
        for a in axes:
            out += self.rest if isinstance(a, s.Rest) else [self._range(a)]
        return tuple(out)

    def _range(self, axis: object) -> int:
        bound = axis.operands[1] if isinstance(axis, s.Compare) else getattr(axis, "bound", None)
        return self._size(bound) if bound is not None else self.sizes[_index_name(axis)]

    def _points(self, axes: tuple, env: dict):
        for point in product(*(range(n) for n in self._shape(axes))):
            made, k = dict(env), 0
            for a in axes:
                if isinstance(a, s.Rest):
                    made["..."] = point[k : k + len(self.rest)]
                    k += len(self.rest)
                else:
                    made[_index_name(a)] = point[k]
                    made[f"size of {_index_name(a)}"] = self._range(a)
                    k += 1
            yield point, made

    # --- values

    def at(self, node: object, env: dict):
        match node:
            case s.Number(value=value) | s.Bool(value=value):
                return value
            case s.Name(name):
                if name in env:
                    return env[name]
                if name == "inf":
                    return math.inf
                return self.dims[name] if name in self.dims else self.tensors[name].item()
            case s.Read(s.Name(name), entries, keywords):
                return self._read(self.tensors[name], entries, keywords, env)
            case s.Unary(op, a):
                x = self.at(a, env)
                return not x if op == "not" else -x if op == "-" else x
            case s.Binary(op, a, b):
                return _binary(op, self.at(a, env), self.at(b, env))
            case s.Compare(ops, operands):
                values = [self.at(x, env) for x in operands]
                return all(_compare(op, a, b) for op, a, b in zip(ops, values, values[1:]))
            case s.Logical(op, operands):
                values = [bool(self.at(x, env)) for x in operands]
                return all(values) if op == "and" else any(values)
            case s.Conditional(a, c, b):
                return self.at(a if self.at(c, env) else b, env)
            case s.Call(s.Read(s.Name(name), entries), (argument,)):
                if name in REDUCTIONS:
                    return _reduce(name, [self.at(argument, inner) for _, inner in self._points(entries, env)])
                j = entries[0].name
                return _along(name, [self.at(argument, {**env, j: k}) for k in range(env[f"size of {j}"])])[env[j]]
            case s.Call(s.Name("size"), (s.Name(name),)):
                return env.get(f"size of {name}", self.sizes.get(name, self.dims.get(name)))
            case s.Call(s.Name(name), arguments, keywords):
                return FUNCTIONS[name](*(self.at(a, env) for a in arguments), **{k.name: self.at(k.value, env) for k in keywords})
        raise NotImplementedError(node)

    def _read(self, x: np.ndarray, entries: tuple, keywords: tuple, env: dict):
        place: list[int] = []
        for e in entries:
            place += env["..."] if isinstance(e, s.Rest) else [self.at(e, env)]
        if all(0 <= p < n for p, n in zip(place, x.shape)):
            return x[tuple(place)].item()
        return self.at(keywords[0].value, env) if keywords else 0 * x.dtype.type(0).item()


def _index_name(axis: object) -> str:
    return axis.operands[0].name if isinstance(axis, s.Compare) else axis.name


def _binary(op: str, a, b):
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "/":
            return a / b
        case "//":
            return a // b
        case "%":
            return a % b
        case "**":
            return a**b
    raise NotImplementedError(op)


def _compare(op: str, a, b) -> bool:
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[op]


def _reduce(name: str, values: list):
    match name:
        case "sum":
            return sum(values)
        case "mean":
            return sum(values) / len(values) if values else 0.0
        case "prod":
            return math.prod(values)
        case "max":
            return max(values, default=-math.inf) * 1
        case "min":
            return min(values, default=math.inf) * 1
        case "any":
            return any(values)
        case "all":
            return all(values)
        case "argmax":
            return values.index(max(values))
        case "argmin":
            return values.index(min(values))
        case "logsumexp":
            top = max(values)
            return -math.inf if top == -math.inf else top + math.log(sum(math.exp(v - top) for v in values))
    raise NotImplementedError(name)


def _along(name: str, values: list) -> list:
    match name:
        case "softmax" | "log_softmax":
            top = max(values)
            if top == -math.inf:
                return [0.0] * len(values)
            total = sum(math.exp(v - top) for v in values)
            return [math.exp(v - top) / total if name == "softmax" else v - top - math.log(total) for v in values]
        case "cumsum":
            return [sum(values[: k + 1]) for k in range(len(values))]
        case "cumprod":
            return [math.prod(values[: k + 1]) for k in range(len(values))]
        case "sort":
            return [v * 1 for v in sorted(values)]
        case "argsort":
            return sorted(range(len(values)), key=lambda k: values[k])
    raise NotImplementedError(name)
