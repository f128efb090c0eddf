"""One body in elaboration: the model's, or one call of a layer. Statements run in order; expressions become values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import Error, NameError_, ShapeError, Span, SyntaxError_, TypeError_, UnsupportedOp, did_you_mean
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.program import Slot
from dslc.ir.types import TensorType, location_of

from . import functions as fn
from . import kept, scans, wraps
from . import syntax as s
from .calls import bind_ports, call_layer
from .equations import Equation
from .settings import precision
from .signatures import by_name
from .source import FileScope, library_layer, library_names
from .statics import DYNAMIC, static_value
from .unparse import unparse
from .values import Function, Instance, LayerValue, Results, Tensor, Turn, as_size, axis_text, described, is_static, number
from .wholes import WholeValues

if TYPE_CHECKING:
    from .elaborate import Builder

MAX_DEPTH = 40  # of calls; layers cannot recurse, so deeper is a mistake


class Frame(WholeValues):
    """The names of a body and what they stand for."""

    def __init__(self, builder: Builder, file: FileScope, instance: Instance, definition: s.Layer | s.Model, caller: ir.Location | None = None):
        self.builder, self.file, self.instance, self.definition, self.caller = builder, file, instance, definition, caller
        self.names: dict[str, Any] = {}
        self.dims: dict[str, int] = {}
        self.bounded: dict[str, int] = {}  # dimensions of any size up to this
        self.settable: set[str] = set()
        self.rest: tuple[int, ...] | None = None  # the run of axes that a port's `...` stands for
        self.turns: list[int] = []  # of the enclosing repeats
        self.declared: dict[str, Span] = {}
        self.state_paths: dict[str, str] = {}
        self.first_port: dict[str, str] = {}  # the port that named a dimension
        self.returned: Results | None = None
        self.overrides: dict[str, Any] = {}  # of the model's dims and lets
        self.given: list[tuple[str, Any]] = []  # results of a model that is used as a layer
        self.top = isinstance(definition, s.Model) and caller is None

    # --- running

    def run_model(self, overrides: Mapping[str, Any]) -> None:
        self.overrides = dict(overrides)
        self.run(self.definition.body)
        wraps.check_all_used(self.builder.wrappers, self.builder.parameters)

    def run(self, body: Sequence[s.Statement]) -> None:
        for statement in body:
            if self.returned is not None:
                return
            with self.at(statement.span):
                _STATEMENTS[type(statement)](self, statement)

    @contextmanager
    def at(self, span: Span) -> Iterator[None]:
        """Ops made inside carry this place, and that of the call which led here."""
        location = location_of(span)
        with ir.Location.callsite(location, [self.caller]) if self.caller is not None else location:
            yield

    # --- names

    def find(self, name: str) -> Any:
        """The value of a name, or None."""
        if name in self.names:
            return self.names[name]
        if name in self.dims:
            return self.dims[name]
        if name in _PREDEFINED:
            return _PREDEFINED[name]
        if name == "training":
            return self.builder.training
        if name == "step":
            return Tensor(self.builder.scalar("step")) if self.builder.training else 0
        if name in self.file.layers:
            return self.file.layers[name]
        if name in self.file.lets:
            return self.file_let(name)
        if name == "steps":
            return self.builder.total_steps
        if name in fn.NAMES:
            return Function(name)
        return library_layer(name, self.builder.source)

    def find_function(self, name: str) -> Any:
        """What `name(...)` calls: a value that can be called, else the function of that name."""
        value = self.names.get(name)
        if isinstance(value, (Function, LayerValue, Instance)):
            return value
        if name in self.file.layers:
            return self.file.layers[name]
        if name in fn.NAMES:
            return Function(name)
        return library_layer(name, self.builder.source)

    def file_let(self, name: str) -> Any:
        if self.file.values.get(name) is _OPEN:
            raise NameError_(f"'{name}' is defined by itself", self.file.lets[name].span)
        if name not in self.file.values:
            self.file.values[name] = _OPEN
            value = static_value(self, self.file.lets[name])
            if value is DYNAMIC:
                raise TypeError_(f"'{name}' must be known at compile time", self.file.lets[name].span)
            self.file.values[name] = value
        return self.file.values[name]

    def known(self) -> list[str]:
        """Every name that could be meant, for hints."""
        return [*self.names, *self.dims, *self.file.layers, *self.file.lets, *fn.NAMES, *library_names(), *_PREDEFINED, "training", "step"]

    def unknown(self, name: str, span: Span) -> Error:
        if name in self.instance.absent:
            condition, place = self.instance.absent[name]
            return NameError_(f"parameter '{name}' exists only if {condition}, and {condition} is false here ({place.file}:{place.line})", span)
        if name == "steps":
            return NameError_("the length of the run is not known here", span, help="steps N in the train block, or Trainer(model, steps=N)")
        return NameError_(f"unknown name '{name}'{did_you_mean(name, self.known())}", span)

    def define(self, name: str, value: Any) -> None:
        self.names[name] = value
        if isinstance(value, Tensor) and not self.builder.scans:
            self.builder.named[self.path(name)] = value.value

    # --- sizes

    def size(self, node: s.Expr) -> int:
        value = static_value(self, node)
        if value is DYNAMIC:
            raise TypeError_(f"a size must be known at compile time, {unparse(node)} is known only at run time", node.span)
        if isinstance(node, s.Name):
            return as_size(value, node.span, *_let_text(self, node.name))
        names = ", ".join(f"{n} = {self.find(n)}" for n in s.names_in(node) if isinstance(self.find(n), int))
        return as_size(value, node.span, unparse(node) if not isinstance(node, s.Number) else "", names)

    def named_size(self, name: str) -> int | None:
        """The size that a dimension, let or option of that name gives an index."""
        value = self.dims.get(name, self.names.get(name))
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    def dimension(self, name: str) -> int | None:
        return self.dims.get(name)

    def shape(self, axes: Sequence[s.Axis] | None) -> tuple[int, ...]:
        """The sizes that a declaration's brackets give."""
        out: list[int] = []
        for axis in axes or ():
            match axis:
                case s.Index(name=name, bound=None):
                    value = self.find(name)
                    if value is None:
                        raise self.unknown(name, axis.span)
                    if not is_static(value):
                        raise TypeError_(f"a size must be known at compile time, '{name}' is {described(value)}", axis.span)
                    out.append(as_size(value, axis.span, *_let_text(self, name)))
                case s.Index(bound=bound):
                    out.append(self.size(bound))  # type: ignore[arg-type]
                case s.Rest():
                    if self.rest is None:
                        raise ShapeError("nothing says which axes '...' stands for", axis.span, help="a port with ... does: x[n, ...]")
                    out += self.rest
                case s.Size(value=value):
                    out.append(self.size(value))
        total = 1
        for n in out:
            total *= n
        if total > 2**40:
            raise ShapeError(f"{list(out)} has {total} elements", axes[0].span if axes else None)
        return tuple(out)

    # --- for messages

    def axis_names(self, node: Any, base: Tensor) -> str:
        labels = self.builder.labels.get(base.value)
        return "[" + ", ".join(labels) + "]" if labels else ""

    def origins(self, reads: Sequence[s.Read]) -> list[str]:
        """Where the tensors of some reads come from: types and lines."""
        parts: dict[str, None] = {}
        for read in reads:
            value = self.whole(read.base) if isinstance(read.base, (s.Name, s.Attribute)) else None
            if isinstance(value, Tensor):
                line = self.builder.lines.get(value.value)
                parts[f"{unparse(read.base)} is {value.type}" + (f" (line {line})" if line else "")] = None
        return ["; ".join(parts)] if parts else []

    def used_as_index(self, base: Any, size: int) -> None:
        """An input whose values index an axis is checked when it is fed."""
        if isinstance(base, Tensor) and base.value in self.builder.inputs:
            name = self.builder.inputs[base.value]
            self.builder.bounds[name] = min(size, self.builder.bounds.get(name, size))

    def label(self, value: ir.Value, labels: Sequence[str], span: Span) -> None:
        self.builder.labels[value] = tuple(labels)
        self.builder.lines.setdefault(value, span.line)

    # --- statements

    def _dims(self, node: s.Dims) -> None:
        for entry in node.entries:
            if entry.name in self.dims:
                raise NameError_(f"the dimension '{entry.name}' has a size already, {self.dims[entry.name]}", entry.span)
            value = self.setting(entry.name, entry.value)
            self.dims[entry.name] = as_size(value, entry.span, "" if entry.name in self.overridden() else unparse(entry.value))
            if entry.bounded and self.top:
                if self.dims[entry.name] < 1:
                    raise ShapeError(f"no length is up to '{entry.name}' <= {self.dims[entry.name]}", entry.span, help="a bound is at least 1")
                self.bounded[entry.name] = self.dims[entry.name]
                self.builder.varying = True

    def overridden(self) -> Mapping[str, Any]:
        """What the caller gives for dims and lets."""
        return self.overrides if self.top else self.instance.options

    def setting(self, name: str, node: s.Expr) -> Any:
        """The value of a dim or let, or what the caller gave for it."""
        given = self.overridden()
        if name in given:
            value = given[name]
            if isinstance(node, s.String) and isinstance(value, str) and not value.startswith('"'):
                return value  # a text needs no quotes where the default is one
            if not isinstance(value, str) or not self.top:
                return value
            node = _text_expression(value, name)
        value = static_value(self, node)
        if value is DYNAMIC:
            raise TypeError_(f"'{name}' must be known at compile time, {unparse(node)} is known only at run time", node.span)
        return value

    def _let(self, node: s.Let) -> None:
        for binding in node.bindings:
            if isinstance(self.definition, s.Model):
                self.settable.add(binding.name)
                self.define(binding.name, self.setting(binding.name, binding.value))
                continue
            value = static_value(self, binding.value)
            if value is DYNAMIC:
                value = self.whole(binding.value)
            self.define(binding.name, value)

    def _input(self, node: s.Input) -> None:
        for d in node.declarations:
            self.declare(d.name, d.span)
            t = TensorType(self.dtype_of(d), self.shape(d.axes))
            given = self.instance.parameters.get(d.name)
            value = given.value if given is not None else self.builder.input(d.name, t, d.span)
            if given is not None and given.type != t:
                raise ShapeError(f"input '{d.name}' of {self.definition.name} is {t}, given {given.type}", d.span)
            for axis, n in zip(d.axes or (), t.shape):
                if isinstance(axis, s.Index):
                    self.dims.setdefault(axis.name, n)
            labels = [axis_text(a) for a in d.axes or ()]
            self.label(value, labels, d.span)
            self.builder.input_axes.setdefault(value, tuple(labels))  # layers that take the input call its axes by their own names
            self.define(d.name, Tensor(value))

    def dtype_of(self, d: Any) -> dtypes.DType:
        """The type that a declaration names, float32 where it names none. NameError_ for a name that is no type."""
        if d.type is None:
            return dtypes.FLOAT32
        if d.type not in dtypes.BY_NAME:
            raise NameError_(f"unknown type '{d.type}'{did_you_mean(d.type, dtypes.BY_NAME)}", d.span)
        return dtypes.BY_NAME[d.type]

    def declare(self, path: str, span: Span) -> None:
        """Every input, parameter and state of a body is declared once."""
        if path in self.declared:
            raise NameError_(f"'{path}' is declared twice (line {self.declared[path].line})", span)
        self.declared[path] = span

    def path(self, name: str) -> str:
        """The path of a parameter of this body."""
        turns = "".join(f".{t}" for t in self.turns)
        return f"{self.instance.path}.{name}{turns}" if self.instance.path else f"{name}{turns}"

    def static(self, node: s.Expr, what: str) -> Any:
        """The compile-time value of `what`. TypeError_ where it is known only at run time."""
        value = static_value(self, node)
        if value is DYNAMIC:
            raise TypeError_(f"{what} is decided at compile time, and {unparse(node)} is known only at run time", node.span,
                             help=f"use where({unparse(node)}, a, b)" if what == "'if'" else None)  # fmt: skip
        return value

    def item(self, item: s.Item | s.Assign, target: s.Target | None, value: s.Expr) -> Any:
        """The value of `y[b] = e`, `y = e` or `e`."""
        if target is not None and target.axes is not None:
            made = Equation(self, target, item.span).elaborate(value)
            self.label(made.value, [axis_text(a) for a in target.axes], item.span)
            return made
        return self.whole(value)

    def _assign(self, node: s.Assign) -> None:
        if len(node.targets) == 1:
            target = node.targets[0]
            if target.axes is None and isinstance(node.value, (s.Use, s.Import)):
                use = self.use(node.value, target.name) if isinstance(node.value, s.Use) else self.imported(node.value, target.name)
                self.define(target.name, use)
                return
            value = self.item(node, target, node.value)
            if isinstance(value, Results) and not value.of_model:
                raise TypeError_(f"1 name on the left, {unparse(node.value)} has {len(value.values)} results", node.span)
            if isinstance(value, Tensor):
                self.builder.lines.setdefault(value.value, node.span.line)
            self.define(target.name, value)
            return
        value = self.whole(node.value)
        values = list(value.values) if isinstance(value, Results) else value if isinstance(value, list) else [value]
        if len(values) != len(node.targets):
            raise TypeError_(
                f"{len(node.targets)} names on the left, {unparse(node.value)} has {len(values)} result{'s' if len(values) != 1 else ''}", node.span
            )
        for target, one in zip(node.targets, values):
            self.define(target.name, one)

    def _output(self, node: s.Output) -> None:
        for item in node.items:
            self._check_outside_scans("an output", "output", item.span)
            value = self.tensor_of(self.item(item, item.target, item.value), item.span)
            name = _result_name(item)
            if self.top:
                self.add_result("output", name, value, item.span)
            self.define(name, value)
            self.give(name, value)

    def tensor_of(self, value: Any, span: Span) -> Tensor:
        """A value as a tensor: a number becomes one of rank 0. TypeError_ for what is none."""
        if isinstance(value, Turn):
            value = Tensor(value.scan.turn)
        if isinstance(value, (int, float)):
            return Tensor(number(value))
        if not isinstance(value, Tensor):
            raise TypeError_(f"a tensor is needed, this is {described(value)}", span)
        return value

    def _check_outside_scans(self, what: str, role: str, span: Span) -> None:
        if self.builder.scans:
            raise UnsupportedOp(f"{what} inside a scan is not there yet", span, help=f"emit the values, and add the {role} after the scan")

    def add_result(self, role: str, name: str, value: Tensor, span: Span) -> None:
        """A result of the program. NameError_ where one has that name."""
        if any(slot.name == name for slot, _ in self.builder.results):
            raise NameError_(f"two results are called '{name}'", span, help=f"give one another name: {role} other = ...")
        self.builder.results.append((Slot(name, role, value.type, span.line), value.value))

    def give(self, name: str, value: Any) -> None:
        """A model as a layer: its outputs and losses are its results."""
        if not self.top and isinstance(self.definition, s.Model):
            self.given.append((name, value))

    def _loss(self, node: s.Loss) -> None:
        value = self.tensor_of(self.item(node.item, node.item.target, node.item.value), node.item.span)
        if value.type.rank:
            raise ShapeError(f"a loss is one number, this is {value.type}", node.item.span, help=f"loss mean({unparse(node.item.value)})")
        self._check_outside_scans("a loss", "loss", node.span)
        value = Tensor(ops.cast(value.value, dtypes.FLOAT32)) if not value.type.dtype.is_float else value
        name = node.item.target.name if node.item.target else None
        if self.top or not isinstance(self.definition, s.Model):
            self.builder.losses.append((name, value.value, node.span))
        if name:
            self.define(name, value)
        self.give(name or "loss", value)

    def _metric(self, node: s.Metric) -> None:
        item = node.item
        if item.target is None and not isinstance(item.value, s.Name):
            raise SyntaxError_("a metric needs a name", item.span, help=f"metric name = {unparse(item.value)}")
        self._check_outside_scans("a metric", "metric", item.span)
        name = item.target.name if item.target else item.value.name  # type: ignore[union-attr]
        value = self.tensor_of(self.item(item, item.target, item.value), item.span)
        self.define(name, value)
        if self.top:
            self.add_result("metric", name, _averaged(value), item.span)

    def _return(self, node: s.Return) -> None:
        names: list[str | None] = []
        values = []
        if self.builder.scans and self.builder.scans[-1].frame is self:
            raise SyntaxError_("a scan returns nothing", node.span, help="carry the value, or emit it, and return it after the scan")
        for item in node.items:
            values.append(self.item(item, item.target, item.value))
            names.append(item.target.name if item.target else item.value.name if isinstance(item.value, s.Name) else None)
            if names[-1] in names[:-1] and names[-1] is not None:
                raise NameError_(f"two results are called '{names[-1]}'", item.span, help="give one another name: return y, z = ...")
        self.returned = Results(tuple(names), tuple(values), self.definition.name)

    def _if(self, node: s.If) -> None:
        for branch in node.branches:
            if self.static(branch.condition, "'if'"):
                self.run(branch.body)
                return
        self.run(node.otherwise)

    def _repeat(self, node: s.Repeat) -> None:
        count = self.size(node.count)
        if count > 100_000:
            raise ShapeError(f"repeat {count} is absurd", node.count.span, help="a scan loops at run time")
        before = dict(self.instance.names)
        most = dict(before)
        hidden = self.names.get(node.index) if node.index else None
        for turn in range(count):
            self.instance.names = dict(before)
            self.turns.append(turn)
            if node.index:
                self.define(node.index, turn)
            self.run(node.body)
            self.turns.pop()
            for name, n in self.instance.names.items():
                most[name] = max(most.get(name, 0), n)
        self.instance.names = most
        if node.index and hidden is not None:
            self.define(node.index, hidden)

    def _with(self, node: s.With) -> None:
        frozen = 0
        chosen: str | None = None
        for setting in node.settings:
            named = setting.function if isinstance(setting, s.Call) else setting
            name = named.name if isinstance(named, s.Name) else ""
            if name == "frozen" and setting is named:
                frozen = 1
            elif name == "precision":
                if not isinstance(setting, s.Call) or len(setting.arguments) != 1 or setting.keywords:
                    raise TypeError_("precision takes the name of a type", setting.span, help="with precision(float32):")
                chosen = precision(setting.arguments[0])
            else:
                close = did_you_mean(unparse(setting), ["frozen", "precision"])
                raise NameError_(f"with takes no '{unparse(setting)}'{close}", setting.span, help="there are frozen and precision(TYPE)")
        self.builder.frozen += frozen
        with self.builder.precision(chosen) if chosen else nullcontext():
            self.run(node.body)
        self.builder.frozen -= frozen

    def _wrap(self, node: s.Wrap) -> None:
        self.builder.wrappers.append(wraps.wrapper(self, node))

    # --- calls

    def instance_name(self, name: str) -> str:
        """The path of a new instance below this one; the second of a name is `name_2`."""
        count = self.instance.names.get(name, 0) + 1
        self.instance.names[name] = count
        return self.path(name if count == 1 else f"{name}_{count}")

    def use(self, node: s.Use, name: str | None = None) -> Instance:
        layer = self.whole(node.call.function)
        if not isinstance(layer, LayerValue):
            raise TypeError_(f"use takes a layer, this is {described(layer)}", node.span)
        options = by_name(layer.name, option_names(layer.definition), *self.arguments(node.call), node.call, noun="option")
        return Instance(layer, self.instance_name(name or layer.name), options)

    def imported(self, node: s.Import, name: str = "graph") -> Instance:
        """An ONNX file as a layer."""
        from .onnx.layer import imported

        return imported(self, node, name)

    def _graph(self, node: s.Graph) -> None:
        from .onnx.layer import run_graph

        run_graph(self, node)

    def call(self, instance: Instance, arguments: list[Any], keywords: dict[str, Any], node: s.Call) -> Any:
        builder = self.builder
        if builder.depth >= MAX_DEPTH:
            raise NameError_(
                f"'{instance.layer.name}' calls itself, directly or through others", node.span, help="layers cannot recurse: use repeat or scan"
            )
        builder.depth += 1
        instance.names = {}  # every call numbers the instances inside anew, so that all calls share their parameters
        location = location_of(node.span)
        caller = ir.Location.callsite(location, [self.caller]) if self.caller is not None else location
        try:
            frame = Frame(builder, builder.source.scope_of(instance.layer.definition), instance, instance.layer.definition, caller)
            value = call_layer(frame, arguments, keywords, node)
            return wraps.wrapped(self, instance.path, value, is_parameter=False) if isinstance(value, Tensor) else value
        finally:
            builder.depth -= 1


def _averaged(value: Tensor) -> Tensor:
    """A metric is one number: the mean of its elements."""
    x = value.value if value.type.dtype.is_float else ops.cast(value.value, dtypes.FLOAT32)
    axes = list(range(value.type.rank))
    return Tensor(fn.mean_scale(ops.Reduce.of(x, kind="sum", axes=axes), value.type.size) if axes else x)


def option_names(definition: s.Layer | s.Model) -> list[str]:
    """What `use` may set: a layer's options, a model's dims and lets."""
    if isinstance(definition, s.Layer):
        return [f.name for f in definition.formals if f.axes is None]
    out: list[str] = []
    for statement in definition.body:
        if isinstance(statement, s.Dims):
            out += [d.name for d in statement.entries]
        elif isinstance(statement, s.Let):
            out += [b.name for b in statement.bindings]
    return out


def _result_name(item: s.Item) -> str:
    if item.target is not None:
        return item.target.name
    if isinstance(item.value, s.Name):
        return item.value.name
    return item.value.name if isinstance(item.value, s.Attribute) else "output"


def _let_text(frame: Frame, name: str) -> tuple[str, str]:
    """How a let came to its value, for the message of a size that is none."""
    for statement in frame.definition.body:
        if isinstance(statement, s.Let):
            for binding in statement.bindings:
                if binding.name == name:
                    names = [n for n in s.names_in(binding.value) if isinstance(frame.find(n), int)]
                    return unparse(binding.value), ", ".join(f"{n} = {frame.find(n)}" for n in names)
    return "", ""


def _text_expression(text: str, name: str) -> s.Expr:
    from .source import text_value

    return text_value(text, name)


_OPEN: Any = object()  # the value of a let of the file while it is evaluated
_PREDEFINED = {"inf": float("inf"), "nan": float("nan"), "pi": 3.141592653589793}
_STATEMENTS: dict[type, Any] = {
    s.Dims: Frame._dims, s.Let: Frame._let, s.Input: Frame._input, s.Param: kept.param, s.State: kept.state, s.Assign: Frame._assign,
    s.Update: kept.update, s.Output: Frame._output, s.Loss: Frame._loss, s.Metric: Frame._metric, s.Return: Frame._return, s.If: Frame._if,
    s.Repeat: Frame._repeat, s.With: Frame._with, s.Wrap: Frame._wrap, s.Emit: scans.emit, s.Scan: scans.scan,
    s.Graph: Frame._graph,
}  # fmt: skip
__all__ = ["Frame", "bind_ports", "option_names"]
