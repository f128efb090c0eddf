"""Streams (`dslc.ir.streams`) of float16 or bfloat16 on Hopper: wgmma, the copy engine, and a warp that does nothing but have tiles copied.

A block has 64 rows x for each of its consuming warpgroups at one point of the batch. The producing warp streams tiles of y through a ring in shared
memory: an mbarrier `full` a stage and tile says that it has landed, an mbarrier `empty` that the products have read it. The scores of a tile are made
while the tile before is multiplied with its weights, which go from registers into the product; while one warpgroup makes weights, the other one has
the tensor cores, in turns. All else is as in `attention_mma`.

Operands must lie in memory as the products take them; else, and where the sums do not fit the registers, `attention_mma` makes the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from dslc.core.dtypes import FLOAT32, DType
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose
from dslc.ir.streams import Stream
from dslc.ir.trace import dims_under, survey

from ..stage import Generated, Request
from .attention_hopper_text import HopperWriter, rounds
from .attention_hopper_tiles import HopperPlan, box_of
from .attention_mma import DRAWN, Part, draws, numbers_of, part_of, product_type, separate
from .attention_mma_tiles import areas_of

INCLUDES = ("async.cuh", "mma.cuh", "stream_wgmma.cuh")
REGISTERS = 240  # of a consuming thread
OTHER = 48  # that go into addresses and a plain score function
PLAIN = 24  # operations of a plain score function; each one more takes a register
LEAST = 64  # rows x at one point of the batch, up to which half of a block or more would idle
FEATURES = 256  # the most sums of a row that one product makes


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
    if narrow == FLOAT32:
        raise Unsuited("in tf32")
    parts = [part_of(stream, range(len(stream.results)))]
    if not plans_of(request, stream, parts[0], narrow):
        parts = [part_of(stream, numbers) for numbers in separate(stream)]
    plans = [plans_of(request, stream, part, narrow) for part in parts]
    if not all(plans):
        raise Unsuited("tiles that do not fit")
    known = numbers_of(plans, HopperPlans)

    def held(s: HopperPlans) -> int:
        return sum(registers_of(stream, part, found[k]) for part, found, k in zip(parts, plans, s.of))

    chosen, choice = choose(request.schedule, lambda: known[0], lambda: known, held)
    functions = []
    for n, (part, k) in enumerate(zip(parts, chosen.of)):
        suffix = f"_part{n}" if len(parts) > 1 else ""
        functions.append(HopperWriter(request, stream, part.sinks, part.sources, part.results, plans[n][k], suffix).function())
    return Generated(functions, includes=INCLUDES, choice=choice)


def plans_of(request: Request, stream: Stream, part: Part, narrow: DType) -> list[HopperPlan]:
    """The tile sizes that fit shared memory and registers, best first."""
    found = []
    for by, stages, beside in ((128, 2, True), (64, 3, True), (64, 2, True), (64, 2, False)):
        plan = HopperPlan(narrow, 128, by, 256, 2, by // 4, stages, beside)
        areas = areas_of(stream, part.sinks, part.sources, plan)
        if any(box_of(request, stream, t) is None for t in (*areas.x, *areas.y)):
            raise Unsuited("operands that the copy engine cannot read as they lie")
        if areas.bytes + 1024 <= request.arch.shared_bytes and registers_of(stream, part, plan) <= REGISTERS:
            found.append(plan)
    return found


def registers_of(stream: Stream, part: Part, plan: HopperPlan) -> int:
    """Registers of a consuming thread, about."""
    contracting = [k for k in part.sinks if stream.sinks[k].features is not None]
    sizes = [stream.sizes[f] for k in contracting if (f := stream.sinks[k].features) is not None]
    if any(n > FEATURES for n in sizes):
        return REGISTERS + 1
    packed = sum(plan.by // 4 * (1 if rounds(stream.sinks[k], plan.type) else 2) for k in contracting)
    scores = max(len(part.sources), len(contracting)) * plan.by // 2
    held = packed + scores if plan.beside else max(packed, scores)
    return sum(plan.feature_registers(n) for n in sizes) + held + _of_scores(stream, part, plan)


def _of_scores(stream: Stream, part: Part, plan: HopperPlan) -> int:
    """Registers beside those of scores, weights and sums: elements of a tile that come from memory are there all at once."""
    roots = [stream.sinks[k].value for k in part.sinks]
    found = survey(stream.trace, roots)
    moving = [r for r in found.reads if not {stream.x, stream.y} - dims_under(stream.trace, [r])[id(r)]]
    return OTHER + max(0, found.operations - PLAIN) + len(moving) * (plan.by // 2 + 8) + (DRAWN if draws(stream, part) else 0)
