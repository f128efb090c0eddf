"""A plan to CUDA: each distinct kernel is generated once, the plan's calls become a list of launches, all functions one readable source text.

There is no control flow on the device: loops of the plan are unrolled into launches whose addresses move with the turn, a branch is a guard that
its kernels read. A turn's number is a constant in memory, so that a program is one fixed list of launches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dslc.core import executable
from dslc.core.errors import Span
from dslc.core.executable import Executable, Extent, Launch, TensorMap
from dslc.ir.bodies import body_key, identifier, kernel_hash, lines_of, work_of
from dslc.ir.ops import Kernel
from dslc.ir.plan import Branch, Call, Copy, Loop, Place, Plan, Step, readers_first
from dslc.ir.schedules import BY_COST, Choice
from dslc.ir.trace import Body
from dslc.ir.types import spans_of, type_of

from .arch import CHECKED, EMULATED, Arch
from .beside import APART, joined, joins
from .kernels import generate, update
from .machine_code import machine_code
from .nvrtc import SlowCode
from .program_text import Printed, Unit, printed
from .spills import Fallbacks, Made
from .stage import Function, Generated, Parameter, request_of

ALIGNMENT = 256  # of the workspace, the guards and the constants
POINTER = 8  # bytes


@dataclass
class _Compiled:
    """A distinct kernel: what was generated for it, where its tables are among the constants."""

    generated: Generated
    tables: list[Place]
    unit: Unit


@dataclass(frozen=True)
class _Part:
    """A body, or a part of one, with the places of its operands, then of its results."""

    body: Body
    places: tuple[Place, ...]

    @property
    def inputs(self) -> int:
        return len(self.body.operands)

    @property
    def aligned(self) -> tuple[bool, ...]:
        return tuple(map(_is_aligned, self.places))

    def number(self, p: Parameter) -> int:
        """Which of the places a parameter is."""
        return p.number + (self.inputs if p.source == "result" else 0)

    def bytes(self, place: int) -> int:
        """The size of what lies at a place."""
        return type_of([*self.body.operands, *self.body.results][place]).bytes


@dataclass(frozen=True)
class _Run:
    """A launch before it has a number: a function, what it is called with and may touch, and what is said of it."""

    unit: Unit
    function: Function
    operands: list[tuple]
    extents: list[Extent]
    lines: tuple[str, ...]
    spans: Sequence[Span]


@dataclass
class Lowered:
    """A plan as launches and functions: everything of an Executable but its machine code."""

    units: list[Unit]
    made: list[Made]
    kernels: tuple[executable.Kernel, ...]
    launches: tuple[Launch, ...]
    tensor_maps: tuple[TensorMap, ...]
    pointers: tuple[tuple[Any, ...], ...]
    constants: bytes
    arena_bytes: int
    text: Printed


@dataclass
class _Scope:
    """Where the walk over the plan's steps is: turns of the enclosing loops, their places, and guards of the enclosing branches."""

    turns: tuple[int, ...] = ()
    places: dict[Place, Place] = field(default_factory=dict)
    guards: tuple[tuple[Place, bool], ...] = ()


class _Writer:
    """Collects the distinct kernels, launches and constants of a plan."""

    def __init__(self, plan: Plan, arch: Arch, instead: Fallbacks) -> None:
        self.plan, self.arch, self.instead = plan, arch, instead
        self.constants = bytearray(plan.constants)
        self.compiled: dict[str, _Compiled] = {}
        self.flat: dict[str, tuple[update.Flat, tuple[int, ...]] | None] = {}
        self.units: dict[str, Unit] = {}
        self.symbols: dict[str, int] = {}
        self.kernels: list[executable.Kernel] = []
        self.launches: list[Launch] = []
        self.maps: list[TensorMap] = []
        self.made: list[Made] = []
        self.pointers: list[tuple[Any, ...]] = []
        self.workspace = _aligned(plan.arena_bytes)
        self.workspace_bytes = 0
        self.aside = self.aside_end = 0  # where the part of the workspace of the call in work begins, and ends
        self.runs: list[_Run] = []  # of the call in work
        self.joined: dict[str, tuple[Unit, Function, list[int]] | None] = {}  # functions of several, by their symbols
        self.guard_count = 0
        self._turns: dict[int, Place] = {}
        self._written = set(_written(plan.steps))  # slots

    # ---- steps

    def steps(self, steps: Sequence[Step], scope: _Scope) -> None:
        for n, step in enumerate(steps):
            match step:
                case Call(beside=True):
                    pass
                case Call():
                    self._calls([step, *_beside(steps[n + 1 :])], scope)
                case Copy():
                    if step.bytes:
                        self._copy(step.source, step.target, step.bytes, scope)
                case Loop():
                    order = range(step.trip)
                    for turn in reversed(order) if step.backward else order:
                        inner = replace(scope, turns=(*scope.turns, turn), places={**scope.places, step.turn: self._turn(turn)})
                        self.steps(step.steps, inner)
                case Branch():
                    guard = self._guard(step.condition, scope)
                    self.steps(step.then, replace(scope, guards=(*scope.guards, (guard, True))))
                    self.steps(step.otherwise, replace(scope, guards=(*scope.guards, (guard, False))))

    def _turn(self, number: int) -> Place:
        """A turn's number as an int32 among the constants."""
        if number not in self._turns:
            self._turns[number] = self._constant(np.asarray([number], np.int32), 4)
        return self._turns[number]

    def _guard(self, condition: Place, scope: _Scope) -> Place:
        """A branch's condition, copied to where nothing overwrites it while the branch runs."""
        place = Place("guard", self.guard_count)
        self.guard_count += 1
        self._copy(condition, place, 1, scope)
        return place

    def _constant(self, table: np.ndarray, alignment: int = ALIGNMENT) -> Place:
        start = -(-len(self.constants) // alignment) * alignment
        self.constants += bytes(start - len(self.constants)) + table.tobytes()
        return Place("constant", start)

    # ---- calls

    def _calls(self, calls: Sequence[Call], scope: _Scope) -> None:
        """The launches of calls that may run at once: the first one of each, then their second ones."""
        chains: list[list[_Run]] = []
        for call in calls:
            self.runs = []
            self._call(call, scope)
            chains.append(self.runs)
            self.aside = self.aside_end
        self.aside = self.aside_end = 0
        for number in range(max(map(len, chains))):
            self._beside([chain[number] for chain in chains if number < len(chain)], scope)

    def _beside(self, runs: Sequence[_Run], scope: _Scope) -> None:
        """Runs that need nothing of each other, in as few launches as their functions allow."""
        together: list[list[_Run]] = []
        for run in runs:
            fitting = next((t for t in together if joins(t[0].function, run.function)), None)
            if fitting is None:
                together.append([run])
            else:
                fitting.append(run)
        for members in together:
            found = self._joined(members) if len(members) > 1 else None
            for run in members if found is None else [found]:
                self._add(run.unit, run.function, run.operands, run.extents, scope, run.lines)

    def _joined(self, runs: Sequence[_Run]) -> _Run | None:
        """Several runs as one; None where that was found to spill."""
        key = " beside ".join(r.function.symbol for r in runs)
        lines = tuple(dict.fromkeys(line for r in runs for line in r.lines))
        if key not in self.joined:
            name = f"{runs[0].function.symbol}_beside{len(self.joined)}"
            form = self.instead.of(f"beside {[r.unit.key for r in runs]}", BY_COST)
            function, order = joined(name, [r.function for r in runs], self.arch)
            units = [r.unit for r in runs]
            main = [r.unit for r in runs if r.function.symbol == r.unit.first]
            kind, role = "+".join(dict.fromkeys(u.kind for u in units)), " beside ".join(u.role for u in units)
            flops, moved = sum(u.flops for u in main), sum(u.bytes for u in main)
            unit = Unit(name, kind, role, lines, None, flops, moved, [i for u in units for i in u.includes], first=name,
                        members=[(r.unit, r.function) for r in runs], slow=form.slow)  # fmt: skip
            generated = form.apply(Generated((function,), choice=Choice(behind=lambda: [APART])))
            self.made.append(Made(f"beside {[u.key for u in units]}", BY_COST, form, generated, unit))
            self.joined[key] = (unit, generated.functions[0], order) if form.schedule != APART else None
        found = self.joined[key]
        if found is None:
            return None
        unit, function, order = found
        extents = [replace(e, name=f"f{k}_{e.name}") for k, r in enumerate(runs) for e in r.extents]
        return _Run(unit, function, [o for k in order for o in runs[k].operands], extents, lines, runs[0].spans)

    def _call(self, call: Call, scope: _Scope) -> None:
        """The launches of one kernel."""
        body = Body.of(call.kernel.regions[0].blocks[0])
        operands = [*call.operands, *(self._constant(t) for t in body.tables)]
        if call.kernel.kind == "update":
            self._update(call, body, operands, scope)
        else:
            self._part(call.kernel, call.kernel.kind, _Part(body, (*operands, *call.results)), scope)

    def _part(self, kernel: Kernel, kind: str, part: _Part, scope: _Scope) -> None:
        steady = tuple(self._is_steady(place) for place in part.places[: part.inputs])
        self._launch(self._compiled(kernel, kind, part.body, part.aligned, steady), kernel, part, scope)

    def _is_steady(self, place: Place) -> bool:
        """Whether no launch of the program writes there."""
        return place.space == "constant" or (place.space == "slot" and place.index not in self._written)

    def _update(self, call: Call, body: Body, operands: Sequence[Place], scope: _Scope) -> None:
        """Groups that do the same at every point run in one launch, the others as maps of their own. Where one reads what another overwrites, all do,
        in an order in which none comes too late."""
        parts = [_Part(part, (*(operands[k] for k in i), *(call.results[k] for k in o))) for part, i, o in body.parts()]
        order, crossing = readers_first([(p.places[: p.inputs], p.places[p.inputs :]) for p in parts])
        stacks: dict[update.Flat, list[tuple[_Part, tuple[int, ...]]]] = {}
        for part in (parts[k] for k in order):
            found = None if crossing else self._flat(part)
            if found is None:
                self._part(call.kernel, "map", part, scope)
            else:
                stacks.setdefault(found[0], []).append((part, found[1]))
        for flat, members in stacks.items():
            if len(members) == 1:
                self._part(call.kernel, "map", members[0][0], scope)
            else:
                self._stack(call.kernel, flat, members, scope)

    def _flat(self, part: _Part) -> tuple[update.Flat, tuple[int, ...]] | None:
        key = f"{part.aligned} {body_key(part.body)}"
        if key not in self.flat:
            self.flat[key] = update.flat_of(request_of(part.body, self.arch, "", part.aligned))
        return self.flat[key]

    def _stack(self, kernel: Kernel, flat: update.Flat, members: Sequence[tuple[_Part, tuple[int, ...]]], scope: _Scope) -> None:
        """One launch for parts of an update that differ in size alone; with each, which of its places the parameters of `flat` are."""
        found = [tuple(self._resolved(part.places[numbers[k]], scope) for part, numbers in members) for k in range(len(flat.parameters))]
        name = f"k{len(self.compiled):02d}_{identifier(kernel.role)}"
        counts = [type_of(part.body.results[0]).size for part, _ in members]
        generated = update.stacked(name, flat, counts, [len(set(places)) == 1 for places in found])
        flops, moved = (sum(work) for work in zip(*(work_of(part.body) for part, _ in members)))
        unit = Unit(name, "update", kernel.role, lines_of(kernel), members[0][0].body, flops, moved, generated.includes, first=name)
        tables = [self._constant(t) for t in generated.tables]
        self.compiled[name] = _Compiled(generated, tables, unit)
        (function,) = generated.functions
        operands: list[tuple] = []
        extents: list[Extent] = []
        for p in function.parameters:
            if p.source == "table":
                operands.append(self._resolved(tables[p.number], scope))
                extents.append(Extent(p.name, operands[-1], generated.tables[p.number].nbytes, False))
                continue
            sizes = [part.bytes(numbers[p.number]) for part, numbers in members]
            extents += [Extent(p.name, place, size, flat.writes(p.number)) for place, size in zip(found[p.number], sizes)]
            if p.source == "shared":
                operands.append(found[p.number][0])
                continue
            self.pointers.append(found[p.number])
            operands.append(("pointers", len(self.pointers) - 1))
            extents.append(Extent(p.name, operands[-1], POINTER * len(members), False))
        self.runs.append(_Run(unit, function, operands, extents, lines_of(kernel), spans_of(kernel.location)))

    def _compiled(self, kernel: Kernel, kind: str, body: Body, aligned: tuple[bool, ...], steady: tuple[bool, ...]) -> _Compiled:
        key = f"{kind} {kernel.schedule} {aligned} {steady} {body_key(body)}"
        found = self.compiled.get(key)
        if found is None:
            name = f"k{len(self.compiled):02d}_{identifier(kernel.role)}"
            number = kernel_hash(kind, body)
            which = f"{number} {aligned} {steady}"
            made = self.instead.of(which, kernel.schedule)
            generated = made.apply(generate(kind, request_of(body, self.arch, name, aligned, made.schedule, steady)))
            flops, moved = work_of(body)
            unit = Unit(name, kind, kernel.role, lines_of(kernel), body, flops, moved, generated.includes)
            unit.first = next((f.symbol for f in generated.functions), "")
            unit.key, unit.replaced, unit.slow = number, made.schedule != kernel.schedule, made.slow
            unit.tuned = "" if generated.choice.made == BY_COST or unit.replaced else generated.choice.made
            self.made.append(Made(which, kernel.schedule, made, generated, unit))
            found = self.compiled[key] = _Compiled(generated, [self._constant(t) for t in generated.tables], unit)
        return found

    def _launch(self, kept: _Compiled, kernel: Kernel, part: _Part, scope: _Scope) -> None:
        def place_of(p: Parameter) -> Place:
            if p.source == "table":
                return kept.tables[p.number]
            return self._in_workspace(p.number) if p.source == "workspace" else part.places[part.number(p)]

        self.aside_end = max(self.aside_end, self.aside + _aligned(kept.generated.workspace_bytes))
        self.workspace_bytes = max(self.workspace_bytes, self.aside_end)

        for function in kept.generated.functions:
            operands = []
            for p in function.parameters:
                if p.source == "value":
                    operands.append(("value", p.number))
                elif p.source == "map":
                    operands.append(("tensormap", self._map(p, part.places[p.number], scope)))
                elif p.source == "workspace_map":
                    operands.append(("tensormap", self._map(p, self._in_workspace(p.number), scope)))
                else:
                    operands.append(self._resolved(place_of(p), scope))
            extents = self._extents(kept, part, function, scope)
            self.runs.append(_Run(kept.unit, function, operands, extents, lines_of(kernel), spans_of(kernel.location)))

    def _in_workspace(self, offset: int) -> Place:
        """A place in the workspace of the call in work; calls that may run at once have parts of their own."""
        return Place("arena", self.workspace + self.aside + offset)

    def _extents(self, kept: _Compiled, part: _Part, function: Function, scope: _Scope) -> list[Extent]:
        """What a function may touch. A stretch of the workspace goes as far as the next one that the function takes."""
        starts = sorted({p.offset for p in function.parameters if p.source.startswith("workspace")} | {kept.generated.workspace_bytes})
        out = []
        for p in function.parameters:
            if p.source == "value":
                continue
            if p.source.startswith("workspace"):
                place, size = self._in_workspace(p.offset), starts[starts.index(p.offset) + 1] - p.offset
            elif p.source == "table":
                place, size = kept.tables[p.number], kept.generated.tables[p.number].nbytes
            else:
                place, size = part.places[part.number(p)], part.bytes(part.number(p))
            out.append(Extent(p.name, self._resolved(place, scope), size, p.written))
        return out

    def _map(self, p: Parameter, place: Place, scope: _Scope) -> int:
        assert p.tensor_map is not None
        space, index, *more = self._resolved(place, scope)
        offset = p.tensor_map.place[1] + sum(more)
        at = (space, index, offset) if space == "slot" and offset else (space, index) if space == "slot" else (space, index + offset)
        placed = replace(p.tensor_map, place=at)
        if placed not in self.maps:
            self.maps.append(placed)
        return self.maps.index(placed)

    def _add(self, unit: Unit, function: Function, operands: list[tuple], extents: list[Extent], scope: _Scope, lines: tuple[str, ...]) -> None:
        """One launch; in a branch, of the function's form that reads the guards."""
        guarded = _guarded(function, [expected for _, expected in scope.guards])
        guards = [self._resolved(place, scope) for place, _ in scope.guards]
        number = self.symbols.get(guarded.symbol)
        if number is None:
            number = self.symbols[guarded.symbol] = len(self.kernels)
            self.kernels.append(replace(_told(unit, function), name=guarded.symbol, symbol=guarded.symbol, lines=lines))
            unit.functions.append(guarded)
            self.units.setdefault(unit.name, unit)
        known = [*(Extent("a guard", guard, 1, False) for guard in guards), *extents] if self.arch.checked else []
        self.launches.append(Launch(number, tuple([*guards, *operands]), guarded.grid, guarded.block, guarded.shared_bytes, tuple(known)))

    def _copy(self, source: Place, target: Place, count: int, scope: _Scope) -> None:
        wide = count % 16 == 0 and _is_aligned(source) and _is_aligned(target)
        unit = self.units.setdefault("copy", Unit("copy", "copy", "copy", (), None, 0, 0, ()))
        name, kind, n = ("copy_chunks", "uint4", count // 16) if wide else ("copy_bytes", "unsigned char", count)
        pointers = (Parameter("from", f"const {kind}*", "operand", 0), Parameter("to", f"{kind}*", "result", 0))
        parameters = (*pointers, Parameter("count", "int", "value", n))
        text = "    const int p = blockIdx.x * 256 + threadIdx.x;\n    if (p < count) to[p] = from[p];"
        function = Function(name, parameters, text, (-(-n // 256), 1, 1), (256, 1, 1), schedule="256 threads a block")
        places = [self._resolved(source, scope), self._resolved(target, scope)]
        extents = [Extent(p.name, place, count, p.written) for p, place in zip(pointers, places)]
        self._add(unit, function, [*places, ("value", n)], extents, scope, ())

    # ---- places

    def _resolved(self, place: Place, scope: _Scope) -> tuple:
        """A place as a launch's operand: strides of the enclosing loops are made offsets."""
        place = scope.places.get(place, place)
        if place.space == "guard":
            return ("guard", place.index)
        offset = place.offset + sum(s * t for s, t in zip(place.strides, scope.turns))
        if place.space == "slot":
            return ("slot", place.index, offset) if offset else ("slot", place.index)
        return (place.space, place.index + offset)


def _told(unit: Unit, function: Function) -> executable.Kernel:
    """What a program tells of one of a unit's functions, and of those that share its launch."""
    flops, moved = (unit.flops, unit.bytes) if function.symbol == unit.first else (0, 0)
    members = tuple(_told(*member) for member in unit.members)
    return executable.Kernel(function.symbol, unit.kind, unit.lines, flops, moved, function.symbol, unit.key, unit.tuned, members)


def _beside(steps: Sequence[Step]) -> Iterator[Call]:
    """The calls at the beginning that may run at once with the one before."""
    for step in steps:
        if not (isinstance(step, Call) and step.beside):
            return
        yield step


def _written(steps: Sequence[Step]) -> Iterator[int]:
    """The slots that a plan's steps write."""
    for step in steps:
        match step:
            case Call(results=places):
                yield from (p.index for p in places if p.space == "slot")
            case Copy(target=place):
                yield from [place.index] if place.space == "slot" else []
            case Loop(steps=inner):
                yield from _written(inner)
            case Branch(then=then, otherwise=otherwise):
                yield from _written((*then, *otherwise))


def _is_aligned(place: Place) -> bool:
    """Whether all addresses of a place are multiples of 16 bytes; ports lie at multiples of 256."""
    start = place.offset if place.space in ("slot", "guard") else place.index
    return start % 16 == 0 and all(s % 16 == 0 for s in place.strides)


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _guarded(function: Function, expected: Sequence[bool]) -> Function:
    """The function that does nothing unless every guard is as expected."""
    if not expected:
        return function
    names = [f"guard{k}" for k in range(len(expected))]
    test = " || ".join(f"!*{n}" if e else f"*{n}" for n, e in zip(names, expected))
    parameters = tuple(Parameter(n, "const bool*", "guard", k) for k, n in enumerate(names))
    symbol = function.symbol + "_" + "".join("if_" if e else "unless_" for e in expected).rstrip("_")
    return replace(function, symbol=symbol, parameters=parameters + function.parameters, text=f"    if ({test}) return;\n{function.text}")


def _next_turn() -> Unit:
    """What a program that goes on with its own results does between two runs: `DeviceProgram.again` launches it."""
    takes = {"turn": "int*", "small": "const int*", "words": "int", "ring": "int*", "counted": "int*", "counts": "int", "found": "const int*",
             "carried": "int*", "size": "int", "led": "const int*"}  # fmt: skip
    text = """    const int now = turn[0], leads = turn[1];
    if (now < leads) found = led + (long long)now * size;
    for (int k = threadIdx.x; k < words; k += 256) ring[(long long)now * words + k] = small[k];
    for (int k = threadIdx.x; k < counts; k += 256) counted[k] += 1;
    for (int k = threadIdx.x; k < size; k += 256) carried[k] = found[k];
    __syncthreads();
    if (threadIdx.x == 0) turn[0] = now + 1;"""
    parameters = tuple(Parameter(name, kind, "value", 0) for name, kind in takes.items())
    unit = Unit(executable.NEXT_TURN, "copy", "what is kept of a run, and the inputs of the next one", (), None, 0, 0, ())
    unit.functions.append(Function(executable.NEXT_TURN, parameters, text, (1, 1, 1), (256, 1, 1), schedule="one block"))
    return unit


def lower_plan(plan: Plan, arch: Arch, instead: Fallbacks | None = None) -> Lowered:
    """The plan's functions and launches. `instead`: what is made instead of kernels that spill. UnsupportedOp, at its line, for what the CUDA targets
    cannot do."""
    writer = _Writer(plan, arch, instead or Fallbacks(arch))
    writer.steps(plan.steps, _Scope())
    guards = writer.workspace + _aligned(writer.workspace_bytes)
    launches = tuple(_with_guards(launch, guards) for launch in writer.launches)
    units = [*writer.units.values(), *([_next_turn()] if any(p.name.endswith(executable.BEST) for p in plan.ports) else [])]
    arena = guards + (_aligned(writer.guard_count) if writer.guard_count else 0)
    return Lowered(units, writer.made, tuple(writer.kernels), launches, tuple(writer.maps), tuple(writer.pointers), bytes(writer.constants), arena,
                   printed(plan.name, units, arch))  # fmt: skip


def schedules_of(kernel: Kernel, arch: Arch) -> list[str]:
    """The schedules that a kernel may have, as text, the cost model's first; none where there is nothing to choose."""
    if kernel.kind == "update":  # its groups are kernels of their own
        return []
    return generate(kernel.kind, request_of(Body.of(kernel.regions[0].blocks[0]), arch, "kernel")).choice.texts()


def _with_guards(launch: Launch, start: int) -> Launch:
    """The launch with its guards in the arena, from `start` on."""

    def placed(o: Any) -> Any:
        return ("arena", start + o[1]) if o[0] == "guard" else o

    extents = (replace(e, place=placed(e.place)) for e in launch.extents)
    return replace(launch, operands=tuple(map(placed, launch.operands)), extents=tuple(extents))


def compile_plan(plan: Plan, arch: Arch) -> Executable:
    """The plan as CUDA kernels for an architecture, or for the emulator. UnsupportedOp, at its line, for what the CUDA targets cannot do; KernelError
    where the CUDA compiler refuses a kernel; TargetError where a compiler is missing."""
    instead = Fallbacks(arch)
    code = None
    while code is None:
        lowered = lower_plan(plan, arch, instead)
        try:
            code = machine_code(lowered.text, arch, instead.slow(lowered.made))
        except SlowCode as error:
            instead.replace(lowered.made, error)
    instead.keep()
    target = f"cuda-{arch.name}" if arch in (EMULATED, CHECKED) else f"cuda:{arch.name}"
    notes = {"arch": arch.name} | ({executable.WAITS: "yes"} if arch.launches_overlap else {})
    return Executable(target, plan.name, "", "", plan.ports, lowered.kernels, lowered.launches, lowered.arena_bytes, 0, lowered.constants,
                      code, lowered.text.whole, lowered.tensor_maps, lowered.pointers,
                      notes)  # fmt: skip
