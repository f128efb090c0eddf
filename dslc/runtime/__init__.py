"""Runs compiled programs: parameters, arena, training, generation, checkpoints. Knows no MLIR and no frontend.

`dslc.runtime.load(FOLDER)` opens a package, a program with its weights.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":  # imported when used
        from .package import load

        return load
    raise AttributeError(f"module 'dslc.runtime' has no attribute {name!r}")
