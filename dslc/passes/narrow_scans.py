"""narrow_scans: 16-bit floats cross the edges of a scan as they are, and what a turn makes for the next one's products is made narrow at once."""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.dtypes import DType
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.op import PRECISION
from dslc.ir.program import blocks_of, functions_of
from dslc.ir.types import type_of

from .regions import clone_into
from .scans import emits_of, rows_a_turn


@dataclass(frozen=True)
class NarrowScans:
    """A slice that is a 16-bit float made wider is taken of the narrow stack, and made wider in the body. A carry that the body makes narrow is
    carried narrow: the turn before makes it so, with what else it does to it. Beside it the wide one stays where something else reads it. It runs
    before `differentiate`, so that what is kept for the gradient is narrow too. Scans with a gradient in their body are left as they are.

    before: scan carry h over cast(%x) { z = contract cast(h), w; ... }      after: scan carry n over %x { z = contract n, w; ... n' = cast(h') }
    """

    def run(self, module: ir.Module) -> None:
        for program in functions_of(module):
            for block in blocks_of(program):
                for op in list(block.operations):
                    if isinstance(op, ops.Scan) and not any(isinstance(o, ops.Grad) for o in op.regions[0].blocks[0].operations):
                        _narrow(op)


def _narrow(scan: ops.Scan) -> None:
    c, k = scan.constants, scan.carries
    operands, block = list(scan.operands), scan.regions[0].blocks[0]
    arguments = list(block.arguments)
    yielded = list(list(block.operations)[-1].operands)
    casts = {n: cast for n in range(k) if not isinstance(yielded[n].owner, ir.Block) and (cast := _narrowing(arguments[1 + c + n]))}
    wider = {n: cast for n in range(c + k, len(operands)) if (cast := _widening(operands[n]))}
    if not casts and not wider:
        return
    kept = [n for n in range(k) if n not in casts or list(scan.results[n].uses) or _read_wide(arguments[1 + c + n], casts[n].dtype)]
    with ir.InsertionPoint(scan), scan.location:
        carried = [*(operands[c + n] for n in kept), *(_again(cast, operands[c + n]) for n, cast in casts.items())]
        rows = [ops.control.Rows(wider[c + k + n].x if c + k + n in wider else operands[c + k + n], count, first)
                for n, (count, first) in enumerate(zip(rows_a_turn(scan), scan.firsts))]  # fmt: skip
        made = ops.Scan.build_in_rows(operands[:c], carried, rows, emits_of(scan), scan.trip, scan.backward)
    inside = made.regions[0].blocks[0]
    turn, *inner = inside.arguments
    narrow = dict(zip(casts, inner[c + len(kept) :]))
    with ir.InsertionPoint(inside), scan.location:
        wide = [inner[c + kept.index(n)] if n in kept else ops.cast(narrow[n], type_of(arguments[1 + c + n]).dtype) for n in range(k)]
        slices = [_again(wider[c + k + n], v) if c + k + n in wider else v for n, v in enumerate(inner[len(kept) + len(casts) + c :])]
        ends = clone_into(block, [turn, *inner[:c], *wide, *slices])
        ops.Yield.of(*(ends[n] for n in kept), *(_again(cast, ends[n]) for n, cast in casts.items()), *ends[k:])
    for n, cast in casts.items():
        for op in [use.owner.opview for use in wide[n].uses]:
            if _narrows(op) and op.dtype == cast.dtype:
                op.results[0].replace_all_uses_with(narrow[n])
                op.operation.erase()
        if n not in kept:
            wide[n].owner.erase()
    for n, result in zip([*kept, *range(k, len(yielded))], [*list(made.results)[: len(kept)], *list(made.results)[len(carried) :]]):
        scan.results[n].replace_all_uses_with(result)
    scan.operation.erase()


def _narrows(op: object) -> bool:
    """Whether it makes a wider float one of 16 bits."""
    return isinstance(op, ops.Cast) and op.dtype.is_float and op.dtype.bits == 16 and (t := type_of(op.x).dtype).is_float and t.bits > 16


def _narrowing(carry: ir.Value) -> ops.Cast | None:
    """A cast of a carry to 16 bits."""
    return next((op for use in carry.uses if _narrows(op := use.owner.opview)), None)


def _widening(stack: ir.Value) -> ops.Cast | None:
    """The cast that makes a stack of 16-bit floats wider."""
    op = None if isinstance(stack.owner, ir.Block) else stack.owner.opview
    if not isinstance(op, ops.Cast):
        return None
    source = type_of(op.x).dtype
    return op if source.is_float and source.bits == 16 and op.dtype.is_float and op.dtype.bits > 16 else None


def _read_wide(carry: ir.Value, dtype: DType) -> bool:
    """Whether something else than casts to a type reads a carry."""
    return any(not _narrows(op := use.owner.opview) or op.dtype != dtype for use in carry.uses)


def _again(cast: ops.Cast, value: ir.Value) -> ir.Value:
    """The same cast of another value, at the insertion point."""
    made = ops.cast(value, cast.dtype)
    if PRECISION in cast.attributes:
        made.owner.attributes[PRECISION] = cast.attributes[PRECISION]
    return made
