"""Equations: an expression computed at every point of the indices that its left side names, as a few ops on whole tensors.

Two walks: `_Ranges` finds every index's range (LANGUAGE rule 5) and evaluates the tensors that are read, `Equation.value` makes the ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import Error, NameError_, ShapeError, Span, SyntaxError_, TypeError_, UnsupportedOp, did_you_mean
from dslc.ir import ops
from dslc.ir.types import TensorType

from . import functions as fn
from . import syntax as s
from .elementwise import elementwise
from .products import IndexVar, aligned, index_value, ordered
from .reads import read_tensor
from .signatures import bound
from .unparse import unparse
from .values import Function, Instance, LayerValue, Point, Tensor, Turn, as_point, common_dtype, described, is_static, located, materialize

if TYPE_CHECKING:
    from .elaborate import Frame

Env = dict[str, IndexVar]


class Equation:
    """One equation in elaboration. `frame` gives the values of the surrounding scope."""

    def __init__(self, frame: Frame, target: s.Target | None, span: Span):
        self.frame, self.span = frame, span
        self.vars: list[IndexVar] = []
        self.rest: tuple[IndexVar, ...] | None = None
        self.bases: dict[int, Any] = {}  # of reads, by node
        self.binders: dict[int, list[IndexVar | s.Rest]] = {}  # of reductions, by node
        self.alone: dict[IndexVar, list[tuple[int, s.Expr, s.Expr]]] = {}
        self.explicit: dict[IndexVar, s.Expr] = {}
        self.places: dict[IndexVar, Span] = {}
        self.turns: dict[Any, int] = {}  # scans whose turn an entry uses: the number of the index that stands for it
        self.target = target
        self.left: list[Any] = [self.new(a) if isinstance(a, s.Index) else a for a in (target.axes or ())] if target else []
        self.env: Env = {v.name: v for v in self.left if isinstance(v, IndexVar)}

    def new(self, axis: s.Index) -> IndexVar:
        var = IndexVar(axis.name, len(self.vars))
        self.vars.append(var)
        self.places[var] = axis.span
        if axis.bound is not None:
            self.explicit[var] = axis.bound
        return var

    def turn_number(self, scan: Any) -> int:
        """The number of an index that stands for a scan's turn in index expressions."""
        if scan not in self.turns:
            var = IndexVar(scan.index, len(self.vars), scan.trip)
            self.vars.append(var)
            self.turns[scan] = var.number
        return self.turns[scan]

    def expand(self, axes: Sequence[IndexVar | s.Rest]) -> list[IndexVar]:
        """Axes with `...` replaced by the run of indices it stands for."""
        out: list[IndexVar] = []
        for a in axes:
            if isinstance(a, IndexVar):
                out.append(a)
            else:
                if self.rest is None:
                    raise ShapeError("nothing says which axes '...' stands for", a.span)
                out += self.rest
        return out

    # --- the whole equation

    def elaborate(self, expr: s.Expr) -> Tensor:
        """The tensor of the equation, axes in the order of the left side."""
        self._collect(expr, self.env)
        self._resolve()
        axes = self.expand(self.left)
        for place, var in enumerate(axes):
            var.place = place
        value = self.value(expr, self.env)
        if not isinstance(value, (Point, int, float)):
            raise TypeError_(f"an element is a number, this is {described(value)}", expr.span)
        value = as_point(value)
        if any(v not in axes for v in value.axes):
            raise ShapeError(f"'...' stands on the right of {unparse_target(self.target)}, neither on the left nor in a reduction", expr.span)
        if size_of(axes) > 2**40:
            raise ShapeError(f"{unparse_target(self.target)} has {size_of(axes)} elements", self.span)
        return Tensor(aligned(value, axes))

    def scalar(self, expr: s.Expr) -> Any:
        """The rank-0 value of a bare expression whose reads are bound by reductions."""
        self._collect(expr, self.env)
        self._resolve()
        value = self.value(expr, self.env)
        if isinstance(value, Point):
            if value.axes:
                raise ShapeError("an index is free here", expr.span)
            return Tensor(value.value)
        return value

    # --- ranges

    def _collect(self, node: Any, env: Env) -> None:
        match node:
            case s.Read():
                self._collect_read(node, env)
            case s.Call():
                self._collect_call(node, env)
            case s.Conditional():
                condition = self.static_condition(node, env)
                self._collect(node.then if condition else node.otherwise, env)
            case s.Binary():
                self._collect(node.left, env)
                self._collect(node.right, env)
            case s.Unary():
                self._collect(node.operand, env)
            case s.Compare() | s.Logical():
                for operand in node.operands:
                    self._collect(operand, env)

    def static_condition(self, node: s.Conditional, env: Env) -> bool:
        value = self.frame.static_in_equation(node.condition, env)
        if value is None:
            raise TypeError_(f"'if' is decided at compile time, and {unparse(node.condition)} is known only at run time", node.condition.span,
                             help=f"use where({unparse(node.condition)}, {unparse(node.then)}, {unparse(node.otherwise)})")  # fmt: skip
        return bool(value)

    def _collect_read(self, node: s.Read, env: Env) -> None:
        base = self.base(node)
        for keyword in node.keywords:
            if keyword.name != "outside":
                raise NameError_(f"brackets take no '{keyword.name}'; did you mean 'outside'?", keyword.span)
        if not isinstance(base, Tensor):
            if not isinstance(base, list):
                raise TypeError_(f"{unparse(node.base)} is {described(base)}, and has no elements", node.base.span)
            return
        rank = base.type.rank
        plain = [e for e in node.entries if not isinstance(e, s.Rest)]
        has_rest = len(plain) < len(node.entries)
        if (not has_rest and len(plain) != rank) or len(plain) > rank:
            names = self.frame.axis_names(node.base, base)
            given = f"{len(plain)} ind{'ex' if len(plain) == 1 else 'ices'} for {unparse(node.base)}"
            raise ShapeError(f"{given}, which has {rank} ax{'is' if rank == 1 else 'es'}" + (f" {names}" if names else ""), node.span)
        self._note_use(base, node, env)
        axis = 0
        for entry in node.entries:
            if isinstance(entry, s.Rest):
                self._bind_rest(base.type.shape[axis : axis + rank - len(plain)], entry.span, node)
                axis += rank - len(plain)
                continue
            if isinstance(entry, s.Name) and entry.name in env:
                self.alone.setdefault(env[entry.name], []).append((base.type.shape[axis], node, entry))
            else:
                self._collect(entry, env)
            axis += 1

    def _note_use(self, base: Tensor, node: s.Read, env: Env) -> None:
        """The axes of a parameter that its first equation sums over, or picks from by data, are its inputs (for the fans of initializers)."""
        builder = self.frame.builder
        path = builder.paths.get(base.value)
        if path is None or path in builder.uses or any(isinstance(e, s.Rest) for e in node.entries):
            return
        inner = {name: v for name, v in env.items() if v not in self.left}
        builder.uses[path] = {k for k, e in enumerate(node.entries) if _mentions(e, inner) or isinstance(e, s.Read)}

    def _bind_rest(self, sizes: tuple[int, ...], span: Span, node: s.Read) -> None:
        if self.rest is None:
            made = []
            for k, n in enumerate(sizes):
                var = IndexVar(f"...{k}", len(self.vars), n)
                self.vars.append(var)
                made.append(var)
            self.rest = tuple(made)
        elif tuple(v.size for v in self.rest) != sizes:
            raise ShapeError(f"'...' stands for {[v.size for v in self.rest]} and, in {unparse(node)}, for {list(sizes)}", span)

    def base(self, node: s.Read) -> Any:
        """The tensor, or list, that is read; evaluated once, outside the equation."""
        if id(node) not in self.bases:
            if isinstance(node.base, s.Call) and not reduction_name(node.base):
                self._check_function(node.base, self.env, node.entries)
            if isinstance(node.base, s.Name) and node.base.name in self.env and self.frame.find(node.base.name) is None:
                raise NameError_(f"'{node.base.name}' is an index here", node.base.span)
            self.bases[id(node)] = self.frame.whole(node.base)
        return self.bases[id(node)]

    def _collect_call(self, node: s.Call, env: Env) -> None:
        name = reduction_name(node)
        if name in fn.ALONG:
            if not node.function.entries:  # type: ignore[union-attr]
                raise SyntaxError_(f"{name}[] names no axis", node.function.span, help=f"write {name}[j](...)")
            axis = node.function.entries[0]  # type: ignore[union-attr]
            if not isinstance(axis, s.Name) or axis.name not in env:
                shown = unparse(axis)
                raise NameError_(f"{name}[{shown}] keeps its axis, so '{shown}' must be an index here", node.function.span,
                                 help=self._along_help(node, name))  # fmt: skip
            for argument in node.arguments:
                self._collect(argument, env)
        elif name in fn.REDUCTIONS:
            inner = self._bind(node, env)
            for argument in node.arguments:
                self._collect(argument, inner)
        elif isinstance(node.function, s.Name) and node.function.name == "size":
            return
        else:
            self._check_function(node, env)
            for argument in (*node.arguments, *(k.value for k in node.keywords)):
                self._collect(argument, env)

    def _along_help(self, node: s.Call, name: str) -> str | None:
        argument = node.arguments[0] if node.arguments else None
        if self.target is not None and isinstance(argument, s.Read):
            inside = ", ".join(unparse(e) for e in argument.entries)
            return f"{self.target.name}[{inside}] = {name}[{unparse(node.function.entries[0])}]({unparse(argument)})"  # type: ignore[union-attr]
        return None

    def _bind(self, node: s.Call, env: Env) -> Env:
        """The indices that a reduction removes; with them the environment of its argument."""
        made: list[IndexVar | s.Rest] = []
        inner = dict(env)
        for entry in node.function.entries:  # type: ignore[union-attr]
            if isinstance(entry, s.Rest):
                made.append(entry)
                continue
            if isinstance(entry, s.Compare) and entry.ops == ("<",) and isinstance(entry.operands[0], s.Name):
                axis = s.Index(span=entry.span, name=entry.operands[0].name, bound=entry.operands[1])
            elif isinstance(entry, s.Name):
                axis = s.Index(span=entry.span, name=entry.name, bound=None)
            else:
                raise NameError_(f"{unparse(node.function)}(...) removes indices, and {unparse(entry)} is none", entry.span)
            if axis.name in inner:
                spare = next(c for c in "cdefghklmnopqrsuvwxyz" if c not in inner)
                raise NameError_(f"index '{axis.name}' of {reduction_name(node)}[...] is already an index of the equation", axis.span,
                                 help="use another letter: "
                                      f"{reduction_name(node)}[{spare}](... {_first_read(node.arguments, axis.name, spare)})")  # fmt: skip
            var = self.new(axis)
            made.append(var)
            inner[axis.name] = var
        self.binders[id(node)] = made
        return inner

    def _check_function(self, node: s.Call, env: Env, entries: Sequence[s.Expr | s.Rest] = ()) -> None:
        """Layers take whole tensors; a reduction in an equation names its axes. `entries`: at which the call's result is read."""
        f = node.function
        if isinstance(f, s.Read) and isinstance(f.base, s.Name) and isinstance(self.frame.find(f.base.name), (Function, LayerValue, Instance)):
            raise TypeError_(f"{f.base.name} takes no index", f.span, help=f"write {f.base.name}(...)")
        if not isinstance(f, s.Name):
            return
        name = f.name
        value = self.frame.find_function(name)
        if isinstance(value, (LayerValue, Instance)) and any(_has_read(a, env) for a in node.arguments):
            inner, shown = node.arguments[0], f"{name}(x)[...]"
            if isinstance(inner, s.Read):
                shown = f"{name}({unparse(inner.base)})[{', '.join(unparse(e) for e in (*inner.entries, *entries))}]"
            raise TypeError_(f"{name} is a layer and takes whole tensors", node.span, help=f"write {shown}")
        if isinstance(value, Function) and value.name in _WHOLE and value.name != "grad" and any(_has_read(a, env) for a in node.arguments):
            raise TypeError_(f"{name} takes whole tensors", node.span, help="call it outside of the equation, and read what it gives here")
        if name in fn.REDUCTIONS and not (name in ("min", "max") and len(node.arguments) == 2) and any(_has_read(a, env) for a in node.arguments):
            read = next(r for a in node.arguments for r in _reads(a, env))
            free = [unparse(e) for e in read.entries if isinstance(e, s.Name)]
            raise ShapeError(f"{name}(...) in an equation", node.span,
                             help=f"name the axes that it removes: {name}[{free[-1] if free else 'k'}]({unparse(node.arguments[0])})")  # fmt: skip

    def _resolve(self) -> None:
        """A size for every index: its own `i < n`, the axes where it stands alone, a dimension of its name."""
        for var in self.vars:
            if var.size >= 0:
                continue
            if var in self.explicit:
                var.size = self.frame.size(self.explicit[var])
            elif var in self.alone:
                self._from_axes(var)
            else:
                size = self.frame.named_size(var.name)
                if size is None:
                    shown = unparse_target(self.target)
                    written = shown.replace(f"{var.name}]", f"{var.name} < SIZE]").replace(f"{var.name},", f"{var.name} < SIZE,")
                    place = self.target.span if self.target and var in self.left else self.places[var]
                    raise ShapeError(f"nothing gives index '{var.name}' a range", place,
                                     help=f"write {written}" if self.target and var in self.left else f"write {var.name} < SIZE")  # fmt: skip
                var.size = size

    def _from_axes(self, var: IndexVar) -> None:
        found = self.alone[var]
        size, first, _ = found[0]
        for other, node, _ in found[1:]:
            if other != size:
                raise self._mismatch(var, (size, first), (other, node))
        var.size = size
        declared = self.frame.dimension(var.name)
        if declared is not None and declared != size:
            raise ShapeError(f"index '{var.name}' is {size} in {unparse(first)}, and the dimension '{var.name}' is {declared}", first.span,
                             notes=self.frame.origins([first]))  # type: ignore[list-item]  # fmt: skip

    def _mismatch(self, var: IndexVar, a: tuple[int, Any], b: tuple[int, Any]) -> Error:
        (n, first), (m, second) = a, b
        names = self.frame.axis_names(second.base, self.bases[id(second)])
        help = None
        if names and len(second.entries) == 2 and all(isinstance(e, s.Name) for e in second.entries):
            turned = self.bases[id(second)].type.shape[::-1]
            help = f"the axes of {unparse(second.base)} are {names}" + (
                f": did you mean {unparse(second.base)}[{unparse(second.entries[1])}, {unparse(second.entries[0])}]?"
                if turned[0] == n or m != n
                else ""
            )
        return ShapeError(f"index '{var.name}' is {n} in {unparse(first)} but {m} in {unparse(second)}", [first.span, second.span],
                          notes=self.frame.origins([first, second]), help=help)  # fmt: skip

    # --- values

    def value(self, node: Any, env: Env) -> Any:
        """A Point, or a compile-time value."""
        with self.frame.at(node.span):
            try:
                return self._value(node, env)
            except Error as error:
                raise located(error, node.span) from None

    def _value(self, node: Any, env: Env) -> Any:
        match node:
            case s.Number(value=value) | s.Bool(value=value) | s.String(value=value):
                return value
            case s.Name():
                return self._name(node, env)
            case s.Read():
                return self._read(node, env)
            case s.Unary(op=op):
                return self._unary(op, self.value(node.operand, env))
            case s.Binary(op=op):
                return self.binary(op, self.value(node.left, env), self.value(node.right, env))
            case s.Compare():
                return self._compare(node, env)
            case s.Logical(op=op):
                return self._logical(op, [self.value(x, env) for x in node.operands])
            case s.Conditional():
                return self.value(node.then if self.static_condition(node, env) else node.otherwise, env)
            case s.Call():
                return self._call(node, env)
            case s.Attribute():
                return self._outer(node, self.frame.whole(node))
            case s.List():
                return [self.value(x, env) for x in node.items]
        raise TypeError_(f"{unparse(node)} cannot stand in an equation", node.span)

    def _name(self, node: s.Name, env: Env) -> Any:
        if node.name in env:
            return index_value(env[node.name])
        value = self.frame.find(node.name)
        bound = any(v.name == node.name and v.number not in self.turns.values() for v in self.vars)
        if value is None:
            if bound:
                raise NameError_(f"index '{node.name}' is used outside its reduction", node.span, help=f"write size({node.name}) for its size")
            help = f"an index must stand on the left or in a reduction: sum[{node.name}](...)" if len(node.name) <= 2 else None
            raise NameError_(f"unknown name '{node.name}'{did_you_mean(node.name, self.frame.known())}", node.span, help=help)
        if bound and not isinstance(value, Tensor):
            raise NameError_(f"index '{node.name}' is used outside its reduction", node.span, help=f"write size({node.name}) for its size")
        return self._outer(node, value)

    def _outer(self, node: s.Expr, value: Any) -> Any:
        """A value of the surrounding scope: rank 0, or known at compile time."""
        if isinstance(value, Turn):
            return Point(value.scan.turn, ())
        if isinstance(value, Tensor):
            if value.type.rank:
                names = self.frame.axis_names(node, value)
                raise ShapeError(f"'{unparse(node)}' has {value.type.rank} ax{'is' if value.type.rank == 1 else 'es'}", node.span,
                                 help=f"name them: {unparse(node)}{names}" if names else "name them in brackets")  # fmt: skip
            return Point(value.value, ())
        return value

    def _read(self, node: s.Read, env: Env) -> Any:
        base = self.base(node)
        if not isinstance(base, Tensor):
            return self.frame.static_read(base, [self.frame.static_in_equation(e, env) for e in node.entries], node)
        outside = next((self.frame.whole(k.value) for k in node.keywords), 0)
        if not is_static(outside):
            raise TypeError_("outside= takes a number known at compile time", node.span)
        return read_tensor(self, base, node, env, float(outside))

    def _unary(self, op: str, value: Any) -> Any:
        if not isinstance(value, Point):
            return fn.static_unary(op, value)
        if op == "+":
            return value
        if op == "not":
            return Point(ops.Not.of(ops.cast(value.value, dtypes.BOOL)), value.axes)
        operand = value.value if not value.type.dtype.is_bool else ops.cast(value.value, dtypes.INT32)
        return Point(ops.Neg.of(operand), value.axes)

    def binary(self, op: str, a: Any, b: Any) -> Any:
        if not isinstance(a, Point) and not isinstance(b, Point):
            return fn.static_binary(op, a, b)
        return self.combine([a, b], lambda x, y: fn.arithmetic(op, x, y), numbers=True, floats=op == "/")

    def combine(self, values: Sequence[Any], build: Any, numbers: bool = False, floats: bool = False) -> Point:
        """An op on values brought to one index space and one type, which with `numbers` is no bool, with `floats` a float."""
        points = [v for v in values if isinstance(v, Point)]
        for v in values:
            if not isinstance(v, (Point, int, float)):
                raise TypeError_(f"a number or tensor is needed, this is {described(v)}")
        axes = ordered([v for p in points for v in p.axes])
        dtype = common_dtype([p.type for p in points], [v for v in values if not isinstance(v, Point)])
        if numbers and dtype.is_bool:
            dtype = dtypes.INT32
        if floats and not dtype.is_float:
            dtype = dtypes.FLOAT32
        like = TensorType(dtype, tuple(v.size for v in axes))
        made = [materialize(aligned(v, axes) if isinstance(v, Point) else v, like, dtype) for v in values]
        return Point(build(*made), axes)

    def _compare(self, node: s.Compare, env: Env) -> Any:
        operands = [self.value(x, env) for x in node.operands]
        out: Any = None
        for op, a, b in zip(node.ops, operands, operands[1:]):
            if isinstance(a, Point) or isinstance(b, Point):
                one: Any = self.combine([a, b], lambda x, y, op=op: ops.Compare.of(x, y, predicate=fn.COMPARES[op]))
            else:
                one = fn.static_compare(op, a, b, self.frame.builder.compared, node.span)
            out = one if out is None else self._logical("and", [out, one])
        return out

    def _logical(self, op: str, operands: Sequence[Any]) -> Any:
        out: Any = None
        for x in operands:
            if out is None:
                out = x
            elif not isinstance(out, Point) and not isinstance(x, Point):
                out = (out and x) if op == "and" else (out or x)
            elif not isinstance(out, Point) or not isinstance(x, Point):
                known, other = (out, x) if not isinstance(out, Point) else (x, out)
                out = other if bool(known) == (op == "and") else Point(ops.full(TensorType(dtypes.BOOL, ()), bool(known)), ())
            else:
                build = ops.And.of if op == "and" else ops.Or.of
                axes = ordered([*out.axes, *x.axes])
                a, b = (ops.cast(aligned(p, axes), dtypes.BOOL) for p in (out, x))
                out = Point(build(a, b), axes)
        return out

    def choose(self, condition: Point, a: Any, b: Any, dtype: dtypes.DType) -> Point:
        """where, on values of one type already."""
        axes = ordered([v for p in (condition, a, b) if isinstance(p, Point) for v in p.axes])
        like = TensorType(dtype, tuple(v.size for v in axes))
        x, y = (materialize(aligned(v, axes) if isinstance(v, Point) else v, like, dtype) for v in (a, b))
        return Point(ops.Select.of(aligned(condition, axes), x, y), axes)

    # --- functions

    def _call(self, node: s.Call, env: Env) -> Any:
        name = reduction_name(node)
        if name in fn.REDUCTIONS:
            from .reductions import reduction

            return reduction(self, node, name, env)
        if name in fn.ALONG:
            from .reductions import along

            return along(self, node, name, env)
        if isinstance(node.function, s.Name):
            called = node.function.name
            value = self.frame.find_function(called)
            if isinstance(value, Function):
                called = value.name
            if called == "size" and isinstance(value, Function):
                return self._size(node, env)
            if isinstance(value, Function) and called in fn.RANDOM:
                return self._random(node, called, env)
            if isinstance(value, Function) and called == "grad" and any(_has_read(a, env) for a in node.arguments):
                raise UnsupportedOp("gradients point by point are not there yet", node.span, help="take the gradient of one number: grad(sum(e), x)")
            if isinstance(value, Function) and called in fn.NAMES and called not in _WHOLE:
                given = [self.value(a, env) for a in node.arguments]
                arguments, keywords = bound(called, given, {k.name: self.value(k.value, env) for k in node.keywords}, node)
                if any(isinstance(a, Point) for a in [*arguments, *keywords.values()]):
                    return elementwise(self, called, arguments, keywords, node)
                return self.frame.static_function(called, arguments, keywords, node)
        return self._outer(node, self.frame.whole(node))

    def _size(self, node: s.Call, env: Env) -> Any:
        argument = node.arguments[0] if len(node.arguments) == 1 else None
        if isinstance(argument, s.Name):
            var = env.get(argument.name) or next((v for v in self.vars if v.name == argument.name), None)
            if var is not None:
                return var.size
        return self.frame.whole(node)

    def run_on_the_left(self) -> tuple[IndexVar, ...]:
        """The indices that `...` of the left side stands for."""
        return self.rest or () if any(isinstance(a, s.Rest) for a in self.left) else ()

    def _random(self, node: s.Call, name: str, env: Env) -> Point:
        axes = ordered([*env.values(), *self.run_on_the_left()])
        shape = [v.size for v in axes]
        given, named = self.frame.arguments(node)
        return Point(self.frame.random(name, shape, bound(name, given, named, node)[0], node), axes)


def reduction_name(node: s.Call) -> str:
    """`sum` of `sum[j](...)`; nothing for other calls."""
    f = node.function
    return f.base.name if isinstance(f, s.Read) and isinstance(f.base, s.Name) and f.base.name in (*fn.REDUCTIONS, *fn.ALONG) else ""


def size_of(axes: Sequence[IndexVar]) -> int:
    return prod(v.size for v in axes)


def unparse_target(target: s.Target | None) -> str:
    if target is None:
        return "the value"
    axes = [a.name + (f" < {unparse(a.bound)}" if a.bound is not None else "") if isinstance(a, s.Index) else "..." for a in target.axes or ()]
    return f"{target.name}[{', '.join(axes)}]"


def _reads(node: Any, env: Env) -> list[s.Read]:
    """Reads that use an index of the environment."""
    match node:
        case s.Read() if any(_mentions(e, env) for e in node.entries):
            return [node]
        case s.Binary():
            return _reads(node.left, env) + _reads(node.right, env)
        case s.Unary():
            return _reads(node.operand, env)
        case s.Compare() | s.Logical():
            return [r for x in node.operands for r in _reads(x, env)]
        case s.Call() if not reduction_name(node):
            return [r for x in node.arguments for r in _reads(x, env)]
    return []


def _has_read(node: Any, env: Env) -> bool:
    return bool(_reads(node, env))


def _mentions(node: Any, env: Env) -> bool:
    match node:
        case s.Name(name=name):
            return name in env
        case s.Binary():
            return _mentions(node.left, env) or _mentions(node.right, env)
        case s.Unary():
            return _mentions(node.operand, env)
        case s.Read():
            return any(_mentions(e, env) for e in node.entries)
    return False


def _first_read(arguments: Sequence[s.Expr], name: str, spare: str) -> str:
    """The first read of an argument, with an index renamed, for a help text."""
    for argument in arguments:
        for read in _reads(argument, {name: IndexVar(name, 0)}):
            entries = [spare if isinstance(e, s.Name) and e.name == name else unparse(e) for e in read.entries]
            return f"{unparse(read.base)}[{', '.join(entries)}]"
    return ""


_WHOLE = ("grad", "concat", "split", "topk", "rank", *fn.FOURIER)  # what takes whole tensors in an equation too

__all__ = ["Equation", "reduction_name"]
