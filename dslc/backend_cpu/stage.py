"""What a kernel generator is given and what it gives: the stages of native code that do one kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dslc.ir.schedules import BY_COST, NOTHING, Choice
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of

from .emit import Memory
from .machine import Machine
from .native import KernelArguments
from .ssa import Builder

STREAM_BYTES = 16 << 20  # results that are larger go past the caches


@dataclass(frozen=True)
class Request:
    """A kernel to generate. `aligned`: whether the results lie at multiples of 64 bytes; `schedule`: the one that it is to have (`ir.schedules`);
    `still`: the operands that no turn of the loops around it changes."""

    body: Body
    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    machine: Machine
    aligned: bool = False
    schedule: str = BY_COST
    still: frozenset[int] = frozenset()

    @property
    def streaming(self) -> bool:
        return self.streams(STREAM_BYTES)

    def streams(self, least: int) -> bool:
        """Whether the results are at least so many bytes, and may be written past the caches."""
        return self.aligned and sum(t.bytes for t in self.results) >= least


@dataclass(frozen=True)
class Frame:
    """The function in which a stage is emitted: the thread, its scratch memory, flat memories of operands, results, the shared workspace
    and what is kept from turn to turn."""

    b: Builder
    tid: Any
    threads: Any
    scratch: Any
    operands: tuple[Memory, ...]
    results: tuple[Memory, ...]
    workspace: Memory | None
    tables: tuple[Memory, ...] = ()
    kept: Memory | None = None

    def with_operands(self, more: Sequence[Memory]) -> Frame:
        """The frame with further memories behind the operands."""
        return replace(self, operands=(*self.operands, *more))


@dataclass(frozen=True)
class Stage:
    """One function that all threads run, with a barrier behind it. `scratch_bytes` are each thread's own. `once`: it reads still operands alone and
    writes to what is kept: it runs before the loops."""

    emit: Callable[[Frame], None]
    scratch_bytes: int = 0
    once: bool = False


@dataclass(frozen=True)
class Generated:
    """The stages of a kernel in order, and the bytes of the workspace that all threads share from its first stage to its last; `kept_bytes`: of what
    its stages that run once have written. `choice`: the schedules that it could have."""

    stages: Sequence[Stage]
    workspace_bytes: int = 0
    tables: Sequence[np.ndarray] = ()  # constants that the code reads
    choice: Choice = NOTHING
    kept_bytes: int = 0


Generator = Callable[[Request], Generated]


def frame_of(request: Request, generated: Generated, arguments: KernelArguments) -> Frame:
    """The frame of a stage; its function's operands are the kernel's, its results, the workspace if any, the tables and
    what is kept if anything is, all flat."""
    b = Builder()
    b.start(arguments.tid.owner)
    rest = list(arguments.operands)
    inputs, rest = rest[: len(request.operands)], rest[len(request.operands) :]
    results, rest = rest[: len(request.results)], rest[len(request.results) :]
    workspace = rest.pop(0) if generated.workspace_bytes else None
    kept = rest.pop() if generated.kept_bytes else None
    return Frame(b, arguments.tid, arguments.nt, arguments.scratch, tuple(inputs), tuple(results), workspace, tuple(rest), kept)


def request_of(body: Body, machine: Machine, aligned: bool = False, schedule: str = BY_COST, still: frozenset[int] = frozenset()) -> Request:
    """The request for a body, with types taken from its values."""
    return Request(body, tuple(type_of(v) for v in body.operands), tuple(type_of(v) for v in body.results), machine, aligned, schedule, still)
