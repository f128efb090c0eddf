"""What passes tell their reader: lines that travel with the module, by pass."""

from __future__ import annotations

from collections.abc import Iterable

from dslc.ir.mlir import ir

PREFIX = "nn.notes."  # of the module's attributes, one a pass


def note(module: ir.Module, name: str, lines: Iterable[str]) -> None:
    """Keeps the lines of the pass `name`, each once, in the order given; without lines nothing is kept."""
    told = [ir.StringAttr.get(line) for line in dict.fromkeys(lines)]
    if told:
        module.operation.attributes[PREFIX + name] = ir.ArrayAttr.get(told)


def notes_of(module: ir.Module, name: str) -> list[str]:
    """The lines that a pass kept."""
    found = module.operation.attributes
    return [ir.StringAttr(a).value for a in ir.ArrayAttr(found[PREFIX + name])] if PREFIX + name in found else []
