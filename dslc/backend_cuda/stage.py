"""What a CUDA kernel generator is given and what it gives: functions in CUDA C++, each with the shape of its launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dslc.core.executable import TensorMap
from dslc.ir.schedules import BY_COST, NOTHING, Choice
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of

from .arch import Arch
from .text import Writer
from .types import accumulator, memory_type


@dataclass(frozen=True)
class Request:
    """A kernel to generate. `name`: what its functions' names begin with; `aligned`: for each operand, then each result, whether every address it
    is called with is a multiple of 16 bytes; `schedule`: the one that it is to have (`ir.schedules`); `steady`: for each operand, whether no launch
    of the program writes it, so that it may be read before the launches before have ended."""

    name: str
    body: Body
    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]
    arch: Arch
    aligned: tuple[bool, ...]
    schedule: str = BY_COST
    steady: tuple[bool, ...] = ()

    def operand_steady(self, k: int) -> bool:
        return k < len(self.steady) and self.steady[k]

    def operand_aligned(self, k: int) -> bool:
        return k >= len(self.operands) or self.aligned[k]  # what is behind the operands lies in the workspace

    def result_aligned(self, k: int) -> bool:
        return self.aligned[len(self.operands) + k]


@dataclass(frozen=True)
class Parameter:
    """A pointer, number or tensor map that a function takes.

    `source`: "operand", "result" or "table" with its number, "workspace" with an offset in bytes, "value" with an integer; "map" with the number of
    an operand, or "workspace_map" with an offset in bytes, whose `tensor_map` describes what lies ("offset", bytes) behind that.
    """

    name: str
    type: str  # in CUDA C++, as `const float*`
    source: str
    number: int
    tensor_map: TensorMap | None = None

    @property
    def offset(self) -> int:
        """Of one in the workspace: where it begins."""
        return self.number + (self.tensor_map.place[1] if self.tensor_map else 0)

    @property
    def written(self) -> bool:
        return not self.type.startswith("const ")


@dataclass(frozen=True)
class Function:
    """One launch: a `__global__` function and how it is called. `text` is its body; equal functions of a program are printed once."""

    symbol: str
    parameters: tuple[Parameter, ...]
    text: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int = 0
    blocks_per_sm: int = 1  # for __launch_bounds__
    schedule: str = ""  # in words, for the comment above it
    ahead: str = ""  # what it does before the launches before it have ended: prefetches, loads of what none of them writes
    waits: bool = False  # whether its text waits for them itself


@dataclass(frozen=True)
class Generated:
    """The functions of a kernel in order, the bytes of the workspace they share, constants that they read, headers of the device library, the
    schedules that it could have."""

    functions: Sequence[Function]
    workspace_bytes: int = 0
    tables: Sequence[np.ndarray] = ()
    includes: Sequence[str] = field(default=())
    choice: Choice = NOTHING


Generator = Callable[[Request], Generated]
_AHEAD = "// all above is done ahead"


@dataclass(frozen=True)
class Memory:
    """A pointer in the text of a function: its name and the type of its elements."""

    name: str
    type: TensorType


class FunctionWriter(Writer):
    """A function under construction: a Writer that also collects the parameters."""

    def __init__(self, request: Request, suffix: str = "") -> None:
        super().__init__()
        self.request, self.symbol = request, request.name + suffix
        self.parameters: dict[str, Parameter] = {}

    def operand(self, k: int) -> Memory:
        """Operand k of the kernel as a parameter."""
        t = self.request.operands[k]
        return self._pointer(f"a{k}", "operand", k, t, "const ")

    def result(self, k: int) -> Memory:
        return self._pointer(f"y{k}", "result", k, self.request.results[k])

    def workspace(self, name: str, offset: int, t: TensorType) -> Memory:
        """A buffer in the workspace; narrow floats lie there as float32."""
        return self._pointer(name, "workspace", offset, t.with_dtype(accumulator(t.dtype)))

    def table(self, k: int, t: TensorType) -> Memory:
        return self._pointer(f"table{k}", "table", k, t, "const ")

    def number(self, name: str, value: int) -> str:
        self.parameters[name] = Parameter(name, "int", "value", value)
        return name

    def tensor_map(self, name: str, operand: int | None, described: TensorMap) -> str:
        """What the copy engine must know of an operand, or of a part of the workspace; the place of `described` is ("offset", bytes behind it)."""
        source, number = ("map", operand) if operand is not None else ("workspace_map", 0)
        self.parameters[name] = Parameter(name, "const __grid_constant__ TensorMap", source, number, described)
        return name

    def workspace_of(self, name: str, offset: int, element: str) -> str:
        """A buffer in the workspace with elements of a C++ type; its name."""
        self.parameters[name] = Parameter(name, f"{element}*", "workspace", offset)
        return name

    def _pointer(self, name: str, source: str, number: int, t: TensorType, qualifier: str = "") -> Memory:
        self.parameters[name] = Parameter(name, f"{qualifier}{memory_type(t.dtype)}*", source, number)
        return Memory(name, t)

    def ahead_ends(self) -> None:
        """What was written so far needs nothing that launches before this one make: indices, prefetches, loads of steady operands."""
        self.lines.append(_AHEAD)

    def prefetch(self, address: str) -> None:
        """Asks for what lies at an address, which must be known ahead; nothing where launches do not overlap."""
        if self.request.arch.launches_overlap:
            self.line(f"prefetch({address});")

    def function(self, grid: Sequence[int], block: Sequence[int], *, shared_bytes: int = 0, blocks_per_sm: int = 1, schedule: str = "") -> Function:
        """The function as it stands."""
        g, b = (tuple([*xs, 1, 1][:3]) for xs in (grid, block))
        ahead, _, text = self.text().rpartition(_AHEAD + "\n")
        return Function(self.symbol, tuple(self.parameters.values()), text, g, b, shared_bytes, blocks_per_sm, schedule, ahead.rstrip("\n"))  # type: ignore[arg-type]


def request_of(
    body: Body, arch: Arch, name: str, aligned: Sequence[bool] | None = None, schedule: str = BY_COST, steady: Sequence[bool] = ()
) -> Request:
    """The request for a body, with types taken from its values; without `aligned` everything is taken to be, without `steady` nothing."""
    operands, results = (tuple(type_of(v) for v in values) for values in (body.operands, body.results))
    everything = (True,) * (len(operands) + len(results))
    return Request(name, body, operands, results, arch, tuple(aligned) if aligned is not None else everything, schedule, tuple(steady))


def index_type(*counts: int) -> str:
    """The C type of positions in spaces and tensors of these sizes."""
    return "int" if max(counts, default=0) < 2**31 - 2**20 else "long long"
