"""The table of operators: one entry an operator, filled by the modules beside this file."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .graph import Node

MODULES = (
    "elementwise", "activations", "movement", "indexing", "reductions", "linear", "pooling", "normalization", "recurrent", "quantized", "control",
    "sequences", "draws", "signal", "images", "training", "detection", "attention",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """`build(call, *inputs)` emits the operator; an input that is left out is None. `weights`: places of inputs that a trained tensor may fill, so
    that a float initializer there is a parameter; `states`: those of running statistics. `note`: what is special, for the page of operators.
    `folded`: only where its inputs are known at compile time."""

    name: str
    domain: str
    build: Callable[..., Any]
    weights: tuple[int, ...] = ()
    states: tuple[int, ...] = ()
    note: str = ""
    folded: bool = False


TABLE: dict[tuple[str, str], Entry] = {}


def operator(*names: str, domain: str = "", **about: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts a builder into the table, under one or more names."""

    def enter(build: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            TABLE[domain, name] = Entry(name, domain, build, **about)
        return build

    return enter


@functools.cache
def table() -> Mapping[tuple[str, str], Entry]:
    """The whole table."""
    for module in MODULES:
        importlib.import_module(f"dslc.frontend.onnx.operators.{module}")
    return MappingProxyType(TABLE)


def entry_of(node: Node) -> Entry | None:
    return table().get(node.key)


@functools.cache
def schema_of(name: str, domain: str, version: int) -> Any:
    """The standard's schema of an operator in a version of its domain; None where there is none."""
    import onnx

    try:
        return onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None
