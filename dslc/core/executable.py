"""A compiled program as plain data: what the backends make, what the runtime runs, what a package stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from . import dtypes
from .dtypes import DType
from .errors import DataError

# What is behind the name of an output [rows, classes] in those that tell where the greatest of each row is, int32[rows], and what it is.
BEST, GREATEST = ".best", ".greatest"
NEXT_TURN = "next_turn"  # the function of a GPU's module that such a program has besides its launches: it goes on with what it found

# The result of a timed program (no name of a model file), int64[2 + 3 * (launches + 1)] in ticks of the processor's counter: when the last stamp was
# taken, when the run began, then for each launch, and for the copies between them: how long it ran, how often, when its first run ended.
TIMES = "(times)"


def times_size(launches: int) -> int:
    """Elements of `TIMES`."""
    return 2 + 3 * (launches + 1)


@dataclass(frozen=True)
class Port:
    """A tensor that crosses the program's border. `slot` is its place in the table of pointers that a call hands over.

    `role`: "input"; "scalar", a rank-0 value of the host (seed, step, microbatch); "param" or "state", read and, where the program changes it,
    written in place; "prepared", what another program made of parameters (`Executable.prepare`); "output", "loss" or "metric".
    """

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


Operand = tuple[str, int] | tuple[str, int, int]


@dataclass(frozen=True)
class Extent:
    """Memory that a launch may touch: the kernel's name for it, where it begins (an operand as of `Launch`), its size, whether it is written."""

    name: str
    place: Operand
    bytes: int
    written: bool


@dataclass(frozen=True)
class Launch:
    """One run of one kernel: which, and its parameters in order.

    ("arena", offset), ("constant", offset), ("slot", index) and ("slot", index, offset) are pointers, offsets in bytes; on a GPU there are also
    ("value", n), an int32, ("tensormap", k), the tensor map of that number, and ("pointers", k), a pointer to a table of pointers.
    `extents`: all that it may touch, where accesses are checked.
    """

    kernel: int
    operands: tuple[Operand, ...]
    grid: tuple[int, int, int] = (1, 1, 1)
    block: tuple[int, int, int] = (1, 1, 1)
    shared_bytes: int = 0
    extents: tuple[Extent, ...] = ()


@dataclass(frozen=True)
class TensorMap:
    """What a GPU's copy engine must know of a tensor (`cuTensorMapEncodeTiled`). Lists begin with the axis that lies densest.

    `place` is a Launch's operand; `dtype` the name of a type, or "tf32": float32 that is rounded on the way; `dims` are elements, `strides` bytes
    from the second axis on, `box` the elements that one copy moves; `swizzle` is 0, 32, 64 or 128 bytes; `steps`: along each axis every how many
    elements one is moved, () for all.
    """

    place: Operand
    dtype: str
    dims: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int = 0
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Module:
    """Machine code of some kernels: their symbols, and a cubin or shared object."""

    symbols: tuple[str, ...]
    code: bytes


@dataclass(frozen=True)
class Kernel:
    """What is known of one kernel of a program, for reports and profiles. `lines` are places `file:line` in the model file.

    `key`: its kind and body (`ir.bodies.kernel_hash`); `schedule`: its tuned schedule, "" where the cost model chose. `members`: the kernels that one
    launch runs beside each other, where it is several.
    """

    name: str
    kind: str
    lines: tuple[str, ...] = ()
    flops: int = 0
    bytes: int = 0
    symbol: str = ""
    key: str = ""
    schedule: str = ""
    members: tuple[Kernel, ...] = ()

    @property
    def each(self) -> tuple[Kernel, ...]:
        """The kernels that have a key and a schedule of their own."""
        return self.members or (self,)

    @property
    def chosen(self) -> str:
        """What its schedule is from, for people."""
        return "tuned" if any(k.schedule for k in self.each) else "cost model"


WAITS = "waits"  # a note: each kernel itself waits for the launches before it, so that it may be started while they run
PIECES = "(pieces)"  # an input of a second program, bool: which of its parts run; and a note: the names of what each part reads, JSON
READS = "reads"  # a note: the parameters and states that a program with `prepare` reads itself, one a line


@dataclass(frozen=True)
class Executable:
    """A program ready to run on one target.

    On the CPU `code` is an ELF object whose `dslc_plan(tid, threads, arena, table, control)` runs everything and `launches` serves reports;
    on a GPU `code` holds modules (`unpack_modules`) and `launches` is the program. `constants` is copied once to the start of the arena's constant
    region.
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
    tensor_maps: tuple[TensorMap, ...] = ()
    pointers: tuple[tuple[Operand, ...], ...] = ()  # tables of addresses, which lie in the device's memory
    notes: dict[str, str] = field(default_factory=dict)
    prepare: bytes = b""  # another executable, which makes the `prepared` ports from parameters and states; `to_bytes`

    def ports_of(self, *roles: str) -> list[Port]:
        """The ports of the given roles, in order."""
        if roles not in self._found:
            self._found[roles] = [p for p in self.ports if p.role in roles]
        return list(self._found[roles])

    @cached_property
    def _found(self) -> dict[tuple[str, ...], list[Port]]:
        return {}  # every call of a program asks for some


_FAMILY = b"dslc-executable-"
_MAGIC = _FAMILY + b"7\n"
_BLOBS = ("constants", "code", "prepare")


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
    """The executable that `to_bytes` wrote; DataError where the bytes are damaged (the hash finds damage, not malice) or of another version."""
    start = len(_MAGIC)
    if data.startswith(_FAMILY) and not data.startswith(_MAGIC):
        raise DataError("this program was compiled by another version of dslc", help="compile it again")
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
    plain["kernels"] = tuple(map(_kernel, plain["kernels"]))
    plain["launches"] = tuple(_launch(launch) for launch in plain["launches"])
    plain["pointers"] = tuple(tuple(map(tuple, table)) for table in plain["pointers"])
    plain["tensor_maps"] = tuple(_tensor_map(m) for m in plain["tensor_maps"])
    return Executable(**plain)


def _port(p: dict[str, Any]) -> Port:
    bounds = p["bounds"] and (p["bounds"][0], p["bounds"][1])
    return Port(p["name"], p["role"], dtypes.BY_NAME[p["dtype"]], tuple(p["shape"]), p["slot"], bounds, p["line"])


def _kernel(k: dict[str, Any]) -> Kernel:
    return Kernel(**{**k, "lines": tuple(k["lines"]), "members": tuple(map(_kernel, k.get("members", ())))})


def _launch(launch: dict[str, Any]) -> Launch:
    operands = tuple(tuple(o) for o in launch["operands"])
    extents = tuple(Extent(e["name"], tuple(e["place"]), e["bytes"], e["written"]) for e in launch["extents"])
    return Launch(launch["kernel"], operands, tuple(launch["grid"]), tuple(launch["block"]), launch["shared_bytes"], extents)


def _tensor_map(m: dict[str, Any]) -> TensorMap:
    return TensorMap(tuple(m["place"]), m["dtype"], tuple(m["dims"]), tuple(m["strides"]), tuple(m["box"]), m["swizzle"], tuple(m["steps"]))


def pack_modules(modules: Sequence[Module]) -> bytes:
    """Modules as one stretch of bytes: the length of a JSON header, the header, the codes."""
    header = json.dumps([[m.symbols, len(m.code)] for m in modules]).encode()
    return len(header).to_bytes(8, "little") + header + b"".join(m.code for m in modules)


def unpack_modules(code: bytes) -> list[Module]:
    """The modules that `pack_modules` wrote; DataError where the bytes are torn."""
    length = int.from_bytes(code[:8], "little")
    at, out = 8 + length, []
    try:
        header = json.loads(code[8:at])
    except ValueError:
        raise DataError("the compiled program holds no modules of machine code", help="compile it again") from None
    for symbols, size in header:
        out.append(Module(tuple(symbols), code[at : at + size]))
        at += size
    if at != len(code):
        raise DataError(f"the machine code is torn: {len(code)} bytes where {at} are listed", help="compile it again")
    return out
