"""Lines of CUDA C++ under construction: indentation, fresh names, values given names once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

_WORD = re.compile(r"[A-Za-z_]\w*")
_CONSTANT = re.compile(r"\s*const [\w ]+ (\w+) = [^;]*;$")


class Writer:
    """A function body that grows line by line. Names are unique in one Writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 1
        self._counts: dict[str, int] = {}

    def line(self, text: str = "") -> None:
        """One line at the current depth."""
        self.lines.append("    " * self._depth + text if text else "")

    def comment(self, text: str) -> None:
        self.line(f"// {text}")

    def fresh(self, stem: str) -> str:
        """A name that no other value has: `v0`, `v1`, ..."""
        number = self._counts.get(stem, 0)
        self._counts[stem] = number + 1
        return f"{stem}{number}"

    def value(self, stem: str, kind: str, expression: str) -> str:
        """A constant of C type `kind`; its name."""
        name = self.fresh(stem)
        self.line(f"const {kind} {name} = {expression};")
        return name

    @contextmanager
    def block(self, head: str, end: str = "}") -> Iterator[None]:
        """`head {`, what is written inside, `end`."""
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self.line(end)

    @contextmanager
    def unrolled(self, name: str, count: int, at_once: int | None = None) -> Iterator[None]:
        """A loop of a known small count, unrolled, so that arrays indexed by `name` stay in registers; or so many turns of it `at_once`."""
        self.line("#pragma unroll" if at_once is None or at_once >= count else f"#pragma unroll {at_once}")
        with self.block(f"for (int {name} = 0; {name} < {count}; ++{name})"):
            yield

    def text(self) -> str:
        """The lines, without constants that nothing uses."""
        lines = self.lines
        while True:
            uses = Counter(word for line in lines for word in _WORD.findall(line))
            kept = [line for line in lines if not ((found := _CONSTANT.match(line)) and uses[found.group(1)] == 1)]
            if len(kept) == len(lines):
                return "\n".join(kept)
            lines = kept
