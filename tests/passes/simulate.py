"""Runs a plan in numpy over real bytes: an arena that starts as NaN, slots, strides of loops. A clobbered buffer shows as a wrong result.

Kernels have the meaning of `dslc.ir.reference`, and every result is stored in its declared dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dslc.ir import reference
from dslc.ir.plan import Branch, Call, Copy, Loop, Place, Plan, Step
from dslc.ir.types import TensorType, type_of

IN_PLACE = ("map", "update", "contract", "reduce", "put")
POISON = 0xFF  # the bytes of a NaN in every float type


@dataclass
class Machine:
    """The memory of one call."""

    plan: Plan
    spaces: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)

    def bytes_at(self, place: Place, count: int) -> np.ndarray:
        key, start = (("arena", 0), place.index) if place.space == "arena" else ((place.space, place.index), 0)
        start += sum(turn * stride for turn, stride in zip(self.turns, place.strides))
        memory = self.spaces[key]
        assert start >= 0 and start + count <= memory.size, f"{place} of {count} bytes lies outside its {memory.size}"
        return memory[start : start + count]

    def read(self, place: Place, t: TensorType) -> np.ndarray:
        return reference.widen(self.bytes_at(place, t.bytes).copy().view(t.dtype.numpy).reshape(t.shape))

    def write(self, place: Place, value: np.ndarray, t: TensorType) -> None:
        stored = np.ascontiguousarray(np.asarray(value).astype(t.dtype.numpy))
        self.bytes_at(place, t.bytes)[:] = stored.reshape(-1).view(np.uint8)

    def step(self, step: Step) -> None:
        match step:
            case Call():
                self.call(step)
            case Copy(source, target, count):
                self.bytes_at(target, count)[:] = self.bytes_at(source, count).copy()
            case Loop():
                for turn in range(step.trip - 1, -1, -1) if step.backward else range(step.trip):
                    self.turns.append(turn)
                    self.bytes_at(step.turn, 4)[:] = np.array([turn], np.int32).view(np.uint8)
                    for inner in step.steps:
                        self.step(inner)
                    self.turns.pop()
            case Branch(condition, then, otherwise):
                for inner in then if self.bytes_at(condition, 1)[0] else otherwise:
                    self.step(inner)

    def call(self, call: Call) -> None:
        """Where a result lies on an operand, it must be the same place, and the kernel one that reads it only where it writes."""
        reads = [(p, type_of(v)) for p, v in zip(call.operands, call.kernel.operands)]
        writes = [(p, type_of(v)) for p, v in zip(call.results, call.kernel.results)]
        for k, (place, t) in enumerate(writes):
            for other, u in (*reads, *writes[:k]):
                if np.shares_memory(self.bytes_at(place, t.bytes), self.bytes_at(other, u.bytes)):
                    assert (place, t) == (other, u) and call.kernel.kind in IN_PLACE, f"{call.kernel.role} writes over what it reads"
        body = call.kernel.regions[0]
        values = reference.run_region(body, [self.read(p, t) for p, t in reads])
        for (place, t), value in zip(writes, values):
            self.write(place, value, t)


def simulate(plan: Plan, arguments: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The ports' values after one call, by name, in their own dtypes; params and states have their next values."""
    machine = Machine(plan)
    machine.spaces["arena", 0] = np.full(plan.arena_bytes, POISON, np.uint8)
    for port in plan.ports:
        memory = np.full(port.bytes, POISON, np.uint8)
        if port.name in arguments:
            memory[:] = np.ascontiguousarray(np.asarray(arguments[port.name]).astype(port.dtype.numpy)).reshape(-1).view(np.uint8)
        machine.spaces["slot", port.slot] = memory
    for step in plan.steps:
        machine.step(step)
    return {p.name: machine.spaces["slot", p.slot].view(p.dtype.numpy).reshape(p.shape) for p in plan.ports}
