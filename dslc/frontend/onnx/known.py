"""What is known at compile time: the value of a tensor that depends on constants alone, computed op by op by the reference meanings."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import Op
from dslc.ir.reference import widen
from dslc.ir.types import type_of

from .graph import Literal

MOST_KNOWN = 1 << 26  # elements of one value that evaluation may make


class Known:
    """Remembers what it found. `arguments`: the values of some of the program's arguments, by value."""

    def __init__(self) -> None:
        self.values: dict[ir.Value, np.ndarray | None] = {}
        self.arguments: dict[ir.Value, Literal] = {}

    def of(self, value: ir.Value) -> np.ndarray | None:
        """The array in the value's own dtype; None where it depends on what is known only at run time."""
        todo = [value]
        while todo:
            v = todo[-1]
            if v in self.values:
                todo.pop()
                continue
            op = _maker(v)
            if op is None or op.regions or isinstance(op, (ops.Random, ops.Grad)) or prod(type_of(v).shape) > MOST_KNOWN:
                self.values[v] = self.arguments[v].array if v in self.arguments else None
                continue
            missing = [x for x in op.operands if x not in self.values]
            if missing:
                todo += missing
                continue
            found = [self.values[x] for x in op.operands]
            if any(x is None for x in found):
                self.values.update(dict.fromkeys(op.results))
            else:
                self.values.update(_run(op, found))
        return self.values[value]

    def first_argument(self, value: ir.Value) -> ir.Value | None:
        """An argument that the value depends on."""
        seen: set[ir.Value] = set()
        todo = [value]
        while todo:
            v = todo.pop()
            if v in seen:
                continue
            seen.add(v)
            if isinstance(v.owner, ir.Block):
                if v not in self.arguments:
                    return v
                continue
            todo += list(v.owner.operands)
        return None


def _maker(value: ir.Value) -> Op | None:
    owner = value.owner
    return None if isinstance(owner, ir.Block) else owner.opview


def _run(op: Op, operands: list[Any]) -> Mapping[ir.Value, np.ndarray]:
    with np.errstate(all="ignore"):
        if isinstance(op, ops.Constant):
            made: Any = op.reference()
        elif isinstance(op, ops.Cast):
            made = op.reference(*operands)
        else:
            made = op.reference(*[widen(x) for x in operands])
        values = made if isinstance(made, tuple) else (made,)
        return {r: np.asarray(v).astype(type_of(r).dtype.numpy, copy=False) for r, v in zip(op.results, values)}


__all__ = ["Known"]
