"""`dslc doctor`: what is installed, which targets work here, and why not."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from ..core import cache
from ..core.errors import Error
from ..runtime.drivers.cpu.pool import default_threads
from ..targets import TARGETS

PACKAGES = {
    "numpy": "", "torch-mlir": "", "lark": "", "pyyaml": "", "onnx": "", "ml_dtypes": "", "safetensors": "", "scipy": "", "typer": "", "rich": "",
    "matplotlib": "", "scikit-learn": "examples", "tokenizers": "texts in tokens", "cuda-bindings": "cuda", "pycuda": "pycuda",
}  # fmt: skip


def examine() -> dict[str, Any]:
    """Versions, targets, threads, caches."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": _threads(),
        "packages": {name: _version(name) or (f"not installed (only for: {extra})" if extra else "MISSING") for name, extra in PACKAGES.items()},
        "targets": {name: _works(name) for name in TARGETS if ":" not in name},
        "cache": str(cache.folder() or "cannot be used"),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _works(name: str) -> str:
    """ "works" after compiling and running a small program, or what went wrong."""
    from ..compiled import Compiled
    from ..model import Model

    missing = TARGETS[name].missing()
    if missing:
        return missing
    try:
        model = Model("model Check:\n    input x[4]\n    y[i] = exp(x[i]) + sum[j](x[j])\n    output y\n")
        import numpy as np

        x = np.arange(4, dtype=np.float32)
        found = Compiled(model, "run", name)(x=x)["y"]
        return "works" if np.allclose(found, np.exp(x) + x.sum(), rtol=1e-5) else f"gives wrong results: {found}"
    except Error as error:
        return str(error)


def _threads() -> int | str:
    """How many threads programs use, or what is wrong with `DSLC_THREADS`."""
    try:
        return default_threads()
    except Error as error:
        return error.message


def _processor() -> str:
    try:
        from ..backend_cpu.machine import host

        machine = host()
        return f"{machine.model}, {'AVX-512' if machine.lanes == 16 else 'AVX2'}, {machine.cores} cores"
    except Error as error:
        return str(error)
