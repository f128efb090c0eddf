"""What is made instead of a kernel that spills registers, which nobody knows before ptxas has compiled it.

A program is generated and compiled again, with another form of each kernel that spills, until none does: first with as many registers as a thread
can have (one block on a multiprocessor), then with the schedules of its space that fill fewer, then as other generators make it. Where every form
spills, as it may with one version of ptxas and not with the next, the one that spills the fewest bytes is taken, and the comment above it says so.
What was found for a kernel on an architecture is kept in the cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from dslc.core import cache

from .arch import CHECKED, EMULATED, Arch
from .nvrtc import Slow, SlowCode, version
from .program_text import Unit
from .stage import Generated


@dataclass(frozen=True)
class Form:
    """How a kernel is made: its schedule; `alone`: no other block need fit beside one on a multiprocessor, so that its
    threads may have more registers; `slow`: why its code is slow, where every form's is and this one's least."""

    schedule: str
    alone: bool = False
    slow: str = ""

    def apply(self, generated: Generated) -> Generated:
        """The kernel, `generated` with the schedule, in this form."""
        if not self.alone:
            return generated
        return replace(generated, functions=[replace(f, blocks_per_sm=1) for f in generated.functions])


@dataclass(frozen=True)
class Made:
    """A kernel of a program: what tells it from others, the schedule that it was to have, the form that it has."""

    key: str
    asked: str
    form: Form
    generated: Generated
    unit: Unit

    def next(self) -> Form | None:
        """The form to try where this one spills."""
        if any(f.blocks_per_sm > 1 for f in self.generated.functions):
            return Form(self.form.schedule, alone=True)
        lighter = self.generated.choice.lighter()
        return Form(lighter[0]) if lighter else None


@dataclass
class Fallbacks:
    """The forms of kernels that spill on an architecture, as far as they are known."""

    arch: Arch
    found: dict[tuple[str, str], Form] = field(default_factory=dict)  # by key and by the schedule that was asked for
    tried: dict[tuple[str, Form], Slow] = field(default_factory=dict)  # by key
    others: set[str] = field(default_factory=set)  # functions that have one form

    def of(self, key: str, asked: str) -> Form:
        """How a kernel is made that was to have a schedule."""
        if (key, asked) not in self.found:
            self.found[key, asked] = self._kept(key, asked) or Form(asked)
        return self.found[key, asked]

    def replace(self, made: Iterable[Made], error: SlowCode) -> None:
        """Chooses another form of each kernel that spills: one that was not tried, else the one that spilled least."""
        known = {f.symbol: m for m in made for f in m.unit.functions}
        self.others |= error.kernels.keys() - known.keys()
        for m in {known[name].unit.name: known[name] for name in error.kernels if name in known}.values():
            said = [slow for symbol, slow in error.kernels.items() if known.get(symbol) is m]
            self.tried[m.key, m.form] = max(said, key=lambda slow: slow.spilled)
            form = m.next()
            self.found[m.key, m.asked] = form if form is not None and (m.key, form) not in self.tried else self._least(m.key)

    def slow(self, made: Iterable[Made]) -> set[str]:
        """The functions whose code is slow in every form."""
        return self.others | {f.symbol for m in made if m.form.slow for f in m.unit.functions}

    def _least(self, key: str) -> Form:
        """The form that spills the fewest bytes; of equals the one that was tried first."""
        form, slow = min(((form, slow) for (k, form), slow in self.tried.items() if k == key), key=lambda pair: pair[1].spilled)
        return replace(form, slow=slow.said)

    def keep(self) -> None:
        """Remembers what replaces something else."""
        for (key, asked), form in self.found.items():
            if form != Form(asked):
                cache.put(self._name(key, asked), json.dumps(asdict(form)).encode())

    def _name(self, key: str, asked: str) -> str:
        return cache.key("instead of a spill", self.arch.name, str(version()), key, asked) + ".json"

    def _kept(self, key: str, asked: str) -> Form | None:
        data = None if self.arch in (EMULATED, CHECKED) else cache.get(self._name(key, asked))
        try:
            return Form(**json.loads(data)) if data is not None else None
        except (ValueError, TypeError):
            return None  # torn: found again
