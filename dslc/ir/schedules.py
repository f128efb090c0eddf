"""Schedules of kernels as text: what a kernel's `schedule` attribute holds, and which of a generator's own schedules it means."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

BY_COST = "{}"  # the attribute of a kernel whose schedule is left to the cost model
S = TypeVar("S")


def text_of(schedule: Any) -> str:
    """A schedule, a dataclass of numbers, as text: JSON of its fields."""
    return json.dumps({type(schedule).__name__: asdict(schedule)}, sort_keys=True)


@dataclass(frozen=True)
class Choice:
    """What a kernel could be instead. `space()`: its schedules that are worth a trial, the cost model's first, then those near it; `made`: the text
    of the one that was asked for and taken, `BY_COST` where the cost model chose."""

    space: Callable[[], Sequence[Any]] = tuple
    made: str = BY_COST

    def texts(self) -> list[str]:
        """The space as text."""
        return [text_of(s) for s in self.space()]


NOTHING = Choice()  # to choose from


def choose(wanted: str, by_cost: Callable[[], S], space: Callable[[], Sequence[S]]) -> tuple[S, Choice]:
    """The schedule whose text is `wanted`; the cost model's where that is `BY_COST`, or names none of the space."""
    if wanted != BY_COST:
        for schedule in space():
            if text_of(schedule) == wanted:
                return schedule, Choice(space, wanted)
    return by_cost(), Choice(space)
