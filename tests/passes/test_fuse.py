"""fuse: kernel counts, and programs that mean the same before and after, planned and run over real bytes too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops, reference
from dslc.ir.plan import Call, Copy
from dslc.ir.program import arguments_of, program_of
from dslc.ir.types import spans_of
from dslc.ir.verify import verify
from dslc.passes.fuse import Fuse
from dslc.passes.plan import make_plan
from dslc.targets import TARGETS, target_of

from .simulate import simulate

TRAIN = """
train:
    optimizer adamw(lr=0.01)
    clip norm(1.0)
    steps 1
"""
MODELS = {
    "block": """
        x = x0 + self_attention(rmsnorm(x0), 2, causal=true)
        y = x + swiglu(rmsnorm(x), hidden=16)""",
    "post_norm": """
        x = layernorm(x0 + self_attention(x0, 2))
        y = layernorm(x + linear(gelu(linear(x, 16)), 8))""",
    "lstm": """
        y = lstm(x0, 8)""",
    "carry": """
        param decay[8] ~ normal()
        scan t < 6 carry s[2, 8] = 0:
            s[b, u] = exp(-exp(decay[u])) * s[b, u] + x0[b, t, u]
            emit y[b, t, u] = s[b, u]""",
    "dropout": """
        y = dropout(tanh(linear(x0, 8)), 0.3)""",
    "convolution": """
        z[n, c < 1, p < 6, q < 8] = x0[n, p, q + c]
        c = maxpool2d(relu(batchnorm(conv2d(z, 4, kernel=3, pad=1))), 2)
        y[n, p, q] = sum[k](c[n, k, p, q])""",
    "cumulative": """
        y = cumsum(linear(x0, 8), axis=1)""",
}


def model_of(name):
    body = "\n".join(line[4:] for line in MODELS[name].splitlines())
    return dslc.load(f"model M:\n    input x0[2, 6, 8]\n    input ids[2, 6]: int32\n{body}\n    output y\n    loss mean((y - 1) ** 2)\n{TRAIN}")


def arguments_for(program, model):
    rng = np.random.default_rng(0)
    given = {}
    stored = {k: np.array(v) for k, v in model.params.items()}
    for slot in arguments_of(program):
        if slot.name in stored:
            given[slot.name] = stored[slot.name]
        elif slot.type.dtype.is_float:
            given[slot.name] = np.abs(rng.standard_normal(slot.type.shape)) * 0.5
        else:
            given[slot.name] = rng.integers(1, 5, slot.type.shape)
    return given


def kernel_count(module):
    """Kernels by kind, those in the bodies of scans and conds too."""
    counts = Counter()

    def count(block):
        for op in block.operations:
            if isinstance(op, ops.Kernel):
                counts[op.kind] += 1
            elif isinstance(op, (ops.Scan, ops.Cond)):
                for region in op.regions:
                    count(region.blocks[0])

    count(program_of(module).entry_block)
    return counts


def only_kernels(block):
    for op in list(block.operations)[:-1]:
        assert isinstance(op, (ops.Kernel, ops.Scan, ops.Cond)), op
        if not isinstance(op, ops.Kernel):
            for region in op.regions:
                only_kernels(region.blocks[0])


@pytest.mark.parametrize("kind", ["run", "step"])
@pytest.mark.parametrize("name", MODELS)
def test_fused_and_planned_programs_mean_the_same(name, kind):
    model = model_of(name)
    elaborated = lower(model, kind, TARGETS["reference"])
    with elaborated.context, elaborated.location:
        program = program_of(elaborated.module)
        given = arguments_for(program, model)
        expected = reference.run(elaborated.module, given)
        Fuse().run(elaborated.module)
        verify(elaborated.module)
        only_kernels(program.entry_block)
        fused = reference.run(elaborated.module, given)
        for key, value in expected.items():
            np.testing.assert_allclose(fused[key], value, rtol=1e-9, atol=1e-12, err_msg=key)
        found = simulate(make_plan(elaborated.module), given)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key.removeprefix("next.")], value, rtol=2e-3, atol=2e-4, err_msg=key)


def counts_of(name, kind):
    elaborated = lower(model_of(name), kind, TARGETS["reference"])
    with elaborated.context, elaborated.location:
        Fuse().run(elaborated.module)
        return kernel_count(elaborated.module)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("block", "run", {"contract": 9, "reduce": 3}),  # two norms, softmax; four projections, scores, values, three products of swiglu
        ("post_norm", "run", {"contract": 8, "reduce": 3}),
        ("dropout", "run", {"contract": 1}),
        ("convolution", "run", {"contract": 1, "reduce": 2, "map": 1}),
        ("cumulative", "run", {"contract": 1, "scan": 1}),
        ("block", "step", {"contract": 27, "reduce": 16, "update": 1}),
    ],
)
def test_no_more_kernels_than_before(name, kind, expected):
    """Whoever fuses more lowers these figures."""
    found = counts_of(name, kind)
    assert found.total() <= sum(expected.values()), found
    assert all(found[k] <= n for k, n in expected.items()), found


def test_every_kernel_knows_the_lines_it_came_from():
    elaborated = lower(model_of("block"), "step", TARGETS["reference"])
    with elaborated.context, elaborated.location:
        Fuse().run(elaborated.module)
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert all(k.role.startswith(k.kind) for k in kernels)
        assert sum(bool(spans_of(k.location)) for k in kernels) >= 0.9 * len(kernels)


def kernels_of(path: Path, text: str, program: str = "run", **settings) -> list[ops.Kernel]:
    path.write_text(text)
    elaborated = lower(dslc.load(str(path), **settings), program, target_of("cpu"))
    return [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel)]


def test_a_contraction_leaves_to_reductions_what_they_can_compute(tmp_path):
    """y * u and y * v would be written for two sums; they are made from y where they are summed."""
    kernels = kernels_of(tmp_path / "m.dsl", """
model M:
    input   x[64, 96], w[96, 80], u[64, 80], v[64, 80]
    y[n, o] = sum[i](x[n, i] * w[i, o])
    a[n] = sum[o](y[n, o] * u[n, o])
    b[o] = sum[n](y[n, o] * v[n, o])
    output  a, b
""")  # fmt: skip
    (contract,) = (k for k in kernels if k.kind == "contract")
    assert len(contract.results) == 1
    assert [k.kind for k in kernels if k is not contract].count("map") == 0


def test_an_epilogue_for_another_product_stays(tmp_path):
    kernels = kernels_of(tmp_path / "m.dsl", """
model M:
    input   x[64, 96], w[96, 80], v[80, 48]
    y[n, o] = gelu(sum[i](x[n, i] * w[i, o]))
    z[n, p] = sum[o](y[n, o] * v[o, p])
    output  z
""")  # fmt: skip
    assert [k.kind for k in kernels] == ["contract", "contract"]


def test_where_two_products_meet_the_one_that_is_stored_is_narrow():
    model = dslc.load("""
model M:
    input   x[64, 96]
    param   w[96, 80], v[96, 80] ~ normal()
    param   b[80], c[80] ~ zeros()
    y[n, o] = sum[i](x[n, i] * w[i, o]) + b[o]
    z[n, o] = sum[i](x[n, i] * v[i, o]) + c[o]
    q[n, o] = y[n, o] + z[n, o]
    output  q
""", precision="bfloat16")  # fmt: skip
    elaborated = lower(model, "run", target_of("cpu"))
    with elaborated.context:
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel) and op.kind == "contract"]
        assert [str(r.type) for k in kernels for r in k.results] == ["tensor<64x80xbf16>", "tensor<64x80xf32>"]


def test_a_residual_stream_is_not_made_again_at_once(tmp_path):
    """In bfloat16 a turn's product is smaller than the stream: every turn could be the sum of all before it, and one kernel would write them all."""
    kernels = kernels_of(tmp_path / "m.dsl", """
model M:
    input   x[64, 128, 64], y[64, 128]: int32
    h = x + positions(128, 64)
    repeat 6:
        h = h + swiglu(layernorm(h), hidden=128)
    loss    cross_entropy(linear(h, 16), y)
train:
    optimizer sgd(lr=0.1)
""", "step", precision="bfloat16")  # fmt: skip
    assert max(len(k.results) for k in kernels if k.kind != "update") <= 8


GPT = Path(__file__).parents[2] / "benchmarks" / "models" / "gpt.dsl"


@pytest.mark.parametrize("precision, clip", [("float32", False), ("bfloat16", False), ("bfloat16", True)])
def test_a_training_step_copies_no_parameter(precision, clip, tmp_path):
    """Updates wait for whoever reads the old values, and those of one kind are one kernel."""
    file = tmp_path / "gpt.dsl"
    file.write_text(GPT.read_text() + ("    clip       norm(1.0)\n" if clip else ""))
    model = dslc.load(str(file), precision=precision, batch=2, time=64, vocab=128, width=64, heads=2, depth=2)
    elaborated = lower(model, "step", target_of("cpu"))
    with elaborated.context, elaborated.location:
        steps = make_plan(elaborated.module).steps
    assert not [s for s in steps if isinstance(s, Copy)]
    updates = [s for s in steps if isinstance(s, Call) and s.kernel.kind == "update"]
    assert len(updates) == clip + (precision == "bfloat16")  # without clipping products and sums update their parameters themselves
    if clip:  # every gradient is needed before any update
        assert len(updates[-1].results) >= 3 * 12


def test_values_in_16_bits_are_gathered_before_they_are_widened():
    """The loss reads the logits where they lie: no float32 copy of them is made for the one that the label names."""
    model = dslc.load("""
model M:
    input x[6, 40]: bfloat16, label[6]: int32
    total = cross_entropy(float32(x), label)
    output total
    output slope = grad(total, x)
""")  # fmt: skip
    elaborated = lower(model, "run", target_of("cpu"))
    with elaborated.context:
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert [str(r.type) for k in kernels for r in k.results if "6x40" in str(r.type)] == ["tensor<6x40xbf16>"]


def test_a_picture_is_cast_once():
    """With its channels last, eight of a pair of columns: the product and the gradient of its filters read the same copy."""
    model = dslc.load("""
model M:
    input   x[32, 3, 64, 64]
    y = batchnorm(conv2d(relu(batchnorm(conv2d(x, 32, kernel=7, stride=2, pad=3))), 32, kernel=3, pad=1))
    loss    mean(y ** 2)
train:
    optimizer sgd(lr=0.1)
""", precision="bfloat16")  # fmt: skip
    elaborated = lower(model, "step", target_of("cuda:sm_90a"))
    with elaborated.context:
        kernels = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert sum("32x64x32x8xbf16" in str(r.type) for k in kernels for r in k.results) == 1


def test_who_sorts_a_narrow_value_sorts_what_others_read():
    """The threshold is one of the values, so that it and what lies above are chosen, none lost to rounding."""
    model = dslc.load("""
model Chosen:
    input   x[64, 16]
    param   w[16, 8] ~ normal()
    g[t, e] = sum[d](x[t, d] * w[d, e])
    least[t, e] = sort[e](g[t, e])
    kept[t, e] = g[t, e] >= least[t, 8 - 3]
    output  count[t] = sum[e](kept[t, e])
""", precision="bfloat16")  # fmt: skip
    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    count = np.asarray(dslc.compile(model, target="cpu")(x=x)["count"])
    assert (count >= 3).all() and (count == 3).mean() > 0.8  # rounded values may be equal


GATES = """model M:
    input   a[6, 3, 40], c[3, 40]
    z[b, g, u] = exp(a[b, g, u] + c[g, u])
    output  {outputs}
"""
# what is made of z, and how many kernels that takes
APART = {
    "three gates": ("y[b < 6, u] = z[b, 0, u] * tanh(z[b, 1, u]) + z[b, 2, u]", 1),
    "a part that is read twice": ("y[b < 6, u] = z[b, 0, u] * z[b, 0, u] - sin(z[b, 0, u])", 1),
    "halves": ("y[b < 6, g < 3, u < 20] = z[b, g, u] * z[b, g, u + 20]", 1),
    "neighbours": ("y[b < 6, g < 3, u < 39] = z[b, g, u] * z[b, g, u + 1]", 2),
    "rows repeated": ("y[b < 6, g < 3, u] = z[b, 0, u] + c[g, u]", 2),
    "that is asked for": ("y[b < 6, u] = z[b, 0, u] * z[b, 1, u]\\n    output  z", 2),
}


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("target", ["cpu", "cuda-emulated"])
def test_a_map_takes_in_what_it_takes_apart(name, target):
    """Elementwise work whose parts a map reads is done in it, where no point is made twice and nothing else reads it."""
    outputs, kernels = APART[name]
    model = dslc.load(GATES.format(outputs=outputs.replace("\\n", "\n")))
    elaborated = lower(model, "run", target_of(target))
    with elaborated.context, elaborated.location:
        assert kernel_count(elaborated.module) == {"map": kernels}
    rng = np.random.default_rng(0)
    given = {"a": rng.standard_normal((6, 3, 40)).astype(np.float32), "c": rng.standard_normal((3, 40)).astype(np.float32)}
    found, meant = (dslc.compile(model, t)(**given) for t in (target, "reference"))
    for key, value in meant.items():
        np.testing.assert_allclose(found[key], value, rtol=3e-6, atol=1e-6, err_msg=key)
