"""launches: how many a layer of a decoder takes on a GPU, and what must not become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

import dslc
from dslc.backend_cuda.arch import ARCHS
from dslc.backend_cuda.backend import Lowered, lower_plan
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.mlir import ir
from dslc.ir.plan import Call, Copy, Place, Plan
from dslc.ir.types import type_of
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
PACKED = f"""layer packed(x[b, t, d], heads):
    let    c = d // heads
    param  w[d, 3, heads, c], o[heads, c, d] ~ xavier_uniform()
    z[s, b, h, t, c] = sum[d](x[b, t, d] * w[d, s, h, c])
    s[b, h, i, j] = where(j <= i, sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]), -inf)
    a[b, h, i, c] = sum[j](softmax[j](s[b, h, i, j]) * z[2, b, h, j, c])
    return y[b, i, e] = sum[h, c](a[b, h, i, c] * o[h, c, e])
model Packed:
    {SIZES}
    input tokens[batch, time]: int32
    x = embedding(tokens, vocab, width)
    repeat depth:
        x = x + packed(rmsnorm(x), heads)
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
        (PACKED, {}, 3),  # one product puts two parts of its sums
        (PACKED, {"batch": 2}, 3),
        (POST_NORM, {}, 5),
        (LSTM, {}, 1),  # the next product, which makes the row that the gates give again, and beside it the state
    ],
)
def test_launches_of_a_layer(text: str, options: Mapping[str, object], count: int) -> None:
    fewer, more = (planned(text, "decode", depth=depth, **options)[1] for depth in (3, 4))
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


# the second product of the second launch would lie where the first one's factor does, if that were not read at the same time
TWO = "    y = concat(linear(tanh(linear(x, 256)), 256), linear(sin(linear(x, 256)), 256), axis=-1)"
BODIES = {
    "one product": ("    y = linear(rmsnorm(x), 512)", ["product"]),
    "too many blocks": ("    param w[65536, 256] ~ normal()\n    y[r, o] = sum[d](rmsnorm(x)[r, d] * w[o, d])", ["reduce", "contract"]),
    "a row that is read by others too": ("    n = rmsnorm(x)\n    y = n + linear(tanh(linear(n, 256)), 256)", ["reduce+product", "contract"]),
    "a normalization along the rows": ("    n[r, d] = x[r, d] / sum[q](abs(x[q, d]))\n    y = linear(n, 512)", ["reduce", "product"]),
    "normalizations of parts": (
        "    z[r, h < 4, c < 64] = x[r, 64*h + c]\n    param w[4, 64, 512] ~ normal()\n"
        "    y[r, o] = sum[h, c](z[r, h, c] / sum[q](z[r, h, q] * z[r, h, q]) * w[h, c, o])",
        ["reduce", "contract"],
    ),
    "what reads a state beside what overwrites it": ("    state s[2, 256] ~ zeros()\n    y = linear(s, 512)\n    s <- 2 * x", ["contract", "map"]),
    "what reads a state late": (
        "    state s[256, 256] ~ zeros()\n    z = linear(x, 256)\n    y[r, o] = sum[d](z[r, d] * s[d, o])\n    s[d, o] <- x[0, d] * x[1, o]",
        ["contract", "contract", "map"],
    ),
    "two sums of one product": ("    z = linear(x, 512)\n    y[r, d < 256] = z[r, d] * tanh(z[r, d + 256])", ["contract", "map"]),
    "a product of a product": ("    y = linear(tanh(linear(x, 256)), 256)", ["contract", "contract"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_joins_a_product(name: str) -> None:
    body, wanted = BODIES[name]
    assert kinds(planned(ONE, "run", rows=2, body=body)[1]) == wanted


@pytest.mark.parametrize("text", [LSTM, LLAMA, ONE.format(rows=2, body=TWO)])
def test_what_runs_at_once_touches_nothing_of_each_other(text: str) -> None:
    program = "run" if text.startswith("model One") else "decode"
    plan, _ = planned(text, program, depth=2)
    groups: list[list[Call]] = []
    for step in plan.steps:
        assert isinstance(step, Call)
        groups = [*groups[:-1], [*groups[-1], step]] if step.beside else [*groups, [step]]
    assert max(map(len, groups)) > 1
    for group in groups:
        for n, call in enumerate(group):
            others = [o for k, o in enumerate(group) if k != n]
            assert not set(_arena(call, call.results)) & {b for o in others for b in (*_arena(o, o.operands), *_arena(o, o.results))}


def _arena(call: Call, places: Sequence[Place]) -> Iterator[int]:
    """The blocks of 64 bytes of the arena at these places."""
    values = [*call.kernel.operands, *call.kernel.results]
    known = [*call.operands, *call.results]
    for place in places:
        if place.space == "arena":
            start = (place.index + place.offset) // 64
            yield from range(start, start + max(1, type_of(values[known.index(place)]).bytes // 64))


def test_all_that_shares_a_launch_waits_for_the_launches_before() -> None:
    found = planned(LLAMA, "decode", depth=2)[1]
    joined = [unit for unit in found.units if unit.members]
    texts = dict(found.text.functions)
    assert joined and all(texts[symbol].count("wait_for_launches_before();") == 1 for symbol in texts if symbol not in {u.name for u in joined})
    for unit in joined:
        assert texts[unit.name].count("wait_for_launches_before();") == len({f.symbol for _, f in unit.members})


@pytest.mark.parametrize(("rows", "terms", "launches"), [(1, 256, 1), (1, 2048, 2), (2, 256, 2)])
def test_blocks_that_stay_for_many_sums_make_their_row_again(rows: int, terms: int, launches: int) -> None:
    """Not where the terms of a sum are too many for a block to stay, nor for several rows: there it is blocks that come and go."""
    body = f"    param w[40000, {terms}] ~ normal()\n    y[r, o] = sum[d](rmsnorm(x)[r, d] * w[o, d])"
    found = planned(ONE.replace("256", str(terms)), "run", rows=rows, body=body)[1]
    assert len(found.launches) == launches
    assert rows > 1 or ("sums behind each other" in found.text.whole) == (launches == 1)
