"""launches: how many a layer of a decoder takes on a GPU, and what must not become one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

import dslc
from dslc.backend_cuda.arch import ARCHS
from dslc.backend_cuda.backend import Lowered, lower_plan
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.plan import BESIDE, Call, Copy, Plan
from dslc.ir.program import program_of
from dslc.passes.plan import make_plan
from dslc.targets import TARGETS

SIZES = "dims batch={batch}, time=512\n    let vocab=512, width=256, heads=4, depth={depth}"
GPT = f"""model GPT:
    {SIZES}
    input tokens[batch, time]: int32
    x = embedding(tokens, vocab, width) + positions(time, width)
    repeat depth:
        x = x + self_attention(layernorm(x), heads, causal=true)
        x = x + mlp(layernorm(x), 4*width)
    output y = linear(layernorm(x), vocab)
train:
    precision {{precision}}
"""
LLAMA = f"""model Llama:
    {SIZES}
    input tokens[batch, time]: int32
    x = embedding(tokens, vocab, width)
    repeat depth:
        x = x + self_attention(rmsnorm(x), heads, kv_heads=2, causal=true, rotate=true)
        x = x + swiglu(rmsnorm(x), 2*width)
    output y = linear(rmsnorm(x), vocab, bias=false)
"""
POST_NORM = f"""model PostNorm:
    {SIZES}
    input tokens[batch, time]: int32
    x = embedding(tokens, vocab, width)
    repeat depth:
        x = layernorm(x + self_attention(x, heads, causal=true))
        x = layernorm(x + mlp(x, 4*width))
    output y = linear(x, vocab)
"""
LSTM = f"""model LSTM:
    {SIZES}
    input tokens[batch, time]: int32
    x = stacked(embedding(tokens, vocab, width), width, layers=depth)
    output y = linear(x, vocab)
"""
ONE = """model One:
    input x[{rows}, 256]
{body}
    output y
"""


KEPT = []


def planned(text: str, program: str, **options: object) -> tuple[Plan, Lowered]:
    model = dslc.load(text.format(**{"batch": 1, "precision": "float32", **options}))
    made = lower(model, program, TARGETS["cuda:sm_90a"])
    KEPT.append(made)  # the plan's kernels live in it
    with made.context, made.location:
        plan = make_plan(made.module)
        return plan, lower_plan(plan, ARCHS["sm_90a"])


def kinds(found: Lowered) -> list[str]:
    return [found.kernels[launch.kernel].kind for launch in found.launches]


@pytest.mark.parametrize(
    ("text", "options", "count"),
    [
        (GPT, {}, 5),  # norm, queries, keys, values and their puts; attention; its product; norm and one; the other
        (GPT, {"batch": 3}, 5),
        (GPT, {"precision": "bfloat16"}, 5),
        (LLAMA, {}, 6),  # what turns comes between the products and attention; a gate and what it lets through are one
        (POST_NORM, {}, 5),
        (LSTM, {}, 2),  # what a layer adds to its state, what the next one makes of it
    ],
)
def test_launches_of_a_layer(text: str, options: Mapping[str, object], count: int) -> None:
    fewer, more = (planned(text, "decode", depth=depth, **options)[1] for depth in (2, 3))
    assert len(more.launches) - len(fewer.launches) == count, kinds(more)
    assert len(more.kernels) == len(fewer.kernels)  # a layer is as the one before: nothing is made again from layer to layer


def test_rows_are_put_into_caches_where_these_lie() -> None:
    plan, _ = planned(LLAMA, "decode", depth=2)
    assert not any(isinstance(step, Copy) for step in plan.steps)
    puts = [step for step in plan.steps if isinstance(step, Call) and any(isinstance(op, ops.Put) for op in _body(step))]
    assert sorted(step.kernel.kind for step in puts) == ["product", "product", "put", "put"]  # values; keys, which are turned before


def _body(step: Call) -> list[ir.OpView]:
    return list(step.kernel.regions[0].blocks[0].operations)


def test_products_of_several_rows_are_left_alone() -> None:
    found = kinds(planned(LLAMA, "decode", depth=1, batch=8)[1])
    assert not any("product" in kind for kind in found)


BODIES = {
    "one product": ("    y = linear(rmsnorm(x), 512)", ["product"]),
    "too many blocks": ("    param w[65536, 256] ~ normal()\n    y[r, o] = sum[d](rmsnorm(x)[r, d] * w[o, d])", ["reduce", "contract"]),
    "a row that is read by others too": ("    n = rmsnorm(x)\n    y = n + linear(tanh(linear(n, 256)), 256)", ["reduce+product", "contract"]),
    "a normalization along the rows": ("    n[r, d] = x[r, d] / sum[q](abs(x[q, d]))\n    y = linear(n, 512)", ["reduce", "product"]),
    "two sums of one product": ("    z = linear(x, 512)\n    y[r, d < 256] = z[r, d] * tanh(z[r, d + 256])", ["contract", "map"]),
    "a product of a product": ("    y = linear(tanh(linear(x, 256)), 256)", ["contract", "contract"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_joins_a_product(name: str) -> None:
    body, wanted = BODIES[name]
    assert kinds(planned(ONE, "run", rows=2, body=body)[1]) == wanted


def test_what_overwrites_a_state_is_not_beside_its_readers() -> None:
    model = dslc.load(LSTM.format(batch=1, depth=2))
    made = lower(model, "decode", TARGETS["cuda:sm_90a"])
    block = program_of(made.module).entry_block
    groups: list[list[ops.Kernel]] = []
    for op in list(block.operations)[:-1]:
        groups = [*groups[:-1], [*groups[-1], op]] if BESIDE in op.attributes else [*groups, [op]]
    assert max(map(len, groups)) > 1
    place = {v.owner: n for n, group in enumerate(groups) for op in group for v in op.results}
    for n, group in enumerate(groups):
        for op in group:
            assert all(isinstance(v.owner, ir.Block) or place[v.owner] < n for v in op.operands)
    with made.context, made.location:
        assert not any(isinstance(step, Copy) for step in make_plan(made.module).steps)
