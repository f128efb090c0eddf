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

FMAS = 2  # of the widest vectors, a cycle: Haswell and all large cores of Intel after it, its servers with AVX-512, Zen 2, 3 and 5
# The processors that have one instead: vendor, family, models, lanes, and what the name says where that decides. Models by LLVM's Host.cpp and Linux'
# intel-family.h. Measured: Zen 4 and a server of Zen 5; the others as they are commonly described. A wrong entry costs time alone.
_ONE_FMA = (
    ("AuthenticAMD", 21, range(0x100), 8, ""),  # Excavator: two halves of 128 bits, as in
    ("AuthenticAMD", 23, range(0x30), 8, ""),  # Zen
    ("HygonGenuine", 24, range(0x100), 8, ""),
    ("AuthenticAMD", 25, range(0x100), 16, ""),  # Zen 4: two halves of 256 bits, as in
    ("AuthenticAMD", 26, range(0x20, 0x40), 16, ""),  # Zen 5 for laptops, Strix Point and
    ("AuthenticAMD", 26, range(0x60, 0x70), 16, ""),  # Krackan Point
    ("GenuineIntel", 6, (0x66, 0x7D, 0x7E, 0x8C, 0x8D, 0x97, 0x9A, 0xA7), 16, ""),  # clients: Cannon, Ice, Tiger, Alder and Rocket Lake
    ("GenuineIntel", 6, (0x55,), 16, r"Bronze|Silver|Gold 5(?!.22)|W-21[01]"),  # of Skylake's servers and their successors the smaller ones
    ("GenuineIntel", 6, (0xAF, 0xB6, 0xBE), 8, ""),  # small cores: Gracemont, Crestmont
)


@dataclass(frozen=True)
class Machine:
    """A processor. `lanes`: float32 values in a vector register; `registers`: how many there are; caches in bytes, each core's own; `vnni`: whether
    it has vpdpbusd, four products of bytes to a 32-bit sum; `instructions`: the sets that LLVM may take instructions of, by Linux' names; `fmas`: how
    many vectors of products and sums it begins a cycle."""

    lanes: int
    registers: int
    l1: int
    l2: int
    cores: int
    model: str
    vnni: bool = False
    instructions: tuple[str, ...] = ()
    fmas: int = FMAS

    def key(self) -> str:
        """What a compiled object depends on, for caches."""
        return f"{self.model}/{self.lanes}/{self.l1}/{self.l2}/{self.cores}/{self.fmas}{'/vnni' if self.vnni else ''}"


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


def fmas_of(cpuinfo: str, lanes: int) -> int:
    """How many FMAs of so many float32 lanes the first processor in /proc/cpuinfo begins a cycle."""

    def field(key: str) -> str:
        found = re.search(rf"^{key}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
        return found.group(1).strip() if found else ""

    family, model = (int(field(key) or -1) for key in ("cpu family", "model"))
    known = (field("vendor_id"), family, lanes)
    single = any((v, f, w) == known and model in models and re.search(name, field("model name")) for v, f, models, w, name in _ONE_FMA)
    return 1 if single else FMAS


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
    lanes = 16 if wide else 8
    return Machine(
        lanes=lanes,
        registers=32 if wide else 16,
        l1=_cache_bytes("1", "Data", 32 << 10),
        l2=_cache_bytes("2", "Unified", 1 << 20),
        cores=len(os.sched_getaffinity(0)),
        model=f"{name.group(1) if name else 'x86-64'} ({model})",
        vnni=wide and "avx512_vnni" in flags,
        instructions=tuple(sorted(filter(_INSTRUCTIONS.match, flags))),
        fmas=fmas_of(text, lanes),
    )
