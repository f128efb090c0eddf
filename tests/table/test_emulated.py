"""Every op of the table, forward and gradient, as CUDA kernels on the emulator: every access checked, in three orders of the threads, against the
float64 reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cuda.arch import CHECKED
from dslc.backend_cuda.backend import compile_plan
from dslc.core import dtypes
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import TABLE, context
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.passes.attention import Attention
from dslc.passes.differentiate import Differentiate
from dslc.passes.fuse import Fuse
from dslc.passes.hoist import Hoist
from dslc.passes.plan import make_plan
from dslc.passes.simplify import Simplify
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.runtime.drivers.emulator import ORDERS
from dslc.targets import TARGETS

from .samples import SAMPLES, Sample
from .test_table import total

GROUPS = 6  # texts: one compiles faster than many, and less memory is needed for several


def narrowed(sample: Sample) -> Sample:
    """The sample in float32."""
    attributes = {k: dtypes.FLOAT32 if v is dtypes.FLOAT64 else v for k, v in sample.attributes.items()}
    if isinstance(value := attributes.get("value"), np.ndarray):
        attributes["value"] = value.astype(np.float32)
    arrays = tuple(a.astype(np.float32) if a.dtype == np.float64 else a for a in sample.arrays())
    return replace(sample, operands=arrays, attributes=attributes)


def program_of_all(samples: list[Sample]) -> tuple[ir.Module, dict[str, np.ndarray]]:
    """One program with the results of every sample, and the gradients of a weighted sum of those that have any; its inputs."""
    module = ir.Module.create()
    feed = {f"{n}.x{k}": a for n, s in enumerate(samples) for k, a in enumerate(s.operands)}
    program = start_program(module, "main", [Slot(name, "input", TensorType(dtypes.of_numpy(a.dtype), a.shape)) for name, a in feed.items()])
    arguments = dict(zip(feed, program.entry_block.arguments))
    results: list[tuple[str, ir.Value]] = []
    rng = np.random.default_rng(1)
    with ir.InsertionPoint(program.entry_block):
        for n, sample in enumerate(samples):
            mine = [arguments[f"{n}.x{k}"] for k in range(len(sample.operands))]
            made = TABLE[sample.op].of(*mine, **sample.attributes)
            made = made if isinstance(made, list) else [made]
            results += [(f"{n}.y{k}", v) for k, v in enumerate(made)]
            floats = [k for k, a in enumerate(sample.operands) if a.dtype == np.float32]
            terms = [
                total(ops.Mul.of(v, ops.constant(rng.standard_normal(type_of(v).shape).astype(np.float32), dtypes.FLOAT32)))
                for v in made
                if type_of(v).dtype is dtypes.FLOAT32
            ]
            if sample.differentiable and floats and terms:
                loss = terms[0]
                for term in terms[1:]:
                    loss = ops.Add.of(loss, term)
                grads = ops.Grad.of(loss, *[mine[k] for k in floats])
                results += [(f"{n}.g{k}", g) for k, g in zip(floats, grads if isinstance(grads, list) else [grads])]
    finish_program(program, [(Slot(name, "output", type_of(v)), v) for name, v in results])
    return module, feed


@pytest.mark.skipif(TARGETS["cuda-emulated:checked"].missing() is not None, reason="needs g++ and NVIDIA's headers")
@pytest.mark.parametrize("group", range(GROUPS))
def test_forward_and_gradient(group: int) -> None:
    samples = [narrowed(s) for s in SAMPLES[group::GROUPS]]
    with context(), ir.Location.unknown():
        module, feed = program_of_all(samples)
        Differentiate().run(module)
        wanted = reference.run(module, feed)
        for one in (Simplify(), Hoist(), Attention(), Fuse()):
            one.run(module)
        executable = compile_plan(make_plan(module), CHECKED)
    found = [{k: np.array(v) for k, v in DeviceProgram(executable, EmulatorDriver(order, seed=1))(feed).items()} for order in ORDERS]
    for name, expected in wanted.items():
        sample = samples[int(name.split(".")[0])]
        got = found[0][name]
        assert all(other[name].tobytes() == got.tobytes() for other in found[1:]), f"{sample.name}: {name} differs with the order of the threads"
        if got.dtype.kind in "biu":
            np.testing.assert_array_equal(got, expected, err_msg=f"{sample.name}: {name}")
        else:
            scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
            np.testing.assert_allclose(got.astype(np.float64), expected, rtol=1e-5, atol=4e-6 * scale, err_msg=f"{sample.name}: {name}")
