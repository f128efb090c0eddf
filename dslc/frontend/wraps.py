"""`wrap PATTERN with LAYER(options)`: parameters and outputs of instances that become LAYER of themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from dslc.core.errors import NameError_, ShapeError, TypeError_

from . import syntax as s
from .patterns import nearest_path
from .values import Instance, LayerValue, Tensor, described

if TYPE_CHECKING:
    from .frame import Frame


@dataclass(eq=False)
class Wrapper:
    """A `wrap` statement that was passed: it acts on what is made or called after it."""

    statement: s.Wrap
    layer: LayerValue
    options: dict[str, Any]
    used: set[s.Path] = field(default_factory=set)

    def means(self, path: str, is_parameter: bool) -> bool:
        """A path means itself, in every turn of a repeat; a glob whole paths; `all` every parameter."""
        beginnings = {path}
        while path.rsplit(".", 1)[-1].isdigit():
            path = path.rpartition(".")[0]
            beginnings.add(path)
        found = [one for one in self.statement.pattern if _matches(one, beginnings, is_parameter)]
        self.used.update(found)
        return bool(found)


def _matches(one: s.Path, paths: Iterable[str], is_parameter: bool) -> bool:
    if one.glob:
        return any(fnmatchcase(path, one.text) for path in paths)
    return is_parameter if one.text == "all" else one.text in paths


def wrapper(frame: Frame, node: s.Wrap) -> Wrapper:
    """The statement with its layer and options evaluated."""
    made = frame.use(s.Use(span=node.span, call=node.layer), "")
    if not isinstance(made.layer, LayerValue) or not isinstance(made.layer.definition, s.Layer):
        raise TypeError_(f"wrap takes a layer, this is {described(made.layer)}", node.layer.span)
    return Wrapper(node, made.layer, made.options)


def wrapped(frame: Frame, path: str, value: Tensor, is_parameter: bool) -> Tensor:
    """The value of a parameter or of an instance's call, inside every wrapper that means it."""
    builder = frame.builder
    if builder.wrapping:
        return value
    for one in builder.wrappers:
        if not one.means(path, is_parameter):
            continue
        builder.wrapping = True
        try:
            inner = frame.call(Instance(one.layer, f"{path}.{one.layer.name}", dict(one.options)), [value], {}, one.statement.layer)
        finally:
            builder.wrapping = False
        if not isinstance(inner, Tensor):
            raise TypeError_(f"{one.layer.name} must return one tensor to wrap {path}", one.statement.span)
        if is_parameter and inner.type.shape != value.type.shape:
            raise ShapeError(f"{path} is {value.type}, {one.layer.name} makes it {inner.type}", one.statement.span)
        value = inner
    return value


def check_all_used(wrappers: Iterable[Wrapper], paths: Iterable[str]) -> None:
    """Raises NameError_ for a pattern that meant nothing."""
    for one in wrappers:
        for pattern in one.statement.pattern:
            if pattern not in one.used:
                shown = f'"{pattern.text}"' if pattern.glob else pattern.text
                message = f"pattern {shown} matches nothing that is made after it{nearest_path(pattern.text, list(paths))}"
                raise NameError_(message, one.statement.span)


__all__ = ["Wrapper", "check_all_used", "wrapped", "wrapper"]
