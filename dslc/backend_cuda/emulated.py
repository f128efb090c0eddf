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
    "-shared",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-w",
    "-pthread",
)
CHECKS = "-fsanitize=thread"  # calls the race checker, `emulator/checks.cpp`, at every access
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(')
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


def build(text: str, name: str = "kernels.cu", races: bool = False) -> bytes:
    """The shared object of a self-contained CUDA C++ text; `dslc.runtime.drivers.emulator.load` takes it.

    Faults and compiler messages name lines of `text` under the file name `name`. `races`: unordered accesses of shared memory are faults too, at
    some ten times the cost. Raises `TargetError` where g++ is missing or refuses the text.
    """
    headers = "".join(path.read_text() for path in sorted(EMULATOR.iterdir()) if path.is_file())
    key = cache.key("emulated", text, name, headers, str(cuda_headers()), str(races), *FLAGS) + ".so"
    made = cache.get(key)
    if made is None:
        made = _compile(text, name, races)
        cache.put(key, made)
    return made


def _compile(text: str, name: str, races: bool) -> bytes:
    exports = "\n".join(f"EMULATOR_EXPORT({kernel})" for kernel in kernels(text))
    body = _DYNAMIC_SHARED.sub(r"\1* const \2 = (\1*)emulator::dynamic_shared();", text)
    with tempfile.TemporaryDirectory(prefix="dslc-") as folder:
        source, made = Path(folder) / "unit.cpp", Path(folder) / "unit.so"
        source.write_text(f'#include "cuda.h"\n#line 1 "{name}"\n{body}\n{exports}\n')
        command = ["g++", *FLAGS, f"-I{EMULATOR}", "-isystem", str(cuda_headers())]
        try:
            if races:  # linked apart: the sanitizer's own library stays out
                part = Path(folder) / "unit.o"
                done = subprocess.run([*command, CHECKS, "-c", str(source), "-o", str(part)], capture_output=True, text=True)
                source = part
            if not races or not done.returncode:
                done = subprocess.run([*command, str(source), *([str(EMULATOR / "checks.cpp")] if races else []), "-o", str(made)],
                                      capture_output=True, text=True)  # fmt: skip
        except FileNotFoundError:
            raise TargetError("the CUDA emulator needs g++", help="install a C++20 compiler") from None
        if done.returncode:
            first = [line for line in done.stderr.splitlines() if "error:" in line][:8]
            raise TargetError("g++ refuses the kernels", notes=first or done.stderr.splitlines()[:8])
        return made.read_bytes()
