"""traffic: what is made again where it is read is fewer bytes, the same values to the bit, and no more memory."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.plan import Call, Copy
from dslc.ir.program import Slot, arguments_of, finish_program, program_of, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.plan import make_plan
from dslc.passes.traffic import MOST_OPS, Traffic
from dslc.targets import target_of

from .simulate import simulate

TRAIN = """
    loss  mean((y - 1) ** 2)
train:
    optimizer adamw(lr=0.01)
"""
MODELS = {
    "residual": """model M:
    input x0[2, 8, 6, 6]
    x = relu(batchnorm(conv2d(x0, 8, kernel=3, pad=1)))
    repeat 2:
        a = relu(batchnorm(conv2d(x, 8, kernel=1)))
        x = relu(batchnorm(conv2d(a, 8, kernel=3, pad=1)) + x)
    y = maxpool2d(x, 2)
    output y""",
    "norms": """model M:
    input x0[4, 6, 16]
    x = x0
    repeat 2:
        x = x + self_attention(layernorm(x), 2, causal=true)
        x = x + mlp(rmsnorm(x), 32)
    y = layernorm(x)
    output y""",
}


def stages(name: str, precision: str):
    """The elaborated module behind `fuse`, and behind `traffic` where everything counts."""
    model = dslc.load(MODELS[name] + TRAIN, precision=precision)
    elaborated = lower(model, "step", target_of("cuda:sm_90a"), after="fuse")
    return model, elaborated


def kernels(module: ir.Module) -> list[ops.Kernel]:
    return [op for op in program_of(module).entry_block.operations if isinstance(op, ops.Kernel)]


def moved(module: ir.Module) -> int:
    return sum(type_of(v).bytes for k in kernels(module) for v in (*k.operands, *k.results))


def given(module: ir.Module, model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    stored = {k: np.array(v) for k, v in model.params.items()}
    out = {}
    for slot in arguments_of(program_of(module)):
        if slot.name in stored:
            out[slot.name] = stored[slot.name]
        elif slot.type.dtype.is_float:
            out[slot.name] = np.abs(rng.standard_normal(slot.type.shape)).astype(np.float32)
        else:
            out[slot.name] = rng.integers(1, 5, slot.type.shape)
    return out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_values_stay_while_fewer_bytes_move(name, precision):
    model, elaborated = stages(name, precision)
    with elaborated.context, elaborated.location:
        module = elaborated.module
        arguments = given(module, model)
        meant, before, plan = reference.run(module, arguments), moved(module), make_plan(module)
        ran = simulate(plan, arguments)
        Traffic(least=1).run(module)
        verify(module)
        found, less = reference.run(module, arguments), make_plan(module)
        for key, value in meant.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        for key, value in simulate(less, arguments).items():  # kernels in float64, what they store rounded
            np.testing.assert_allclose(value, ran[key], rtol=2e-2 if precision == "bfloat16" else 2e-4, atol=1e-5, err_msg=key)
        assert moved(module) < before
        assert less.arena_bytes <= plan.arena_bytes
        assert sum(isinstance(s, Copy) for s in less.steps) == sum(isinstance(s, Copy) for s in plan.steps)
        assert sum(isinstance(s, Call) for s in less.steps) <= sum(isinstance(s, Call) for s in plan.steps)


def test_a_normalization_is_not_written_in_float32():
    """Behind the pipeline of a GPU: what the gradient of a batch norm needs is made of the sums of the convolution, which lie in 16 bits."""
    large = MODELS["residual"].replace("x0[2, 8, 6, 6]", "x0[32, 8, 48, 48]").replace(" 8, kernel", " 16, kernel")
    model = dslc.load(large + TRAIN, precision="bfloat16")
    elaborated = lower(model, "step", target_of("cuda:sm_90a"))
    with elaborated.context:
        written = [type_of(v) for k in kernels(elaborated.module) for v in k.results]
        assert not [t for t in written if t.size >= 32 * 16 * 48 * 48 and t.dtype.bits == 32]


ROWS = TensorType(FLOAT32, (512, 512))
LINE = TensorType(FLOAT32, (512,))


def chain(extra: int, replaced: bool) -> ir.Module:
    """%n, %s = kernel map (%x, %m) { x - m in float32; the same in 16 bits }, and a kernel of `extra` more ops that sums over %n. Where `replaced`,
    the next value of m is made between them."""
    module = ir.Module.create()
    slots = [Slot("x", "input", TensorType(BFLOAT16, (512, 512))), Slot("m", "param", LINE)]
    made = start_program(module, "main", slots)
    with ir.InsertionPoint(made.entry_block):
        x, m = made.entry_block.arguments
        first = ops.Kernel.build([x, m], [ROWS, TensorType(BFLOAT16, ROWS.shape)], "map", "map")
        with ir.InsertionPoint(first.regions[0].blocks[0]):
            a, b = first.regions[0].blocks[0].arguments
            n = ops.Sub.of(ops.cast(a, FLOAT32), ops.broadcast(b, ROWS.shape, [1]))
            ops.Yield.of(n, ops.cast(n, BFLOAT16))
        results = [(Slot("s", "output", type_of(first.results[1])), first.results[1])]
        if replaced:
            step = ops.Kernel.build([m], [LINE], "update", "update")
            with ir.InsertionPoint(step.regions[0].blocks[0]):
                (a,) = step.regions[0].blocks[0].arguments
                ops.Yield.of(ops.Mul.of(a, a))
            results.append((Slot("m", "param", LINE), step.results[0]))
        last = ops.Kernel.build([first.results[0]], [LINE], "reduce", "reduce")
        with ir.InsertionPoint(last.regions[0].blocks[0]):
            (a,) = last.regions[0].blocks[0].arguments
            for _ in range(extra):
                a = ops.Mul.of(a, a)
            ops.Yield.of(ops.Reduce.of(a, axes=(0,), kind="sum"))
        results.append((Slot("y", "output", LINE), last.results[0]))
    finish_program(made, results)
    verify(module)
    return module


@pytest.mark.parametrize(
    ("extra", "replaced", "again"),
    [
        (20, False, True),
        (MOST_OPS, False, False),  # the reader would be too large
        (20, True, False),  # and m's old value is gone: to keep it would be a copy
    ],
)
def test_what_a_kernel_makes_again(extra, replaced, again):
    with context(), ir.Location.unknown():
        module = chain(extra, replaced)
        Traffic().run(module)
        verify(module)
        first, *_, last = kernels(module)
        assert {t.dtype for t in last.types()} == ({BFLOAT16, FLOAT32} if again else {FLOAT32})
        assert len(first.results) == (1 if again else 2)


def test_nothing_is_made_again_for_little():
    with context(), ir.Location.unknown():
        module = chain(20, False)
        before = str(module)
        Traffic(least=8 << 20).run(module)
        assert str(module) == before


def test_what_would_stay_for_longer_is_no_more_than_what_goes():
    """%v of %s and %t, which are read for the last time there, saves half a tensor's traffic where it is made again, and would keep more alive."""
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        made = start_program(module, "main", [Slot("x", "input", TensorType(FLOAT32, (512, 512, 2)))])
        narrow = TensorType(BFLOAT16, ROWS.shape)

        def kernel(operands, results, kind, body):
            one = ops.Kernel.build(operands, results, kind, kind)
            with ir.InsertionPoint(one.regions[0].blocks[0]):
                ops.Yield.of(*body(*one.regions[0].blocks[0].arguments))
            return one.results

        with ir.InsertionPoint(made.entry_block):
            (x,) = made.entry_block.arguments
            (s,) = kernel([x], [ROWS], "reduce", lambda x: [ops.Reduce.of(x, axes=(2,), kind="sum")])
            (t,) = kernel([x], [narrow], "reduce", lambda x: [ops.cast(ops.Reduce.of(x, axes=(2,), kind="max"), BFLOAT16)])
            (v,) = kernel([s, t], [ROWS], "map", lambda s, t: [ops.Mul.of(s, ops.cast(t, FLOAT32))])
            (y,) = kernel([v], [LINE], "reduce", lambda v: [ops.Reduce.of(v, axes=(0,), kind="sum")])
        finish_program(made, [(Slot("y", "output", LINE), y)])
        before = str(module)
        Traffic(least=1).run(module)
        assert str(module) == before
