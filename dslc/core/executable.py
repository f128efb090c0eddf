"""A compiled program as plain data: what the backends make, what the runtime runs, what a package stores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from . import dtypes
from .dtypes import DType
from .errors import DataError

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


_MAGIC = b"dslc-executable-1\n"
_BLOBS = ("constants", "code")


def to_bytes(executable: Executable) -> bytes:
    """The executable as one stretch of bytes: a magic line, a SHA-256 of the rest, the length of a JSON header, the header, the blobs."""
    plain = asdict(executable)
    blobs = [plain.pop(k) for k in _BLOBS]
    plain["ports"] = [{**asdict(p), "dtype": p.dtype.name} for p in executable.ports]
    plain["blobs"] = [len(b) for b in blobs]
    header = json.dumps(plain).encode()
    body = len(header).to_bytes(8, "little") + header + b"".join(blobs)
    return _MAGIC + hashlib.sha256(body).digest() + body


def from_bytes(data: bytes) -> Executable:
    """The executable that `to_bytes` wrote; DataError where the bytes are damaged (the hash finds damage, not malice)."""
    start = len(_MAGIC)
    body = data[start + 32 :]
    if data[:start] != _MAGIC or hashlib.sha256(body).digest() != data[start : start + 32]:
        raise DataError("this is not a compiled dslc program, or it is damaged", help="compile it again")
    length = int.from_bytes(body[:8], "little")
    plain: dict[str, Any] = json.loads(body[8 : 8 + length])
    at = 8 + length
    for name, size in zip(_BLOBS, plain.pop("blobs")):
        plain[name] = body[at : at + size]
        at += size
    plain["ports"] = tuple(_port(p) for p in plain["ports"])
    plain["kernels"] = tuple(Kernel(**{**k, "lines": tuple(k["lines"])}) for k in plain["kernels"])
    plain["launches"] = tuple(_launch(launch) for launch in plain["launches"])
    return Executable(**plain)


def _port(p: dict[str, Any]) -> Port:
    bounds = p["bounds"] and (p["bounds"][0], p["bounds"][1])
    return Port(p["name"], p["role"], dtypes.BY_NAME[p["dtype"]], tuple(p["shape"]), p["slot"], bounds, p["line"])


def _launch(launch: dict[str, Any]) -> Launch:
    operands = tuple((space, index) for space, index in launch["operands"])
    return Launch(launch["kernel"], operands, tuple(launch["grid"]), tuple(launch["block"]), launch["shared_bytes"])
