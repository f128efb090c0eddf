"""plan: gives every value of a fused program its place, and the order of what runs. Nothing is allocated while a program runs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from dslc.core.executable import PIECES, Port
from dslc.ir import ops
from dslc.ir.mlir import func, ir
from dslc.ir.op import Op
from dslc.ir.plan import BESIDE, Branch, Buffer, Call, Copy, Loop, Place, Plan, Step
from dslc.ir.program import Slot, arguments_of, name_of, program_of, results_of
from dslc.ir.streams import permutation
from dslc.ir.trace import is_shared
from dslc.ir.types import spans_of, type_of

from .packing import Interval, pack
from .pieces import PIECE
from .rolling import Roll, joined_to, joins_stacks, rolls_of

ALIGNMENT = 64  # bytes
ROOM = "nn.room"  # the module's attribute with the bytes that a budget leaves to the arena


def make_plan(module: ir.Module) -> Plan:
    """The plan of a module of kernels, scans and conds."""
    attributes = module.operation.attributes
    return Planner(program_of(module)).plan(ir.IntegerAttr(attributes[ROOM]).value if ROOM in attributes else 0)


@dataclass
class _Buffer:
    """A stretch of the arena before it has an offset."""

    bytes: int
    first: int
    last: int
    origin: str


@dataclass(frozen=True)
class _Home:
    """Where a value is: in a slot, or in a buffer, from byte `offset` on; moved by `strides` bytes a turn of the enclosing loops."""

    slot: int | None
    buffer: int | None
    strides: tuple[int, ...] = ()
    offset: int = 0

    def moved(self, depth: int, stride: int, start: int = 0) -> _Home:
        """The place of the turn's slice in a loop of nesting depth `depth` (0 is the outermost); turn 0 has it `start` bytes behind this one's."""
        return _Home(self.slot, self.buffer, (*self.strides, *(0,) * (depth - len(self.strides)), stride), self.offset + start)

    def behind(self, bytes: int) -> _Home:
        """The place so many bytes further on."""
        return replace(self, offset=self.offset + bytes)


STARTED = _Home(None, None)  # of what scans start with and put into their carries themselves


@dataclass
class Planner:
    program: func.FuncOp
    homes: dict[ir.Value, _Home] = field(default_factory=dict)
    buffers: list[_Buffer] = field(default_factory=list)
    clock: int = 0

    def plan(self, room: int) -> Plan:
        """The plan; an arena of `room` bytes is small enough."""
        ports, places = self.place_arguments()
        results = results_of(self.program)
        self.place_results(results, places)
        steps = self._pieces(places.get((PIECES, False), 0))
        steps += self.final_copies(results, places)
        packed = pack([Interval(b.bytes, b.first, b.last) for b in self.buffers], room)
        placer = _Placer(packed.offsets)
        buffers = tuple(Buffer(o, b.bytes, b.first, b.last, b.origin) for o, b in zip(packed.offsets, self.buffers))
        name = name_of(self.program)
        return Plan(name, ports, tuple(placer.step(s) for s in steps), packed.total, b"", buffers, packed.lower_bound)

    def place_arguments(self) -> tuple[tuple[Port, ...], Places]:
        """Arguments lie in their slots; the ports, and the slots by name."""
        slots = arguments_of(self.program)
        ports, places = _ports(slots, [s for s, _ in results_of(self.program)])
        for slot, value in zip(slots, self.program.entry_block.arguments):
            self.homes[value] = _Home(places.of(slot), None)
        return ports, places

    # --- results

    def place_results(self, results: Sequence[tuple[Slot, ir.Value]], places: Places) -> None:
        """Results are written straight to their slots: outputs always, next values where nothing reads the old value later."""
        arguments = {s.name: v for s, v in zip(arguments_of(self.program), self.program.entry_block.arguments)}
        circular = _circular(arguments, results)
        for slot, value in results:
            if value in self.homes or isinstance(value.owner, ir.Block):
                continue
            only_written = slot.role in WRITTEN
            if only_written or (value not in circular and slot.name in arguments and _in_place(arguments[slot.name], value)):
                home = self.homes[value] = _Home(places.of(slot), None)
                source = _same_in_memory(value) if only_written else None
                if source is not None and source not in self.homes and _kernel_of(source) is not None:
                    self.homes[source] = home

    def final_copies(self, results: Sequence[tuple[Slot, ir.Value]], places: Places) -> list[Step]:
        """Results that lie elsewhere are copied at the end: outputs first, then next values."""
        steps: list[Step] = []
        outputs = [(s, v) for s, v in results if s.role in WRITTEN]
        nexts = [(s, v) for s, v in results if s.role in ("param", "state")]
        taken = {places.of(s) for s, v in nexts if self.homes[v] != _Home(places.of(s), None)}
        shielded: dict[ir.Value, _Home] = {}
        for slot, value in nexts:  # a next value that lies in a slot which another next value overwrites
            home = self.homes[value]
            if home.slot in taken and home.slot != places.of(slot) and value not in shielded:
                shielded[value] = self._new(type_of(value).bytes, "a copy")
                self._use(shielded[value])
                steps.append(Copy(home, shielded[value], type_of(value).bytes))  # type: ignore[arg-type]
        for slot, value in (*outputs, *nexts):
            target, home = _Home(places.of(slot), None), shielded.get(value, self.homes[value])
            if home != target:
                self._use(home)
                steps.append(Copy(home, target, type_of(value).bytes))  # type: ignore[arg-type]
        self.clock += 1
        return steps

    # --- buffers

    def _new(self, bytes: int, origin: str) -> _Home:
        self.buffers.append(_Buffer(-(-max(bytes, 1) // ALIGNMENT) * ALIGNMENT, self.clock, self.clock, origin))
        return _Home(None, len(self.buffers) - 1)

    def _use(self, home: _Home) -> None:
        if home.buffer is not None:
            self.buffers[home.buffer].last = max(self.buffers[home.buffer].last, self.clock)

    def _home(self, value: ir.Value) -> _Home:
        home = self.homes[value]
        self._use(home)
        return home

    # --- steps

    def _pieces(self, slot: int) -> list[Step]:
        """The steps of the program; those of a piece (`passes.pieces`) run where the input in `slot` says so."""
        steps: list[Step] = []
        for piece, part in groupby(list(self.program.entry_block.operations)[:-1], _piece_of):
            found = self._steps(list(part), 0)
            steps += found if piece is None else [Branch(_Home(slot, None, offset=piece), tuple(found), ())]  # type: ignore[arg-type]
        return steps

    def _block(self, block: ir.Block, depth: int) -> list[Step]:
        """The steps of a block's ops."""
        return self._steps(list(block.operations)[:-1], depth)

    def _steps(self, ops: Sequence[Any], depth: int) -> list[Step]:
        """The steps of some ops. Of kernels beside each other all copies come first, then the calls."""
        steps: list[Step] = []
        first = 0
        for op in ops:
            found = self.steps_of(op, depth)
            if BESIDE not in op.attributes:
                first = len(steps)
                steps += found
                continue
            copies, calls = [s for s in found if isinstance(s, Copy)], [s for s in found if isinstance(s, Call)]
            steps[first:first] = copies
            steps += [replace(c, beside=len(steps) > first + len(copies) and isinstance(steps[-1], Call)) for c in calls]
        return steps

    def steps_of(self, op: Any, depth: int) -> list[Step]:
        """What one op of a block does; every value that it makes has its home. What runs beside each other does so at one moment."""
        self.clock += BESIDE not in op.attributes
        match op:
            case ops.Kernel():
                return self._call(op)
            case ops.Scan():
                return self._scan(op, depth)
            case ops.Cond():
                return self._cond(op, depth)
        raise AssertionError(f"{op.operation.name} is no kernel")

    def _call(self, op: ops.Kernel) -> list[Step]:
        """The call; before one that writes rows into its base, the base is copied to where the result is, if it is not there."""
        if _starts_carries(op):
            self.homes[op.results[0]] = STARTED
            return []
        operands: tuple[Any, ...] = tuple(self._home(v) for v in op.operands)
        for r in op.results:
            if r not in self.homes:
                self.homes[r] = self._new(type_of(r).bytes, _origin(op))
        results: tuple[Any, ...] = tuple(self._home(r) for r in op.results)
        if operands == results and _same_in_memory(op.results[0]) is not None:
            return []
        if joins_stacks(op) and list(operands) == self._parts(op):
            return []
        bases = [(operands[k], results[r], type_of(op.results[r]).bytes) for r, k in _bases(op).items()]
        return [*(Copy(*moved) for moved in bases if moved[0] != moved[1]), Call(op, operands, results)]

    def _scan(self, op: ops.Scan, depth: int) -> list[Step]:
        """Carries live in one buffer each, which ends up with their last value, or roll through their stacks; those and slices are placed by turn."""
        c, k = op.constants, op.carries
        operands, results = list(op.operands), list(op.results)
        block = op.regions[0].blocks[0]
        arguments = list(block.arguments)
        origin = _origin(op)
        steps: list[Step] = []
        rolling = self._rolling(op, origin)
        for r in results:
            if r not in self.homes:
                self.homes[r] = self._part_of_join(r) or self._new(type_of(r).bytes, origin)
        turn = self._new(type_of(arguments[0]).bytes, origin)
        start = self.clock
        for n, (carry, initial) in enumerate(zip(arguments[1 + c : 1 + c + k], operands[c : c + k])):
            base, roll = rolling.get(n, (self._home(results[n]), None))
            begin = base if roll is None else base.behind(roll.first)
            if self.homes[initial] == STARTED:
                steps.append(Call(initial.owner.opview, (), (begin,)))  # type: ignore[arg-type]
            elif self._home(initial) != begin:
                steps.append(Copy(self.homes[initial], begin, type_of(carry).bytes))  # type: ignore[arg-type]
            self.homes[carry] = base if roll is None else base.moved(depth, roll.stride, roll.begin)
        for inner, outer in zip(arguments[1 : 1 + c], operands[:c]):
            self.homes[inner] = self._home(outer)
        for inner, outer, first in zip(arguments[1 + c + k :], operands[c + k :], op.firsts):
            row = type_of(outer).bytes // max(type_of(outer).shape[0], 1)
            self.homes[inner] = self._home(outer).moved(depth, type_of(inner).bytes, first * row)
        self.homes[arguments[0]] = turn
        yielded = list(list(block.operations)[-1].operands)
        for base, roll in rolling.values():
            self.homes[yielded[roll.carry]] = base.moved(depth, roll.stride, roll.end)
        emitted: dict[ir.Value, _Home] = {}
        for value, r in zip(yielded[k:], results[k:]):
            target = self.homes[r].moved(depth, type_of(value).bytes)
            if value not in self.homes and value not in emitted and not isinstance(value.owner, ir.Block):
                emitted[value] = self.homes[value] = target
        for value, carry in zip(yielded[:k], arguments[1 + c : 1 + c + k]):
            if value not in self.homes and yielded.count(value) == 1 and _carried_on(carry, value):
                self.homes[value] = self.homes[carry]
        self.clock += 1
        body = self._block(block, depth + 1)
        self.clock += 1
        body += self._turn_copies(yielded, arguments[1 + c : 1 + c + k], results, depth, rolling)
        for home in (turn, *(self.homes[v] for v in (*operands, *results, *arguments))):
            self._use(home)
            if home.buffer is not None and home in [self.homes[v] for v in (*results,)] + [turn]:
                self.buffers[home.buffer].first = min(self.buffers[home.buffer].first, start)
        steps.append(Loop(op.trip, op.backward, turn, tuple(body)))  # type: ignore[arg-type]
        return steps

    def _part_of_join(self, stack: ir.Value) -> _Home | None:
        """Where the stacks of several scans are joined to one, each is made in its place."""
        join = joined_to(stack)
        if join is None:
            return None
        whole = join.results[0]
        if whole not in self.homes:
            self.homes[whole] = self._new(type_of(whole).bytes, _origin(join))
        return self._parts(join)[list(join.operands).index(stack)]

    def _parts(self, join: ops.Kernel) -> list[_Home]:
        """The places of what is joined, in the whole."""
        home = self.homes[join.results[0]]
        sizes = [type_of(v).bytes for v in join.operands]
        return [replace(home, offset=home.offset + sum(sizes[:n])) for n in range(len(sizes))]

    def _rolling(self, op: ops.Scan, origin: str) -> dict[int, tuple[_Home, Roll]]:
        """The carries that roll, by number, with where their memory begins: a buffer of their own, or a part of that of the scan around this one. All
        that lies there has its home."""
        found = {}
        for roll in rolls_of(op):
            places = {op.results[n]: at for n, at in roll.places().items()}
            last = self.homes.get(op.results[roll.carry])
            if last is not None:
                base = last.behind(-roll.last)
            elif not any(r in self.homes for r in places):
                base = self._new(roll.bytes, origin)
            else:
                continue
            initial = self.homes[op.operands[op.constants + roll.carry]]
            known = all(self.homes.get(r, base.behind(at)) == base.behind(at) for r, at in places.items())
            if last is None or (known and initial == base.behind(roll.first)):
                self.homes |= {r: base.behind(at) for r, at in places.items()}
                found[roll.carry] = base, roll
        return found

    def _turn_copies(
        self, yielded: list[ir.Value], carries: list[ir.Value], results: list[ir.Value], depth: int, rolling: Container[int]
    ) -> list[Step]:
        """At a turn's end: emitted values that lie elsewhere, then the next carries but those that roll, by way of a spare buffer where they read
        each other."""
        steps: list[Step] = []
        k = len(carries)
        for value, r in zip(yielded[k:], results[k:]):
            target = self.homes[r].moved(depth, type_of(value).bytes)
            if self._home(value) != target:
                steps.append(Copy(self.homes[value], target, type_of(value).bytes))  # type: ignore[arg-type]
        stay = [(v, carry) for n, (v, carry) in enumerate(zip(yielded, carries)) if n not in rolling]
        moves = [(v, carry) for v, carry in stay if self._home(v) != self.homes[carry]]
        overwritten = {self.homes[carry] for _, carry in moves}
        sources: dict[ir.Value, _Home] = {}
        for v, carry in moves:
            if self.homes[v] in overwritten and self.homes[v] != self.homes[carry]:
                sources[v] = self._new(type_of(v).bytes, "a carry")
                self._use(sources[v])
                steps.append(Copy(self.homes[v], sources[v], type_of(v).bytes))  # type: ignore[arg-type]
        steps += [Copy(sources.get(v, self.homes[v]), self.homes[carry], type_of(v).bytes) for v, carry in moves]  # type: ignore[arg-type]
        return steps

    def _cond(self, op: ops.Cond, depth: int) -> list[Step]:
        operands = list(op.operands)
        for r in op.results:
            if r not in self.homes:
                self.homes[r] = self._new(type_of(r).bytes, _origin(op))
        branches = []
        for region in op.regions:
            block = region.blocks[0]
            for inner, outer in zip(block.arguments, operands[1:]):
                self.homes[inner] = self._home(outer)
            self.clock += 1
            steps = self._block(block, depth)
            self.clock += 1
            for value, r in zip(list(block.operations)[-1].operands, op.results):
                steps.append(Copy(self._home(value), self._home(r), type_of(value).bytes))  # type: ignore[arg-type]
            branches.append(tuple(steps))
        for v in operands:
            self._use(self.homes[v])
        return [Branch(self._home(operands[0]), branches[0], branches[1])]  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Placer:
    """Turns homes into places once buffers have offsets."""

    offsets: Sequence[int]

    def place(self, home: _Home) -> Place:
        if home.slot is not None:
            return Place("slot", home.slot, home.strides, home.offset)
        assert home.buffer is not None
        return Place("arena", self.offsets[home.buffer] + home.offset, home.strides)

    def step(self, step: Step) -> Step:
        match step:
            case Call(_, operands, results):
                return replace(step, operands=tuple(self.place(h) for h in operands), results=tuple(self.place(h) for h in results))  # type: ignore[arg-type]
            case Copy(source, target, bytes):
                return Copy(self.place(source), self.place(target), bytes)  # type: ignore[arg-type]
            case Loop(trip, backward, turn, steps):
                return Loop(trip, backward, self.place(turn), tuple(self.step(s) for s in steps))  # type: ignore[arg-type]
            case Branch(condition, then, otherwise):
                return Branch(self.place(condition), tuple(self.step(s) for s in then), tuple(self.step(s) for s in otherwise))  # type: ignore[arg-type]
        raise TypeError(step)


WRITTEN = ("output", "loss", "metric")  # results with memory of their own, though an argument may have their name


class Places(dict[tuple[str, bool], int]):
    """Numbers of slots by (the name, whether it is one of WRITTEN)."""

    def of(self, slot: Slot) -> int:
        return self[slot.name, slot.role in WRITTEN]


def _ports(arguments: Sequence[Slot], results: Sequence[Slot]) -> tuple[tuple[Port, ...], Places]:
    """Ports in the order of arguments, then results; a next value shares the slot of what it replaces."""
    ports: list[Port] = []
    places = Places()
    for s in (*arguments, *(r for r in results if r.role in WRITTEN)):
        places[s.name, s.role in WRITTEN] = len(ports)
        ports.append(Port(s.name, s.role, s.type.dtype, s.type.shape, len(ports), s.bounds, s.line))
    return tuple(ports), places


def _piece_of(op: Any) -> int | None:
    return ir.IntegerAttr(op.operation.attributes[PIECE]).value if PIECE in op.operation.attributes else None


def _in_place(old: ir.Value, value: ir.Value) -> bool:
    """The kernel that makes a next value may write it over the old one: it reads the old one only where it writes, and nothing reads it later."""
    kernel = value.owner.opview
    if not isinstance(kernel, ops.Kernel) or kernel.kind not in ("map", "update", "contract", "reduce", "put", "product"):
        return False
    block = kernel.regions[0].blocks[0]
    base, arguments = _base(block.operations[-1].operands[value.result_number]), block.arguments
    for use in old.uses:
        user = use.owner.operation
        if user == kernel.operation:
            stays = _stays_at_its_point(arguments[use.operand_number]) if base is None else use.operand_number == base
            if not stays:
                return False
        elif user.block != kernel.operation.block or not user.is_before_in_block(kernel.operation):
            return False
    return True


def _starts_carries(op: ops.Kernel) -> bool:
    """Whether a kernel makes one constant, with which scans start: each makes it where its carry is."""
    if op.operands or len(op.results) != 1:
        return False
    uses = [(use.owner.opview, use.operand_number) for use in op.results[0].uses]
    return bool(uses) and all(isinstance(user, ops.Scan) and 0 <= at - user.constants < user.carries for user, at in uses)


def _carried_on(carry: ir.Value, value: ir.Value) -> bool:
    """What a turn makes of a carry may lie where that does: one kernel writes it over the old one, or a scan goes on from there."""
    if isinstance(value.owner, ir.Block) or not isinstance(scan := value.owner.opview, ops.Scan):
        return not isinstance(value.owner, ir.Block) and _in_place(carry, value)
    number = list(scan.results).index(value)
    uses = [(use.owner.operation, use.operand_number) for use in carry.uses]
    return number < scan.carries and uses == [(scan.operation, scan.constants + number)]


def _kernel_of(value: ir.Value) -> ops.Kernel | None:
    """The kernel that makes a value."""
    op = None if isinstance(value.owner, ir.Block) else value.owner.opview
    return op if isinstance(op, ops.Kernel) else None


def _same_in_memory(value: ir.Value) -> ir.Value | None:
    """What a kernel only gives another shape, in the same order of elements: axes of extent 1 come or go."""
    kernel = _kernel_of(value)
    if kernel is None or len(kernel.operands) != 1:
        return None
    *shown, _ = kernel.regions[0].blocks[0].operations
    return kernel.operands[0] if shown and all(map(_keeps_order, shown)) else None


def _keeps_order(op: Op) -> bool:
    """Whether the elements of a view's result lie as those of its operand."""
    if isinstance(op, ops.Reshape):
        return True
    order = permutation(op) if isinstance(op, ops.View) else None
    return order is not None and (axes := [a for a in order if a is not None]) == sorted(axes)


def _bases(kernel: ops.Kernel) -> dict[int, int]:
    """Which operand each result that is put somewhere is written into."""
    ends = kernel.regions[0].blocks[0].operations[-1].operands
    return {number: base for number, end in enumerate(ends) if (base := _base(end)) is not None}


def _base(end: ir.Value) -> int | None:
    """Which operand what a kernel yields is written into, if it is put somewhere."""
    put = None if isinstance(end.owner, ir.Block) else end.owner.opview
    return put.base.arg_number if isinstance(put, ops.Put) else None


def _stays_at_its_point(argument: ir.Value) -> bool:
    """Whether a kernel's operand goes into its results through elementwise ops alone."""
    stack, seen = [argument], {argument}
    while stack:
        for use in stack.pop().uses:
            op = use.owner.opview
            if isinstance(op, ops.Yield):
                continue
            if op.structure != "elementwise":
                return False
            stack += [r for r in op.results if r not in seen]
            seen.update(op.results)
    return True


def _circular(arguments: Mapping[str, ir.Value], results: Sequence[tuple[Slot, ir.Value]]) -> set[ir.Value]:
    """Next values made by an update kernel that read the old value of another group of it and whose own old value another group reads.

    The groups of an update run one after another, readers of a value before its writer: in a circle no order would do.
    """
    kernels: dict[ir.Operation, dict[ir.Value, ir.Value]] = {}
    for slot, value in results:
        if slot.role in ("param", "state") and _kernel_of(value) is not None:
            kernels.setdefault(value.owner.opview.operation, {})[value] = arguments[slot.name]
    out: set[ir.Value] = set()
    for operation, old_of in kernels.items():
        kernel = operation.opview
        if kernel.kind != "update":
            continue
        block = kernel.regions[0].blocks[0]
        outer = dict(zip(block.arguments, kernel.operands))
        ends = dict(zip(kernel.results, list(block.operations)[-1].operands))
        made = {value: _computed_for(ends[value]) for value in old_of}
        owners = {old: value for value, old in old_of.items()}
        reads = {value: {owners[outer[v]] for v in seen if v in outer and outer[v] in owners} for value, seen in made.items()}
        crossing = {(a, b) for a, read in reads.items() for b in read if a != b and not any(map(is_shared, made[a] & made[b]))}
        out |= {a for a, _ in crossing} & {b for _, b in crossing}
    return out


def _computed_for(value: ir.Value) -> set[ir.Value]:
    """The values that one is computed from and itself, constants aside; the block's arguments too."""
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        operands = [] if isinstance(v.owner, ir.Block) else list(v.owner.operands)
        if operands or isinstance(v.owner, ir.Block):
            seen.add(v)
            stack += operands
    return seen


def _origin(op: ops.Kernel | ops.Scan | ops.Cond) -> str:
    spans = spans_of(op.location)
    return f"{spans[-1].file}:{spans[-1].line}" if spans else ""
