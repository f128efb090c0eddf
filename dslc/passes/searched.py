"""What searches under a budget have found, kept for those who look again: a later pass, or the whole pipeline with other bytes set aside.

The program is one and the same; its variants are named by what was chosen for it (schedules of scans, turns of chunks). None of them depends on how
many bytes there are, so each is fused once; and of one variant with less room nothing cheaper fits than with more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .packing import Packing
from .rematerialize import Choice, choose, least
from .timeline import Timeline

Scans = tuple[int, ...]  # the number of each pair's schedule, 0 where everything is kept; () where no pair was looked for


@dataclass
class _Known:
    line: Timeline
    choices: dict[int, Choice | None] = field(default_factory=dict)  # by the room that it was made for
    least: tuple[list[int], Packing] | None = None


@dataclass
class Searched:
    """`scans`: of the program as it is now; `turns`: the numbers of turns of chunks that are worth a trial, by `scans`; `chosen`: the number of turns
    that was taken last; `planned`: bytes of the last plan, with its ports."""

    scans: Scans = ()
    chosen: int = 0
    planned: int = 0
    turns: dict[Scans, list[int]] = field(default_factory=dict)
    _lines: dict[tuple[Scans, int], Timeline] = field(default_factory=dict)
    _known: list[_Known] = field(default_factory=list)

    def line(self, scans: Scans, turns: int, make: Callable[[], Timeline]) -> Timeline:
        """The timeline of a variant, made at its first use."""
        if (scans, turns) not in self._lines:
            self._lines[scans, turns] = make()
        return self._lines[scans, turns]

    def fastest(self, scans: Scans) -> float:
        """Seconds of the fastest variant with these schedules, without any repeats."""
        return min(line.seconds for (known, _), line in self._lines.items() if known == scans)

    def choose(self, line: Timeline, room: int) -> Choice | None:
        """As `rematerialize.choose`, unless what was found for as much room or more answers it."""
        choices = self._of(line).choices
        for more, choice in choices.items():
            if room <= more and (choice is None or choice.packing.total <= room):
                return choice
        choices[room] = choose(line, room)
        return choices[room]

    def least(self, line: Timeline) -> tuple[list[int], Packing]:
        """As `rematerialize.least`."""
        known = self._of(line)
        known.least = known.least or least(line)
        return known.least

    def _of(self, line: Timeline) -> _Known:
        found = next((known for known in self._known if known.line == line), None)
        if found is None:
            found = _Known(line)
            self._known.append(found)
        return found
