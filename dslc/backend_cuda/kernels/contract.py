"""Contractions: matrix products of any kind and convolutions, with pointwise work on their operands and results.

Products of 16-bit floats that the copy engine can read are done as Hopper does them best (`hopper`), all others by tiles that threads load (`tiles`).
"""

from __future__ import annotations

from math import prod
from typing import Any

from dslc.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from dslc.ir.contractions import CONTRACTIONS, Contraction, roles_of
from dslc.ir.rows import Unsuited

from ..gemm_schedule import hopper_schedule
from ..stage import Generated, Request
from ..tensor_views import view_of
from ..types import memory_type
from . import hopper
from .epilogue import Epilogue


def generate(request: Request) -> Generated:
    """One function, or two where the terms are split. Unsuited where a result is not made from one sum, or the type is an integer."""
    ops = list(dict.fromkeys(op for op, _ in request.body.makers.values() if op.operation.name in CONTRACTIONS))
    if len(ops) != 1 or ops[0].type.dtype.is_integer or ops[0].types()[0].dtype.is_integer:
        raise Unsuited("not one sum of products of floats")
    if all(t.size == 0 for t in request.results):
        return Generated(())
    epilogue = epilogue_of(request, ops[0])
    product = hopper_product(epilogue)
    if product is not None:
        schedule = hopper_schedule(product.sizes, request.arch, lambda rows, columns: hopper.fits(product, rows, columns))
        if schedule is not None:
            return hopper.generate(product, schedule)
    raise Unsuited("not yet")


def epilogue_of(request: Request, op: Any) -> Epilogue:
    """The contraction taken apart, and what becomes of its sums. Unsuited where a result is not made from one sum."""
    if prod(op.maps().domain) == 0:
        raise Unsuited("a sum of nothing")
    contraction = Contraction(request.body, op, roles_of(op), request.body.results)
    if contraction.scattered:
        raise Unsuited("a result with other points than the sums")
    wide = FLOAT64 if FLOAT64 in (op.type.dtype, op.types()[0].dtype) else FLOAT32
    return Epilogue(request, contraction, tuple(range(len(request.results))), wide)


def hopper_product(epilogue: Epilogue) -> hopper.HopperProduct | None:
    """The product as Hopper multiplies it; None where the type or the operands' places do not allow it."""
    element = epilogue.contraction.op.types()[0].dtype
    if not epilogue.request.arch.hopper or element not in (BFLOAT16, FLOAT16):
        return None
    rows, columns = (view_of(epilogue.request, epilogue.contraction, side) for side in (0, 1))
    return hopper.HopperProduct(epilogue, (rows, columns), memory_type(element)) if rows and columns else None
