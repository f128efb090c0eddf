"""A program's CUDA C++ as one text: the device library's headers it names, then its kernels, each under a comment that says what it does."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

DEVICE = Path(__file__).parent / "device"
_INCLUDE = re.compile(r'^#include "device/(\w+\.cuh)"[ \t]*$', re.MULTILINE)


@lru_cache(maxsize=64)
def header(name: str) -> str:
    """The text of a header of the device library."""
    return (DEVICE / name).read_text()


def bundle(text: str) -> str:
    """The text with every `#include "device/x.cuh"` replaced by that header, each once: it compiles alone, and messages name the header's lines."""
    seen: set[str] = set()

    def inlined(source: str, name: str) -> str:
        out, line = [], 1
        rest = 0
        for found in _INCLUDE.finditer(source):
            out.append(source[rest : found.start()])
            line += source.count("\n", rest, found.end())
            rest = found.end()
            wanted = found.group(1)
            if wanted not in seen:
                seen.add(wanted)
                out.append(f'#line 1 "device/{wanted}"\n{inlined(header(wanted), f"device/{wanted}")}\n#line {line + 1} "{name}"')
        out.append(source[rest:])
        return "".join(out)

    return inlined(text, "kernels.cu").replace("#pragma once\n", "\n")
