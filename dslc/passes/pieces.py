"""pieces: what is prepared from parameters is prepared a few of them at a time, so that no others need be in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dslc.core.dtypes import BOOL
from dslc.core.executable import PIECES
from dslc.ir.mlir import ir
from dslc.ir.program import Slot, add_argument, arguments_of, program_of
from dslc.ir.types import TensorType, type_of

from .notes import note

PIECE = "nn.piece"  # of an op: the number of its piece
NOTE = "pieces"
BYTES = 16 << 20  # of parameters in a piece: few calls prepare a network, and what they need is little beside it


@dataclass(frozen=True)
class Pieces:
    """The kernels of a program that `prepare` made, in pieces that need nothing of each other, each in one stretch and with so many `bytes` of
    parameters if it can be. An input more says which run.

    before: k0(w0), k1(w1), k2(k0)        after: piece 0 { k0(w0), k2(k0) }, piece 1 { k1(w1) }
    """

    bytes: int

    def run(self, module: ir.Module) -> None:
        program = program_of(module)
        block = program.entry_block
        *kernels, end = list(block.operations)
        names = {v: s.name for s, v in zip(arguments_of(program), block.arguments)}
        parameters = {v for v in names if list(v.uses)}
        results = list(end.operands)
        copied = len(set(results)) < len(results) or any(isinstance(v.owner, ir.Block) for v in results)  # by the plan, behind all kernels
        pieces: list[tuple[list[ir.OpView], dict[ir.Value, None]]] = [([], {})]
        for group in [kernels] if copied else _apart(kernels):
            if sum(type_of(v).bytes for v in pieces[-1][1]) >= self.bytes:
                pieces.append(([], {}))
            pieces[-1][0].extend(group)
            pieces[-1][1].update(dict.fromkeys(v for op in group for v in op.operands if v in parameters))
        for number, (ops, _) in enumerate(pieces):
            for op in ops:
                op.operation.move_before(end.operation)
                op.operation.attributes[PIECE] = ir.IntegerAttr.get(ir.IntegerType.get_signless(64), number)
        add_argument(program, Slot(PIECES, "input", TensorType(BOOL, (len(pieces),))))
        note(module, NOTE, [json.dumps([[names[v] for v in read] for _, read in pieces])])


def _apart(kernels: Sequence[ir.OpView]) -> list[list[ir.OpView]]:
    """The kernels in groups that need nothing of each other, as they stand."""
    home = {op.operation: {k} for k, op in enumerate(kernels)}
    for op in kernels:
        for value in op.operands:
            if not isinstance(value.owner, ir.Block) and home[value.owner.operation] is not home[op.operation]:
                joined = home[op.operation] | home[value.owner.operation]
                home |= {kernels[k].operation: joined for k in joined}
    return [[kernels[k] for k in sorted(group)] for group in {id(g): g for g in home.values()}.values()]
