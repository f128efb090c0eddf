"""What a program keeps: declarations of parameters and states, and the statements that change them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dslc.core.errors import NameError_, ShapeError, Span, SyntaxError_, TypeError_, UnsupportedOp, did_you_mean
from dslc.ir import ops
from dslc.ir.types import TensorType, type_of

from . import syntax as s
from . import trees, wraps
from .initializers import Initializer, initializer
from .statics import DYNAMIC, static_value
from .unparse import unparse
from .values import Instance, Tensor, Tree, axis_text, described, stored

if TYPE_CHECKING:
    from .frame import Frame


def param(frame: Frame, node: s.Param) -> None:
    _kept(frame, node, "param")


def state(frame: Frame, node: s.State) -> None:
    _kept(frame, node, "state")


def _kept(frame: Frame, node: s.Param | s.State, role: str) -> None:
    if node.condition is not None and not frame.static(node.condition, "the condition of a parameter"):
        for d in node.declarations:
            frame.instance.absent[d.name] = (unparse(node.condition), node.span)
        return
    for d in node.declarations:
        if role == "state" and not node.drawn and d.axes is None and isinstance(node.start, s.Attribute) and node.start.name == "params":
            tree = frame.whole(node.start)
            _tree_state(frame, d, tree, tree.of)
            continue
        t = TensorType(frame.dtype_of(d), frame.shape(d.axes))
        path = frame.path(d.name)
        frame.declare(path, d.span)
        if role == "param" and not t.dtype.is_float:
            raise TypeError_(f"a parameter is trained and has a float type, '{d.name}' is {t}", d.span, help=f"write state {d.name}: {t.dtype} = ...")
        start = _start(frame, node, d, t)
        value = frame.builder.parameter(path, t, start, d.span, role)
        if type_of(value) != t:
            known = path in frame.builder.parameters or path in frame.builder.states
            other = f"and {type_of(value)} in an earlier call of the instance" if known else f"given {type_of(value)}"
            raise ShapeError(f"{path} is {t} here, {other}", d.span)
        if role == "state":
            frame.state_paths[d.name] = path
            value = frame.builder.next_states.get(path, value)
        frame.label(value, [axis_text(a) for a in d.axes or ()], d.span)
        made = Tensor(value)
        if role == "param" and frame.builder.wrappers:
            made = wraps.wrapped(frame, path, made, is_parameter=True)
            frame.builder.paths[made.value] = path
        frame.define(d.name, made)
        frame.instance.parameters[d.name] = made


def _start(frame: Frame, node: s.Param | s.State, d: s.Declaration, t: TensorType) -> Initializer:
    if node.start is None:
        raise SyntaxError_(f"'{d.name}' has no starting value", d.span, help=f"write {d.name} ~ zeros()")
    if node.drawn:
        return initializer(frame, node.start, t)
    if any(isinstance(a, s.Index) for a in d.axes or ()):
        return Initializer("equation", equation=(frame, s.Target(span=d.span, name=d.name, axes=d.axes), node.start))
    value = static_value(frame, node.start)
    if value is DYNAMIC:
        raise TypeError_(f"the starting value of '{d.name}' must be known at compile time", node.start.span)
    if not isinstance(value, (int, float)):
        raise TypeError_(f"the starting value of '{d.name}' is a number, this is {described(value)}", node.start.span)
    return Initializer("constant", (float(value),))


def update(frame: Frame, node: s.Update) -> None:
    if frame.builder.scans:
        what = "parameters" if isinstance(node.target, s.Attribute) else "a state"
        raise UnsupportedOp(f"{what} cannot be changed inside a scan", node.span, help="carry the value, and change the state after the scan")
    if isinstance(node.target, s.Attribute):
        owner = frame.whole(node.target.base)
        if not isinstance(owner, Instance) or node.target.name != "params":
            raise TypeError_(f"{unparse(node.target)} is no tree of parameters", node.target.span, help="write net.params <- tree")
        trees.assign(frame.builder, owner, frame.whole(node.value), node.span)
        return
    name = node.target.name
    if isinstance(frame.names.get(name), Tree) and name in frame.state_paths:
        _update_tree(frame, name, frame.whole(node.value), node.span)
        return
    if name not in frame.state_paths:
        raise NameError_(f"'{name}' is no state of {frame.definition.name}{did_you_mean(name, frame.state_paths)}", node.target.span,
                         help=f"declare it: state {name} ~ zeros()")  # fmt: skip
    old = frame.names[name]
    value = frame.item(node, node.target, node.value)  # type: ignore[arg-type]
    if not isinstance(value, Tensor):
        value = frame.tensor_of(value, node.span)
        value = Tensor(ops.spread(value.value, old.type.with_dtype(value.type.dtype)))
    if value.type.shape != old.type.shape:
        raise ShapeError(f"state '{name}' is {old.type}, its new value {value.type}", node.span)
    value = Tensor(stored(value, old.type.dtype, f"state '{name}'", node.span))
    frame.define(name, value)
    frame.builder.next_states[frame.state_paths[name]] = value.value


def _update_tree(frame: Frame, name: str, value: Any, span: Span) -> None:
    old = frame.names[name]
    if not isinstance(value, Tree) or {k: v.type.shape for k, v in value.leaves.items()} != {k: v.type.shape for k, v in old.leaves.items()}:
        raise TypeError_(f"state '{name}' is {described(old)}, its new value {described(value)}", span)
    kept = {leaf: Tensor(ops.cast(v.value, old.leaves[leaf].type.dtype)) for leaf, v in value.leaves.items()}
    frame.define(name, Tree(kept, old.of))
    for leaf, v in kept.items():
        frame.builder.next_states[f"{frame.state_paths[name]}.{leaf}"] = v.value


def _tree_state(frame: Frame, d: s.Declaration, tree: Tree, owner: str) -> None:
    """`state old = net.params`: a state for each leaf, which starts as the parameter does."""
    path = frame.path(d.name)
    leaves = {}
    for leaf, value in tree.leaves.items():
        start = replace(frame.builder.parameters[f"{owner}.{leaf}"].initializer, path=f"{owner}.{leaf}")
        kept = frame.builder.parameter(f"{path}.{leaf}", value.type, start, d.span, "state")
        leaves[leaf] = Tensor(frame.builder.next_states.get(f"{path}.{leaf}", kept))
    frame.state_paths[d.name] = path
    frame.define(d.name, Tree(leaves, tree.of))
