"""A compiled program as plain data: what the backends make, what the runtime runs, what a package stores."""

from __future__ import annotations

from dataclasses import dataclass, field

from .dtypes import DType

# What a port is for. `param` and `state` ports are read and, where the program changes them, written in place.
# `scalar` ports are rank-0 values of the host: seed, step, microbatch, extents, schedules driven by the host.
ROLES = ("input", "scalar", "param", "state", "output", "loss", "metric")


@dataclass(frozen=True)
class Port:
    """A tensor that crosses the program's border. `slot` is its place in the table of pointers that a call hands over."""

    name: str
    role: str
    dtype: DType
    shape: tuple[int, ...]
    slot: int
    bounds: tuple[int, int] | None = None  # [low, high) of the values, for inputs used as indices
    line: int = 0  # where the model file declares it

    @property
    def bytes(self) -> int:
        size = self.dtype.bytes
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class Launch:
    """One run of one kernel: which, and where its operands are: ("arena", offset), ("slot", index) or ("constant", offset)."""

    kernel: int
    operands: tuple[tuple[str, int], ...]
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0


@dataclass(frozen=True)
class Kernel:
    """What is known of one kernel of a program, for reports and profiles. `lines` are places `file:line` in the model file."""

    name: str
    kind: str
    lines: tuple[str, ...] = ()
    flops: int = 0
    bytes: int = 0
    symbol: str = ""


@dataclass(frozen=True)
class Executable:
    """A program ready to run on one target.

    On the CPU `code` is an ELF object whose `dslc_plan(tid, threads, arena, table, control)` runs everything and `launches` serves reports;
    on a GPU `code` is a cubin and `launches` is the program. `constants` is copied once to the start of the arena's constant region.
    """

    target: str
    program: str  # "train", "eval", "run", "prefill" or "step"
    model: str
    signature: str  # hash of the graph's parameters and states: paths, shapes and types
    ports: tuple[Port, ...]
    kernels: tuple[Kernel, ...]
    launches: tuple[Launch, ...]
    arena_bytes: int
    scratch_bytes: int  # for each thread, behind the arena (CPU)
    constants: bytes
    code: bytes
    source: str = ""  # the generated CUDA, for people
    notes: dict[str, str] = field(default_factory=dict)

    def ports_of(self, *roles: str) -> list[Port]:
        """The ports of the given roles, in order."""
        return [p for p in self.ports if p.role in roles]
