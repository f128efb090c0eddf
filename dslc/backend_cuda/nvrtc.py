"""CUDA C++ text to cubins by NVRTC: several texts at once, cached, and refused where ptxas says that a kernel spills or that wgmma is serialized
(`spills` then makes other kernels, or takes the least evil)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache

from dslc.core import cache
from dslc.core.errors import DataError, Error, TargetError

from .emulated import cuda_headers

# No contraction of a * b + c that another target does not make; -v makes ptxas report registers and spills.
OPTIONS = ("--std=c++20", "--fmad=false", "--ptxas-options=-v")
# Advisories of ptxas that cost a kernel its overlap: setmaxnreg dropped (C7504 to C7508), which names no kernel, and wgmma serialized (the others).
REFUSED = frozenset(f"C75{k:02d}" for k in (4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 18, 20))
_FORMAT = "dslc-cubin-1"


class KernelError(Error):
    """The CUDA compiler refuses a kernel, or makes slow code of it. Names the kernel, its line and its lines in the model file."""

    label = "kernel error"


@dataclass(frozen=True)
class Slow:
    """Why a kernel's code is slow, in words, and how slow: bytes of registers a thread that are spilled, `SERIALIZED` where it is something else."""

    said: str
    spilled: int


SERIALIZED = 1 << 20  # worse than any spill


class SlowCode(KernelError):
    """Right code that spills registers or serializes its products. `kernels`: what is said of each."""

    def __init__(self, kernels: Mapping[str, Slow], notes: Sequence[str] = ()):
        said = "; ".join(slow.said for slow in kernels.values())
        super().__init__(said, notes=notes, help="smaller tiles, or fewer threads a block in its launch bounds")
        self.kernels = dict(kernels)


@dataclass(frozen=True)
class Resources:
    """What a kernel takes of a multiprocessor: registers a thread, bytes of spills and of stack a thread, bytes of static shared memory a block."""

    registers: int
    spill_stores: int
    spill_loads: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Cubin:
    """The machine code of one text, what each of its kernels takes, and all that the compiler said."""

    code: bytes
    kernels: dict[str, Resources]
    log: str


def build(texts: Sequence[str], arch: str, *, strict: bool = True, slow: Collection[str] = (), threads: int | None = None) -> list[Cubin]:
    """A cubin for each self-contained text (`source.bundle`), for an architecture such as "sm_90a".

    `strict`: a spill or one of the advisories in REFUSED is a SlowCode, which names all kernels that have any, but for those in `slow`. `threads`:
    texts that are compiled at once; as many as there are processors by default. KernelError where the text is wrong, TargetError where NVRTC or its
    headers are missing or it does not know `arch`.
    """
    check_arch(arch)
    options = (f"--gpu-architecture={arch}", f"--include-path={cuda_headers()}", *OPTIONS)
    workers = threads or len(os.sched_getaffinity(0))
    if len(texts) < 2 or workers < 2:
        made = [_cached(text, options) for text in texts]
    else:
        with ThreadPoolExecutor(min(workers, len(texts))) as pool:
            made = list(pool.map(lambda text: _cached(text, options), texts))
    if strict:
        check_logs(texts, made, slow)
    return made


def missing() -> str | None:
    """What is not there to compile with, in one sentence, or None."""
    try:
        version()
        cuda_headers()
    except TargetError as error:
        return error.message + (f": {error.help}" if error.help else "")
    return None


@lru_cache(maxsize=1)
def version() -> tuple[int, int]:
    """NVRTC's version; TargetError where it is not installed."""
    try:
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError):
        raise TargetError("NVRTC, which compiles CUDA kernels, is not installed", help="pip install 'dslc[cuda]'") from None
    return major, minor


def check_arch(arch: str) -> None:
    """TargetError where this NVRTC makes no code for the architecture."""
    from cuda.bindings import nvrtc

    major, minor = version()
    _, known = nvrtc.nvrtcGetSupportedArchs()
    number = re.fullmatch(r"sm_(\d+)[af]?", arch)
    if not number or int(number[1]) not in known:
        listed = ", ".join(f"sm_{k}" for k in known)
        raise TargetError(f"NVRTC {major}.{minor} makes no code for '{arch}'", help=f"it knows {listed}")


def _cached(text: str, options: tuple[str, ...]) -> Cubin:
    key = cache.content_key(_FORMAT, text, str(version()), *options) + ".cubin"
    stored = cache.get(key)
    if stored is not None:
        try:
            return _unpacked(stored)
        except DataError:
            pass  # damaged: compile again
    made = _compile(text, options)
    cache.put(key, _packed(made))
    return made


def _packed(cubin: Cubin) -> bytes:
    said = {"kernels": {k: asdict(r) for k, r in cubin.kernels.items()}, "log": cubin.log, "bytes": len(cubin.code)}
    header = json.dumps(said).encode()
    return len(header).to_bytes(8, "little") + header + cubin.code


def _unpacked(data: bytes) -> Cubin:
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        said = json.loads(data[8:start])
        kernels = {k: Resources(**r) for k, r in said["kernels"].items()}
    except (ValueError, TypeError, KeyError):
        raise DataError("the cached cubin is damaged") from None
    if len(data) - start != said["bytes"]:
        raise DataError("the cached cubin is torn")
    return Cubin(data[start:], kernels, said["log"])


def _compile(text: str, options: tuple[str, ...]) -> Cubin:
    from cuda.bindings import nvrtc

    status, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], [])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise TargetError(f"NVRTC cannot start: {status.name}")
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        log = bytearray(nvrtc.nvrtcGetProgramLogSize(program)[1])
        log_text = _read(nvrtc.nvrtcGetProgramLog, program, len(log))
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise refusal(text, log_text, status.name)
        code = _read_bytes(nvrtc.nvrtcGetCUBIN, program, nvrtc.nvrtcGetCUBINSize(program)[1])
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Cubin(code, resources(log_text), log_text)


def _read_bytes(get: object, program: object, size: int) -> bytes:
    data = bytes(bytearray(size))  # an object of its own: NVRTC writes into it
    get(program, data)  # type: ignore[operator]
    return data


def _read(get: object, program: object, size: int) -> str:
    return _read_bytes(get, program, size).rstrip(b"\0").decode(errors="replace").strip()


# what the compiler says

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_ADVISORY = re.compile(r"\b(C7\d{3})\b[^\n]*")
_FUNCTION = re.compile(r"function '(\w+)'")
_DIAGNOSTIC = re.compile(r"^(?P<file>[^\s(]+)\((?P<line>\d+)\): (?:catastrophic )?error\b(?: #[\w-]+)?: (?P<message>.*)$", re.MULTILINE)
_INSTANTIATED = re.compile(r"at line (\d+)(?: of (\S+))?")
_KERNEL = re.compile(r'^extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')
_LINE = re.compile(r'^#line (\d+) "([^"]+)"')


def resources(log: str) -> dict[str, Resources]:
    """What ptxas's report says of each kernel."""
    out = {}
    parts = _ENTRY.split(log)
    for name, part in zip(parts[1::2], parts[2::2]):
        used, shared = _USED.search(part), _SHARED.search(part)
        spills = [tuple(map(int, found)) for found in _SPILLS.findall(part)]  # the entry's, and those of functions that it calls
        stack, stores, loads = (max((s[k] for s in spills), default=0) for k in range(3))
        out[name] = Resources(int(used[1]) if used else 0, stores, loads, stack, int(shared[1]) if shared else 0)
    return out


def check_logs(texts: Sequence[str], cubins: Sequence[Cubin], slow: Collection[str] = ()) -> None:
    """SlowCode where a kernel, but for those in `slow`, spills registers, or ptxas gave an advisory of REFUSED."""
    said: dict[str, Slow] = {}
    notes: list[str] = []
    for text, cubin in zip(texts, cubins):
        for name, what in _slow(text, cubin).items():
            if name not in slow:
                said[name] = what
                notes += _places(text, name)
    if said:
        raise SlowCode(said, notes)


def _slow(text: str, cubin: Cubin) -> dict[str, Slow]:
    out = {}
    for name, used in cubin.kernels.items():
        if used.spill_stores or used.spill_loads:
            said = f"{name} spills {used.spill_stores} bytes of registers a thread, with {used.registers} registers"
            out[name] = Slow(said, max(used.spill_stores, used.spill_loads))
    for found in _ADVISORY.finditer(cubin.log):
        if found[1] in REFUSED:
            function = _FUNCTION.search(found[0])
            for name in [function[1]] if function else _passing_registers(text) or ["a kernel"]:
                out[name] = Slow(f"ptxas makes slow code of {name}: {found[0].strip()}", SERIALIZED)
    return out


def _passing_registers(text: str) -> list[str]:
    """The kernels whose warpgroups pass registers on."""
    kernel, out = "", []
    for line in text.split("\n"):
        if begun := _KERNEL.match(line):
            kernel = begun[1]
        if kernel and kernel not in out and ("setmaxnreg" in line or "give_registers<" in line):
            out.append(kernel)
    return out


def refusal(text: str, log: str, status: str) -> KernelError:
    """The compiler's first messages, each with its kernel and the line of the text that it is about."""
    lines = _numbered(text)
    notes: list[str] = []
    first = ""
    for found in list(_DIAGNOSTIC.finditer(log))[:4]:
        place = (found["file"], int(found["line"]))
        if place[0] != "kernels.cu" and (caller := _INSTANTIATED.search(log, found.end())) and caller[2] in (None, "kernels.cu"):
            kernel = lines.get(("kernels.cu", int(caller[1])), ("", ""))[1]
        else:
            kernel = lines.get(place, ("", ""))[1]
        quoted = lines.get(place, ("", ""))[0].strip()
        message = f"{place[0]}:{place[1]}{f', in {kernel}' if kernel else ''}: {found['message']}"
        notes += [message, *([f"    {quoted}"] if quoted else [])]
        if not first:
            first = message
            notes += _places(text, kernel)
    return KernelError(f"NVRTC refuses the kernels: {first or log.splitlines()[0] if log else status}", notes=notes or log.splitlines()[:8])


def _numbered(text: str) -> dict[tuple[str, int], tuple[str, str]]:
    """For each (file, line) that a message may name: the line, and the kernel that it lies in."""
    out: dict[tuple[str, int], tuple[str, str]] = {}
    file, number, kernel = "kernels.cu", 0, ""
    for line in text.split("\n"):
        if moved := _LINE.match(line):
            file, number = moved[2], int(moved[1]) - 1
            continue
        number += 1
        if begun := _KERNEL.match(line):
            kernel = begun[1]
        elif line.startswith("//"):
            kernel = ""
        out[file, number] = (line, kernel)
    return out


def _places(text: str, kernel: str) -> list[str]:
    """What the comment above a kernel says that it computes and where the model says so: its first line."""
    lines = text.split("\n")
    for k, line in enumerate(lines):
        begun = _KERNEL.match(line)
        if begun and begun[1] == kernel:
            first = k
            while first and lines[first - 1].startswith("//"):
                first -= 1
            return [f"{kernel} is {lines[first][2:].strip()}"] if first < k else []
    return []
