"""From the syntax tree to a program in the nn dialect: one function of inputs, scalars, parameters and states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dslc.core import dtypes
from dslc.core.errors import NameError_, Span, did_you_mean
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import PRECISION, context
from dslc.ir.program import SCALARS, Slot, add_argument, argument, arguments_of, finish_program, scalar, set_arguments, start_program
from dslc.ir.types import TensorType, type_of

from .frame import Frame
from .initializers import Initializer
from .settings import GenerateBlock, TrainBlock, generate_block, train_block
from .source import Source, load_program
from .values import Instance
from .wraps import Wrapper


@dataclass(frozen=True)
class Parameter:
    """A parameter or state: where it lies, its type, how it starts, whether training changes it."""

    path: str
    type: TensorType
    initializer: Initializer
    trainable: bool
    span: Span


@dataclass
class Elaborated:
    """A model's program of one mode, with everything that is known of it. The module belongs to the caller: passes change it."""

    module: ir.Module
    context: ir.Context
    location: ir.Location
    name: str
    training: bool
    parameters: list[Parameter]
    states: list[Parameter]
    losses: list[str]
    settings: TrainBlock | None
    generate: GenerateBlock | None
    dims: dict[str, int]
    bounds: dict[str, int]  # of dimensions that may have any size up to it, `dims time<=1024`
    fans: dict[str, tuple[int, int]]
    input_axes: list[tuple[tuple[str, ...], tuple[int, ...]]]  # (names of axes, shape) of each input
    builder: Builder = field(repr=False)
    frame: Frame = field(repr=False)


def _tag(op: Any, precision: ir.StringAttr) -> None:
    if PRECISION not in op.attributes:
        op.attributes[PRECISION] = precision
    for region in op.regions:
        for inner in region.blocks[0].operations:
            _tag(inner, precision)


class Builder:
    """What is shared by all frames of one elaboration: the function that grows, its arguments, its results."""

    def __init__(self, source: Source, training: bool):
        self.source, self.training = source, training
        self.module = ir.Module.create()
        self.program: func.FuncOp = start_program(self.module, "main", [])
        self.parameters: dict[str, Parameter] = {}
        self.states: dict[str, Parameter] = {}
        self.values: dict[str, ir.Value] = {}  # of parameters and states, by path
        self.varying = False  # the model has bounded dimensions
        self.asked: set[str] = set()  # paths of parameters and states that a statement declared
        self._counter: ir.Value | None = None
        self.next_states: dict[str, ir.Value] = {}
        self.next_parameters: dict[str, ir.Value] = {}  # where the model itself changes parameters
        self.has_gradients = False
        self.precisions: set[str] = set()  # that some `with precision(...)` names
        self.wrappers: list[Wrapper] = []
        self.wrapping = False  # inside of a wrapper, where nothing is wrapped again
        self.results: list[tuple[Slot, ir.Value]] = []
        self.named: dict[str, ir.Value] = {}  # every value of a name outside scans, by path; a later one replaces an earlier one
        self.losses: list[tuple[str | None, ir.Value, Span]] = []
        self.input_slots: list[Slot] = []
        self.bounds: dict[str, int] = {}  # inputs used as indices: the size they index
        self.inputs: dict[ir.Value, str] = {}
        self.uses: dict[str, set[int]] = {}  # for fans: the axes of a parameter that its first equation sums over
        self.paths: dict[ir.Value, str] = {}  # of parameters
        self.scans: list[Any] = []
        self.compared: list[tuple[str, float, float, Span]] = []  # numbers that the model compares at compile time
        self.frozen = 0
        self.depth = 0
        self.total_steps: int | None = None  # of the run, where the schedules know it
        self.labels: dict[ir.Value, tuple[str, ...]] = {}  # names of axes, for messages
        self.input_axes: dict[ir.Value, tuple[str, ...]] = {}  # names of axes, as declared
        self._scalars: dict[str, ir.Value] = {}
        self.lines: dict[ir.Value, int] = {}  # where a value was defined, for messages

    # --- arguments

    def scalar(self, name: str) -> ir.Value:
        """`seed`, `step` or `microbatch`."""
        if name not in self._scalars:
            self._scalars[name] = scalar(self.program, name)
        return self._scalars[name]

    def counter(self) -> ir.Value:
        """The random counter of a call: step * 256 + microbatch."""
        if self._counter is None:
            step, microbatch = self.scalar("step"), self.scalar("microbatch")
            with ir.InsertionPoint.at_block_begin(self.program.entry_block):
                self._counter = ops.Add.of(ops.Mul.of(step, ops.constant(256)), microbatch)
        return self._counter

    def _check_free(self, name: str, span: Span) -> None:
        """No input, parameter or state may take the name of a scalar that the program has already; the other way round `scalar` tells."""
        if name in SCALARS and argument(self.program, name) is not None:
            raise NameError_(f"'{name}' is the {name} that this program counts or draws by", span, help="take another name")

    def input(self, name: str, t: TensorType, span: Span) -> ir.Value:
        self._check_free(name, span)
        value = add_argument(self.program, Slot(name, "input", t, span.line))
        self.inputs[value] = name
        return value

    def parameter(self, path: str, t: TensorType, initializer: Initializer, span: Span, role: str) -> ir.Value:
        """The argument of a parameter or state; the same one, or what a call gave for it, where the path is known."""
        self.asked.add(path)
        if path not in self.values:
            self._check_free(path, span)
            table = self.parameters if role == "param" else self.states
            table[path] = Parameter(path, t, initializer, role == "param" and not self.frozen, span)
            self.values[path] = add_argument(self.program, Slot(path, role, t, span.line))
            self.paths[self.values[path]] = path
        return self.values[path]

    @contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """The ops made meanwhile are tagged: the precision pass reads it. An inner tag stays."""
        self.precisions.add(name)
        block = ir.InsertionPoint.current.block
        before = list(block.operations)[-1:]
        yield
        for op in reversed(list(block.operations)):
            if op in before:
                break
            _tag(op, ir.StringAttr.get(name))

    # --- the end

    def finish(self, fetch: Sequence[str] = ()) -> list[str]:
        """Losses, states and results, and the values named in `fetch` as outputs; the names of the losses."""
        for path in fetch:
            if path not in self.named:
                raise NameError_(f"the model has no value '{path}'{did_you_mean(path, self.named)}")
            self.results.append((Slot(path, "output", type_of(self.named[path])), self.named[path]))
        names: list[str] = []
        total: ir.Value | None = None
        for name, value, _ in self.losses:
            total = value if total is None else _plus(total, value)
            if name is not None and name != "loss" and name not in names:
                names.append(name)
        results = list(self.results)
        self._check_losses(total)
        if total is not None:
            if len(self.losses) > 1 or names:
                results += [(Slot(n, "metric", type_of(v)), v) for n, v in self._named_losses().items() if n not in {r.name for r, _ in results}]
            results.append((Slot("loss", "loss", type_of(total)), total))
        results += [(Slot(path, "state", type_of(v), self.states[path].span.line), v) for path, v in self.next_states.items()]
        results += [(Slot(path, "param", type_of(v), self.parameters[path].span.line), v) for path, v in self.next_parameters.items()]
        finish_program(self.program, results)
        self._sort_arguments()
        return names

    def _check_losses(self, total: ir.Value | None) -> None:
        """What a loss reports under a name is not another result of that name too."""
        reported = {**self._named_losses(), **({"loss": total} if total is not None else {})}
        for slot, value in self.results:
            if slot.name in reported and reported[slot.name] != value:
                spans = [span for name, _, span in self.losses if (name or "loss") == slot.name] or [self.losses[0][2]]
                raise NameError_(f"the loss '{slot.name}' and the {slot.role} '{slot.name}' (line {slot.line}) differ", spans[:1],
                                 help=f"give the {slot.role} another name")  # fmt: skip

    def _named_losses(self) -> dict[str, ir.Value]:
        out: dict[str, ir.Value] = {}
        for name, value, _ in self.losses:
            if name is not None and name != "loss":
                out[name] = value if name not in out else _plus(out[name], value)
        return out

    def _sort_arguments(self) -> None:
        """Bounds of inputs used as indices become part of their slots."""
        slots = [
            replace(s, bounds=(0, self.bounds[s.name])) if s.role == "input" and s.name in self.bounds else s for s in arguments_of(self.program)
        ]
        set_arguments(self.program, slots)


def _plus(a: ir.Value, b: ir.Value) -> ir.Value:
    """a + b of two floats, in the wider type."""
    dtype = dtypes.promote(type_of(a).dtype, type_of(b).dtype)
    return ops.Add.of(ops.cast(a, dtype), ops.cast(b, dtype))


def elaborate(
    source: Source, *, training: bool, model: str | None = None, fetch: Sequence[str] = (), sizes: Mapping[str, int] | None = None
) -> Elaborated:
    """The program of a model in training or evaluation mode, with the values of the paths in `fetch` as further outputs. Bounded dimensions are at
    their bounds, or at `sizes`. Raises dslc errors with places in the model file."""
    made = context()
    with made, ir.Location.unknown():
        location = ir.Location.unknown()
        builder = Builder(source, training)
        layer = source.model(model)
        with ir.InsertionPoint(builder.program.entry_block):
            frame = Frame(builder, source.scope_of(layer.definition), Instance(layer, "", {}), layer.definition)
            frame.run_model({**source.overrides, **(sizes or {})})
            losses = builder.finish(fetch)
        for path in builder.next_parameters:
            builder.parameters[path] = replace(builder.parameters[path], trainable=False)
        settings = train_block(source, frame)
        generate = generate_block(source, frame)
        _check_overrides(source, frame, settings)
        input_axes = [(builder.input_axes.get(v, ()), type_of(v).shape) for v in builder.inputs]
        kept = (list(builder.parameters.values()), list(builder.states.values()))
        elaborated = Elaborated(builder.module, made, location, layer.name, training, *kept,
                                losses, settings, generate, dict(frame.dims), dict(frame.bounded), _fans(builder), input_axes, builder,
                                frame)  # fmt: skip
        if training and settings is not None:
            _check_optimizers(elaborated, settings)
    return elaborated


def _check_optimizers(elaborated: Elaborated, settings: TrainBlock) -> None:
    """Every optimizer of the train block is tried on the smallest parameter of each rank that it trains, in modules of their own."""
    from .optimizers import LayerOptimizer

    for line in settings.lines():
        trained = [p for p in elaborated.parameters if p.trainable and (line.paths is None or p.path in line.paths)]
        smallest: dict[int, Parameter] = {}
        for p in sorted(trained, key=lambda p: p.type.size):
            smallest.setdefault(p.type.rank, p)
        for p in smallest.values():
            module = ir.Module.create()
            program = start_program(module, "main", [])
            with ir.InsertionPoint(program.entry_block):
                w, g = (add_argument(program, Slot(name, "input", p.type)) for name in ("w", "g"))
                LayerOptimizer(elaborated, line.optimizer, settings.steps or 1000).update(program, p.path, w, g)


def _fans(builder: Builder) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each parameter: the product of the axes its first equation sums over, and of the others."""
    out = {}
    for path, p in {**builder.parameters, **builder.states}.items():
        summed = builder.uses.get(p.initializer.path or path, set(range(p.type.rank - 1)))
        fan_in = int(np.prod([n for k, n in enumerate(p.type.shape) if k in summed]))
        fan_out = int(np.prod([n for k, n in enumerate(p.type.shape) if k not in summed]))
        out[path] = (max(fan_in, 1), max(fan_out, 1))
    return out


def _check_overrides(source: Source, frame: Frame, settings: TrainBlock | None) -> None:
    known = {*frame.dims, *frame.settable, *TrainBlock.keys()}
    for name in source.overrides:
        if name not in known:
            raise NameError_(f"the model has no dim, let or train key '{name}'{did_you_mean(name, known)}",
                             notes=[f"it has {', '.join(sorted({*frame.dims, *frame.settable}))}"])  # fmt: skip


def initial_values(elaborated: Elaborated, seed: int) -> dict[str, Callable[[], np.ndarray]]:
    """What makes the starting value of each parameter and state, in its shape; draws are keyed by seed and path."""

    def maker(p: Parameter) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(p.initializer.make(p.path, p.type, elaborated.fans.get(p.path, (1, 1)), seed)).reshape(p.type.shape)

    return {p.path: maker(p) for p in (*elaborated.parameters, *elaborated.states)}


__all__ = ["Builder", "Elaborated", "Parameter", "elaborate", "initial_values", "load_program"]
