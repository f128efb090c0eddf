"""`pytest --nvrtc FOLDER tests/backend_cuda`: kernels by the NVRTC that lies there, for another version may spill where this one does not."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nvrtc", metavar="FOLDER", type=Path, help="where libnvrtc.so and libnvrtc-builtins.so lie; those installed by default")


def pytest_configure(config: pytest.Config) -> None:
    """The bindings take a library that is loaded already; so does that one its builtins."""
    folder = config.getoption("nvrtc")
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*") if folder else ():
        (found,) = folder.glob(name)
        ctypes.CDLL(str(found), mode=ctypes.RTLD_GLOBAL)
