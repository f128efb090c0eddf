"""The kernel kinds, one generator a file. A body that is not of its kind's shape is done op by op (`composite`)."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from dslc.core.errors import UnsupportedOp
from dslc.ir.bodies import KINDS
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import BY_COST
from dslc.ir.types import spans_of

from ..stage import Generated, Generator, Request
from . import attention, attention_hopper, attention_mma, attention_rows, composite, contract, few_rows, fft, map, put, reduce, scan, scatter, sort

OP_BY_OP = '{"OpByOp": {}}'  # the schedule of a kernel that `composite` makes though its own generator could


def _attention(request: Request) -> Generated:
    """Few rows by what reads fast; else by tensor cores where the products are of 16 bits or in tf32, as Hopper has them where it suits. A schedule
    of one of these ways is made that way."""
    ways = [(attention_rows.generate, "RowsSchedule"), (attention_hopper.generate, "HopperPlans"), (attention_mma.generate, "MmaPlans"),
            (attention.generate, "Tile")]  # fmt: skip
    first = next((n for n, (_, name) in enumerate(ways) if f'"{name}"' in request.schedule), 0)
    generators = [generate for generate, _ in ways[first:]]
    for n, generate in enumerate(generators[:-1], 1):
        with suppress(Unsuited):
            made = generate(request)
            return replace(made, choice=replace(made.choice, behind=partial(_spaces, generators[n:], request)))
    return generators[-1](request)


def _spaces(generators: Sequence[Generator], request: Request) -> list[str]:
    """The schedules of generators, of those that suit."""
    out: list[str] = []
    for generate in generators:
        with suppress(Unsuited):
            out += generate(replace(request, schedule=BY_COST)).choice.texts()
    return out


GENERATORS: dict[str, Generator] = {
    "attention": _attention,
    "contract": contract.generate,
    "fft": fft.generate,
    "map": map.generate,
    "product": few_rows.generate,
    "put": put.generate,
    "reduce": reduce.generate,
    "scan": scan.generate,
    "scatter": scatter.generate,
    "sort": sort.generate,
}


def generate(kind: str, request: Request) -> Generated:
    """The kernel of a kind. UnsupportedOp, at its line, for an op that no generator knows."""
    heavy = {op: KINDS.get(op.operation.name) for op in request.body.heavy}
    if not heavy:
        kind = "map" if len({t.shape for t in request.results}) == 1 else "several"
    alone = all(k == kind for k in heavy.values()) and (kind in ("map", "reduce") or len(heavy) == 1) and kind in GENERATORS
    if (alone or kind in ("attention", "product")) and request.schedule != OP_BY_OP:
        try:
            made = GENERATORS[kind](request)
        except Unsuited:
            pass
        else:
            choice = made.choice
            return replace(made, choice=replace(choice, behind=lambda: [*choice.behind(), OP_BY_OP])) if heavy else made
    return composite.generate(request, _generator_of)


def _generator_of(op: Any) -> Generator:
    generator = GENERATORS.get(KINDS.get(op.operation.name, ""))
    if generator is None:
        raise UnsupportedOp(f"{op.operation.name} in a kernel on CUDA", spans_of(op.location))
    return generator
