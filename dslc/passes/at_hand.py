"""at_hand: what a kernel computes again though it lies in memory is read there, where that is fewer bytes than what it is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.program import functions_of
from dslc.ir.types import type_of

from .mincut import ENDLESS, cheapest
from .recompute import BYTE, price_of
from .traffic import READERS, rebuilt, sources


@dataclass(frozen=True)
class AtHand:
    """The opposite of `recompute`, which saves memory, for programs that have no budget: values get numbers across kernels, equal ones the same. What
    an earlier kernel has written is not written again, and a least cut through each map and reduction chooses what it reads: what it read before, or
    values between that are there. So a turn of a residual stream is not the sum of all turns before it wherever a gradient needs it.

    before: %a = kernel (%x, %y) { x + y }; ...; %g = kernel (%x, %y, %d) { select(x + y > 0, d, 0) }
    after:  %a = kernel (%x, %y) { x + y }; ...; %g = kernel (%a, %d) { select(a > 0, d, 0) }
    """

    least: int = 1 << 20

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            _Program(program, self.least).run()


@dataclass
class _Program:
    """A program while its kernels are gone through in order. `numbers`: of values in it and in kernels' bodies; `stored`: large values that kernels
    have written so far, by number."""

    program: func.FuncOp
    least: int
    numbers: dict[ir.Value, int] = field(default_factory=dict)
    known: dict[Any, int] = field(default_factory=dict)
    stored: dict[int, ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        returned = set(list(self.program.entry_block.operations)[-1].operands)
        for kernel in [op for op in self.program.entry_block.operations if isinstance(op, ops.Kernel)]:
            self._enter(kernel)
            lighter = self._lighter(kernel, returned) if kernel.kind in (*READERS, "contract") else kernel
            for inner, outer in zip(_yielded(lighter), lighter.results) if lighter is not None else ():
                number = self.numbers[outer] = self._number(inner)
                if type_of(outer).bytes >= self.least:
                    self.stored.setdefault(number, outer)
        for kernel in reversed([op for op in self.program.entry_block.operations if isinstance(op, ops.Kernel)]):
            _drop_unread(kernel)

    # --- numbers

    def _enter(self, kernel: ops.Kernel) -> None:
        """Numbers what a kernel's body computes."""
        block = kernel.regions[0].blocks[0]
        for argument, outer in zip(block.arguments, kernel.operands):
            self.numbers[argument] = self._number(outer)
        for op in list(block.operations)[:-1]:
            key = (op.operation.name, tuple((name, op.attributes[name]) for name in op.attributes), *(self._number(v) for v in op.operands))
            for k, result in enumerate(op.results):
                self.numbers[result] = self.known.setdefault((key, k, result.type), len(self.known))

    def _number(self, value: ir.Value) -> int:
        found = self.numbers.get(value)
        if found is None:
            found = self.numbers[value] = self.known.setdefault(value, len(self.known))
        return found

    # --- a kernel

    def _lighter(self, kernel: ops.Kernel, returned: set[ir.Value]) -> ops.Kernel | None:
        """The kernel anew, without results that are there and reading what is fewest bytes; None where nothing of it is left."""
        results = _yielded(kernel)
        there = {k: self.stored[n] for k, v in enumerate(results) if (n := self._number(v)) in self.stored and kernel.results[k] not in returned}
        for k, outer in there.items():
            kernel.results[k].replace_all_uses_with(outer)
        kept = [k for k in range(len(results)) if k not in there]
        if not kept:
            kernel.operation.erase()
            return None
        read = self._cut(kernel, [results[k] for k in kept]) if kernel.kind in READERS else []
        if not there and not read:
            return kernel
        with ir.InsertionPoint(kernel):
            new = rebuilt(kernel, [results[k] for k in kept], {v: self.stored[self._number(v)] for v in read})
        for k, now in zip(kept, new.results):
            kernel.results[k].replace_all_uses_with(now)
        kernel.operation.erase()
        self._enter(new)
        return new

    def _cut(self, kernel: ops.Kernel, wanted: Sequence[ir.Value]) -> list[ir.Value]:
        """The values of a body that are better read than computed."""
        block = kernel.regions[0].blocks[0]
        outer = dict(zip(block.arguments, kernel.operands))
        found = cheapest(wanted, _price, self._reading, lambda v: dict.fromkeys(sources(v)))
        needed = {s for v, made in found.items() if made for s in sources(v)} | set(wanted)
        read = [v for v, made in found.items() if not made and v in needed and v not in outer]
        before = sum(type_of(v).bytes for v in dict.fromkeys(outer.values()))
        after = sum(type_of(v).bytes for v in {outer[v] for v in needed if v in outer} | {self.stored[self._number(v)] for v in read})
        return read if before - after >= self.least else []

    def _reading(self, value: ir.Value) -> int:
        """What is not there cannot be read."""
        argument = isinstance(value.owner, ir.Block)
        there = argument or (value.owner.opview.structure == "elementwise" and self._number(value) in self.stored)
        return type_of(value).bytes * BYTE if there else ENDLESS // 2


def _price(value: ir.Value) -> int | None:
    """Of computing a value of a body; None for what it reads."""
    if isinstance(value.owner, ir.Block):
        return None
    op = value.owner.opview
    return price_of(op) if op.structure == "elementwise" else 1


def _yielded(kernel: ops.Kernel) -> list[ir.Value]:
    return list(list(kernel.regions[0].blocks[0].operations)[-1].operands)


def _drop_unread(kernel: ops.Kernel) -> None:
    """Takes results away that nothing reads any more, or the kernel."""
    results = _yielded(kernel)
    read = [k for k, v in enumerate(kernel.results) if list(v.uses)]
    if not read:
        kernel.operation.erase()
    elif len(read) < len(results):
        with ir.InsertionPoint(kernel):
            new = rebuilt(kernel, [results[k] for k in read])
        for k, now in zip(read, new.results):
            kernel.results[k].replace_all_uses_with(now)
        kernel.operation.erase()
