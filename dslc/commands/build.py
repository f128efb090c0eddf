"""`dslc compile`: a program as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..compiler import compile_program, sized_up_to_bounds
from ..core.errors import DataError
from ..core.executable import Executable, from_bytes, to_bytes, unpack_modules
from ..model import Model
from ..report import page
from ..runtime.package import PROGRAM, write_weights


def build(model: Model, program: str, target: str, folder: Path, weights: bool = False) -> list[Path]:
    """Compiles a program into a folder: the executable `program.dslx`, what it consists of in `plan.json`, `report.html`; on a GPU its text in
    `kernels.cu` and its machine code, and the same of what prepares its parameters. With the model's `weights` it is a package for
    `dslc.runtime.load`. Bounded dimensions may have any length in it."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder")
    executable = compile_program(model, program, target, sized=sized_up_to_bounds(model, program))
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        PROGRAM: to_bytes(executable),
        "plan.json": json.dumps(_plan(executable), indent=1).encode(),
        "report.html": page(model, executable).encode(),
    }
    if executable.target.startswith("cuda"):
        contents |= _kernels("kernels", executable)
        if executable.prepare:
            contents |= _kernels("prepare", from_bytes(executable.prepare))
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    written = [folder / name for name in contents]
    if weights:
        model.params.extend(executable.ports)
        written.append(write_weights(folder, executable, model.params))
    return written


def _kernels(name: str, executable: Executable) -> dict[str, bytes]:
    """The text of a program's kernels and their machine code."""
    ending = "so" if executable.target.startswith("cuda-emulated") else "cubin"
    codes = {f"{name}_{k:02d}.{ending}": module.code for k, module in enumerate(unpack_modules(executable.code))}
    return {f"{name}.cu": executable.source.encode(), **codes}


def _plan(executable: Executable) -> dict[str, object]:
    return {
        "ports": [{**asdict(p), "dtype": p.dtype.name} for p in executable.ports],
        "kernels": [asdict(k) for k in executable.kernels],
        "launches": [asdict(x) for x in executable.launches],
        "arena_bytes": executable.arena_bytes,
    }
