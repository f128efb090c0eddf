"""Contractions: matrix products of any kind and convolutions, with pointwise work on their operands and results.

Products of 16-bit floats, or in tf32, that the copy engine can read are done as Hopper does them best (`hopper`), all others by tiles that threads
load (`tiles`).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from dslc.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from dslc.ir.contractions import CONTRACTIONS, Contraction, roles_of
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose

from ..axis_order import arranged
from ..gemm_schedule import HopperSchedule, TileSchedule, hopper_cycles
from ..stage import Generated, Request
from ..tensor_views import View, view_of
from ..windows import Packed, windows_of
from . import hopper, reduce, tiles
from .epilogue import Epilogue
from .operands import Packing, packing_cycles, packing_of

LARGEST_PACKING = 2  # times the operands' bytes
MOST_TRIED = 32  # schedules
MOST_EMPTY = 2  # times the products, in boxes that hang over
LEAST = 4  # rows, or columns, below which a product is a fold of each result's terms


def generate(request: Request) -> Generated:
    """One function, or two where the terms are split; a fold of products where one side has hardly an extent of its own, or the type is an integer.
    Unsuited where a result is not made from one sum."""
    ops = [op for op in request.body.ops if op.operation.name in CONTRACTIONS]
    if len(ops) != 1:
        raise Unsuited(f"{len(ops)} contractions")
    if all(t.size == 0 for t in request.results):
        return Generated(())
    if ops[0].type.dtype.is_integer or ops[0].types()[0].dtype.is_integer or prod(ops[0].maps().domain) == 0:
        return reduce.generate(request)
    epilogue = epilogue_of(request, ops[0])
    _, rows, columns, _ = epilogue.contraction.sizes
    if min(rows, columns) < LEAST:
        return reduce.generate(request)
    tiled, product = tiles.product_of(epilogue), hopper_product(epilogue)
    schedule, choice = choose(
        request.schedule, lambda: _by_cost(epilogue, tiled, product), lambda: _schedules(epilogue, tiled, product), lambda s: s.sums
    )
    if isinstance(schedule, HopperSchedule):
        assert product is not None
        return replace(hopper.generate(product, schedule), choice=choice)
    return replace(tiles.generate(tiled, schedule), choice=choice)


def _by_cost(epilogue: Epilogue, tiled: tiles.TileProduct, product: hopper.HopperProduct | None) -> TileSchedule | HopperSchedule:
    """The schedule that takes the fewest cycles."""
    return min(_with_cycles(epilogue, tiled, product), key=lambda pair: pair[1])[0]


def _schedules(epilogue: Epilogue, tiled: tiles.TileProduct, product: hopper.HopperProduct | None) -> list[TileSchedule | HopperSchedule]:
    """What is worth a trial: the fewest cycles first."""
    return [s for s, _ in sorted(_with_cycles(epilogue, tiled, product), key=lambda pair: pair[1])][:MOST_TRIED]


def _with_cycles(
    epilogue: Epilogue, tiled: tiles.TileProduct, product: hopper.HopperProduct | None
) -> list[tuple[TileSchedule | HopperSchedule, float]]:
    """All schedules, those of tiles first, with their cycles."""
    arch = epilogue.request.arch
    found: list[tuple[TileSchedule | HopperSchedule, float]] = [*tiles.schedules(tiled)]
    if product is not None:
        packing = sum(packing_cycles(p, epilogue) for p in product.packings)
        found += [(s, hopper_cycles(s, product.sizes, arch, product.depth, epilogue.moved) + packing) for s in hopper.schedules(product)]
    return found


def epilogue_of(request: Request, op: Any) -> Epilogue:
    """The contraction taken apart, and what becomes of its sums. Unsuited where a result is not made from one sum."""
    contraction = Contraction(request.body, op, arranged(request.body, op, roles_of(op)), request.body.results)
    if contraction.scattered:
        raise Unsuited("a result with other points than the sums")
    operand = op.types()[0].dtype
    wide = FLOAT64 if operand == FLOAT64 or (operand == FLOAT32 and op.type.dtype == FLOAT64) else FLOAT32
    return Epilogue(request, contraction, tuple(range(len(request.results))), wide)


def hopper_product(epilogue: Epilogue) -> hopper.HopperProduct | None:
    """The product as Hopper multiplies it: operands that the copy engine cannot read as they lie, nor in boxes, are packed first. None for other
    types than 16-bit floats but in tf32, and where a packing would be far larger than what it is made of, as windows of a convolution are; in tf32
    that is so of a filter's gradient (see `windows`)."""
    element = epilogue.contraction.op.types()[0].dtype
    if not epilogue.request.arch.hopper or not (element in (BFLOAT16, FLOAT16) or epilogue.contraction.op.tf32):
        return None
    in_boxes = windowed_product(epilogue)
    if in_boxes is not None:
        return in_boxes
    views: list[View] = []
    packings: list[Packing] = []
    for side in (0, 1):
        view = view_of(epilogue.request, epilogue.contraction, side)
        if view is None or view.axes(128) is None:
            packing = packing_of(epilogue, side, element, sum(p.bytes for p in packings))
            if too_large(packing, epilogue):
                return None
            packings.append(packing)
            view = packing.view(epilogue)
        views.append(view)
    return hopper.HopperProduct(epilogue, (views[0], views[1]), element, tuple(packings))


def too_large(packing: Packing, epilogue: Epilogue) -> bool:
    return packing.bytes > LARGEST_PACKING * sum(t.bytes for t in epilogue.request.operands)


def windowed_product(epilogue: Epilogue) -> hopper.HopperProduct | None:
    """The product of operands that are read in boxes, in tf32 one of them packed along the terms first; None where that is not possible or not
    needed, or most of the boxes would be empty."""
    contraction = epilogue.contraction
    views = [view_of(epilogue.request, contraction, side) for side in (0, 1)]
    if all(v is not None and v.axes(128) is not None for v in views):
        return None
    element = contraction.op.types()[0].dtype
    packings = [packing_of(epilogue, side, element, 0) for side in (0, 1)] if contraction.op.tf32 else []
    windows = windows_of(epilogue.request, contraction, [Packed(p.dense, p.batch > 1) for p in packings])
    if windows is None or all(side.operand is None or (v is not None and v.axes(128) is not None) for side, v in zip(windows.sides, views)):
        return None
    packed = tuple(p for p, side in zip(packings, windows.sides) if side.operand is None)
    if any(too_large(p, epilogue) for p in packed):
        return None
    product = hopper.HopperProduct(epilogue, windows.sides, element, packed, windows)
    return product if prod(product.sizes) <= MOST_EMPTY * prod(contraction.sizes) else None
