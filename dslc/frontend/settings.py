"""What the train and generate blocks say, checked: every key is known, every value has its type."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dslc.core.dtypes import PRECISIONS
from dslc.core.errors import NameError_, Span, TypeError_, UnsupportedOp, did_you_mean

from . import syntax as s
from .patterns import matching
from .signatures import by_name
from .source import Source, setting_line
from .statics import DYNAMIC, static_value
from .unparse import unparse

if TYPE_CHECKING:
    from .frame import Frame

BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Invocation:
    """A call in a train block, `adamw(lr=1e-3)`, `text(pydoc_topics(), window=128)`: arguments are plain values or invocations; `nodes` keeps the
    expressions of arguments that are known only at run time (schedules)."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    span: Span
    call: s.Call


@dataclass(frozen=True)
class Minimized:
    """A `minimize` line: the names of the losses (empty: all of them), the paths that are trained (None: all), the optimizer's call."""

    losses: tuple[str, ...]
    paths: tuple[str, ...] | None
    optimizer: s.Call
    span: Span


@dataclass(frozen=True)
class TrainBlock:
    """One `train:` block. What it leaves out is None, or the default that stands here."""

    name: str | None
    span: Span
    data: Invocation | None = None
    eval: Invocation | None = None
    steps: int | None = None
    epochs: float | None = None
    optimizer: s.Call | None = None
    clip: Invocation | None = None
    precision: str = "float32"
    memory: int | None = None
    memory_span: Span | None = None
    seed: int = 0
    accumulate: int = 1
    average: Invocation | None = None
    start: str | None = None
    stop: Invocation | float | None = None
    lets: tuple[s.Binding, ...] = ()
    minimize: tuple[Minimized, ...] = ()

    def lines(self) -> tuple[Minimized, ...]:
        """What a step does, in order; `optimizer O` is `minimize (all losses) over all with O`."""
        return self.minimize or ((Minimized((), None, self.optimizer, self.optimizer.span),) if self.optimizer is not None else ())

    @staticmethod
    def keys() -> list[str]:
        return [f.name for f in fields(TrainBlock) if f.name not in ("name", "span", "memory_span", "lets", "minimize")]


@dataclass(frozen=True)
class GenerateBlock:
    """`generate:`: the axis, the output, the sampling method with its options; how many tokens (None: not said), the text that ends a
    generation (None: none does), the seed of the draws."""

    axis: str
    output: str
    method: str
    options: dict[str, Any]
    span: Span
    length: int | None = None
    stop: str | None = None
    seed: int = 0


def train_block(source: Source, frame: Frame) -> TrainBlock | None:
    """The file's train block, with what the caller overrides; None where there is neither."""
    blocks = source.definitions(s.Train)
    if len(blocks) > 1:
        raise UnsupportedOp("several train blocks are not there yet", blocks[1].span)
    known_keys = TrainBlock.keys()
    if not blocks and not source.overrides.keys() & set(known_keys):
        return None
    block = blocks[0] if blocks else s.Train(None, (), span=source.main.program.span)
    values: dict[str, Any] = {}
    lets: list[s.Binding] = []
    minimized: list[Minimized] = []
    for line in block.lines:
        if isinstance(line, s.Let):
            for b in line.bindings:
                lets.append(b)
                known = static_value(frame, b.value)
                if known is not DYNAMIC:
                    frame.names[b.name] = source.overrides.get(b.name, known)
                    frame.settable.add(b.name)
        elif isinstance(line, s.Minimize):
            if frame.builder.training:  # losses and parameters may exist in this mode only
                minimized.append(_minimized(line, frame))
        else:
            if line.key not in known_keys:
                raise NameError_(
                    f"train has no key '{line.key}'{did_you_mean(line.key, TrainBlock.keys())}",
                    line.span,
                    help=f"the keys are {', '.join(TrainBlock.keys())}",
                )
            if line.key in values:
                raise NameError_(f"'{line.key}' is set twice", line.span)
            values[line.key] = _setting(frame, line)
            if line.key == "memory":
                values["memory_span"] = line.span
    for key in known_keys:
        if key in source.overrides:
            given = source.overrides[key]
            values[key] = _setting(frame, setting_line(key, given if isinstance(given, str) else _as_text(given)))
    if minimized and "optimizer" in values:
        raise TypeError_("the optimizer is given twice, by a minimize line and by 'optimizer'", values["optimizer"].span)
    return TrainBlock(block.name, block.span, lets=tuple(lets), minimize=tuple(minimized), **values)


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if not isinstance(value, str) else value


def _minimized(line: s.Minimize, frame: Frame) -> Minimized:
    try:
        paths = tuple(matching(line.pattern, frame.builder.parameters))
    except NameError_ as error:
        error.spans = [line.span] if len(line.pattern) == 1 else error.spans
        raise
    names = _loss_names(line.losses)
    known = [n for n, _, _ in frame.builder.losses if n]
    if names == ("loss",) and "loss" not in known:
        names = ()
    for name in names:
        if name not in known:
            raise NameError_(f"no loss is called '{name}'{did_you_mean(name, known)}", line.losses.span,
                             help=f"the losses are {', '.join(known)}{_ALL if len(known) > 1 else ''}" if known
                             else "write minimize loss over all with ...")  # fmt: skip
    return Minimized(names, paths, line.optimizer, line.span)


_ALL = "; write a + b for several of them, loss for all"


def _loss_names(node: s.Expr) -> tuple[str, ...]:
    """`nll + small`, `[nll, small]` or a name."""
    match node:
        case s.Name(name=name):
            return (name,)
        case s.Binary(op="+"):
            return _loss_names(node.left) + _loss_names(node.right)
        case s.List(items=items):
            return tuple(name for item in items for name in _loss_names(item))
    raise TypeError_(f"minimize takes names of losses, this is {unparse(node)}", node.span, help="give the whole expression a name: loss total = ...")


def _setting(frame: Frame, line: s.Setting) -> Any:
    node = _one_value(line)
    match line.key:
        case "data" | "eval" | "clip" | "average":
            if not isinstance(node, s.Call):
                raise TypeError_(f"{line.key} is a call, this is {unparse(node)}", node.span, help=_CALLS[line.key])
            return _known(line.key, invocation(frame, node))
        case "optimizer":
            if not isinstance(node, s.Call):
                raise TypeError_(f"the optimizer is a call, this is {unparse(node)}", node.span, help="optimizer adamw(lr=1e-3)")
            return node
        case "steps" | "seed" | "accumulate":
            return _whole_number(frame, line)
        case "epochs":
            value = static_value(frame, node)
            if not _is_number(value) or not 0 < value < math.inf:
                raise TypeError_(f"epochs takes a number above 0, this is {unparse(node)}", node.span)
            return float(value)
        case "precision":
            return precision(node)
        case "memory":
            return _quantity(node, BYTES, "memory 2 GiB")
        case "start":
            if not isinstance(node, s.String):
                raise TypeError_("start takes the name of a checkpoint file", node.span, help='start "runs/first/checkpoint.safetensors"')
            return node.value
        case "stop":
            return _known("stop", invocation(frame, node)) if isinstance(node, s.Call) else float(_quantity(node, SECONDS, "stop 30 min"))
    raise AssertionError(line.key)


_CALLS = {
    "data": "data text(pydoc_topics(), window=time)",
    "eval": 'eval table("held_out.csv")',
    "clip": "clip norm(1.0)",
    "average": "average ema(0.999)",
}
_KNOWN = {"clip": ("norm", "value"), "average": ("ema",), "stop": ("patience",)}


def _known(key: str, call: Invocation) -> Invocation:
    if key in _KNOWN and call.name not in _KNOWN[key]:
        raise NameError_(f"{key} has no '{call.name}'{did_you_mean(call.name, _KNOWN[key])}", call.span, help=f"write {key} {_KNOWN[key][0]}(...)")
    if key == "clip" and (len(call.args) != 1 or call.options or not _is_number(call.args[0]) or not call.args[0] > 0):
        raise TypeError_(f"clip {call.name} takes one number above 0", call.span)
    if key == "average" and (len(call.args) != 1 or call.options or not _is_number(call.args[0]) or not 0 < call.args[0] < 1):
        raise TypeError_("average ema takes one number between 0 and 1", call.span, help="write average ema(0.999)")
    if key == "stop":
        options = by_name(call.name, ("patience", "least_change"), call.args, call.options, call.call, noun="option")
        turns, change = options.get("patience", 1), options.get("least_change", 0.0)
        if not (_is_number(turns, whole=True) and turns > 0 and _is_number(change) and change >= 0):
            raise TypeError_("patience takes a whole number above 0, of validations, and a least change of at least 0", call.span)
        return replace(call, args=(), options=options)
    return call


def _is_number(value: Any, whole: bool = False) -> bool:
    return isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)


def precision(node: Any) -> str:
    """The name of a precision that programs run in."""
    name = node.name if isinstance(node, s.Name) else unparse(node)
    if name not in PRECISIONS:
        raise UnsupportedOp(f"no program runs in {name}{did_you_mean(name, PRECISIONS)}", node.span, help=f"there are {', '.join(PRECISIONS)}")
    return name


def _quantity(node: Any, units: dict[str, int], example: str) -> int:
    if isinstance(node, s.Quantity):
        if node.unit not in units:
            raise NameError_(f"unknown unit '{node.unit}'{did_you_mean(node.unit, units)}", node.span, help=f"the units are {', '.join(units)}")
        found = node.number.value * units[node.unit]
        if found >= 2**63:
            raise TypeError_(f"{unparse(node)} is more than 64 bits count", node.span)
        return int(found)
    raise TypeError_(f"a quantity with a unit is needed, this is {unparse(node)}", node.span, help=f"write {example}")


def invocation(frame: Frame, node: s.Call) -> Invocation:
    """A call whose arguments are known at compile time, or calls themselves."""
    if not isinstance(node.function, s.Name):
        raise TypeError_(f"{unparse(node.function)} cannot be called here", node.span)
    args = tuple(_argument(frame, a) for a in node.arguments)
    return Invocation(node.function.name, args, {k.name: _argument(frame, k.value) for k in node.keywords}, node.span, node)


def _argument(frame: Frame, node: Any) -> Any:
    if isinstance(node, s.Call):
        try:
            value = static_value(frame, node)
        except NameError_:
            value = DYNAMIC
        return invocation(frame, node) if value is DYNAMIC else value
    value = static_value(frame, node)
    if value is DYNAMIC:
        raise TypeError_(f"{unparse(node)} must be known at compile time", node.span)
    return value


# The sampling methods with their options, and whether each takes a whole number.
SAMPLERS = {"sample": {"temperature": False, "top_k": True, "top_p": False}, "greedy": {}, "beam": {"width": True, "length_penalty": False}}


def generate_block(source: Source, frame: Frame) -> GenerateBlock | None:
    """The file's generate block."""
    blocks = source.definitions(s.Generate)
    if not blocks:
        return None
    if len(blocks) > 1:
        raise NameError_("a second generate block", blocks[1].span, notes=[f"the first one stands at {blocks[0].span}"])
    settings: dict[str, Any] = {}
    samplers: list[s.Sampler] = []
    for line in blocks[0].lines:
        if isinstance(line, s.Sampler):
            samplers.append(line)
            continue
        if line.key not in ("length", "stop", "seed"):
            raise NameError_(f"generate has no key '{line.key}'{did_you_mean(line.key, ['length', 'stop', 'seed'])}", line.span)
        if line.key in settings:
            raise NameError_(f"'{line.key}' is set twice", line.span)
        settings[line.key] = _ending(frame, line) if line.key == "stop" else _whole_number(frame, line)
    if len(samplers) != 1:
        message = "generate samples twice" if samplers else "generate says nothing to sample from"
        raise TypeError_(message, (samplers[1] if samplers else blocks[0]).span, help="over time from logits sample(temperature=0.8)")
    sampler, method = samplers[0], invocation(frame, samplers[0].method)
    if method.name not in SAMPLERS:
        raise NameError_(
            f"no sampling method '{method.name}'{did_you_mean(method.name, SAMPLERS)}", method.span, help="there are sample, greedy and beam"
        )
    known = SAMPLERS[method.name]
    options = by_name(method.name, tuple(known), method.args, method.options, method.call, noun="option")
    for name, value in options.items():
        if not _is_number(value, known[name]):
            raise TypeError_(f"{name} of {method.name} takes a {'whole ' if known[name] else ''}number", method.span)
    return GenerateBlock(sampler.axis, sampler.output.split(".")[-1], method.name, options, blocks[0].span, **settings)


def _ending(frame: Frame, line: s.Setting) -> str:
    value = static_value(frame, _one_value(line))
    if not isinstance(value, str):
        raise TypeError_(f"stop takes a text that ends a generation, this is {unparse(line.values[0])}", line.values[0].span)
    return value


def _whole_number(frame: Frame, line: s.Setting) -> int:
    """Of a key that counts: above 0, but for a seed."""
    node = _one_value(line)
    value = static_value(frame, node)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_number(value, whole=True) or not (line.key != "seed") <= value < 2**63:
        raise TypeError_(f"{line.key} takes a whole number{' above 0' if line.key != 'seed' else ''}, this is {unparse(node)}", node.span)
    return value


def _one_value(line: s.Setting) -> s.Expr:
    if len(line.values) != 1:
        raise TypeError_(f"{line.key} takes one value", line.span)
    return line.values[0]
