"""What the code generator knows of the processor: vector width, caches, cores."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dslc.core.errors import TargetError

_INSTRUCTIONS = re.compile(r"(sse|ssse3|avx|fma|f16c|bmi|abm|popcnt|movbe|adx|gfni|vaes|vpclmul)")  # of what code is generated unasked


@dataclass(frozen=True)
class Machine:
    """A processor. `lanes`: float32 values in a vector register; `registers`: how many there are; caches in bytes, each core's own; `vnni`: whether
    it has vpdpbusd, four products of bytes to a 32-bit sum; `instructions`: the sets that LLVM may take instructions of, by Linux' names."""

    lanes: int
    registers: int
    l1: int
    l2: int
    cores: int
    model: str
    vnni: bool = False
    instructions: tuple[str, ...] = ()

    @property
    def vector_bytes(self) -> int:
        return 4 * self.lanes

    def key(self) -> str:
        """What a compiled object depends on, for caches."""
        return f"{self.model}/{self.lanes}/{self.l1}/{self.l2}/{self.cores}{'/vnni' if self.vnni else ''}"


def _cache_bytes(level: str, kind: str, otherwise: int) -> int:
    """The size of one of core 0's caches, from sysfs."""
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if (folder / "level").read_text().strip() == level and (folder / "type").read_text().strip() in (kind, "Unified"):
                number, unit = re.fullmatch(r"(\d+)([KM]?)", (folder / "size").read_text().strip()).groups()  # type: ignore[union-attr]
                return int(number) * {"": 1, "K": 1 << 10, "M": 1 << 20}[unit]
        except (OSError, AttributeError):
            continue
    return otherwise


@lru_cache(maxsize=1)
def host() -> Machine:
    """The processor that runs this; TargetError where it is not one that the CPU target knows (Linux on x86-64 with AVX2 and FMA)."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise TargetError(
            f"the cpu target needs Linux on x86-64, this is {platform.system()} on {platform.machine()}", help="use --target reference, or cuda"
        )
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^flags\s*:\s*(.*)$", text, re.MULTILINE)
    flags = set(found.group(1).split()) if found else set()
    if not {"avx2", "fma"} <= flags:
        raise TargetError("the cpu target needs a processor with AVX2 and FMA", help="use --target reference")
    wide = {"avx512f", "avx512vl", "avx512bw", "avx512dq"} <= flags
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    model = " ".join(re.findall(r"^(?:cpu family|model|stepping)\s*:\s*(\d+)$", text, re.MULTILINE)[:3])
    return Machine(
        lanes=16 if wide else 8,
        registers=32 if wide else 16,
        l1=_cache_bytes("1", "Data", 32 << 10),
        l2=_cache_bytes("2", "Unified", 1 << 20),
        cores=len(os.sched_getaffinity(0)),
        model=f"{name.group(1) if name else 'x86-64'} ({model})",
        vnni=wide and "avx512_vnni" in flags,
        instructions=tuple(sorted(filter(_INSTRUCTIONS.match, flags))),
    )
