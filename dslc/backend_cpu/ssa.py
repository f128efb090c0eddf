"""Arithmetic of kernel bodies as SSA, built fast: what `pull` and `scalars` emit by the thousand.

A thin layer over `Operation.create` (about 1 us an op, a third of the generated builders that `emit` uses). Values are scalars or one-dimensional
vectors; a function's constants stand once, at its entry, which keeps the IR small.
"""

from __future__ import annotations

import math
from typing import Any

from dslc.core.dtypes import DType
from dslc.ir.mlir import ir

Value = Any  # an ir.Value
_create = ir.Operation.create

COMPARE_INT = {"eq": 0, "ne": 1, "lt": 2, "le": 3, "gt": 4, "ge": 5}
COMPARE_UNSIGNED = {"eq": 0, "ne": 1, "lt": 6, "le": 7, "gt": 8, "ge": 9}
COMPARE_FLOAT = {"eq": 1, "gt": 2, "ge": 3, "lt": 4, "le": 5, "ord": 7, "ne": 13, "uno": 14}


def computed(dtype: DType) -> str:
    """The MLIR element type in which a dtype is computed: narrow floats in f32, int4 in i8."""
    if dtype.is_float:
        return "f64" if dtype.bits == 64 else "f32"
    return "i1" if dtype.is_bool else f"i{max(8, dtype.bits)}"


class Builder:
    """Builds at the insertion point in force; `start` tells it where a function's constants go."""

    def __init__(self) -> None:
        self.i64_attr = ir.IntegerType.get_signless(64)
        self._types: dict[tuple[str, int], ir.Type] = {}
        self._constants: dict[tuple[str, int, Any], Value] = {}
        self._block: ir.Block | None = None

    def start(self, block: ir.Block) -> None:
        """A new function begins: its constants are put at the start of this block."""
        self._constants, self._block = {}, block

    # ---- types and constants

    def type(self, element: str, lanes: int = 1) -> ir.Type:
        key = (element, lanes)
        found = self._types.get(key)
        if found is None:
            scalar = ir.Type.parse(element)
            found = self._types[key] = scalar if lanes == 1 else ir.VectorType.get([lanes], scalar)
        return found

    def const(self, element: str, value: float | int | bool, lanes: int = 1) -> Value:
        """A scalar or a splat; kept once a function."""
        t = self.type(element)
        if element[0] == "f":
            key: Any = "nan" if math.isnan(value) else float(value).hex()
        else:
            key = int(value)
        found = self._constants.get((element, lanes, key))
        if found is None:
            if element[0] == "f":
                attribute = ir.FloatAttr.get(t, float(value))
            else:
                bits = 64 if element == "index" else int(element[1:])
                value = int(value) & ((1 << bits) - 1)
                if value >> (bits - 1) and bits > 1:
                    value -= 1 << bits
                attribute = ir.IntegerAttr.get(t, value)
            found = self._constants[element, lanes, key] = self._constant(attribute, element, lanes)
        return found

    def iota(self, element: str, lanes: int) -> Value:
        """0, 1, ..., lanes - 1 as a vector."""
        found = self._constants.get((element, lanes, "iota"))
        if found is None:
            attribute = ir.Attribute.parse(f"dense<[{', '.join(map(str, range(lanes)))}]> : vector<{lanes}x{element}>")
            found = self._constants[element, lanes, "iota"] = self._at_entry("arith.constant", self.type(element, lanes), value=attribute)
        return found

    def _constant(self, attribute: ir.Attribute, element: str, lanes: int) -> Value:
        t = self.type(element, lanes)
        if lanes > 1:
            attribute = ir.DenseElementsAttr.get_splat(t, attribute)
        return self._at_entry("arith.constant", t, value=attribute)

    def _at_entry(self, name: str, t: ir.Type, **attributes: ir.Attribute) -> Value:
        ip = ir.InsertionPoint.at_block_begin(self._block) if self._block is not None else ir.InsertionPoint.current
        return _create(name, [t], [], attributes, ip=ip).result

    def index(self, value: int) -> Value:
        return self.const("index", value)

    # ---- plain ops

    def same(self, name: str, a: Value, *more: Value) -> Value:
        """An op whose result has the type of its first operand."""
        return _create(name, [a.type], [a, *more]).result

    def compare(self, predicate: str, a: Value, b: Value, kind: str, lanes: int) -> Value:
        """`kind`: "float", "int" or "uint"."""
        table = {"float": COMPARE_FLOAT, "int": COMPARE_INT, "uint": COMPARE_UNSIGNED}[kind]
        number = ir.IntegerAttr.get(self.i64_attr, table[predicate])
        return _create("arith.cmpf" if kind == "float" else "arith.cmpi", [self.type("i1", lanes)], [a, b], {"predicate": number}).result

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return _create("arith.select", [a.type], [condition, a, b]).result

    def to(self, name: str, x: Value, element: str, lanes: int) -> Value:
        """A conversion such as arith.extsi to an element type."""
        return _create(name, [self.type(element, lanes)], [x]).result

    def spread(self, x: Value, element: str, lanes: int) -> Value:
        return x if lanes == 1 else _create("vector.broadcast", [self.type(element, lanes)], [x]).result

    # ---- index arithmetic, with what is known folded

    def add(self, a: Value, b: Value | int) -> Value:
        if isinstance(b, int):
            if b == 0:
                return a
            b = self.index(b)
        return _create("arith.addi", [a.type], [a, b]).result

    def mul(self, a: Value, b: Value | int) -> Value:
        if isinstance(b, int):
            if b == 1:
                return a
            b = self.index(b)
        return _create("arith.muli", [a.type], [a, b]).result

    def sub(self, a: Value, b: Value) -> Value:
        return _create("arith.subi", [a.type], [a, b]).result

    def div(self, a: Value, b: int) -> Value:
        return a if b == 1 else _create("arith.divui", [a.type], [a, self.index(b)]).result

    def rem(self, a: Value, b: int) -> Value:
        return self.index(0) if b == 1 else _create("arith.remui", [a.type], [a, self.index(b)]).result

    def stream(self, raw: Value, memory: Value, at: Value, alignment: int) -> None:
        """A vector store past the caches, to an address that is a multiple of `alignment` bytes."""
        attributes = {"nontemporal": ir.BoolAttr.get(True), "alignment": ir.IntegerAttr.get(self.i64_attr, alignment)}
        _create("vector.store", [], [raw, memory, at], attributes)
