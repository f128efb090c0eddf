"""at_hand: what lies in memory is read there, where that is fewer bytes, and the values stay to the bit."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.core.dtypes import FLOAT32
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.plan import Copy
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.at_hand import AtHand
from dslc.passes.fuse import Fuse
from dslc.passes.plan import make_plan
from dslc.passes.recompute import Recompute
from dslc.targets import target_of

from .test_traffic import MODELS, TRAIN, given, kernels, moved

ROWS = TensorType(FLOAT32, (512, 512))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_values_stay_while_fewer_bytes_move(name, precision):
    """Of programs in which much is made again."""
    model = dslc.load(MODELS[name] + TRAIN, precision=precision)
    elaborated = lower(model, "step", target_of("cuda:sm_90a"), after="attention")
    with elaborated.context, elaborated.location:
        module = elaborated.module
        Recompute(least=1).run(module)
        Fuse().run(module)
        arguments = given(module, model)
        meant, before, calls = reference.run(module, arguments), moved(module), len(kernels(module))
        copies = sum(isinstance(s, Copy) for s in make_plan(module).steps)
        AtHand(least=1).run(module)
        verify(module)
        for key, value in reference.run(module, arguments).items():
            np.testing.assert_array_equal(value, meant[key], err_msg=key)
        assert moved(module) < before and len(kernels(module)) <= calls
        assert sum(isinstance(s, Copy) for s in make_plan(module).steps) == copies


def stream(turns: int) -> ir.Module:
    """Turns of a residual stream, each a kernel: h = h + x. Then one that makes all of them again from the products, for what it sums."""
    module = ir.Module.create()
    made = start_program(module, "main", [Slot(f"x{k}", "input", ROWS) for k in range(turns + 1)])
    with ir.InsertionPoint(made.entry_block):
        h, *more = made.entry_block.arguments
        outputs = []
        for x in more:
            kernel = ops.Kernel.build([h, x], [ROWS], "map", "map")
            with ir.InsertionPoint(kernel.regions[0].blocks[0]):
                ops.Yield.of(ops.Add.of(*kernel.regions[0].blocks[0].arguments))
            (h,) = kernel.results
            outputs.append(h)
        last = ops.Kernel.build(list(made.entry_block.arguments), [ROWS, ROWS, TensorType(FLOAT32, (512,))], "reduce", "reduce")
        with ir.InsertionPoint(last.regions[0].blocks[0]):
            a, *inner = last.regions[0].blocks[0].arguments
            sums = [a := ops.Add.of(a, b) for b in inner]
            ops.Yield.of(a, ops.Exp.of(a), ops.Reduce.of(ops.Mul.of(a, sums[-2]), axes=(1,), kind="sum"))
        results = [(Slot(f"y{k}", "output", type_of(v)), v) for k, v in enumerate([*outputs, *last.results[1:], ops.Neg.of(last.results[0])])]
    finish_program(made, results)
    verify(module)
    return module


def test_a_turn_of_a_stream_is_read_where_it_lies():
    with context(), ir.Location.unknown():
        module = stream(4)
        AtHand().run(module)
        verify(module)
        *turns, last = kernels(module)
        assert set(last.operands) == {turns[-1].results[0], turns[-2].results[0]}
        assert len(last.results) == 2  # the sum of all is there


def test_nothing_changes_for_little():
    with context(), ir.Location.unknown():
        module = stream(4)
        before = str(module)
        AtHand(least=64 << 20).run(module)
        assert str(module) == before


@pytest.mark.parametrize("memory", [None, "1 GiB"])
def test_a_budget_leaves_it_out(memory):
    """Without one each mask of a residual network is of the sum that its forward pass has written; what is made again saves memory, which a budget
    is about."""
    model = dslc.load(MODELS["residual"].replace("x0[2,", "x0[64,").replace("6, 6", "48, 48") + TRAIN + (f"    memory {memory}\n" if memory else ""))
    elaborated = lower(model, "step", target_of("cuda:sm_90a"), after="fuse")
    with elaborated.context, elaborated.location:
        before = moved(elaborated.module)
    elaborated = lower(model, "step", target_of("cuda:sm_90a"), after="traffic" if memory else "at_hand")
    with elaborated.context, elaborated.location:
        assert moved(elaborated.module) < before
