"""What no turn of a loop changes, and what its kernels keep of that from turn to turn: weights packed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dslc.ir.plan import Branch, Call, Copy, Loop, Place, Step
from dslc.ir.types import type_of

from .native import KernelCall, NativeStep, aligned

KEPT = "kept"  # the space of a place whose memory follows when the size of the arena is known


@dataclass
class Turns:
    """The outermost loop while its steps are written: the stretches of memory that it writes, (space, first byte, byte behind the last) or (slot,
    number, number + 1); the calls that come once before it, and where they keep what they make."""

    written: list[tuple[str, int, int]]
    kept: int = 0  # bytes
    before: list[KernelCall] = field(default_factory=list)
    places: dict[tuple[Any, ...], Place] = field(default_factory=dict)

    @staticmethod
    def of(loop: Loop) -> Turns:
        return Turns(list(_written([loop], ())))

    def still(self, call: Call) -> frozenset[int]:
        """The operands of a call that no turn changes."""
        return frozenset(k for k, (p, v) in enumerate(zip(call.operands, call.kernel.operands)) if self._is_still(p, type_of(v).bytes))

    def _is_still(self, place: Place, size: int) -> bool:
        space, low, high = _stretch(place, size, ())
        return not any(place.strides) and not any(s == space and low < b and a < high for s, a, b in self.written)

    def keep(self, symbols: Sequence[str], places: Sequence[Place], still: frozenset[int], size: int) -> Place:
        """Where functions that run once keep what they make of the still ones of these places; the first time they are called before the loop."""
        key = (tuple(symbols), tuple((k, places[k]) for k in sorted(still)))
        if key not in self.places:
            kept = self.places[key] = Place(KEPT, self.kept)
            self.kept += aligned(size)
            outside = (*(replace(p, strides=()) for p in places), kept)
            self.before += [KernelCall(symbol, outside) for symbol in symbols]
        return self.places[key]


def _written(steps: Sequence[Step], trips: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
    for step in steps:
        match step:
            case Call():
                for place, value in zip(step.results, step.kernel.results):
                    yield _stretch(place, type_of(value).bytes, trips)
            case Copy():
                yield _stretch(step.target, step.bytes, trips)
            case Loop():
                yield _stretch(step.turn, 4, trips)
                yield from _written(step.steps, (*trips, step.trip))
            case Branch():
                yield from _written((*step.then, *step.otherwise), trips)


def _stretch(place: Place, size: int, trips: Sequence[int]) -> tuple[str, int, int]:
    """All that a place of so many bytes is in any turn."""
    if place.space == "slot":
        return place.space, place.index, place.index + 1
    moved = [stride * (trip - 1) for stride, trip in zip(place.strides, trips)]
    return place.space, place.index + sum(min(m, 0) for m in moved), place.index + size + sum(max(m, 0) for m in moved)


def placed(steps: Sequence[NativeStep], start: int) -> tuple[NativeStep, ...]:
    """The steps with what is kept in the arena, from byte `start` on."""

    def at(place: Place) -> Place:
        return Place("arena", start + place.index) if place.space == KEPT else place

    def one(step: NativeStep) -> NativeStep:
        match step:
            case KernelCall():
                return replace(step, operands=tuple(map(at, step.operands)))
            case Loop():
                return replace(step, steps=placed(step.steps, start))  # type: ignore[arg-type]
            case Branch():
                return replace(step, then=placed(step.then, start), otherwise=placed(step.otherwise, start))  # type: ignore[arg-type]
        return step

    return tuple(map(one, steps))
