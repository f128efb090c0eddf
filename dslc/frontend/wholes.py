"""Bare expressions: whole tensors broadcast as numpy does, calls, attributes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes, philox
from dslc.core.errors import Error, NameError_, ShapeError, Span, TypeError_, did_you_mean
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.types import TensorType, location_of, type_of

from . import functions as fn
from . import syntax as s
from . import trees
from .draws import beta
from .elementwise import elementwise
from .equations import Equation, reduction_name
from .signatures import bound
from .statics import DYNAMIC, static_value
from .unparse import unparse
from .values import (
    Function,
    Instance,
    LayerValue,
    Results,
    Tensor,
    Tree,
    Turn,
    broadcast_whole,
    common_dtype,
    described,
    is_static,
    located,
    materialize,
)  # fmt: skip

if TYPE_CHECKING:
    from .elaborate import Builder


class WholeValues:
    """The part of a frame that evaluates expressions without indices."""

    builder: Builder
    instance: Instance

    def whole(self, node: Any) -> Any:
        """A tensor, results, or a compile-time value."""
        with self.at(node.span):  # type: ignore[attr-defined]
            try:
                return self._whole(node)
            except Error as error:
                raise located(error, node.span) from None

    def _whole(self, node: Any) -> Any:
        match node:
            case s.Number(value=value) | s.Bool(value=value) | s.String(value=value):
                return value
            case s.Name(name=name):
                value = self.find(name)  # type: ignore[attr-defined]
                if value is None:
                    raise self.unknown(name, node.span)  # type: ignore[attr-defined]
                return Tensor(value.scan.turn) if isinstance(value, Turn) else value
            case s.List(items=items):
                return [self.whole(x) for x in items]
            case s.Unary(op=op):
                return self._unary(op, self.whole(node.operand))
            case s.Binary(op=op):
                return self._binary(op, node)
            case s.Compare():
                return self._compare(node)
            case s.Logical(op=op):
                return self._logical(op, [self.whole(x) for x in node.operands])
            case s.Conditional():
                condition = static_value(self, node.condition)  # type: ignore[arg-type]
                if condition is DYNAMIC:
                    raise TypeError_(f"'if' is decided at compile time, and {unparse(node.condition)} is known only at run time", node.condition.span,
                                     help=f"use where({unparse(node.condition)}, {unparse(node.then)}, {unparse(node.otherwise)})")  # fmt: skip
                return self.whole(node.then if condition else node.otherwise)
            case s.Read():
                return self._read(node)
            case s.Attribute():
                return self._attribute(node)
            case s.Call():
                return self._call(node)
            case s.Use():
                return self.use(node)  # type: ignore[attr-defined]
            case s.Import():
                return self.imported(node)  # type: ignore[attr-defined]
        raise TypeError_(f"{unparse(node)} has no value")

    def _read(self, node: s.Read) -> Any:
        value = static_value(self, node)  # type: ignore[arg-type]
        return value if value is not DYNAMIC else Equation(self, None, node.span).scalar(node)  # type: ignore[arg-type]

    def static_read(self, base: Any, places: Sequence[Any], node: s.Read) -> Any:
        """An element of a list."""
        if not isinstance(base, list):
            raise TypeError_(f"{unparse(node.base)} is {described(base)}, and has no elements", node.span)
        value: Any = base
        for place in places:
            if not isinstance(place, int) or not isinstance(value, list):
                raise TypeError_("a list is read at an integer known at compile time", node.span)
            if not -len(value) <= place < len(value):
                raise ShapeError(f"{unparse(node.base)} has {len(value)} elements, none at {place}", node.span)
            value = value[place]
        return value

    def static_in_equation(self, node: Any, env: Any, eq: Equation | None = None) -> Any:
        """The compile-time value of an expression inside an equation; None where it has none."""
        value = static_value(self, node, env, eq)  # type: ignore[arg-type]
        return None if value is DYNAMIC else value

    def _unary(self, op: str, value: Any) -> Any:
        if isinstance(value, Tree) and op != "not":
            return trees.map_leaves([value], lambda leaves: self._unary(op, leaves[0]), Span("", 0, 0, 0, 0))
        if isinstance(value, Tensor):
            return {"+": lambda: value, "-": lambda: self.combine([value], ops.Neg.of, numbers=True),
                    "not": lambda: self.combine([value], lambda x: ops.Not.of(ops.cast(x, dtypes.BOOL)))}[op]()  # fmt: skip
        return fn.static_unary(op, value)

    def _binary(self, op: str, node: s.Binary) -> Any:
        a, b = self.whole(node.left), self.whole(node.right)
        if is_static(a) and is_static(b):
            return fn.static_binary(op, a, b)
        if isinstance(a, Tree) or isinstance(b, Tree):
            return trees.map_leaves([a, b], lambda leaves: self._arithmetic(op, leaves), node.span)
        for value, side in ((a, node.left), (b, node.right)):
            if not isinstance(value, (Tensor, int, float)):
                raise TypeError_(f"'{op}' takes numbers and tensors, {unparse(side)} is {described(value)}", side.span)
        return self._arithmetic(op, [a, b])

    def _arithmetic(self, op: str, values: list[Any]) -> Tensor:
        return self.combine(values, lambda x, y: fn.arithmetic(op, x, y), numbers=True, floats=op == "/", name=f"'{op}'")

    def _compare(self, node: s.Compare) -> Any:
        operands = [self.whole(x) for x in node.operands]
        out: Any = None
        for op, a, b in zip(node.ops, operands, operands[1:]):
            if is_static(a) and is_static(b):
                one: Any = fn.static_compare(op, a, b, self.builder.compared, node.span)
            else:
                one = self.combine([a, b], lambda x, y, op=op: ops.Compare.of(x, y, predicate=fn.COMPARES[op]))
            out = one if out is None else self._logical("and", [out, one])
        return out

    def _logical(self, op: str, values: Sequence[Any]) -> Any:
        out = values[0]
        for x in values[1:]:
            if is_static(out) and is_static(x):
                out = (out and x) if op == "and" else (out or x)
            elif is_static(out) or is_static(x):
                known, other = (out, x) if is_static(out) else (x, out)
                out = other if bool(known) == (op == "and") else Tensor(ops.full(TensorType(dtypes.BOOL, other.type.shape), bool(known)))
            else:
                build = ops.And.of if op == "and" else ops.Or.of
                out = self.combine([out, x], lambda a, b, build=build: build(ops.cast(a, dtypes.BOOL), ops.cast(b, dtypes.BOOL)))
        return out

    def combine(self, values: Sequence[Any], build: Callable, numbers: bool = False, floats: bool = False, name: str = "this") -> Tensor:
        """An op on values brought to one shape and one type, which with `numbers` is no bool, with `floats` a float."""
        for v in values:
            if not isinstance(v, (Tensor, int, float)):
                raise TypeError_(f"a number or tensor is needed, this is {described(v)}")
        aligned, like = broadcast_whole(list(values), name)
        dtype = common_dtype([v.type for v in values if isinstance(v, Tensor)], [v for v in values if not isinstance(v, Tensor)])
        if numbers and dtype.is_bool:
            dtype = dtypes.INT32
        if floats and not dtype.is_float:
            dtype = dtypes.FLOAT32
        return Tensor(build(*[materialize(v, like, dtype) for v in aligned]))

    def choose(self, condition: Tensor, a: Any, b: Any, dtype: dtypes.DType) -> Tensor:
        """where, on whole tensors."""
        aligned, like = broadcast_whole([condition, a, b], "where")
        x, y = (materialize(v, like, dtype) for v in aligned[1:])
        return Tensor(ops.Select.of(materialize(aligned[0], like, dtypes.BOOL), x, y))

    # --- attributes

    def _attribute(self, node: s.Attribute) -> Any:
        base = self.whole(node.base)
        if isinstance(base, Results):
            value = base.get(node.name)
            if value is None:
                raise NameError_(f"{base.of} has no result '{node.name}'{did_you_mean(node.name, [n for n in base.names if n])}", node.span)
            return value
        if isinstance(base, Instance):
            if node.name == "params":
                return trees.parameters_of(self.builder, base, node.span)
            if node.name in base.parameters:
                return base.parameters[node.name]
            if node.name in base.absent:
                condition, place = base.absent[node.name]
                raise NameError_(
                    f"parameter '{node.name}' exists only if {condition}, and {condition} is false here ({place.file}:{place.line})", node.span
                )
            return self._early_parameter(base, node)
        raise TypeError_(f"{unparse(node.base)} is {described(base)}, and has no '{node.name}'", node.span)

    def _early_parameter(self, instance: Instance, node: s.Attribute) -> Any:
        """A parameter of an instance that was not called yet exists where its shape needs no port."""
        from .frame import Frame

        definition = instance.layer.definition
        declared = [d.name for st in definition.body if isinstance(st, (s.Param, s.State)) for d in st.declarations]
        if node.name not in declared:
            raise NameError_(f"{instance.layer.name} has no parameter '{node.name}'{did_you_mean(node.name, declared)}", node.span)
        frame = Frame(self.builder, self.builder.source.scope_of(definition), instance, definition, location_of(node.span))
        unknown: set[str] = set()  # names whose values the first call gives

        def waits(part: s.Node) -> bool:
            return not unknown.isdisjoint(s.names_in(part))

        for formal in definition.formals if isinstance(definition, s.Layer) else ():
            if formal.axes is not None:
                unknown |= {formal.name, "...", *(axis.name for axis in formal.axes if isinstance(axis, s.Index))}
            elif formal.name in instance.options:
                frame.define(formal.name, instance.options[formal.name])
            elif formal.default is None or waits(formal.default) or (value := static_value(frame, formal.default)) is DYNAMIC:
                unknown.add(formal.name)
            else:
                frame.define(formal.name, value)
        for st in definition.body:
            if isinstance(st, s.Dims):
                frame.run([st])
            elif isinstance(st, s.Let):
                late = [b for b in st.bindings if waits(b.value)]
                unknown |= {b.name for b in late}
                frame.run([s.Let(tuple(b for b in st.bindings if b not in late), span=st.span)])
            elif isinstance(st, (s.Param, s.State)) and any(d.name == node.name for d in st.declarations) and not waits(st):
                frame.run([st])
                if node.name in instance.parameters or node.name in instance.absent:
                    return self._attribute(node)
        raise NameError_(f"parameter '{node.name}' of {unparse(node.base)} does not exist before its first call", node.span,
                         help="its shape needs a dimension of a port: call the instance first")  # fmt: skip

    # --- calls

    def _call(self, node: s.Call) -> Any:
        if reduction_name(node):
            return Equation(self, None, node.span).scalar(node)  # type: ignore[arg-type]
        if isinstance(node.function, s.Name):
            callee = self.find_function(node.function.name)  # type: ignore[attr-defined]
            if callee is None:
                value = self.find(node.function.name)  # type: ignore[attr-defined]
                if value is not None:
                    raise TypeError_(f"'{node.function.name}' is {described(value)}, and cannot be called", node.function.span)
                raise self.unknown(node.function.name, node.function.span)  # type: ignore[attr-defined]
        else:
            callee = self.whole(node.function)
        if isinstance(callee, Function):
            return self._builtin(callee.name, node)
        if isinstance(callee, LayerValue):
            arguments, keywords = self.arguments(node)
            options: dict[str, Any] = {}
            return self.call(Instance(callee, self.instance_name(callee.name), options), arguments, keywords, node)  # type: ignore[attr-defined]
        if isinstance(callee, Instance):
            arguments, keywords = self.arguments(node)
            if "params" in keywords:
                with trees.replaced(self.builder, callee, keywords.pop("params"), node.span):
                    return self.call(callee, arguments, keywords, node)  # type: ignore[attr-defined]
            return self.call(callee, arguments, keywords, node)  # type: ignore[attr-defined]
        raise TypeError_(f"{unparse(node.function)} is {described(callee)}, and cannot be called", node.function.span)

    def arguments(self, node: s.Call) -> tuple[list[Any], dict[str, Any]]:
        return [self.whole(a) for a in node.arguments], {k.name: self.whole(k.value) for k in node.keywords}

    def _builtin(self, name: str, node: s.Call) -> Any:
        if name in ("size", "rank"):
            value = static_value(self, node)  # type: ignore[arg-type]
            if value is DYNAMIC:
                raise TypeError_("size takes an index, a dimension or a list" if name == "size" else "rank takes a tensor by its name", node.span)
            return value
        if name == "categorical":
            raise ShapeError("categorical(...) without indices", node.span, help="name the axes that it draws from: categorical[v](logits[b, v])")
        arguments, keywords = bound(name, *self.arguments(node), node)
        if name in fn.RANDOM:
            return Tensor(self.random(name, [], arguments, node))
        if name == "grad":
            return trees.gradient(self.builder, arguments[0], arguments[1], node.span)
        if any(isinstance(a, Tree) for a in arguments):
            return self._of_trees(name, arguments, keywords, node)
        if name in _SHAPED and not (name in ("min", "max") and len(arguments) == 2):
            return _SHAPED[name](self, name, arguments, keywords, node)
        if all(is_static(a) for a in [*arguments, *keywords.values()]):
            return self.static_function(name, arguments, keywords, node)
        return elementwise(self, name, arguments, keywords, node)

    def _of_trees(self, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
        if name == "sum" and len(arguments) == 1 and not keywords:
            return trees.total(arguments[0])
        if name not in fn.UNARY and name not in fn.BINARY and name not in ("where", "clip", "leaky_relu"):
            raise TypeError_(f"{name} takes tensors, this is {described(arguments[0])}", node.span)
        return trees.map_leaves(arguments, lambda leaves: elementwise(self, name, leaves, keywords, node), node.span)

    def static_function(self, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
        """A function of compile-time values, which are bound to its signature."""
        if keywords:
            raise TypeError_(f"{name} of numbers takes no '{next(iter(keywords))}'", node.span)
        try:
            if name in dtypes.BY_NAME:
                t = dtypes.BY_NAME[name]
                return bool(arguments[0]) if t.is_bool else float(arguments[0]) if t.is_float else int(arguments[0])
            if name == "int":
                return int(arguments[0])
            if name in fn.BINARY and len(arguments) == 2:
                return fn.BINARY[name][1](*arguments)  # type: ignore[misc]
            if name in ("min", "max", "sum") and len(arguments) == 1 and isinstance(arguments[0], list):
                return {"min": min, "max": max, "sum": sum}[name](arguments[0])  # type: ignore[operator]
            if name in fn.REDUCTIONS and isinstance(arguments[0], (int, float)):  # over no axis
                return 0 if name in ("argmax", "argmin") else bool(arguments[0]) if name in ("any", "all") else arguments[0]
            if name == "where":
                return arguments[1] if arguments[0] else arguments[2]
            if name == "clip":
                return min(max(arguments[0], arguments[1]), arguments[2])
            if name == "leaky_relu":
                slope = arguments[1] if len(arguments) == 2 else fn.SLOPE
                return arguments[0] if arguments[0] > 0 else arguments[0] * slope
            if name in fn.UNARY:
                return fn.UNARY[name][1](*arguments)
        except (ValueError, OverflowError, ZeroDivisionError, IndexError, TypeError) as error:
            raise TypeError_(f"{unparse(node)} has no value: {error}", node.span) from None
        if not arguments:
            raise TypeError_(f"{name} takes arguments, none given", node.span)
        raise TypeError_(f"{name} takes tensors, this is {', '.join(described(a) for a in arguments)}", node.span)

    # --- randomness

    def random(self, name: str, shape: Sequence[int], arguments: Sequence[Any], node: s.Call) -> ir.Value:
        """Draws keyed by this place in the text, the instance's path and the enclosing turns; the arguments are bound to the signature."""
        builder = self.builder
        turns = ".".join(map(str, self.turns))  # type: ignore[attr-defined]
        place = f"{self.instance.path}/{turns}/{node.span.line}:{node.span.column}"
        turn = builder.scans[-1].random_turn() if builder.scans else ops.constant(0)
        seed, counter = builder.scalar("seed"), builder.counter()

        def draw(kind: str, part: str = "", low: int = 0, high: int = 1) -> ir.Value:
            stream = philox.stream_hash(f"{place}/{part}" if part else place)
            return ops.Random.of(seed, counter, turn, kind=kind, low=low, high=high, stream=stream, shape=shape)

        if name == "randint":
            if not all(type(a) is int for a in arguments) or not arguments[0] < arguments[1]:
                raise TypeError_("randint takes two integers known at compile time, the first below the second", node.span)
            return draw("integer", low=arguments[0], high=arguments[1])
        if name == "beta":
            if not all(type(a) in (int, float) and 0 < a < math.inf for a in arguments):
                raise TypeError_("beta takes two numbers above 0 known at compile time", node.span)
            return beta(draw, *arguments)
        return draw(name)


# --- functions of whole tensors -------------------------------------------------------------------------------------------------------


def _tensors(name: str, arguments: Sequence[Any], node: s.Call) -> list[Tensor]:
    for a in arguments:
        if not isinstance(a, Tensor):
            raise TypeError_(f"{name} takes tensors, this is {described(a)}", node.span)
    return list(arguments)


def _axis(value: Any, rank: int, node: s.Call) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -rank <= value < rank:
        raise ShapeError(f"axis={described(value)} of a tensor with {rank} axes", node.span)
    return value % rank


def _reduce(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    if isinstance(arguments[0], (list, int, float)):
        return frame.static_function(name, arguments, keywords, node)
    (x,) = _tensors(name, arguments, node)
    t = x.type
    axes = (
        list(range(t.rank))
        if "axis" not in keywords
        else [_axis(a, t.rank, node) for a in (keywords["axis"] if isinstance(keywords["axis"], list) else [keywords["axis"]])]
    )
    value = x.value
    if name in ("any", "all"):
        value = ops.cast(value, dtypes.BOOL)
    elif t.dtype.is_bool:
        value = ops.cast(value, dtypes.FLOAT32 if name == "mean" else dtypes.INT32)
    if name in ("mean", "logsumexp") and not type_of(value).dtype.is_float:
        value = ops.cast(value, dtypes.FLOAT32)
    if name == "logsumexp":
        return Tensor(ops.logsumexp(value, axes)) if axes else Tensor(value)
    if name in ("argmax", "argmin"):
        flat = value if len(axes) == 1 else ops.reshape(value, [t.size])
        return Tensor(ops.ArgReduce.of(flat, kind=name[3:], axis=axes[0] if len(axes) == 1 else 0))
    folded = ops.Reduce.of(value, kind="sum" if name == "mean" else name, axes=axes)
    count = 1
    for a in axes:
        count *= t.shape[a]
    return Tensor(fn.mean_scale(folded, count) if name == "mean" else folded)


def _along(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    (x,) = _tensors(name, arguments, node)
    axis = _axis(keywords.get("axis", -1), x.type.rank, node)
    value = x.value if x.type.dtype.is_float or name not in ("softmax", "log_softmax") else ops.cast(x.value, dtypes.FLOAT32)
    if name in ("softmax", "log_softmax"):
        return Tensor({"softmax": ops.Softmax, "log_softmax": ops.LogSoftmax}[name].of(value, axis=axis))
    if name in ("cumsum", "cumprod"):
        return Tensor(ops.Cumulative.of(value, kind={"cumsum": "sum", "cumprod": "prod"}[name], axis=axis, reverse=False, exclusive=False))
    both = ops.sort(value, axis)
    return Tensor(both[0 if name == "sort" else 1])


def _concat(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    tensors = _tensors(name, arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else arguments, node)
    if not tensors:
        raise TypeError_("concat of nothing", node.span)
    axis = _axis(keywords.get("axis", -1), tensors[0].type.rank, node)
    dtype = common_dtype([t.type for t in tensors], [])
    return Tensor(ops.Concat.of(*[ops.cast(t.value, dtype) for t in tensors], axis=axis))


def _split(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    (x,), n = _tensors(name, arguments[:1], node), arguments[1]
    axis = _axis(keywords.get("axis", -1), x.type.rank, node)
    size = x.type.shape[axis]
    if isinstance(n, bool) or not isinstance(n, int) or n < 1 or size % n:
        raise ShapeError(f"split of an axis of {size} into {described(n)}", node.span)
    part = size // n
    return Results((None,) * n, tuple(Tensor(ops.slice_axis(x.value, axis, k * part, part)) for k in range(n)), "split")


def _topk(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    """(values, indices) of the k largest along the last axis, largest first."""
    (x,), k = _tensors(name, arguments[:1], node), arguments[1]
    if isinstance(k, bool) or not isinstance(k, int) or x.type.rank == 0 or not 0 < k <= x.type.shape[-1]:
        raise ShapeError(f"topk of {x.type} with k={described(k)}", node.span)
    values, order = ops.sort(x.value, x.type.rank - 1, descending=True, count=k)
    return Results(("values", "indices"), (Tensor(values), Tensor(order)), "topk")


def _fourier(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    """(re, im) of the transform, of the real re where im is not given; both come to one shape and one float type."""
    tensors = _tensors(name, arguments, node)
    aligned, like = broadcast_whole(tensors, name)
    dtype = common_dtype([t.type for t in tensors], [0.0])
    axis = _axis(keywords.get("axis", -1), like.rank, node)
    if like.shape[axis] == 0:
        raise ShapeError(f"{name} along an axis of no elements", node.span)
    re, *rest = (materialize(v, like, dtype) for v in aligned)
    im = rest[0] if rest else ops.full_like(re, 0)
    return Results(("re", "im"), tuple(Tensor(v) for v in ops.FFT.of(re, im, axis=axis, inverse=name == "ifft")), name)


def _int(frame: Any, name: str, arguments: list, keywords: dict, node: s.Call) -> Any:
    if isinstance(arguments[0], Tensor):
        return Tensor(ops.cast(arguments[0].value, dtypes.INT32))
    return frame.static_function(name, arguments, keywords, node)


_SHAPED: dict[str, Callable] = {
    **{name: _reduce for name in fn.REDUCTIONS if name != "categorical"},
    **{name: _along for name in fn.ALONG},
    **{name: _fourier for name in fn.FOURIER},
    "concat": _concat, "split": _split, "topk": _topk, "int": _int,
}  # fmt: skip
