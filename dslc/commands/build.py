"""`dslc compile`: a program as files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..compiler import compile_program
from ..core.errors import DataError
from ..core.executable import Executable, to_bytes
from ..model import Model
from ..report import page


def build(model: Model, program: str, target: str, folder: Path) -> list[Path]:
    """Compiles a program into a folder: the executable `program.dslx`, what it consists of in `plan.json`, `report.html`."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, not a folder")
    executable = compile_program(model, program, target)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "program.dslx": to_bytes(executable),
        "plan.json": json.dumps(_plan(executable), indent=1).encode(),
        "report.html": page(model, executable).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def _plan(executable: Executable) -> dict[str, object]:
    return {
        "ports": [{**asdict(p), "dtype": p.dtype.name} for p in executable.ports],
        "kernels": [asdict(k) for k in executable.kernels],
        "launches": [asdict(x) for x in executable.launches],
        "arena_bytes": executable.arena_bytes,
    }
