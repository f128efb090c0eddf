"""The kernel kinds, one generator a file. A body that is not of its kind's shape is done op by op (`composite`)."""

from typing import Any

from dslc.core.errors import UnsupportedOp
from dslc.ir.rows import Unsuited
from dslc.ir.types import spans_of

from ..stage import Generated, Generator, Request
from . import attention, attention_hopper, attention_mma, attention_rows, composite, contract, fft, map, put, reduce, scan, scatter, sort


def _attention(request: Request) -> Generated:
    """Few rows by what reads fast; else by tensor cores where the products are of 16 bits, as Hopper has them where it suits."""
    for kind in (attention_rows, attention_hopper, attention_mma):
        try:
            return kind.generate(request)
        except Unsuited:
            pass
    return attention.generate(request)


GENERATORS: dict[str, Generator] = {
    "attention": _attention,
    "contract": contract.generate,
    "fft": fft.generate,
    "map": map.generate,
    "put": put.generate,
    "reduce": reduce.generate,
    "scan": scan.generate,
    "scatter": scatter.generate,
    "sort": sort.generate,
}
KINDS = {"nn.contract": "contract", "nn.conv": "contract", "nn.reduce": "reduce", "nn.argreduce": "reduce", "nn.fold": "reduce", "nn.fft": "fft",
         "nn.cumulative": "scan", "nn.put": "put", "nn.scatter": "scatter", "nn.sort": "sort"}  # fmt: skip


def generate(kind: str, request: Request) -> Generated:
    """The kernel of a kind. UnsupportedOp, at its line, for an op that no generator knows."""
    heavy = {op: KINDS.get(op.operation.name) for op, _ in request.body.makers.values() if op.structure not in composite.POINTWISE}
    if not heavy:
        kind = "map" if len({t.shape for t in request.results}) == 1 else "several"
    alone = all(k == kind for k in heavy.values()) and (kind in ("map", "reduce") or len(heavy) == 1) and kind in GENERATORS
    if alone or kind == "attention":
        try:
            return GENERATORS[kind](request)
        except Unsuited:
            pass
    return composite.generate(request, _generator_of)


def _generator_of(op: Any) -> Generator:
    generator = GENERATORS.get(KINDS.get(op.operation.name, ""))
    if generator is None:
        raise UnsupportedOp(f"{op.operation.name} in a kernel on CUDA", spans_of(op.location))
    return generator
