"""The plan: what a program does, in order, with every buffer at a fixed place. `passes.plan` makes it, the backends compile it.

A place is in the arena (intermediates), in a slot of the call's table of pointers (ports), or among the constants. Inside a loop a place may move
with the turn: `stride` bytes a turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dslc.core.executable import Port

from .ops import Kernel

BESIDE = "nn.beside"  # marks a kernel that needs nothing of those before it, back to the first without the mark: they may run at once


@dataclass(frozen=True)
class Place:
    """Where a tensor is. `strides`: bytes that the address moves with each enclosing loop's turn, outermost first."""

    space: str  # "arena", "slot" or "constant"
    index: int  # byte offset in the arena or the constants; number of the slot
    strides: tuple[int, ...] = ()
    offset: int = 0  # bytes from where the slot begins


@dataclass(frozen=True)
class Call:
    """One run of a kernel: places of its operands, then of its results. `beside`: it may run at once with the call before it, and with those that one
    may run with."""

    kernel: Kernel
    operands: tuple[Place, ...]
    results: tuple[Place, ...]
    beside: bool = False


@dataclass(frozen=True)
class Copy:
    """`bytes` bytes moved from one place to another."""

    source: Place
    target: Place
    bytes: int


@dataclass(frozen=True)
class Loop:
    """`steps` run `trip` times, the turn counting up, or down from trip - 1 if `backward`. The turn (int32) is written to the arena at `turn`."""

    trip: int
    backward: bool
    turn: Place
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Branch:
    """`then` where the bool at `condition` is true, else `otherwise`."""

    condition: Place
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


Step = Call | Copy | Loop | Branch


@dataclass(frozen=True)
class Buffer:
    """One stretch of the arena, for the report: when it lives, in steps counted depth first, and where the value came from."""

    offset: int
    bytes: int
    first: int
    last: int
    place: str  # file:line of the op that made the value


@dataclass(frozen=True)
class Plan:
    """A program ready for code generation."""

    name: str
    ports: tuple[Port, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    constants: bytes
    buffers: tuple[Buffer, ...] = field(default=())
    lower_bound: int = 0  # the most bytes that live at one time: no packing needs fewer


def readers_first(groups: Sequence[tuple[Sequence[Place], Sequence[Place]]]) -> tuple[list[int], bool]:
    """An order of groups (what each reads, what it writes) in which none reads what an earlier one has overwritten, and whether that matters."""
    writers = {place: k for k, (_, written) in enumerate(groups) for place in written}
    behind = {k: {writers[p] for p in read if p in writers} - {k} for k, (read, _) in enumerate(groups)}
    order: list[int] = []
    while len(order) < len(groups):
        left = [k for k in behind if k not in order]
        free = [k for k in left if not any(k in behind[other] for other in left)]
        order.append((free or left)[0])
    return order, any(behind.values())
