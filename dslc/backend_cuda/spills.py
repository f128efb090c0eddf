"""What is made instead of a kernel that spills registers, which nobody knows before ptxas has compiled it.

A program is generated and compiled again, with another form of each kernel that spills, until none does: first with as many registers as a thread
can have (one block on a multiprocessor), then with the schedules of its space that fill fewer, then as other generators make it. What was
found for a kernel on an architecture is kept in the cache. Where nothing is left the program is refused, at the kernel's line of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from dslc.core import cache
from dslc.core.errors import Span

from .arch import CHECKED, EMULATED, Arch
from .nvrtc import KernelError, SlowCode, version
from .program_text import Unit
from .stage import Generated


@dataclass(frozen=True)
class Form:
    """How a kernel is made: its schedule; `alone`: no other block need fit beside one on a multiprocessor, so that its
    threads may have more registers."""

    schedule: str
    alone: bool = False

    def apply(self, generated: Generated) -> Generated:
        """The kernel, `generated` with the schedule, in this form."""
        if not self.alone:
            return generated
        return replace(generated, functions=[replace(f, blocks_per_sm=1) for f in generated.functions])


@dataclass(frozen=True)
class Made:
    """A kernel of a program: what tells it from others, the schedule that it was to have, the form that it has, where the model has it."""

    key: str
    asked: str
    form: Form
    generated: Generated
    unit: Unit
    spans: Sequence[Span]

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
    tried: set[tuple[str, Form]] = field(default_factory=set)

    def of(self, key: str, asked: str) -> Form:
        """How a kernel is made that was to have a schedule."""
        if (key, asked) not in self.found:
            self.found[key, asked] = self._kept(key, asked) or Form(asked)
        return self.found[key, asked]

    def replace(self, made: Iterable[Made], error: SlowCode) -> None:
        """Chooses another form of each kernel that spills; the error, with the kernel's line, where one has none left."""
        known = {f.symbol: m for m in made for f in m.unit.functions}
        spilling = {m.unit.name: m for name in error.kernels if (m := known.get(name)) is not None}
        if not spilling:
            raise error
        for m in spilling.values():
            form = m.next()
            if form is None or (m.key, form) in self.tried:
                raise self._refusal(m, error)
            self.found[m.key, m.asked] = form
            self.tried.add((m.key, form))

    def keep(self) -> None:
        """Remembers what replaces something else."""
        for (key, asked), form in self.found.items():
            if form != Form(asked):
                cache.put(self._name(key, asked), json.dumps(asdict(form)).encode())

    def _refusal(self, made: Made, error: SlowCode) -> KernelError:
        name = made.unit.name
        said = next(what for symbol, what in error.kernels.items() if symbol in {f.symbol for f in made.unit.functions})
        lines = f"{name} is {made.unit.role}" + (f" ({', '.join(made.unit.lines)})" if made.unit.lines else "")
        return KernelError(said, made.spans, notes=[lines, f"no schedule of it is left that fills fewer registers on {self.arch.name}"],
                           help="take the expression at this line apart into several, with an output or a state between them")  # fmt: skip

    def _name(self, key: str, asked: str) -> str:
        return cache.key("instead of a spill", self.arch.name, str(version()), key, asked) + ".json"

    def _kept(self, key: str, asked: str) -> Form | None:
        data = None if self.arch in (EMULATED, CHECKED) else cache.get(self._name(key, asked))
        try:
            return Form(**json.loads(data)) if data is not None else None
        except (ValueError, TypeError):
            return None  # torn: found again
