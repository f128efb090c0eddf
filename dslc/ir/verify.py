"""The verifier of the nn dialect: every op is in the table, has its attributes, and its types are the ones that its rule infers."""

from __future__ import annotations

from dslc.core.errors import Error, UnsupportedOp

from .mlir import func, ir
from .op import TABLE, Op
from .ops import Cond, Kernel, Scan
from .program import functions_of
from .types import spans_of


def verify(module: ir.Module) -> None:
    """Raises the first thing that does not hold, at the place in the model file that the op came from."""
    module.operation.verify()
    for program in functions_of(module):
        _verify_block(program.entry_block)


def _verify_block(block: ir.Block) -> None:
    for op in block.operations:
        if isinstance(op, func.ReturnOp):
            continue
        if not isinstance(op, Op):
            raise UnsupportedOp(f"unknown op {op.operation.name}; the table has {len(TABLE)} ops", spans_of(op.location))
        missing = [k for k, codec in op._codecs.items() if k not in op.attributes and not codec.optional]
        if missing:
            raise UnsupportedOp(f"{op.operation.name} lacks its attribute {missing[0]!r}", spans_of(op.location))
        try:
            op.check()
        except Error as error:
            error.spans = error.spans or spans_of(op.location)
            raise
        if isinstance(op, (Scan, Cond, Kernel)):
            for region in op.regions:
                _verify_isolated(op, region.blocks[0])
                _verify_block(region.blocks[0])


def _verify_isolated(owner: Op, block: ir.Block) -> None:
    """No op of a region uses a value from outside it."""
    known = set(block.arguments)
    for op in block.operations:
        for value in op.operands:
            if value not in known:
                raise UnsupportedOp(f"the body of {owner.operation.name} uses a value from outside it", spans_of(op.location))
        known.update(op.results)
