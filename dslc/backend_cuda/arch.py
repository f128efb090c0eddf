"""The GPU architectures that kernels are generated for: what a schedule must know of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dslc.core.errors import TargetError, did_you_mean


@dataclass(frozen=True)
class Arch:
    """`name` is NVRTC's (`sm_90a`); `sms` the multiprocessors that a full device has; `shared_bytes` what one block may take of their SRAM."""

    name: str
    sm: int
    sms: int
    shared_bytes: int
    registers: int = 65536  # of a multiprocessor
    checked: bool = False  # every access of a kernel is checked: on the emulator

    @property
    def hopper(self) -> bool:
        """Whether TMA, mbarrier transactions and wgmma exist."""
        return self.name == "sm_90a"

    @property
    def launches_overlap(self) -> bool:
        """Whether a kernel may be started before the last one has ended, and waits for it by itself (griddepcontrol)."""
        return self.sm >= 90 or self.name.startswith("emulated")


ARCHS = {
    a.name: a
    for a in (
        Arch("sm_80", 80, 108, 166_912),
        Arch("sm_86", 86, 84, 101_376),
        Arch("sm_89", 89, 128, 101_376),
        Arch("sm_90a", 90, 132, 232_448),
    )
}


EMULATED = Arch("emulated", 80, 108, 166_912)  # the CPU runs the kernels of sm_80
CHECKED = replace(EMULATED, name="emulated:checked", checked=True)


def arch_of(name: str) -> Arch:
    """The architecture of that name, or "emulated" or "emulated:checked"; TargetError where it is unknown or too old."""
    for emulated in (EMULATED, CHECKED):
        if name == emulated.name:
            return emulated
    if name not in ARCHS:
        raise TargetError(f"unknown GPU architecture '{name}'{did_you_mean(name, ARCHS)}", help=f"kernels are made for {', '.join(ARCHS)} and newer")
    return ARCHS[name]
