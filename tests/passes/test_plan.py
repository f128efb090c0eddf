"""plan: programs run from their plan in numpy over real bytes give what the reference gives before fusing; nothing is clobbered."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.core import dtypes
from dslc.ir import ops, reference
from dslc.ir.mlir import ir
from dslc.ir.op import context
from dslc.ir.plan import Call, Copy, Loop
from dslc.ir.program import Slot, finish_program, start_program
from dslc.ir.types import TensorType, type_of
from dslc.ir.verify import verify
from dslc.passes.fuse import Fuse
from dslc.passes.packing import Interval, max_live, pack
from dslc.passes.plan import make_plan
from dslc.targets import target_of

from .simulate import simulate

F32 = dtypes.FLOAT32
VECTOR = TensorType(F32, (6,))


def check(slots, build, given):
    """The plan of a program whose results `build` gives, after its results were compared with the reference's."""
    with context(), ir.Location.unknown():
        module = ir.Module.create()
        made = start_program(module, "main", slots)
        with ir.InsertionPoint(made.entry_block):
            results = build(*made.entry_block.arguments)
        finish_program(made, [(Slot(name, role, type_of(v)), v) for name, role, v in results])
        verify(module)
        expected = reference.run(module, given)
        Fuse().run(module)
        verify(module)
        plan = make_plan(module)
        found = simulate(plan, given)
        for name, role, _ in results:
            key = f"next.{name}" if role in ("param", "state") else name
            np.testing.assert_allclose(found[name], expected[key], rtol=1e-5, atol=1e-5, err_msg=name)
        return plan


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_states_that_exchange_their_values():
    slots = [Slot("a", "state", VECTOR), Slot("b", "state", VECTOR)]
    check(slots, lambda a, b: [("a", "state", b), ("b", "state", a)], {"a": numbers(6), "b": numbers(6, seed=1)})


def test_states_computed_from_each_other():
    slots = [Slot("a", "state", VECTOR), Slot("b", "state", VECTOR)]
    given = {"a": numbers(6), "b": numbers(6, seed=1)}
    check(slots, lambda a, b: [("a", "state", ops.Exp.of(b)), ("b", "state", ops.Sin.of(a))], given)


def test_states_in_a_circle_beside_another_update():
    """The groups of an update run one after another: what they read of each other may not be overwritten in a circle."""
    small = TensorType(F32, (4,))
    slots = [Slot("a", "state", VECTOR), Slot("b", "state", VECTOR), Slot("c", "state", small)]

    def build(a, b, c):
        return [("a", "state", ops.Exp.of(b)), ("b", "state", ops.Sin.of(a)), ("c", "state", ops.Neg.of(c))]

    plan = check(slots, build, {"a": numbers(6), "b": numbers(6, seed=1), "c": numbers(4)})
    (call,) = (s for s in plan.steps if isinstance(s, Call))
    assert [p.space for p in call.results] == ["arena", "arena", "slot"]


def test_a_next_value_written_in_place_is_not_copied():
    slots = [Slot("w", "param", VECTOR), Slot("g", "input", VECTOR)]
    plan = check(slots, lambda w, g: [("w", "param", ops.Sub.of(w, g))], {"w": numbers(6), "g": numbers(6, seed=1)})
    assert [type(s) for s in plan.steps] == [Call] and plan.arena_bytes == 0
    assert plan.steps[0].results[0] == plan.steps[0].operands[0]


def test_a_next_value_that_reads_the_old_one_elsewhere():
    """Reversed reads: in place, the second half would read what the first half wrote."""
    slots = [Slot("w", "state", VECTOR)]
    check(slots, lambda w: [("w", "state", ops.Exp.of(ops.reverse(w, 0)))], {"w": numbers(6)})


ROW, PLACE = TensorType(F32, (1,)), TensorType(dtypes.INT32, (1,))
PUT = {"c": numbers(6), "r": numbers(1, seed=1), "at": np.array([4], np.int32)}


def test_a_row_is_put_where_the_state_lies():
    slots = [Slot("c", "state", VECTOR), Slot("r", "input", ROW), Slot("at", "input", PLACE, bounds=(0, 6))]

    def build(c, r, at):
        kept = ops.Put.of(c, ops.Exp.of(r), at, axis=0, lane=-1)
        return [("c", "state", kept), ("y", "output", ops.Exp.of(kept))]

    plan = check(slots, build, PUT)
    puts = [s for s in plan.steps if isinstance(s, Call) and s.kernel.kind == "put"]
    assert len(puts) == 1 and puts[0].results[0].space == "slot" and puts[0].results[0] in puts[0].operands
    assert not any(isinstance(s, Copy) for s in plan.steps)


def test_a_base_that_is_read_later_is_copied_first():
    slots = [Slot("c", "state", VECTOR), Slot("r", "input", ROW), Slot("at", "input", PLACE, bounds=(0, 6))]

    def build(c, r, at):
        kept = ops.Put.of(c, r, at, axis=0, lane=-1)
        return [("c", "state", kept), ("y", "output", ops.Mul.of(ops.reverse(c, 0), kept))]

    steps = check(slots, build, PUT).steps
    (at,) = (k for k, s in enumerate(steps) if isinstance(s, Call) and s.kernel.kind == "put")
    copy, put = steps[at - 1], steps[at]
    assert isinstance(copy, Copy) and copy.source in put.operands and copy.target == put.results[0] != copy.source


def test_a_value_that_is_an_output_and_a_state():
    def build(w, x):
        y = ops.Add.of(w, x)
        return [("w", "state", y), ("y", "output", y), ("z", "output", y), ("old", "output", w)]

    check([Slot("w", "state", VECTOR), Slot("x", "input", VECTOR)], build, {"w": numbers(6), "x": numbers(6, seed=1)})


def test_results_without_arithmetic():
    """An argument, a view of one and a constant are results too."""

    def build(x):
        table = ops.constant(np.arange(6, dtype=np.float32))
        return [
            ("same", "output", x),
            ("turned", "output", ops.transpose(x, [1, 0])),
            ("flat", "output", ops.reshape(x, [6])),
            ("c", "output", table),
        ]

    check([Slot("x", "input", TensorType(F32, (2, 3)))], build, {"x": numbers(2, 3)})


def scan_of(carries, slices, emits, body, backward=False):
    made = ops.Scan.build([], carries, slices, emits, 5, backward)
    with ir.InsertionPoint(made.regions[0].blocks[0]):
        ops.Yield.of(*body(*made.regions[0].blocks[0].arguments))
    return list(made.results)


@pytest.mark.parametrize("backward", [False, True])
def test_scans(backward):
    """Carries that change places, a carry that is emitted, a slice that is emitted as it is."""

    def body(turn, p, q, x):
        return ops.Add.of(q, x), p, p, x, ops.Mul.of(ops.spread(ops.cast(turn, F32), VECTOR), x)

    def build(x, a):
        p, q, *emitted = scan_of([a, ops.Neg.of(a)], [x], [VECTOR] * 3, body, backward)
        return [("p", "output", p), ("q", "output", q), *((f"e{k}", "output", e) for k, e in enumerate(emitted))]

    slots = [Slot("x", "input", TensorType(F32, (5, 6))), Slot("a", "state", VECTOR)]
    check(slots, build, {"x": numbers(5, 6), "a": numbers(6, seed=1)})


def test_a_scan_in_a_scan():
    """Slices of slices: places with two strides."""

    def outer(turn, s, rows):
        last, seen = scan_of([s], [rows], [VECTOR], lambda t, c, row: (ops.Add.of(ops.Sin.of(c), row), ops.Mul.of(c, row)))
        return last, seen

    def build(x, a):
        last, seen = scan_of([a], [x], [TensorType(F32, (5, 6))], outer)
        return [("a", "state", last), ("seen", "output", ops.Exp.of(seen))]

    slots = [Slot("x", "input", TensorType(F32, (5, 5, 6))), Slot("a", "state", VECTOR)]
    check(slots, build, {"x": 0.1 * numbers(5, 5, 6), "a": numbers(6, seed=1)})


def loop_copies(steps):
    """Copies in the bodies of loops."""
    found = []
    for loop in (s for s in steps if isinstance(s, Loop)):
        found += [s for s in loop.steps if isinstance(s, Copy)] + loop_copies(loop.steps)
    return found


EIGHT = TensorType(F32, (8,))
STARTS = {"x": 0.1 * numbers(5, 8), "a": numbers(8, seed=1), "b": numbers(8, seed=2)}


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("stacked", [(True, True), (True, False), (False, True)])
def test_a_carry_lies_in_the_rows_of_its_stacks(backward, stacked):
    """What a carry is before a turn, and after it, is stacked by being made there; the last value and the first one are rows too."""

    def body(turn, p, q, x):
        after = ops.Add.of(ops.Mul.of(p, ops.reverse(q, 0)), x)
        return after, ops.Add.of(q, p), *(v for v, wanted in zip((p, after), stacked) if wanted)

    def build(x, a, b):
        p, q, *emitted = scan_of([ops.Neg.of(a), b], [x], [EIGHT] * sum(stacked), body, backward)
        return [("a", "state", p), ("q", "output", q), *((f"e{k}", "output", ops.Exp.of(e)) for k, e in enumerate(emitted))]

    slots = [Slot("x", "input", TensorType(F32, (5, 8))), Slot("a", "state", EIGHT), Slot("b", "input", EIGHT)]
    plan = check(slots, build, STARTS)
    assert not loop_copies(plan.steps)
    assert sum(b.bytes == 192 for b in plan.buffers) == 1  # six rows


@pytest.mark.parametrize("backward", [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("deep", [False, True])
def test_a_carry_lies_in_the_rows_of_a_scan_around(backward, deep):
    """A carry that an inner scan takes on lies in the rows of the outer scan's stack; where one of them runs the other way it is copied."""

    def step(t, c, row):
        after = ops.Add.of(ops.Sin.of(c), row)
        return after, c, after

    def outer(turn, s, rows):
        last, before, after = scan_of([s], [rows], [EIGHT] * 2, step, backward[1])
        return (last, before, after) if not deep else (last, before)

    def build(x, a):
        last, *seen = scan_of([a], [x], [TensorType(F32, (5, 8))] * (1 if deep else 2), outer, backward[0])
        return [("a", "state", last), *((f"e{k}", "output", ops.Exp.of(e)) for k, e in enumerate(seen))]

    slots = [Slot("x", "input", TensorType(F32, (5, 5, 8))), Slot("a", "state", EIGHT)]
    plan = check(slots, build, {"x": 0.1 * numbers(5, 5, 8), "a": numbers(8, seed=1)})
    assert bool(loop_copies(plan.steps)) == (backward[0] != backward[1])


def test_a_carry_of_an_inner_scan_alone():
    """The inner scan stacks it for what follows, the outer one does not: it goes on in its own place."""

    def outer(turn, s, rows):
        last, seen = scan_of([s], [rows], [EIGHT], lambda t, c, row: (ops.Add.of(ops.Sin.of(c), row),) * 2)
        return last, ops.Reduce.of(seen, kind="sum", axes=[0])

    def build(x, a):
        last, sums = scan_of([a], [x], [EIGHT], outer)
        return [("a", "state", last), ("sums", "output", ops.Exp.of(sums))]

    slots = [Slot("x", "input", TensorType(F32, (5, 5, 8))), Slot("a", "state", EIGHT)]
    check(slots, build, {"x": 0.1 * numbers(5, 5, 8), "a": numbers(8, seed=1)})


def test_a_carry_whose_rows_are_no_chunks_stays_where_it_is():
    """Rows of 24 bytes: kernels would read every other one at an address that is no multiple of 16."""
    slots = [Slot("x", "input", TensorType(F32, (5, 6))), Slot("a", "state", VECTOR)]

    def build(x, a):
        last, seen = scan_of([a], [x], [VECTOR], lambda t, c, row: (ops.Add.of(c, row),) * 2)
        return [("a", "state", last), ("seen", "output", ops.Exp.of(seen))]

    plan = check(slots, build, {"x": numbers(5, 6), "a": numbers(6, seed=1)})
    assert len(loop_copies(plan.steps)) == 1


@pytest.mark.parametrize("truth", [False, True])
def test_conds(truth):
    """Branches that give an argument as it is, and one value twice."""

    def build(c, x, w):
        made = ops.Cond.build(c, [x, w], [VECTOR, VECTOR])
        for region, branch in zip(made.regions, (lambda x, w: (w, x), lambda x, w: (ops.Exp.of(x),) * 2)):
            with ir.InsertionPoint(region.blocks[0]):
                ops.Yield.of(*branch(*region.blocks[0].arguments))
        a, b = made.results
        return [("w", "state", a), ("y", "output", ops.Add.of(a, b)), ("b", "output", b)]

    slots = [Slot("c", "input", TensorType(dtypes.BOOL, ())), Slot("x", "input", VECTOR), Slot("w", "state", VECTOR)]
    check(slots, build, {"c": np.array(truth), "x": numbers(6), "w": numbers(6, seed=1)})


def test_narrow_types_keep_their_size():
    def build(x):
        half = ops.cast(x, dtypes.FLOAT16)
        return [
            ("h", "output", half),
            ("i", "output", ops.cast(x, dtypes.INT8)),
            ("positive", "output", ops.Compare.of(x, ops.full_like(x, 0), predicate="gt")),
        ]

    check([Slot("x", "input", VECTOR)], build, {"x": 3 * numbers(6)})


@pytest.mark.parametrize("seed", range(20))
def test_packing_separates_what_lives_together(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 40, 60)
    intervals = [Interval(int(b) * 64, int(f), int(f + n)) for b, f, n in zip(rng.integers(1, 50, 60), first, rng.integers(0, 15, 60))]
    packed = pack(intervals)
    alive = [sum(i.bytes for i in intervals if i.first <= t <= i.last) for t in range(60)]
    assert packed.lower_bound == max_live(intervals) == max(alive) <= packed.total <= 1.5 * max(alive)
    for k, (a, at) in enumerate(zip(intervals, packed.offsets)):
        assert at + a.bytes <= packed.total
        for b, bt in zip(intervals[:k], packed.offsets):
            assert a.last < b.first or b.last < a.first or at + a.bytes <= bt or bt + b.bytes <= at


def test_kernels_that_share_nothing_have_no_copies():
    slots = [Slot("x", "input", TensorType(F32, (4, 6))), Slot("w", "param", TensorType(F32, (6, 6)))]

    def build(x, w):
        y = ops.contract(x, w, [0, 1], [1, 2], [0, 2])
        z = ops.contract(ops.Tanh.of(y), w, [0, 1], [1, 2], [0, 2])
        return [("z", "output", z)]

    plan = check(slots, build, {"x": numbers(4, 6), "w": numbers(6, 6, seed=1)})
    assert not any(isinstance(s, Copy) for s in plan.steps)


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked"])
def test_products_and_sums_update_their_parameters_in_place(tmp_path, target):
    """The gradient's product takes in the optimizer: weight, bias and their moments are written where they lie, and no copy follows."""
    path = tmp_path / "m.dsl"
    path.write_text("""
model M:
    input   x[24, 40], y[24, 36]
    param   w[36, 40], b[36] ~ normal(std=0.1)
    h[n, o] = sum[i](x[n, i] * w[o, i]) + b[o]
    loss    mean((h - y) ** 2 + mean(w ** 2))
train:
    optimizer adamw(lr=0.01, weight_decay=0.1)
""")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 40)).astype(np.float32), rng.standard_normal((24, 36)).astype(np.float32)
    found = []
    for each in (target, "reference"):
        model = dslc.load(str(path))
        trainer = dslc.Trainer(model, target=each)
        for _ in range(3):
            trainer.step(x=x, y=y)
        found.append({k: np.array(v) for k, v in model.params.items()})
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=2e-4, atol=1e-6, err_msg=name)
    elaborated = lower(dslc.load(str(path)), "step", target_of("cpu"))
    with elaborated.context, elaborated.location:
        plan = make_plan(elaborated.module)
    kinds = {step.kernel.kind for step in plan.steps if isinstance(step, Call) and any(p.space == "slot" for p in step.results)}
    assert {"contract", "reduce"} <= kinds
    assert not any(isinstance(step, Copy) for step in plan.steps)


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked"])
@pytest.mark.parametrize("size", [3, 40])
def test_the_last_gradient_is_read_before_the_new_one_takes_its_place(tmp_path, target, size):
    """A state that becomes the gradient itself: the sum that makes a bias's gradient writes it, and what it replaces is needed beside it."""
    path = tmp_path / "m.dsl"
    path.write_text(f"""
layer extrapolated(w[...], g[...], lr):
    state last[...], change[...] ~ zeros()
    change <- 0.5 * change + g - last
    last <- g
    return w - lr * (g + change)

model M:
    input   x[24, 5], y[24, {size}]
    param   w[5, {size}], b[{size}] ~ normal(std=0.1)
    h[n, o] = sum[i](x[n, i] * w[i, o]) + b[o]
    loss    mean((h - y) ** 2)
train:
    optimizer extrapolated(lr=0.1)
""")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 5)).astype(np.float32), rng.standard_normal((24, size)).astype(np.float32)
    found = []
    for each in (target, "reference"):
        model = dslc.load(str(path))
        trainer = dslc.Trainer(model, target=each)
        for _ in range(3):
            trainer.step(x=x, y=y)
        found.append({k: np.array(v) for k, v in model.params.items()})
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=2e-4, atol=1e-6, err_msg=name)


UNITS = """model Units:
    dims    b=1, t=5
    input   x[b, t, 4]
    param   w[4, 4] ~ normal()
    h[b, t, k] = tanh(sum[d](x[b, t, d] * w[d, k]))
    y[b, t, k] = sum[d](h[b, t, d] * w[d, k])
    output  h, y
    output  z[i < t, k, u < 1] = y[0, i, k]
    output  flipped[k, t] = h[0, t, k]
    output  same[i < t, u < 1, d] = x[0, i, d]
"""


def test_an_axis_of_one_element_costs_no_copy():
    """What an output only shows in another shape is made in its place: once, never for an input, and not where axes are turned."""
    model = dslc.load(UNITS)
    x = np.random.default_rng(0).standard_normal((1, 5, 4)).astype(np.float32)
    elaborated = lower(model, "run", target_of("cpu"))
    with elaborated.context, elaborated.location:
        plan = make_plan(elaborated.module)
    moves = [s for s in plan.steps if isinstance(s, Copy) or (isinstance(s, Call) and s.kernel.kind == "map")]
    assert len(moves) == 3 and plan.arena_bytes == 0  # z or y, flipped, same
    for target in ("cpu", "cuda-emulated:checked"):
        found, meant = (dslc.compile(model, t)(x=x) for t in (target, "reference"))
        for name, value in meant.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
