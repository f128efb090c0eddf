"""Kernels that a generator makes, run on a device: compiled several at once, started as the graph of a program."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.stage import Function, Generated, Parameter, Request
from dslc.runtime.drivers.device import Driver, PreparedLaunch, packed_tensor_map
from tests.backend_cuda.kernels.products import text_of

from .devices import placed

BEHIND = 256  # bytes behind each result and the workspace that nothing may write


def compiled(driver: Driver, made: Sequence[tuple[Request, Generated]]) -> list[dict[str, Any]]:
    """The functions of each, loaded. What spills is right too: it is other tests' matter."""
    texts = [text_of(generated, request) for request, generated in made]
    if driver.arch == "emulated":
        codes = [emulated.build(text) for text in texts]
    else:
        codes = [cubin.code for cubin in nvrtc.build(texts, driver.arch, strict=False)]
    return [driver.load(code, [f.symbol for f in generated.functions]) for code, (_, generated) in zip(codes, made)]


@dataclass
class _Memory:
    """Buffers of one run, all given back at its end."""

    driver: Driver
    addresses: list[int] = field(default_factory=list)

    def of(self, array: np.ndarray) -> int:
        self.addresses.append(placed(self.driver, array))
        return self.addresses[-1]

    def release(self) -> None:
        for address in self.addresses:
            self.driver.release(address)


def results_of(driver: Driver, functions: dict[str, Any], request: Request, generated: Generated, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The results of two runs behind each other, which must be the same bits. The workspace is poisoned first, and what lies behind is looked at."""
    memory = _Memory(driver)
    operands = [memory.of(a) for a in arrays]
    results = [memory.of(np.full(t.bytes + BEHIND, 0xA5, np.uint8)) for t in request.results]
    tables = [memory.of(t) for t in generated.tables]
    size = -(-generated.workspace_bytes // 16) * 16
    workspace = memory.of(np.full(size + BEHIND, 0xFF, np.uint8))

    def parameter(p: Parameter) -> Any:
        if p.source == "value":
            return ctypes.c_int32(p.number)
        start = {"operand": operands, "map": operands, "result": results, "table": tables}.get(p.source)
        address = workspace + p.number if start is None else start[p.number]
        if p.tensor_map is not None:
            return packed_tensor_map(driver.tensor_map(p.tensor_map, address + p.tensor_map.place[1]))
        return ctypes.c_uint64(address)

    def launch(f: Function) -> PreparedLaunch:
        made = PreparedLaunch(functions[f.symbol], f.grid, f.block, f.shared_bytes, tuple(map(parameter, f.parameters)), f.symbol,
                              waits=request.arch.launches_overlap)  # fmt: skip
        driver.check(made)
        return made

    start = driver.graph([launch(f) for f in generated.functions])
    found: list[list[np.ndarray]] = []
    for _ in range(2):
        start()
        found.append([])
        for t, address in zip(request.results, results):
            raw = np.empty(t.bytes + BEHIND, np.uint8)
            driver.download(raw, address)
            assert (raw[t.bytes :] == 0xA5).all(), "it wrote behind a result"
            found[-1].append(raw[: t.bytes].view(t.dtype.numpy).reshape(t.shape))
    behind = np.empty(BEHIND, np.uint8)
    driver.download(behind, workspace + size)
    assert (behind == 0xFF).all(), "it wrote behind the workspace"
    memory.release()
    for first, second in zip(*found):
        assert first.tobytes() == second.tobytes(), "it differs from run to run"
    return found[0]
