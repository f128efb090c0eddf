"""Streams (`dslc.ir.streams`) of 16-bit floats, or of float32 in tf32, on Hopper: wgmma, the copy engine, and a warp that only has tiles copied.

A block has 64 rows x for each of its consuming warpgroups at one point of the batch. The producing warp streams tiles of y through a ring in shared
memory: an mbarrier `full` a stage and tile says that it has landed, an mbarrier `empty` that the products have read it. The scores of a tile are made
while the tile before is multiplied with its weights, which go from registers into the product; while one warpgroup makes weights, the other one has
the tensor cores, in turns. All else is as in `attention_mma`.

Operands must lie in memory as the products take them; else, and where the sums do not fit the registers, `attention_mma` makes the kernel. In tf32
wgmma takes operands along the terms alone: what is multiplied with weights is first turned (`attention_turned`), in a launch of its own, and where
that costs more cycles than wgmma spares, `attention_mma` makes the kernel too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from dslc.core.dtypes import FLOAT32, DType
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose
from dslc.ir.streams import Stream
from dslc.ir.trace import Node, dims_under, survey

from ..gemm_schedule import MMA_RATE, TENSOR_CORE, moving_cycles
from ..stage import Generated, Request
from .attention_hopper_text import HopperWriter, rounds
from .attention_hopper_tiles import FEATURES, HopperPlan, box_of
from .attention_mma import DRAWN, Part, divided, draws, numbers_of, product_type
from .attention_mma import plans_of as plans_by_mma
from .attention_mma_tiles import areas_of
from .attention_turned import Turned

INCLUDES = ("async.cuh", "mma.cuh", "stream_wgmma.cuh")
REGISTERS = 240  # of a consuming thread
OTHER = 48  # that go into addresses and a plain score function
PLAIN = 24  # operations of a plain score function; each one more takes a register
LEAST = 64  # rows x at one point of the batch, up to which half of a block or more would idle
TILES = {  # by the bytes of an element: columns at a time, stages, `beside`; the best first
    2: ((128, 2, True), (64, 3, True), (64, 2, True), (64, 2, False)),
    4: ((128, 2, True), (64, 3, True), (64, 2, True), (64, 2, False), (32, 3, True), (32, 2, True), (32, 2, False)),
}
SHARED_RATE = 128  # bytes of shared memory that a multiprocessor reads in a cycle


@dataclass(frozen=True)
class HopperPlans:
    """Which of its plans, by number, each part is made by."""

    of: tuple[int, ...]


def generate(request: Request) -> Generated:
    """The kernel; Unsuited, with the reason, where Hopper's instructions do not suit."""
    if not request.arch.hopper:
        raise Unsuited("no Hopper")
    stream = Stream.of(request.body)
    if 0 in stream.sizes:
        raise Unsuited("nothing to stream")
    if stream.sizes[stream.x] <= LEAST:
        raise Unsuited("few rows")
    narrow = product_type(stream)
    parts, plans = divided(stream, lambda part: plans_of(request, stream, part, narrow))
    turned = turned_of(request, stream, parts, plans) if narrow == FLOAT32 else {}
    if turned and not pays(request, stream, parts, plans, turned):
        raise Unsuited("operands that cost more to turn than wgmma spares")
    known = numbers_of(plans, HopperPlans)

    def held(s: HopperPlans) -> int:
        return sum(registers_of(stream, part, found[k]) for part, found, k in zip(parts, plans, s.of))

    chosen, choice = choose(request.schedule, lambda: known[0], lambda: known, held)
    functions = [t.function(request, n) for n, t in enumerate(turned.values())]
    for n, (part, k) in enumerate(zip(parts, chosen.of)):
        suffix = f"_part{n}" if len(parts) > 1 else ""
        functions.append(HopperWriter(request, stream, part.sinks, part.sources, part.results, plans[n][k], suffix, turned).function())
    return Generated(functions, sum(t.bytes for t in turned.values()), includes=INCLUDES, choice=choice)


def plans_of(request: Request, stream: Stream, part: Part, narrow: DType) -> list[HopperPlan]:
    """The tile sizes that fit shared memory and registers, best first."""
    found = []
    for by, stages, beside in TILES[narrow.bytes]:
        plan = HopperPlan(narrow, 128, by, 256, 2, by // 4, stages, beside)
        areas = areas_of(stream, part.sinks, part.sources, plan)
        if any((Turned.of(request, stream, t, 0) if t.turned else box_of(request, stream, t)) is None for t in (*areas.x, *areas.y)):
            raise Unsuited("operands that the copy engine cannot read as they lie")
        if areas.bytes + 1024 <= request.arch.shared_bytes and registers_of(stream, part, plan) <= REGISTERS:
            found.append(plan)
    return found


def turned_of(request: Request, stream: Stream, parts: Sequence[Part], plans: Sequence[Sequence[HopperPlan]]) -> dict[Node, Turned]:
    """The operands that are turned first, each once, one behind the other in the workspace."""
    found: dict[Node, Turned] = {}
    at = 0
    for part, (plan, *_) in zip(parts, plans):
        for t in areas_of(stream, part.sinks, part.sources, plan).y:
            if t.turned and t.node not in found:
                made = Turned.of(request, stream, t, at)
                assert made is not None
                found[t.node] = made
                at += made.bytes
    return found


def pays(request: Request, stream: Stream, parts: Sequence[Part], plans: Sequence[Sequence[HopperPlan]], turned: Mapping[Node, Turned]) -> bool:
    """Whether wgmma, with what it costs to turn operands first, takes fewer cycles than mma.sync."""
    arch, size = request.arch, FLOAT32.bytes
    try:
        others, _ = divided(stream, lambda part: plans_by_mma(arch, stream, part, FLOAT32))
    except Unsuited:
        return True
    points = prod(stream.sizes[: stream.y + 1]) * (1 if not stream.needs else 0.5)  # of a causal mask half the tiles are not visited
    by_mma = sum(sum(_depths(stream, part)) for part in others) * size / MMA_RATE
    by_wgmma = 0.0
    for part, (plan, *_) in zip(parts, plans):
        scores, sums = _depths(stream, part)
        read = (1 / 64 + 1 / plan.by) * size / SHARED_RATE  # cycles a score's term: its operands are both in shared memory
        by_wgmma += scores * max(size / TENSOR_CORE, read) + sums * size / TENSOR_CORE
    turning = sum(moving_cycles(2 * t.elements * size, arch) for t in turned.values())
    return points * by_wgmma / arch.sms + turning < points * by_mma / arch.sms


def _depths(stream: Stream, part: Part) -> tuple[int, int]:
    """Products at a point of the tile space: for its scores, for its sums."""
    sums = [stream.sizes[f] for k in part.sinks if (f := stream.sinks[k].features) is not None]
    return sum(stream.sizes[stream.sources[k].terms] for k in part.sources), sum(sums)


def registers_of(stream: Stream, part: Part, plan: HopperPlan) -> int:
    """Registers of a consuming thread, about."""
    contracting = [k for k in part.sinks if stream.sinks[k].features is not None]
    sizes = [stream.sizes[f] for k in contracting if (f := stream.sinks[k].features) is not None]
    if any(n > FEATURES[plan.type.bytes][-1] for n in sizes):
        return REGISTERS + 1
    packed = sum(plan.steps * 4 * (1 if rounds(stream.sinks[k], plan.type) else 2) for k in contracting)
    scores = max(len(part.sources), len(contracting)) * plan.by // 2
    held = packed + scores if plan.beside else max(packed, scores)
    return sum(plan.feature_registers(n) for n in sizes) + held + _of_scores(stream, part, plan)


def _of_scores(stream: Stream, part: Part, plan: HopperPlan) -> int:
    """Registers beside those of scores, weights and sums: elements of a tile that come from memory are there all at once."""
    roots = [stream.sinks[k].value for k in part.sinks]
    found = survey(stream.trace, roots)
    moving = [r for r in found.reads if not {stream.x, stream.y} - dims_under(stream.trace, [r])[id(r)]]
    return OTHER + max(0, found.operations - PLAIN) + len(moving) * (plan.by // 2 + 8) + (DRAWN if draws(stream, part) else 0)
