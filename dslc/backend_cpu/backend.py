"""A plan to an Executable: each distinct kernel is generated once, the plan's calls become native steps, all in one object."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dslc.core import dtypes, executable
from dslc.core.executable import Executable, Launch
from dslc.ir.bodies import body_key, identifier, kernel_key, lines_of, work_of
from dslc.ir.ops import Kernel
from dslc.ir.plan import Branch, Call, Copy, Loop, Place, Plan, Step, readers_first
from dslc.ir.trace import Body
from dslc.ir.types import type_of

from .kernels import generate
from .machine import Machine
from .native import KernelArguments, KernelCall, KernelFunction, NativeStep, Times, aligned, build_object
from .stage import STREAM_BYTES, Generated, Request, frame_of, request_of

VERSION = 3  # of the generated code, for caches
OPT_LEVEL = 0  # of LLVM's passes over its IR: higher ones double the time to compile and gain little on kernels that are built this way
_DEPTH = 20_000  # Python frames that a long chain of ops in one kernel may take while it is traced


@dataclass
class _Compiled:
    """A distinct kernel: what was generated for it, its stages as functions, where its tables are."""

    generated: Generated
    functions: list[KernelFunction]
    tables: list[Place]


@dataclass
class _Writer:
    """Collects the distinct kernels, launches and constants of a plan."""

    plan: Plan
    machine: Machine
    kernels: dict[str, _Compiled] = field(default_factory=dict)
    infos: dict[str, tuple[int, executable.Kernel]] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)

    def steps(self, steps: Sequence[Step]) -> tuple[NativeStep, ...]:
        return tuple(made for step in steps for made in self._step(step))

    def _step(self, step: Step) -> list[NativeStep]:
        match step:
            case Call():
                return list(self._call(step))
            case Copy():
                return [step] if step.bytes else []
            case Loop():
                return [replace(step, steps=self.steps(step.steps))] if step.trip else []  # type: ignore[arg-type]
            case Branch():
                return [replace(step, then=self.steps(step.then), otherwise=self.steps(step.otherwise))]  # type: ignore[arg-type]
        raise TypeError(step)

    def _call(self, call: Call) -> Iterator[KernelCall]:
        """The native calls of one launch. The groups of an update are kernels of their own, equal ones compiled once, with one barrier at the end."""
        body = Body.of(call.kernel.regions[0].blocks[0])
        tables = [self._constant(t) for t in body.tables]
        operands = [*call.operands, *tables]
        groups = body.parts() if call.kernel.kind == "update" else [(body, list(range(len(operands))), list(range(len(call.results))))]
        kind = "map" if call.kernel.kind == "update" else call.kernel.kind
        ordered, crossing = readers_first([([operands[k] for k in i], [call.results[k] for k in o]) for _, i, o in groups])
        calls = []
        for part, inputs, outputs in (groups[k] for k in ordered):
            targets = [call.results[k] for k in outputs]
            large = sum(type_of(v).bytes for v in part.results) >= STREAM_BYTES
            compiled = self._compiled(call.kernel, kind, part, large and all(map(_on_cache_line, targets)))
            places = [operands[k] for k in inputs] + targets
            if compiled.generated.workspace_bytes:
                places.append(Place("arena", aligned(self.plan.arena_bytes)))
            places += compiled.tables
            barrier = crossing or len(compiled.functions) > 1
            calls += [KernelCall(f.symbol, tuple(places), barrier) for f in compiled.functions]
        if calls:
            calls[-1] = replace(calls[-1], barrier=True, launch=len(self.launches))
        self._describe(call, body, calls)
        yield from calls

    def _compiled(self, kernel: Kernel, kind: str, body: Body, places_aligned: bool) -> _Compiled:
        key = f"{kind} {kernel.schedule} {places_aligned} {body_key(body)}"
        compiled = self.kernels.get(key)
        if compiled is None:
            request = request_of(body, self.machine, places_aligned)
            generated = generate(kind, request)
            name = f"k{len(self.kernels)}_{identifier(kernel.role)}"
            functions = [_function(f"{name}_{n}" if n else name, request, generated, n) for n in range(len(generated.stages))]
            compiled = self.kernels[key] = _Compiled(generated, functions, [self._constant(t) for t in generated.tables])
        return compiled

    def _constant(self, table: Any) -> Place:
        start = aligned(len(self.constants))
        self.constants += bytes(start - len(self.constants)) + table.tobytes()
        return Place("constant", start)

    def _describe(self, call: Call, body: Body, calls: Sequence[KernelCall]) -> None:
        """A launch for the report; launches of one role and one code are one kernel there."""
        name = calls[0].symbol if calls else identifier(call.kernel.role)
        number, info = self.infos.get(name, (len(self.infos), None))
        if info is None:
            flops, moved = work_of(body)
            self.infos[name] = (number, executable.Kernel(name, call.kernel.kind, lines_of(call.kernel), flops, moved, name))
        self.launches.append(Launch(number, tuple((p.space, p.index) for p in (*call.operands, *call.results))))


def _on_cache_line(place: Place) -> bool:
    """Results in slots begin on one: the driver sees to that."""
    return all(n % 64 == 0 for n in ((place.index if place.space == "arena" else 0), *place.strides))


def compile_plan(plan: Plan, machine: Machine, timed: bool = False) -> Executable:
    """The plan as native code for a machine. UnsupportedOp, at its line, for what the CPU target cannot do. `timed`: it has a result `TIMES` more."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEPTH))
    try:
        writer = _Writer(plan, machine, constants=bytearray(plan.constants))
        steps = writer.steps(plan.steps)
        workspace = max((k.generated.workspace_bytes for k in writer.kernels.values()), default=0)
        arena_bytes = aligned(plan.arena_bytes) + aligned(workspace)
        functions = [f for k in writer.kernels.values() for f in k.functions]
        constants = bytes(writer.constants)
        ports, times = plan.ports, None
        if timed:
            slot, size = 1 + max((p.slot for p in ports), default=-1), executable.times_size(len(writer.launches))
            ports, times = (*ports, executable.Port(executable.TIMES, "output", dtypes.INT64, (size,), slot)), Times(slot, len(writer.launches))
        built = build_object(functions, steps, arena_bytes, constant_bytes=len(constants), opt_level=OPT_LEVEL, times=times)
    finally:
        sys.setrecursionlimit(limit)
    infos = [info for _, info in sorted(writer.infos.values(), key=lambda item: item[0])]
    return Executable("cpu", plan.name, "", "", ports, tuple(infos), tuple(writer.launches), arena_bytes, built.scratch_bytes, constants,
                      built.code, notes={"machine": machine.key()})  # fmt: skip


def plan_key(plan: Plan, machine: Machine) -> str:
    """A hash of everything that the compiled code of a plan depends on."""
    digest = hashlib.sha256(f"{VERSION}|{machine.key()}|{plan.arena_bytes}|{plan.ports!r}".encode())
    digest.update(plan.constants)

    def add(steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Call():
                    digest.update(f"call {kernel_key(step.kernel)} {step.operands} {step.results}".encode())
                case Loop():
                    digest.update(f"loop {step.trip} {step.backward} {step.turn}".encode())
                    add(step.steps)
                case Branch():
                    digest.update(f"branch {step.condition} {len(step.then)}".encode())
                    add(step.then)
                    add(step.otherwise)
                case _:
                    digest.update(repr(step).encode())

    add(plan.steps)
    return digest.hexdigest()


def _function(symbol: str, request: Request, generated: Generated, stage: int) -> KernelFunction:
    types = [(t.dtype, (max(t.size, 1),)) for t in (*request.operands, *request.results)]
    if generated.workspace_bytes:
        types.append((dtypes.UINT8, (generated.workspace_bytes,)))
    types += [(dtypes.of_numpy(t.dtype), (t.size,)) for t in generated.tables]
    emit_stage = generated.stages[stage].emit

    def emit(arguments: KernelArguments) -> None:
        emit_stage(frame_of(request, generated, arguments))

    return KernelFunction(symbol, tuple(types), emit, generated.stages[stage].scratch_bytes)
