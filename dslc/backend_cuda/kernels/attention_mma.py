"""Streams (`dslc.ir.streams`) of float16, bfloat16, or float32 in tf32, on tensor cores (mma.sync): the tile of scores stays in registers.

A block has some rows x at one point of the batch and streams blocks of y through shared memory, the next one by asynchronous copies while one is
worked on. T[x, y] = sum over c of X[x, c] Y[y, c] lies in the registers of the four lanes that share a row, where the folds along y are made in
float32 and where it is the left operand of the second product, O[x, f] += sum over y of P[x, y] V[y, f]: where no cast rounds P, as the sum of a
rounded part and a rounded rest, so that nothing is rounded to 16 bits but results; in tf32 all factors are rounded once. Running maxima
correct the sums made with them (online softmax). A tile in which no mask and no end is has code without tests. Sums have one order.

Where the sums of all products do not fit the registers, each product has a function of its own, which makes the scores anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

from dslc.core.dtypes import DType
from dslc.ir.rows import Unsuited
from dslc.ir.schedules import choose
from dslc.ir.streams import Stream
from dslc.ir.trace import Apply, Given, Node, children
from dslc.ir.types import type_of

from ..arch import Arch
from ..stage import Function, Generated, Request
from .attention_mma_text import StreamWriter
from .attention_mma_tiles import Plan, areas_of, bare, plans_for

INCLUDES = ("async.cuh", "mma.cuh", "stream_mma.cuh")
DRAWN = 64  # registers more, where the score function draws random numbers
P = TypeVar("P")
REGISTERS = 255  # a thread; about 100 of them go into operands, addresses and what the score function needs


@dataclass(frozen=True)
class Part:
    """What one function makes: the numbers of its sinks, sources and results."""

    sinks: tuple[int, ...]
    sources: tuple[int, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class MmaPlans:
    """Which of its plans, by number, each part is made by."""

    of: tuple[int, ...]


def generate(request: Request) -> Generated:
    """The kernel; Unsuited where the body is no stream whose products are of float16, bfloat16 or tf32, or no tile fits."""
    stream = Stream.of(request.body)
    if 0 in stream.sizes:
        raise Unsuited("nothing to stream")
    narrow = product_type(stream)
    parts, plans = divided(stream, lambda part: plans_of(request.arch, stream, part, narrow))
    known = numbers_of(plans, MmaPlans)
    chosen, choice = choose(request.schedule, lambda: known[0], lambda: known, lambda s: sum(p[k].rows * p[k].columns for p, k in zip(plans, s.of)))
    functions = [
        function_of(request, stream, part, plans[n][k], f"_part{n}" if len(parts) > 1 else "") for n, (part, k) in enumerate(zip(parts, chosen.of))
    ]
    return Generated(functions, includes=INCLUDES, choice=choice)


def divided(stream: Stream, plans: Callable[[Part], list[P]]) -> tuple[list[Part], list[list[P]]]:
    """The functions of a stream, all in one where a plan for that fits, and the plans of each, best first; Unsuited where one has none."""
    parts = [part_of(stream, range(len(stream.results)))]
    found = [plans(parts[0])]
    if not found[0]:
        parts = [part_of(stream, numbers) for numbers in separate(stream)]
        found = [plans(part) for part in parts]
    if not all(found):
        raise Unsuited("tiles that do not fit")
    return parts, found


def numbers_of(plans: Sequence[Sequence[Any]], kind: Callable[[tuple[int, ...]], P]) -> list[P]:
    """The best plan of every part, then schedules that differ from it in one part."""
    first = (0,) * len(plans)
    others = [(*first[:n], k, *first[n + 1 :]) for n, found in enumerate(plans) for k in range(1, len(found))]
    return [kind(numbers) for numbers in (first, *sorted(others, key=sum))]


def function_of(request: Request, stream: Stream, part: Part, plan: Plan, suffix: str = "") -> Function:
    """The function that makes a part with tiles of these sizes."""
    return StreamWriter(request, stream, part.sinks, part.sources, part.results, plan, suffix).function()


def product_type(stream: Stream) -> DType:
    """The 16-bit type of all operands of the products, or float32 where all are in tf32; Unsuited where they have no such type in common."""
    pairs: list[tuple[Node, Node]] = [(s.x_node, s.y_node) for s in stream.sources]
    pairs += [(s.value, s.other) for s in stream.sinks if s.other is not None]
    values = [op.results[0] for op in (*(s.op for s in stream.sources), *(s.op for s in stream.sinks))]
    if any(not type_of(v).dtype.is_float or type_of(v).dtype.bits not in (16, 32) for v in values):
        raise Unsuited("not of float16 or bfloat16")
    types = {bare(node).dtype for pair in pairs for node in pair}
    tf32 = {s.op.tf32 for s in stream.sources} | {s.op.tf32 for s in stream.sinks if s.other is not None}
    if len(types) > 1 or (next(iter(types)).bits != 16 and tf32 != {True}):
        raise Unsuited("products of float32")
    return types.pop()


def part_of(stream: Stream, results: Sequence[int]) -> Part:
    """What some results need."""
    sinks: set[int] = set()
    sources: set[int] = set()
    stack = [stream.results[k][0] for k in results]
    sinks |= {stream.results[k][2] for k in results}
    stack += [stream.sinks[k].value for k in sinks]
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Given) and node.key:
            kind, number = node.key
            (sinks if kind == "sink" else sources).add(number)
            if kind == "sink":
                stack.append(stream.sinks[number].value)
        stack += children(node)[0]
    return Part(tuple(sorted(sinks)), tuple(sorted(sources)), tuple(results))


def separate(stream: Stream) -> list[list[int]]:
    """Results by the product that they come from; those of rows go with the first."""
    groups: dict[int, list[int]] = {}
    for k, (_, _, home) in enumerate(stream.results):
        groups.setdefault(home if stream.sinks[home].features is not None else -1, []).append(k)
    rows = groups.pop(-1, [])
    found = list(groups.values())
    if not found:
        return [rows]
    found[0] = sorted(found[0] + rows)
    return found


def plans_of(arch: Arch, stream: Stream, part: Part, narrow: DType) -> list[Plan]:
    """The tile sizes that fit shared memory and registers, best first."""
    found = []
    contracting = [stream.sizes[f] for k in part.sinks if (f := stream.sinks[k].features) is not None]
    x, tasks = stream.sizes[stream.x], prod(stream.sizes[: stream.x])
    arrays = max(len(part.sources), len(contracting))
    drawn = DRAWN if draws(stream, part) else 0
    for plan in plans_for(narrow):
        sums = sum(plan.feature_registers(n) for n in contracting)
        if sums + plan.rows * plan.columns * arrays + drawn > REGISTERS - 100 or plan.bx >= 2 * max(x, 32):
            continue
        if plan.bx > 64 and tasks * -(-x // plan.bx) < arch.sms:
            continue
        areas = areas_of(stream, part.sinks, part.sources, plan)
        if areas.bytes <= arch.shared_bytes:
            found.append(plan)
    return found


def draws(stream: Stream, part: Part) -> bool:
    """Whether a part's weights take random numbers."""
    seen: set[int] = set()
    stack = [stream.sinks[k].value for k in part.sinks]
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, Apply) and node.op.operation.name == "nn.random":
                return True
            stack += children(node)[0]
    return False
