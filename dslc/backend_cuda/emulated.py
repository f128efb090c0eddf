"""CUDA C++ text to a shared object that runs its kernels on the emulator, by g++; cached."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tempfile
from functools import lru_cache
from pathlib import Path

from dslc.core import cache
from dslc.core.errors import TargetError

EMULATOR = Path(__file__).parent / "emulator"
# No contraction: kernels are compiled without fmad on a GPU as well.
FLAGS = (
    "-std=c++20",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-pthread",
)
CHECKED = "-DEMULATOR_CHECKED"
EVERY_ACCESS = "-fsanitize=thread"  # calls `emulator/checks.cpp` at every access
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')
_STATIC_SHARED = re.compile(r"(?<!extern )__shared__\s+((?:__align__|alignas)\(\d+\)\s+)?(\w+(?:\s+\w+)*?)\s+(\w+\s*(?:\[[^;]*)?(?:,[^;]*)?);")
_DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:(?:__align__|alignas)\(\d+\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")


@lru_cache(maxsize=1)
def cuda_headers() -> Path:
    """The folder of NVIDIA's `cuda_bf16.h`: the runtime's wheel, or an installed toolkit. Raises `TargetError` where there is neither."""
    wheels = Path(sysconfig.get_path("purelib")) / "nvidia"
    for folder in (wheels / "cu13" / "include", wheels / "cuda_runtime" / "include", Path("/usr/local/cuda/include")):
        if (folder / "cuda_bf16.h").exists() and (folder / "crt/host_defines.h").exists():
            return folder
    raise TargetError("the CUDA emulator needs NVIDIA's headers", help="pip install nvidia-cuda-runtime nvidia-cuda-crt")


def kernels(text: str) -> list[str]:
    """The names of the kernels in a text, in order."""
    return _KERNEL.findall(text)


def build(text: str, name: str = "kernels.cu", checked: bool = False) -> bytes:
    """The shared object of a self-contained CUDA C++ text; `dslc.runtime.drivers.emulator.load` takes it.

    Faults and compiler messages name lines of `text` under the file name `name`. `checked`: every access is checked, see `emulator/checks.cpp`.
    Raises `TargetError` where g++ is missing or refuses the text.
    """
    key = _key(text, name, str(checked)) + ".so"
    made = cache.get(key)
    if made is None:
        exports = "\n".join(f"EMULATOR_EXPORT({kernel})" for kernel in kernels(text))
        body = _DYNAMIC_SHARED.sub(r"\1* const \2 = (\1*)emulator::dynamic_shared();", text)
        source = f'#include "cuda.h"\n#line 1 "{name}"\n{_guarded(body) if checked else body}\n{exports}\n'
        part = _compiled(source, CHECKED, EVERY_ACCESS) if checked else _compiled(source)
        made = _linked(part, *_own(checked))
        cache.put(key, made)
    return made


def _guarded(text: str) -> str:
    """The text with memory that is nobody's behind each variable in static shared memory."""

    def one(found: re.Match[str]) -> str:
        align, kind, declared = found[1] or "", found[2], re.split(r",(?![^\[]*\])", found[3])
        out = []
        for each in declared:
            name, sizes = re.match(r"\s*(\w+)(.*)", each.strip()).groups()  # type: ignore[union-attr]
            out.append(f"__shared__ {align}emulator::Guarded<{kind}{sizes}> guarded_{name}; {kind} (&{name}){sizes} = ")
            out.append(f'emulator::variable(guarded_{name}, "{name}");')
        return "".join(out)

    return _STATIC_SHARED.sub(one, text)


def _own(checked: bool) -> list[bytes]:
    """The objects of the emulator itself, which are the same for all kernels, and are not checked."""
    return [_object("blocks.cpp", CHECKED), _object("checks.cpp", CHECKED)] if checked else [_object("blocks.cpp")]


def _object(name: str, *flags: str) -> bytes:
    key = _key(name, *flags) + ".o"
    made = cache.get(key)
    if made is None:
        made = _compiled((EMULATOR / name).read_text(), *flags)
        cache.put(key, made)
    return made


def _key(*parts: str) -> str:
    headers = "".join(path.read_text() for path in sorted(EMULATOR.iterdir()) if path.is_file())
    return cache.key("emulated", *parts, headers, str(cuda_headers()), *FLAGS)


def _compiled(source: str, *flags: str) -> bytes:
    """The object that g++ makes of a text."""
    return _made({"unit.cpp": source.encode()}, f"-I{EMULATOR}", "-isystem", str(cuda_headers()), *flags, "-c")


def _linked(*objects: bytes) -> bytes:
    """A shared object; the sanitizer's own library stays out."""
    return _made({f"part{k}.o": data for k, data in enumerate(objects)}, "-shared")


def _made(files: dict[str, bytes], *flags: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="dslc-") as folder:
        paths = [Path(folder) / name for name in files]
        for path, data in zip(paths, files.values()):
            path.write_bytes(data)
        made = Path(folder) / "made"
        try:
            done = subprocess.run(["g++", *FLAGS, *flags, *map(str, paths), "-o", str(made)], capture_output=True, text=True)
        except FileNotFoundError:
            raise TargetError("the CUDA emulator needs g++", help="install a C++20 compiler") from None
        if done.returncode:
            first = [line for line in done.stderr.splitlines() if "error:" in line][:8]
            raise TargetError("g++ refuses the kernels", notes=first or done.stderr.splitlines()[:8])
        return made.read_bytes()
