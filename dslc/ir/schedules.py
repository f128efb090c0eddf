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


def _alike(schedule: Any) -> int:
    return 0


@dataclass(frozen=True)
class Choice:
    """What a kernel could be instead. `space()`: its schedules that are worth a trial, the cost model's first, then those near it; `made`: the text
    of the one that was asked for and taken, `BY_COST` where the cost model chose. `held(schedule)`: registers of a thread that a schedule fills,
    compared with those of the one `taken`; `behind()`: texts of other ways to make the kernel, for where nothing of the space can be had."""

    space: Callable[[], Sequence[Any]] = tuple
    made: str = BY_COST
    taken: Any = None
    held: Callable[[Any], int] = _alike
    behind: Callable[[], Sequence[str]] = tuple

    def texts(self) -> list[str]:
        """The space as text."""
        return [text_of(s) for s in self.space()]

    def lighter(self) -> list[str]:
        """Those that fill fewer registers than the one taken, the cost model's best first, then what is behind the space."""
        less = [text_of(s) for s in self.space() if self.held(s) < self.held(self.taken)] if self.taken is not None else []
        return [*less, *self.behind()]


NOTHING = Choice()  # to choose from


def choose(wanted: str, by_cost: Callable[[], S], space: Callable[[], Sequence[S]], held: Callable[[S], int] = _alike) -> tuple[S, Choice]:
    """The schedule whose text is `wanted`; the cost model's where that is `BY_COST`, or names none of the space. `held` as of a Choice."""
    if wanted != BY_COST:
        for schedule in space():
            if text_of(schedule) == wanted:
                return schedule, Choice(space, wanted, schedule, held)
    schedule = by_cost()
    return schedule, Choice(space, BY_COST, schedule, held)
