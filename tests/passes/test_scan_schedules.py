"""Scans in blocks and in segments: the same bits in less memory, turns made again as the formula says, schedules near the best there are."""

from __future__ import annotations

import re

import numpy as np
import pytest

import dslc
from dslc.compiled import load_executable
from dslc.compiler import compile_anew, lower
from dslc.core.dtypes import FLOAT32
from dslc.core.errors import BudgetError
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.plan import Call, Copy, Loop
from dslc.ir.program import arguments_of, program_of
from dslc.ir.types import type_of
from dslc.ir.verify import verify
from dslc.passes import turn_blocks
from dslc.passes.differentiate import Differentiate
from dslc.passes.fuse import Fuse
from dslc.passes.plan import make_plan
from dslc.passes.scan_schedules import binomial, menu, nest
from dslc.passes.segments import Schedule, pairs_of, segment
from dslc.passes.simplify import Simplify
from dslc.passes.turn_blocks import TurnBlocks
from dslc.runtime.store import ParameterStore
from dslc.targets import target_of

from .graphs import add, matmul, program, total

TURNS = 13
MODEL = """
model M:
    dims    batch={batch}, time={time}
    input   x[batch, time, {width}]: float32
    input   targets[batch, time]: int32
    {body}
    loss    cross_entropy(linear(y, 5), targets)
train:
    optimizer  {optimizer}
    steps      10
"""
RECURRENCE = """param w[{width}, {width}] ~ normal(std=0.3)
    scan t < time carry h[batch, {width}] = 0:
        h[b, u] = {next}
        emit y[b, t, u] = h[b, u]{emit}"""
PRODUCT = "sum[v](h[b, v] * w[v, u])"
BODIES = {
    "rnn": "y = rnn(x, {width})",
    "lstm": "y = lstm(embedding(targets, 5, 3), {width})",
    "two layers": "y = gru(gru(x, {width}), {width})",
    "reversed": "y = reversed(lstm(reversed(x), {width}))",
    "both ways": "y = bidirectional(x, {width})",
    "dropout": RECURRENCE.format(width="{width}", next="tanh(sum[v](dropout(h, 0.3)[b, v] * w[v, u]) + x[b, t, u])", emit=""),
    "reads the turn": RECURRENCE.format(width="{width}", next=f"tanh({PRODUCT} + x[b, t, u] * t)", emit=" + t"),
    "last state": RECURRENCE.format(width="{width}", next=f"tanh({PRODUCT} + x[b, t, u])", emit="") + "\n    y[b, t, u] = y[b, t, u] + h[b, u]",
    "state space": """param a[{width}, 3], c[{width}, 3] ~ normal(std=0.3)
    param w[{width}, {width}] ~ normal(std=0.3)
    v[b, t, d] = sum[i](x[b, t, i] * w[i, d])
    scan t < time carry s[batch, {width}, 3] = 0:
        s[b, d, n] = exp(-abs(a[d, n])) * s[b, d, n] + v[b, t, d]
        emit y[b, t, d] = sum[n](s[b, d, n] * c[d, n])""",
    "nested": """param w[{width}, {width}] ~ normal(std=0.3)
    scan t < time carry h[batch, {width}] = 0:
        scan k < 3 carry g[batch, {width}] = h:
            g[b, u] = tanh(sum[v](g[b, v] * w[v, u]) + x[b, t, u])
        h[b, u] = g[b, u]
        emit y[b, t, u] = h[b, u]""",
}


def model_of(body, batch=3, time=TURNS, width=4, optimizer="sgd(lr=100)", **settings):
    return dslc.load(MODEL.format(batch=batch, time=time, width=width, body=BODIES[body].format(width=width), optimizer=optimizer), **settings)


def drawn(slot, rng):
    if slot.type.dtype.is_float:
        return abs(rng.standard_normal(slot.type.shape))
    return rng.integers(0, slot.bounds[1] if slot.bounds else 3, slot.type.shape)


def results(body, terms=0, schedules=(), counted=None):
    """What a training step gives in float64, and how often an op ran, with scans in blocks of so many terms and in segments."""
    elaborated = lower(model_of(body), "step", target_of("reference"))
    with elaborated.context, elaborated.location:
        made = program_of(elaborated.module)
        if terms:
            TurnBlocks(terms).run(elaborated.module)
        pairs = pairs_of(made.entry_block)
        turns = [p.turns for p in pairs]
        assert pairs
        for pair, schedule in zip(pairs, schedules):
            segment(pair, schedule)
        verify(elaborated.module)
        count = 0

        def watch(op, values):
            nonlocal count
            count += op.operation.name == counted

        rng = np.random.default_rng(0)
        given = {s.name: drawn(s, rng) for s in arguments_of(made)}
        return reference.run(elaborated.module, given, watch), count, turns


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


# of them, in a turn's own work
TANHS = {name: {"lstm": 2, "reversed": 2, "both ways": 2, "nested": 3, "state space": 0}.get(name, 1) for name in BODIES}
SCHEDULES = (Schedule((4,)), Schedule((1,), 1), Schedule((3,), 6), Schedule((5, 2), 2), Schedule((12, 5, 2)), Schedule((6, 3, 1), 1))


@pytest.mark.parametrize("body", BODIES)
def test_segments_give_the_same_bits_and_make_as_many_turns_again_as_the_formula_says(body):
    plain, runs, turns = results(body, counted="nn.tanh")
    assert set(turns) == {TURNS}
    for schedule in SCHEDULES:
        made, count, _ = results(body, schedules=[schedule] * len(turns), counted="nn.tanh")
        assert equal(plain, made)
        assert count - runs == TANHS[body] * len(turns) * schedule.recomputed(TURNS)


@pytest.mark.parametrize("terms", [0, 6])
def test_scans_that_run_from_the_last_turn_on(terms):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.standard_normal((TURNS, 2, 4)), "w": rng.standard_normal((4, 4)), "s": rng.standard_normal((2, 4))}

    def loss(x, w, s):
        scan = ops.Scan.build([w], [s], [x], [type_of(s)], TURNS, backward=True)
        block = scan.regions[0].blocks[0]
        turn, weights, state, now = block.arguments
        with ir.InsertionPoint(block):
            scale = ops.broadcast(ops.Cast.of(turn, dtype=type_of(now).dtype), type_of(now).shape, [])
            state = ops.Tanh.of(add(matmul(state, weights), ops.Mul.of(now, scale)))
            ops.Yield.of(state, state)
        return add(total(scan.results[0]), total(ops.Mul.of(scan.results[1], x)))

    def run(schedule=None):
        count = 0

        def watch(op, values):
            nonlocal count
            count += op.operation.name == "nn.tanh"

        with context(), ir.Location.unknown():
            module = program(arrays, loss, ["x", "w", "s"], (Differentiate(), Simplify(), *([TurnBlocks(terms)] if terms else [])))
            for pair in pairs_of(program_of(module).entry_block) if schedule else ():
                segment(pair, schedule)
            verify(module)
            return reference.run(module, arrays, watch), count

    plain, runs = run()
    for schedule in SCHEDULES if not terms else (Schedule((1,)), Schedule((2,), 1)):
        made, count = run(schedule)
        assert equal(plain, made) and (terms or count - runs == schedule.recomputed(TURNS, backward=True))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("terms", [9, 12])
def test_blocks_sum_in_an_order_that_segments_keep(body, terms):
    """13 turns in blocks of 3 or 4, and one behind them; of blocks some are stored."""
    plain, _, _ = results(body)
    blocks, _, turns = results(body, terms)
    for name in plain:
        np.testing.assert_allclose(blocks[name], plain[name], rtol=1e-9, atol=1e-9)
    assert max(turns) == TURNS // (terms // 3) or body in ("state space", "nested")
    for schedule in (Schedule((1,)), Schedule((1,), 1), Schedule((2, 1))):
        assert equal(blocks, results(body, terms, [schedule] * len(turns))[0])


def block_turns(turns, batch, width):
    """Turns of a block of a program, and bytes of its least plan."""
    model = model_of("lstm", batch=batch, time=turns, width=width, memory="8 KiB")
    with pytest.raises(BudgetError) as raised:
        lower(model, "step", target_of("cpu"))
    elaborated = lower(model_of("lstm", batch=batch, time=turns, width=width), "step", target_of("cpu"), after="turn_blocks")
    with elaborated.context, elaborated.location:
        return turns // pairs_of(program_of(elaborated.module).entry_block)[0].turns, raised.value.least


def test_blocks_are_as_long_as_costs_little_of_what_a_budget_saves(monkeypatch):
    """Products of 512 terms instead of 256, and the least budget grows by less than a PARTth of what is saved."""
    sizes = {"turns": 512, "batch": 32, "width": 16}
    long, most = block_turns(**sizes)
    monkeypatch.setattr(turn_blocks, "FULL", 1)
    short, least = block_turns(**sizes)
    assert (short, long) == (8, 16)
    free = compile_anew(model_of("lstm", batch=32, time=512, width=16), "step", "cpu")
    saved = free.arena_bytes + sum(p.bytes for p in free.ports) - least
    assert 0 <= most - least <= saved / turn_blocks.PART


@pytest.mark.parametrize(
    "turns, terms_a_turn, cheap, length",
    [
        (512, 32, 24, 32),  # a divisor near
        (512, 32, 2, 8),  # the buffers count: no more than the least
        (512, 32, 500, 32),  # more than 1,024 terms gain nothing
        (512, 512, 100, 2),
        (509, 32, 24, 24),  # a prime
        (100, 1, 100, 0),  # too short for two blocks
        (40, 13, 1, 20),
        (20, 32, 9, 10),
    ],
)
def test_turns_of_a_block(turns, terms_a_turn, cheap, length):
    assert turn_blocks.length_of(turns, terms_a_turn, 256, cheap) == length


def test_sums_of_16_bit_products_are_carried_in_32():
    elaborated = lower(model_of("lstm", batch=32, time=64, precision="bfloat16"), "step", target_of("cpu"), after="turn_blocks")
    with elaborated.context, elaborated.location:
        scans = [op for op in program_of(elaborated.module).entry_block.operations if isinstance(op, ops.Scan)]
        assert len(scans) == 2
        totals = [type_of(v) for v in list(scans[1].results)[: scans[1].carries] if type_of(v).rank == 3]
    assert len(totals) >= 2 and all(t.dtype == FLOAT32 for t in totals)


# --- under budgets


def steps(executable, model, count=2):
    """The losses of a few steps and the parameters after them."""
    program, store = load_executable(executable), ParameterStore(executable.ports)
    store.assign(dict(model.params.items()))
    program.bind(store)
    rng = np.random.default_rng(0)
    ports = {p.name: p for p in executable.ports if p.name in ("x", "targets")}
    given = {"targets": rng.integers(0, 5, ports["targets"].shape).astype(np.int32)}
    if "x" in ports:
        given["x"] = rng.standard_normal(ports["x"].shape).astype(np.float32)
    losses = [float(program(given, seed=0, step=k)["loss"]) for k in range(count)]
    return losses, {p.name: np.array(store[p.name]) for p in executable.ports if p.role == "param"}


def same_steps(body, target, share, **sizes):
    """A program under a share of the bytes of the one without a budget gives the same bits; what it tells of its plan, and both."""
    free_model = model_of(body, optimizer="adamw(lr=1e-3)", **sizes)
    free = compile_anew(free_model, "step", target)
    ports = sum(p.bytes for p in free.ports)
    budget = ports + int(share * free.arena_bytes)
    model = model_of(body, optimizer="adamw(lr=1e-3)", memory=f"{budget} B", **sizes)
    under = compile_anew(model, "step", target)
    assert under.arena_bytes + ports <= budget
    (expected, trained), (losses, parameters) = steps(free, free_model), steps(under, model)
    assert losses == expected and all(np.array_equal(parameters[name], trained[name]) for name in trained)
    return under.notes["memory"]


@pytest.mark.parametrize("body, share", [("lstm", 0.65), ("dropout", 0.8), ("state space", 0.85), ("two layers", 0.6)])
def test_budgets_of_long_scans_keep_the_bits_on_the_cpu(body, share):
    told = same_steps(body, "cpu", share, batch=4, time=199, width=16)
    assert re.search(r"scans: .*:\d+: \d+ (blocks of )?turns in segments of \d.* are made again", told)


@pytest.mark.parametrize("body, share", [("lstm", 0.85), ("dropout", 0.8)])
def test_budgets_of_long_scans_keep_the_bits_on_the_emulator(body, share):
    """Two blocks of 20 turns and one turn behind them. Logits no larger than what they are made of are not made in chunks, which add up otherwise."""
    assert "scans:" in same_steps(body, "cuda-emulated", share, batch=13, time=41, width=5)


def test_budgets_of_blocks_longer_than_need_be_keep_the_bits():
    """16 turns, 512 terms."""
    assert "scans:" in same_steps("lstm", "cpu", 0.65, batch=32, time=256, width=8)


def test_the_least_budget_knows_of_segments():
    sizes = {"batch": 4, "time": 512, "width": 16}
    with pytest.raises(BudgetError) as raised:
        compile_anew(model_of("lstm", memory="8 KiB", **sizes), "step", "cpu")
    least = float(re.search(r"possible is ([\d.]+) KiB", raised.value.message).group(1))
    made = compile_anew(model_of("lstm", memory=f"{least} KiB", **sizes), "step", "cpu")
    total = made.arena_bytes + sum(p.bytes for p in made.ports)
    assert 0.98 * least * 1024 <= total <= least * 1024
    assert total < 0.4 * compile_anew(model_of("lstm", **sizes), "step", "cpu").arena_bytes
    with pytest.raises(BudgetError):
        compile_anew(model_of("lstm", memory=f"{0.97 * least} KiB", **sizes), "step", "cpu")


def test_the_plan_adds_what_is_made_again_and_no_less_than_its_bound():
    sizes = {"batch": 4, "time": 512, "width": 16}
    free = compile_anew(model_of("lstm", **sizes), "step", "cpu")
    ports = sum(p.bytes for p in free.ports)
    added = []
    for share in (0.9, 0.6, 0.4):
        elaborated = lower(model_of("lstm", memory=f"{ports + int(share * free.arena_bytes)} B", **sizes), "step", target_of("cpu"))
        told = elaborated.module.operation.attributes["nn.checkpoint"].value
        extra, bound = map(float, re.search(r"which adds ([\d.]+)% by the cost model; .* adds less than ([\d.]+)%", told).groups())
        assert 0 <= bound <= extra + 0.01
        added.append(extra)
    assert 0 < added[0] < added[1] < added[2] < 60


# --- the plan's part in it


def plan_of(body, schedule=None, **sizes):
    elaborated = lower(model_of(body, **sizes), "step", target_of("cpu"), after="turn_blocks")
    with elaborated.context, elaborated.location:
        for pair in pairs_of(program_of(elaborated.module).entry_block) if schedule else ():
            segment(pair, schedule)
        Fuse().run(elaborated.module)
        return make_plan(elaborated.module)


def all_steps(found):
    for step in found:
        yield step
        if isinstance(step, Loop):
            yield from all_steps(step.steps)


def test_sums_over_blocks_are_added_in_place():
    """Two matrices of 16 x 4 x 16 are carried; no copy of one is made in a turn of the loop over blocks."""
    plan = plan_of("lstm", batch=16, time=64, width=16)
    loops = [step for step in plan.steps if isinstance(step, Loop)]
    assert len(loops) == 2 and not any(isinstance(s, Copy) and s.bytes == 16 * 4 * 16 * 4 for s in all_steps(loops[1].steps))


def test_stacks_of_turns_apart_are_made_where_they_are_joined():
    plan = plan_of("rnn", Schedule((5,), 3), batch=2, time=20, width=16)
    names = [step.kernel.role for step in all_steps(plan.steps) if isinstance(step, Call)]
    assert names and not any("concat" in name for name in names)


# --- schedules


def test_nests_of_two_levels_are_the_best_there_are():
    for turns in (9, 100, 1024):
        for starts in (3, 7, 31):
            unit = -(-turns // (starts + 1))
            levels = nest(turns - unit, starts, unit)
            assert len(levels) == 1 and Schedule(levels, unit).recomputed(turns) == turns - unit
            assert binomial(-(-turns // unit), starts) == -(-turns // unit) - 1


@pytest.mark.parametrize("turns", [64, 1000, 1024])
def test_deeper_nests_are_near_the_best_there_are(turns):
    """The binomial schedule has segments of unequal lengths, which no nest of loops has; it is the least that any schedule makes again."""
    for starts, most in ((24, 1.3), (32, 1.25)):
        schedule, best = Schedule(nest(turns - 1, starts, 1), 1), binomial(turns, starts)
        assert schedule.held(turns)[0] <= starts
        assert best <= schedule.recomputed(turns) <= most * best
    assert nest(turns - 1, 3, 1) == ()  # segments of equal lengths, three starts: too few


def test_binomial_counts():
    """Of Griewank and Walther's table: 10 steps with 3 snapshots take 15 forward steps, and with 9 each step once."""
    assert [binomial(10, s) for s in (1, 3, 9)] == [45, 15, 9]


def test_a_menu_goes_from_few_turns_made_again_to_few_bytes():
    elaborated = lower(model_of("lstm", time=200), "step", target_of("reference"))
    with elaborated.context, elaborated.location:
        (pair,) = pairs_of(program_of(elaborated.module).entry_block)
        *schedules, last = menu(pair)
        again = [s.recomputed(pair.turns) for s in schedules]
        held = [s.held(pair.turns) for s in schedules]
        sizes = [starts * pair.carried_bytes + turns * pair.kept_bytes for starts, turns in held]
    assert again == sorted(again) and sizes == sorted(sizes, reverse=True) and again[0] < 20
    assert sizes[-1] < 0.1 * pair.turns * pair.kept_bytes and last.stored == 0


@pytest.mark.parametrize("body", ["rnn", "both ways", "last state", "reads the turn", "nested"])
def test_a_scan_of_no_turns_gives_what_is_carried_into_it(body):
    text = MODEL.format(batch=3, time=0, width=4, body=BODIES[body].format(width=4), optimizer="sgd(lr=1)")
    model = dslc.load(text.replace("cross_entropy(linear(y, 5), targets)", "sum(y ** 2) + sum(linear(y, 5)) + 2"))
    trainer = dslc.Trainer(model, target="cpu")
    assert [trainer.step(x=np.zeros((3, 0, 4), np.float32)) for _ in range(2)] == [2.0, 2.0]
