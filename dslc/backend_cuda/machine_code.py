"""The machine code of a program's text: cubins by NVRTC, several parts at once, or a shared object for the emulator."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import pairwise

from dslc.core.executable import Module, pack_modules

from . import emulated, nvrtc
from .arch import CHECKED, EMULATED, Arch
from .program_text import Printed
from .source import bundle

PER_PART = 8  # functions that are compiled together: a part pays for the headers once, and is cached as a whole


def machine_code(text: Printed, arch: Arch, slow: Collection[str] = ()) -> bytes:
    """An executable's `code`; functions in `slow` may spill. Errors are those of `nvrtc.build` and `emulated.build`; those of the emulator name lines
    of the whole text."""
    if not text.functions:
        return pack_modules([])
    if arch in (EMULATED, CHECKED):
        return pack_modules([Module(tuple(symbol for symbol, _ in text.functions), emulated.build(bundle(text.whole), checked=arch.checked))])
    parts = _parts(text.functions)
    cubins = nvrtc.build([bundle(_text(text.prelude, part)) for part in parts], arch.name, slow=slow)
    return pack_modules([Module(tuple(symbol for symbol, _ in part), cubin.code) for part, cubin in zip(parts, cubins)])


def _text(prelude: str, functions: Sequence[tuple[str, str]]) -> str:
    return prelude + "\n" + "\n\n".join(text for _, text in functions) + "\n"


def _parts(functions: Sequence[tuple[str, str]]) -> list[Sequence[tuple[str, str]]]:
    """Stretches of about equal numbers, at least one for each processor."""
    count = min(len(functions), max(-(-len(functions) // PER_PART), len(os.sched_getaffinity(0))))
    borders = [k * len(functions) // count for k in range(count + 1)]
    return [functions[a:b] for a, b in pairwise(borders)]
