"""The kernel kinds, one generator a file. A body that is not of its kind's shape is done op by op (`composite`)."""

from typing import Any

from dslc.core.errors import UnsupportedOp
from dslc.ir.bodies import KINDS
from dslc.ir.rows import Unsuited
from dslc.ir.types import spans_of

from ..stage import Generated, Generator, Request
from . import attention, composite, contract, fft, map, put, reduce, scan, scatter, sort

GENERATORS: dict[str, Generator] = {
    "contract": contract.generate,
    "fft": fft.generate,
    "map": map.generate,
    "put": put.generate,
    "reduce": reduce.generate,
    "scan": scan.generate,
    "scatter": scatter.generate,
    "sort": sort.generate,
}


def generate(kind: str, request: Request) -> Generated:
    """The kernel of a kind. UnsupportedOp, at its line, for an op that no generator knows."""
    if kind == "attention":
        try:
            return attention.generate(request)
        except Unsuited:
            return composite.generate(request, _generator_of)
    heavy = {op: KINDS.get(op.operation.name) for op in request.body.heavy}
    if not heavy:
        kind = "map" if len({t.shape for t in request.results}) == 1 else "several"
    fits = all(k == kind for k in heavy.values()) and (kind in ("map", "reduce") or len(heavy) == 1)
    if fits:
        try:
            return GENERATORS[kind](request)
        except Unsuited:
            pass
    return composite.generate(request, _generator_of)


def _generator_of(op: Any) -> Generator:
    kind = KINDS.get(op.operation.name)
    if kind is None:
        raise UnsupportedOp(f"{op.operation.name} in a kernel on the CPU", spans_of(op.location))
    return GENERATORS[kind]
