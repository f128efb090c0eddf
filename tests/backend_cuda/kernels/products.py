"""Contractions built by hand, generated for an architecture, run on the emulator in an order of threads, compared with the float64 reference."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dslc.backend_cuda import emulated
from dslc.backend_cuda.arch import ARCHS, Arch
from dslc.backend_cuda.program_text import Unit, printed
from dslc.backend_cuda.source import bundle
from dslc.backend_cuda.stage import Function, Generated, Parameter, Request, request_of
from dslc.core import dtypes
from dslc.ir import op as nn
from dslc.ir import reference
from dslc.ir.mlir import ir
from dslc.ir.ops import Kernel, Yield
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of
from dslc.runtime.drivers import emulator
from dslc.runtime.drivers.device import Buffer, packed_tensor_map
from dslc.runtime.drivers.emulated_device import EmulatorDriver

HOPPER = replace(ARCHS["sm_90a"], sms=3)  # so few that blocks stay for several tiles
AMPERE = replace(ARCHS["sm_80"], sms=3)


@dataclass
class Case:
    """`operands`: (dtype, shape) each; `build(*values)` fills the kernel's body and gives its results. `aligned`: see `Request`."""

    name: str
    operands: Sequence[tuple[dtypes.DType, tuple[int, ...]]]
    build: Callable[..., Any]
    aligned: tuple[bool, ...] | None = None

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(len(self.name))
        return [untied(rng.standard_normal(shape).astype(np.float32)).astype(t.numpy) for t, shape in self.operands]


def untied(x: np.ndarray) -> np.ndarray:
    """Float32 without values in the middle between two of tf32, which the copy engine rounds to the even one, all else away from zero: they are moved
    by a unit in the last place."""
    bits = x.view(np.uint32)
    return (bits + ((bits & 0x1FFF) == 0x1000)).astype(np.uint32).view(np.float32)


@dataclass(frozen=True)
class Built:
    """The body of a case lives as long as its module, which `keep` holds."""

    request: Request
    block: Any
    keep: Any


def built(case: Case, arch: Arch) -> Built:
    """The kernel of a case, as a request. Needs a context (`nn.context()`)."""
    module = ir.Module.create()
    types = [TensorType(t, shape) for t, shape in case.operands]
    with ir.InsertionPoint(module.body):
        sources = [ir.Operation.create("test.source", [t.to_mlir()], [], {}).result for t in types]
        results = [type_of(v) for v in _values(case.build(*sources))]
        kernel = Kernel.build(sources, results, "contract", case.name)
    with ir.InsertionPoint(kernel.regions[0].blocks[0]):
        Yield.of(*_values(case.build(*kernel.regions[0].blocks[0].arguments)))
    kernel.check()
    block = kernel.regions[0].blocks[0]
    return Built(request_of(Body.of(block), arch, case.name, case.aligned), block, module)


def _values(made: Any) -> list[Any]:
    return list(made) if isinstance(made, (list, tuple)) else [made]


def expected(b: Built, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    return reference._run_block(b.block, dict(zip(b.block.arguments, [reference.widen(a) for a in arrays])), None)


def text_of(generated: Generated, request: Request) -> str:
    """A program of these functions alone."""
    unit = Unit(request.name, "contract", request.name, (), request.body, 0, 0, generated.includes, list(generated.functions))
    return bundle(printed("test", [unit], request.arch).whole)


def run(code: bytes, generated: Generated, request: Request, arrays: Sequence[np.ndarray], order: str) -> list[np.ndarray]:
    """The results; the workspace and what is behind the results are poisoned first."""
    module = emulator.load(code, order=order)
    results = [np.full(t.bytes + 64, 0xA5, np.uint8) for t in request.results]
    placed = [_placed(a) for a in arrays]
    workspace = _placed(np.full(generated.workspace_bytes + 64, 0xFF, np.uint8))
    addresses = [a.ctypes.data for a in placed] + [r.ctypes.data for r in results]
    for f in generated.functions:
        parameters = [_parameter(p, addresses, len(arrays), workspace, generated) for p in f.parameters]
        buffers = [b for p in f.parameters for b in _buffer(p, addresses, [a.nbytes for a in arrays], request, workspace, generated)]
        module.launch(f.symbol, f.grid, f.block, f.shared_bytes, parameters, buffers)
    assert all((r[t.bytes :] == 0xA5).all() for r, t in zip(results, request.results)), "it wrote behind a result"
    return [r[: t.bytes].view(t.dtype.numpy).reshape(t.shape) for r, t in zip(results, request.results)]


def _placed(a: np.ndarray) -> np.ndarray:
    """The array at a multiple of 256 bytes, as a device gives memory."""
    raw = np.zeros(a.nbytes + 256, np.uint8)
    skip = -raw.ctypes.data % 256
    out = raw[skip : skip + a.nbytes].view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def _buffer(
    p: Parameter, addresses: Sequence[int], sizes: Sequence[int], request: Request, workspace: np.ndarray, generated: Generated
) -> list[Buffer]:
    """What a parameter lets its function touch."""
    if p.source == "value":
        return []
    if p.source.startswith("workspace"):
        return [Buffer("workspace", workspace.ctypes.data, generated.workspace_bytes, True)]
    if p.source == "table":
        return [Buffer(p.name, generated.tables[p.number].ctypes.data, generated.tables[p.number].nbytes, False)]
    if p.source == "result":
        return [Buffer(p.name, addresses[p.number + len(sizes)], request.results[p.number].bytes, True)]
    return [Buffer(p.name, addresses[p.number], sizes[p.number], False)]


def _parameter(p: Parameter, addresses: Sequence[int], inputs: int, workspace: np.ndarray, generated: Generated) -> Any:
    if p.source == "value":
        return ctypes.c_int32(p.number)
    if p.source in ("map", "workspace_map"):
        assert p.tensor_map is not None
        base = addresses[p.number] if p.source == "map" else workspace.ctypes.data + p.number
        return packed_tensor_map(EmulatorDriver().tensor_map(p.tensor_map, base + p.tensor_map.place[1]))
    if p.source == "workspace":
        return ctypes.c_uint64(workspace.ctypes.data + p.number)
    if p.source == "table":
        return ctypes.c_uint64(generated.tables[p.number].ctypes.data)
    return ctypes.c_uint64(addresses[p.number + (inputs if p.source == "result" else 0)])


UNITS = {"bfloat16": 2**-8, "float16": 2**-11, "float32": 2**-24, "float64": 2**-53}  # a rounding, in parts of the value


def check(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], terms: int, name: str, steps: int = 0, before: int = 0,
          factors: dtypes.DType = dtypes.FLOAT64) -> None:  # fmt: skip
    """Each result within what its type, sums of so many terms of size 1, `steps` values rounded behind the sum, and `before` that make its `factors`,
    can hold: tiles have the factors' type, which other kernels round them to nowhere."""
    for a, b in zip(found, wanted):
        if a.dtype.kind in "iu":
            np.testing.assert_array_equal(a, b, err_msg=name)
            continue
        own, factor = UNITS[a.dtype.name], before and UNITS[factors.name]
        summed = (2**-53 if a.dtype.itemsize == 8 else 2**-24) * terms**0.5 * 4
        error = np.abs(a.astype(np.float64) - b)
        limit = own * 1.01 * np.abs(b) + summed * (terms**0.5 + np.abs(b)) + steps * own * (1 + np.abs(b)) + before * factor * terms**0.5
        bad = ~(error <= limit)
        first = tuple(np.argwhere(bad)[0]) if bad.any() else ()
        assert not bad.any(), f"{name}: {int(bad.sum())} of {bad.size} are off, the first at {first}: {a[first]} for {b[first]}"


def compiled(generated: Generated, request: Request) -> bytes:
    return emulated.build(text_of(generated, request), checked=True)


__all__ = ["AMPERE", "HOPPER", "Built", "Case", "Function", "built", "check", "compiled", "expected", "nn", "run", "text_of"]
