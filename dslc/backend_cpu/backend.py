"""A plan to an Executable: each distinct kernel is generated once, the plan's calls become native steps, all in one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from dslc.core import dtypes, executable
from dslc.core.executable import Executable, Launch
from dslc.core.stack import deep
from dslc.ir.bodies import body_key, identifier, kernel_hash, lines_of, work_of
from dslc.ir.ops import Kernel
from dslc.ir.plan import Branch, Call, Copy, Loop, Place, Plan, Step, readers_first
from dslc.ir.schedules import BY_COST
from dslc.ir.trace import Body
from dslc.ir.types import type_of

from .kernels import generate
from .loops import Turns, placed
from .machine import Machine
from .native import KernelArguments, KernelCall, KernelFunction, NativeStep, Times, aligned, build_object
from .stage import STREAM_BYTES, Generated, Request, Stage, frame_of, request_of

OPT_LEVEL = 0  # of LLVM's passes over its IR: higher ones double the time to compile and gain little on kernels that are built this way


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
    turns: Turns | None = None  # of the outermost loop, in one
    kept: int = 0  # bytes that a loop keeps, at most: loops that follow each other share them

    def steps(self, steps: Sequence[Step]) -> tuple[NativeStep, ...]:
        return tuple(made for step in steps for made in self._step(step))

    def _step(self, step: Step) -> list[NativeStep]:
        match step:
            case Call():
                return list(self._call(step))
            case Copy():
                return [step] if step.bytes else []
            case Loop():
                return self._loop(step) if step.trip else []
            case Branch():
                return [replace(step, then=self.steps(step.then), otherwise=self.steps(step.otherwise))]  # type: ignore[arg-type]
        raise TypeError(step)

    def _loop(self, loop: Loop) -> list[NativeStep]:
        """The loop; before the outermost one what its turns have in common."""
        if self.turns is not None:
            return [replace(loop, steps=self.steps(loop.steps))]  # type: ignore[arg-type]
        turns = self.turns = Turns.of(loop)
        made = replace(loop, steps=self.steps(loop.steps))  # type: ignore[arg-type]
        self.turns, self.kept = None, max(self.kept, turns.kept)
        return [*turns.before, made]

    def _call(self, call: Call) -> Iterator[KernelCall]:
        """The native calls of one launch. The groups of an update are kernels of their own, equal ones compiled once, with one barrier at the end."""
        body = Body.of(call.kernel.regions[0].blocks[0])
        tables = [self._constant(t) for t in body.tables]
        operands = [*call.operands, *tables]
        groups = body.parts() if call.kernel.kind == "update" else [(body, list(range(len(operands))), list(range(len(call.results))))]
        kind = "map" if call.kernel.kind == "update" else call.kernel.kind
        ordered, crossing = readers_first([([operands[k] for k in i], [call.results[k] for k in o]) for _, i, o in groups])
        calls, made = [], BY_COST
        for part, inputs, outputs in (groups[k] for k in ordered):
            targets = [call.results[k] for k in outputs]
            large = sum(type_of(v).bytes for v in part.results) >= STREAM_BYTES
            still = self.turns.still(call) if self.turns is not None and kind == "contract" else frozenset()
            compiled = self._compiled(call.kernel, kind, part, large and all(map(_on_cache_line, targets)), still)
            generated, functions = compiled.generated, compiled.functions
            made = generated.choice.made
            places = [operands[k] for k in inputs] + targets
            if generated.workspace_bytes:
                places.append(Place("arena", aligned(self.plan.arena_bytes)))
            places += compiled.tables
            if generated.kept_bytes and self.turns is not None:
                once = [f.symbol for f, stage in zip(functions, generated.stages) if stage.once]
                functions = [f for f in functions if f.symbol not in once]
                places.append(self.turns.keep(once, places, still, generated.kept_bytes))
            barrier = crossing or len(functions) > 1
            calls += [KernelCall(f.symbol, tuple(places), barrier) for f in functions]
        if calls:
            calls[-1] = replace(calls[-1], barrier=True, launch=len(self.launches))
        self._describe(call, body, calls, "" if made == BY_COST else made)
        yield from calls

    def _compiled(self, kernel: Kernel, kind: str, body: Body, places_aligned: bool, still: frozenset[int]) -> _Compiled:
        key = f"{kind} {kernel.schedule} {places_aligned} {sorted(still)} {body_key(body)}"
        compiled = self.kernels.get(key)
        if compiled is None:
            request = request_of(body, self.machine, places_aligned, kernel.schedule, still)
            generated = generate(kind, request)
            name = f"k{len(self.kernels)}_{identifier(kernel.role)}"
            names = _symbols(name, generated.stages)
            functions = [_function(symbol, request, generated, n, lines_of(kernel)) for n, symbol in enumerate(names)]
            compiled = self.kernels[key] = _Compiled(generated, functions, [self._constant(t) for t in generated.tables])
        return compiled

    def _constant(self, table: Any) -> Place:
        start = aligned(len(self.constants))
        self.constants += bytes(start - len(self.constants)) + table.tobytes()
        return Place("constant", start)

    def _describe(self, call: Call, body: Body, calls: Sequence[KernelCall], schedule: str) -> None:
        """A launch for the report; launches of one role and one code are one kernel there."""
        name = calls[0].symbol if calls else identifier(call.kernel.role)
        number, info = self.infos.get(name, (len(self.infos), None))
        if info is None:
            flops, moved = work_of(body)
            key = kernel_hash(call.kernel.kind, body)
            self.infos[name] = (number, executable.Kernel(name, call.kernel.kind, lines_of(call.kernel), flops, moved, name, key, schedule))
        self.launches.append(Launch(number, tuple((p.space, p.index) for p in (*call.operands, *call.results))))


def _on_cache_line(place: Place) -> bool:
    """Results in slots begin on one: the driver sees to that."""
    return all(n % 64 == 0 for n in ((place.index if place.space == "arena" else place.offset), *place.strides))


def schedules_of(kernel: Kernel, machine: Machine) -> list[str]:
    """The schedules that a kernel may have, as text, the cost model's first; none where there is nothing to choose."""
    if kernel.kind == "update":  # its groups are kernels of their own
        return []
    with deep():
        return generate(kernel.kind, request_of(Body.of(kernel.regions[0].blocks[0]), machine)).choice.texts()


def compile_plan(plan: Plan, machine: Machine, timed: bool = False) -> Executable:
    """The plan as native code for a machine. UnsupportedOp, at its line, for what the CPU target cannot do. `timed`: it has a result `TIMES` more."""
    with deep():
        writer = _Writer(plan, machine, constants=bytearray(plan.constants))
        steps = writer.steps(plan.steps)
        workspace = max((k.generated.workspace_bytes for k in writer.kernels.values()), default=0)
        kept = aligned(plan.arena_bytes) + aligned(workspace)
        arena_bytes = kept + writer.kept
        functions = [f for k in writer.kernels.values() for f in k.functions]
        constants = bytes(writer.constants)
        ports, times = plan.ports, None
        if timed:
            slot, size = 1 + max((p.slot for p in ports), default=-1), executable.times_size(len(writer.launches))
            ports, times = (*ports, executable.Port(executable.TIMES, "output", dtypes.INT64, (size,), slot)), Times(slot, len(writer.launches))
        built = build_object(functions, placed(steps, kept), arena_bytes, constant_bytes=len(constants), opt_level=OPT_LEVEL, times=times)
    infos = [info for _, info in sorted(writer.infos.values(), key=lambda item: item[0])]
    return Executable("cpu", plan.name, "", "", ports, tuple(infos), tuple(writer.launches), arena_bytes, built.scratch_bytes, constants,
                      built.code, notes={"machine": machine.key(), "instructions": " ".join(machine.instructions)})  # fmt: skip


def _symbols(name: str, stages: Sequence[Stage]) -> list[str]:
    """A name for each stage; the first one in a loop has the kernel's."""
    counts = {True: count(), False: count()}
    numbered = [(stage.once, next(counts[stage.once])) for stage in stages]
    return [f"{name}_once_{n}" if once else f"{name}_{n}" if n else name for once, n in numbered]


def _function(symbol: str, request: Request, generated: Generated, stage: int, lines: tuple[str, ...]) -> KernelFunction:
    types = [(t.dtype, (max(t.size, 1),)) for t in (*request.operands, *request.results)]
    if generated.workspace_bytes:
        types.append((dtypes.UINT8, (generated.workspace_bytes,)))
    types += [(dtypes.of_numpy(t.dtype), (t.size,)) for t in generated.tables]
    if generated.kept_bytes:
        types.append((dtypes.UINT8, (generated.kept_bytes,)))
    emit_stage = generated.stages[stage].emit

    def emit(arguments: KernelArguments) -> None:
        emit_stage(frame_of(request, generated, arguments))

    return KernelFunction(symbol, tuple(types), emit, generated.stages[stage].scratch_bytes, lines)
