"""Optimizers and schedules: a layer of (w, g) elaborated for one parameter, with its states beside the parameter's path."""

from __future__ import annotations

import copy
from typing import Any

from dslc.core.errors import NameError_, ShapeError, TypeError_, UnsupportedOp, did_you_mean
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import Slot, add_argument
from dslc.ir.types import TensorType, type_of

from . import syntax as s
from .elaborate import Builder, Elaborated
from .frame import option_names
from .initializers import Initializer
from .signatures import by_name
from .source import library_names
from .values import Instance, LayerValue, Tensor, described

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion", "adafactor")  # the library's


class _StepBuilder(Builder):
    """A builder over a program that exists: states become arguments of it, `step` is its scalar."""

    def __init__(self, elaborated: Elaborated, program: func.FuncOp, total_steps: int | None):
        super().__init__(elaborated.builder.source, training=True)
        self.program, self.total_steps = program, total_steps

    def parameter(self, path: str, t: TensorType, initializer: Initializer, span: Any, role: str) -> ir.Value:
        if role == "param":
            raise TypeError_("an optimizer has states, no parameters", span, help="write state m[...] ~ zeros()")
        if initializer.kind != "zeros" and initializer.arguments != (0.0,):
            raise UnsupportedOp("an optimizer's states start at zero", span, help="choose what the first step reads: where(step == 0, w, m)")
        if path not in self.values:
            self.values[path] = add_argument(self.program, Slot(path, "state", t, span.line))
        return self.values[path]


class LayerOptimizer:
    """An optimizer of a train block. The schedules in its options are evaluated once a program; `name` stands in the paths of its states."""

    def __init__(self, elaborated: Elaborated, call: s.Call, total_steps: int | None, name: str = "optimizer"):
        self.elaborated, self.call, self.total_steps, self.name = elaborated, call, total_steps, name
        self._options: dict[str, Any] | None = None
        self._lets: dict[str, Any] = {}  # of the train block, those that are schedules
        self._builder: _StepBuilder | None = None

    def update(self, program: func.FuncOp, path: str, w: ir.Value, g: ir.Value) -> tuple[ir.Value, list[tuple[Slot, ir.Value]]]:
        """One parameter's new value and the next values of its states."""
        if self._builder is None:
            self._builder = _StepBuilder(self.elaborated, program, self.total_steps)
        builder = self._builder
        frame = copy.copy(self.elaborated.frame)
        frame.builder = builder
        frame.names = {k: v for k, v in frame.names.items() if not isinstance(v, (Tensor, Instance))} | self._lets
        if self._options is None:
            self._run_lets(frame)
        layer = self._layer(frame)
        if self._options is None:
            self._options = self._evaluated(frame, layer)
        builder.next_states.clear()
        instance = Instance(layer, f"{path}.{self.name}", {})
        try:
            value = frame.call(instance, [Tensor(w), Tensor(g)], self._options, self.call)
        except ShapeError as error:
            error.notes.append(f"the parameter is {path}, {type_of(w)}")
            raise
        if not isinstance(value, Tensor) or value.type.shape != type_of(w).shape:
            raise TypeError_(f"optimizer {layer.name} must return the new w, and returns {described(value)}", self.call.span,
                             notes=[f"the parameter is {path}, {type_of(w)}"])  # fmt: skip
        states = [(Slot(k, "state", type_of(v)), v) for k, v in builder.next_states.items()]
        return ops.cast(value.value, type_of(w).dtype), states

    def _run_lets(self, frame: Any) -> None:
        settings = self.elaborated.settings
        for binding in settings.lets if settings else ():
            if binding.name not in frame.names:
                frame.names[binding.name] = self._lets[binding.name] = frame.whole(binding.value)

    def _layer(self, frame: Any) -> LayerValue:
        name = self.call.function.name if isinstance(self.call.function, s.Name) else ""
        layer = frame.find_function(name)
        if isinstance(layer, LayerValue) and not isinstance(layer.definition, s.Layer):
            raise TypeError_(f"'{name}' is a model here, and no optimizer", self.call.function.span, help="give the model another name")
        if not isinstance(layer, LayerValue):
            known = [*frame.file.layers, *library_names()]
            raise NameError_(f"unknown optimizer '{name}'{did_you_mean(name, known)}", self.call.function.span,
                             help=f"there are {', '.join(OPTIMIZERS)}, and any layer of (w[...], g[...], options)")  # fmt: skip
        return layer

    def _evaluated(self, frame: Any, layer: LayerValue) -> dict[str, Any]:
        """The options' values; positions follow w and g."""
        arguments, keywords = frame.arguments(self.call)
        return by_name(layer.name, option_names(layer.definition), arguments, keywords, self.call, noun="option")
