"""Trees: all parameters of an instance by path. Arithmetic and elementwise functions apply leaf by leaf; gradients by a tree are a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dslc.core import dtypes
from dslc.core.errors import NameError_, ShapeError, Span, TypeError_
from dslc.ir import ops
from dslc.ir.types import type_of

from .values import Instance, Tensor, Tree, described

if TYPE_CHECKING:
    from .elaborate import Builder


def parameters_of(builder: Builder, instance: Instance, span: Span) -> Tree:
    """The tree of the parameters that an instance has so far, at their values at this point."""
    prefix = f"{instance.path}."
    leaves = {path.removeprefix(prefix): Tensor(builder.values[path]) for path in builder.parameters if path.startswith(prefix)}
    if not leaves:
        raise NameError_(f"{instance.path} has no parameters yet", span, help="parameters exist from the first call on")
    return Tree(leaves, instance.path)


def map_leaves(values: Sequence[Any], build: Callable[[list[Any]], Tensor], span: Span) -> Tree:
    """A tree of what `build` makes of each leaf; values that are no trees go to every leaf."""
    trees = [v for v in values if isinstance(v, Tree)]
    first = trees[0]
    for other in trees[1:]:
        if other.leaves.keys() != first.leaves.keys():
            missing = sorted(first.leaves.keys() ^ other.leaves.keys())[0]
            raise ShapeError(f"the trees of {first.of} and {other.of} differ: only one has '{missing}'", span)
    return Tree({path: build([v.leaves[path] if isinstance(v, Tree) else v for v in values]) for path in first.leaves}, first.of)


def total(tree: Tree) -> Tensor:
    """The sum of all elements of all leaves."""
    out = None
    for leaf in tree.leaves.values():
        one = ops.cast(ops.Reduce.of(leaf.value, kind="sum", axes=list(range(leaf.type.rank))), dtypes.FLOAT32)
        out = one if out is None else ops.Add.of(out, one)
    return Tensor(out)


def gradient(builder: Builder, e: Any, by: Any, span: Span) -> Any:
    """grad(e, x): a tensor, or a tree where x is one; e is one number."""
    if not isinstance(e, Tensor):
        raise TypeError_(f"grad takes a tensor, this is {described(e)}", span)
    if e.type.rank:
        raise ShapeError(f"grad takes one number, this is {e.type}", span, help="sum or mean it first")
    targets = list(by.leaves.values()) if isinstance(by, Tree) else [by]
    for x in targets:
        if not isinstance(x, Tensor) or not x.type.dtype.is_float:
            raise TypeError_(f"grad is taken by a tensor of floats or a tree, this is {described(x)}", span)
    builder.has_gradients = True
    loss = e.value if e.type.dtype.is_float else ops.cast(e.value, dtypes.FLOAT32)
    made = ops.Grad.of(loss, *[x.value for x in targets])
    values = [Tensor(v) for v in (made if isinstance(made, list) else [made])]
    return Tree(dict(zip(by.leaves, values)), by.of) if isinstance(by, Tree) else values[0]


def assign(builder: Builder, instance: Instance, value: Any, span: Span) -> None:
    """`net.params <- tree`: the parameters' values from here on, and after the step."""
    if not isinstance(value, Tree):
        raise TypeError_(f"{instance.path}.params takes a tree, this is {described(value)}", span)
    for leaf, new in value.leaves.items():
        path = f"{instance.path}.{leaf}"
        if path not in builder.parameters:
            raise NameError_(f"{instance.path} has no parameter '{leaf}'", span)
        old = builder.parameters[path].type
        if new.type.shape != old.shape:
            raise ShapeError(f"{path} is {old}, its new value {new.type}", span)
        builder.next_parameters[path] = builder.values[path] = ops.cast(new.value, old.dtype)
        if "." not in leaf and leaf in instance.parameters:
            instance.parameters[leaf] = Tensor(builder.values[path])


@contextmanager
def replaced(builder: Builder, instance: Instance, tree: Any, span: Span) -> Iterator[None]:
    """While it is entered, the instance has the parameters of a tree. One that was not called yet makes none of its own."""
    if not isinstance(tree, Tree):
        raise TypeError_(f"params= takes a tree, this is {described(tree)}", span)
    given: Mapping[str, Any] = {f"{instance.path}.{leaf}": value for leaf, value in tree.leaves.items()}
    called = any(path.startswith(f"{instance.path}.") for path in builder.parameters)
    for path, value in given.items():
        if called and path not in builder.parameters:
            raise _unknown(instance, path, span)
        if called and type_of(builder.values[path]) != value.type:
            raise ShapeError(f"{path} is {type_of(builder.values[path])}, given {value.type}", span)
    values, own = dict(builder.values), dict(instance.parameters)
    builder.values.update({path: value.value for path, value in given.items()})
    try:
        yield
        for path in given:
            if path not in builder.asked:
                raise _unknown(instance, path, span)
    finally:
        for path in given:
            del builder.values[path]
        builder.values.update({path: values[path] for path in given if path in values})
        instance.parameters = own


def _unknown(instance: Instance, path: str, span: Span) -> NameError_:
    return NameError_(f"{instance.path} has no parameter '{path.removeprefix(instance.path + '.')}'", span)


__all__ = ["assign", "gradient", "map_leaves", "parameters_of", "replaced", "total"]
