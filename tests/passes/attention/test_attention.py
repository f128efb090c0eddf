"""attention: naive spellings, derived; forward and gradient against the float64 reference; memory linear in the length."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops
from dslc.ir.bodies import kernel_key, kernels_in
from dslc.ir.program import program_of
from dslc.ir.streams import Stream
from dslc.passes import attention
from dslc.passes.notes import notes_of
from dslc.passes.plan import make_plan
from dslc.runtime.drivers.cpu import pool
from dslc.targets import TARGETS, Target, target_of

HERE = Path(__file__).parent
SPECS = sorted(HERE.glob("*.dsl"))
# kernels of kind attention: (forward, step); (1, 3) where nothing else is said
COUNTS: dict[str, tuple[int, int]] = {
    "by_hand": (1, 4),  # the gradient of the quotient sums rows once more
    "by_hand_window": (1, 4),  # so does the quotient here
    "difference": (3, 6),  # each softmax has its own maximum, then one kernel has both
    "difference_axis": (3, 6),
    "difference_pairs": (3, 7),  # by hand
    "dropout": (1, 5),  # without re-association
    "keys_first": (2, 5),  # the weights are normalized in a pass of their own
    "relative_plane": (1, 5),  # by hand; a plane's rows and columns are no two axes, so that two kernels make the gradient's tile
    "time_major": (2, 5),
}
# Gradients that add the tile into a table, which kernels that fold along both of its axes can: written where there are none.
TABLES = {"bucket_table", "clipped_table", "gathered_table", "relative_grouped", "relative_plane", "relative_table", "relative_table_all_heads",
          "table_of_documents"}  # fmt: skip


def working(workers: int) -> Target:
    """The CPU as a target of so many threads; 0: its kernels fold a tile along one axis."""
    return replace(target_of("cpu"), workers=lambda: workers, fingerprint=lambda: f"{workers} workers")


def kinds(model: dslc.Model, program: str, workers: int = 0) -> tuple[Counter[str], list[str]]:
    elaborated = lower(model, program, working(workers))
    block = program_of(elaborated.module).entry_block
    return Counter(op.kind for op in block.operations if isinstance(op, ops.Kernel)), notes_of(elaborated.module, "attention")


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_derived(path: Path) -> None:
    model = dslc.load(str(path))
    forward, step = COUNTS.get(path.stem, (1, 3))
    found, notes = kinds(model, "run")
    assert (found["attention"], found["contract"], notes) == (forward, 0, [])
    found, notes = kinds(model, "step")
    if path.stem in TABLES:
        assert (found["attention"], found["contract"], len(notes)) == (0, 6, 1)
    else:
        assert (found["attention"], found["contract"], notes) == (step, 0, [])


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_a_gradients_tile_is_made_once(path: Path) -> None:
    """Where kernels fold a tile along both axes, queries' and keys' gradients are one kernel."""
    found, notes = kinds(dslc.load(str(path)), "step", workers=1)
    assert (found["attention"], found["contract"], found["scatter"], notes) == (COUNTS.get(path.stem, (1, 3))[1] - 1, 0, 0, [])


def test_what_crosses_needs_equal_shares_and_memory() -> None:
    """Two heads keep two threads busy, and not three; sums of a length that is too long are not kept."""
    for n, workers, count in ((100, 2, 2), (100, 3, 3), (1 << 15, 2, 2), (1 << 17, 2, 3)):
        assert kinds(dslc.load(LONG.format(n=n)), "step", workers)[0]["attention"] == count, (n, workers)


def test_two_pairs_that_need_each_other_are_not_both_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third needs the first, and the second the fourth."""
    monkeypatch.setattr(attention, "_parts", lambda *_: ())
    monkeypatch.setattr(attention, "_stream", lambda *_: object.__new__(Stream))
    monkeypatch.setattr(attention, "_pays", lambda *_: True)
    groups = [attention._Group(frozenset({axis}), [name]) for name, axis in zip("abcd", (1, 2, 1, 2))]
    made = attention._crossed(None, None, groups, {2: {0}, 1: {3}}, 1)
    assert [g.sinks for g in made] == [["a", "b"], ["c"], ["d"]]
    assert [g.sinks for g in attention._crossed(None, None, groups, {2: {0}, 3: {1}}, 1)] == [["a", "b"], ["c", "d"]]


def given(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    all_inputs = {"docs": np.sort(rng.integers(0, 4, (2, 40)), axis=1).astype(np.int32), "bias": rng.standard_normal((2, 40, 40)).astype(np.float32),
                  "x": rng.standard_normal((40, 8)).astype(np.float32), "place": rng.integers(0, 79, (40, 40)).astype(np.int32)}  # fmt: skip
    text = path.read_text()
    return {k: v for k, v in all_inputs.items() if f"input   {k}[" in text}


# Several blocks along both axes, the last ones cut; keys that several queries share; products of more vectors than fit in registers.
BLOCKS = """model Blocks:
    param   q[3, 2, 150, 72], k[3, 100, 72], v[3, 100, 40] ~ normal(0.5)
    s[b, g, i, j] = sum[c](q[b, g, i, c] * k[b, j, c]) / sqrt(size(c))
    p[b, g, i, j] = softmax[j](where(j <= i + 3 and i - j < 90, s[b, g, i, j], -inf))
    o[b, g, i, c] = sum[j](p[b, g, i, j] * v[b, j, c])
    output  o
    loss    mean(o * o) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_blocks_along_both_axes(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "cpu", working(workers))
    same_as_reference(BLOCKS, {})


# Tables that move with either axis or against it, and that data says: several blocks, keys that several queries share.
BLOCKS_OF_TABLES = """model Tables:
    param   q[3, 2, 150, 16], k[3, 100, 16], v[3, 100, 24] ~ normal()
    param   u[2, 249], w[3, 249], z[9] ~ normal()
    s[b, g, i, j] = sum[c](q[b, g, i, c] * k[b, j, c]) / sqrt(size(c))
    t[b, g, i, j] = s[b, g, i, j] + u[g, i - j + 99] + w[b, j - i + 149] + z[clip(j - i, -4, 4) + 4]
    p[b, g, i, j] = softmax[j](where(j <= i + 3, t[b, g, i, j], -inf))
    o[b, g, i, c] = sum[j](p[b, g, i, j] * v[b, j, c])
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


def test_blocks_of_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tables in one kernel; their sums are the same bits each time and for any number of threads."""
    monkeypatch.setitem(TARGETS, "cpu", working(1))
    assert kinds(dslc.load(BLOCKS_OF_TABLES), "step", 1)[0]["attention"] == 2
    same_as_reference(BLOCKS_OF_TABLES, {})
    moved = []
    before = pool.state.threads
    try:
        for threads in (1, 2, 3, 3):
            pool.configure(threads)
            model = dslc.load(BLOCKS_OF_TABLES)
            dslc.Trainer(model, target="cpu").step()
            assert (1 if pool.state.pool is None else pool.state.pool.threads) == threads
            moved.append([np.array(model.params[k]).tobytes() for k in "uwz"])
    finally:
        pool.configure(before)
    assert all(found == moved[0] for found in moved)


ONLY_THE_TABLE = """model Only:
    input   q[2, 2, 50, 8], k[2, 2, 60, 8], v[2, 2, 60, 8]
    param   u[2, 109] ~ normal()
    s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) + u[h, i - j + 59]
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])
    output  o
    loss    mean(o * sin(o + 1)) * 1000

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


def test_only_the_table_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other fold of the gradient's tile says what is streamed."""
    monkeypatch.setitem(TARGETS, "cpu", working(1))
    found, notes = kinds(dslc.load(ONLY_THE_TABLE), "step", 1)
    assert (found["attention"], notes) == (2, [])
    rng = np.random.default_rng(0)
    same_as_reference(ONLY_THE_TABLE, {k: rng.standard_normal((2, 2, n, 8)).astype(np.float32) for k, n in (("q", 50), ("k", 60), ("v", 60))})


def test_a_table_as_large_as_the_tile_is_no_stream() -> None:
    """Where each pair has a place of its own, a table a point of the batch saves nothing."""
    model = dslc.load((HERE / "gathered_table.dsl").read_text().replace("u[79, 2]", "u[1600, 2]"))
    found, notes = kinds(model, "step", 1)
    assert (found["attention"], len(notes)) == (0, 1)


# Products that have as many points as the sums of rows.
ONE_FEATURE = """model OneFeature:
    param   q[3, 2, 37, 8], k[3, 35, 8], v[3, 35, 1] ~ normal()
    s[b, g, i, j] = sum[c](q[b, g, i, c] * k[b, j, c]) / sqrt(size(c))
    p[b, g, i, j] = softmax[j](s[b, g, i, j])
    o[b, g, i, c] = sum[j](p[b, g, i, j] * v[b, j, c])
    output  o
    loss    mean(o * o) * 100

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


def test_values_of_one_feature() -> None:
    same_as_reference(ONE_FEATURE, {})


@pytest.mark.parametrize(("workers", "path"), [(w, path) for w, paths in ((0, SPECS[::4]), (1, SPECS)) for path in paths],
                         ids=lambda v: v.stem if isinstance(v, Path) else f"{v} workers")  # fmt: skip
def test_same_as_reference(workers: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "cpu", working(workers))
    same_as_reference(str(path), given(path))


def same_as_reference(spec: str, inputs: dict[str, np.ndarray]) -> None:
    """One step with rate 1 moves each parameter by its gradient."""
    losses, moved, outputs = [], [], []
    for target in ("cpu", "reference"):
        model = dslc.load(spec)
        outputs.append(np.array(dslc.compile(model, target=target)(**inputs)["o"]))
        before = {k: np.array(v) for k, v in model.params.items()}
        losses.append(dslc.Trainer(model, target=target).step(**inputs))
        moved.append({k: before[k] - np.array(v) for k, v in model.params.items()})
    np.testing.assert_allclose(outputs[0], outputs[1], atol=3e-6, rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5, atol=1e-7)
    for name, expected in moved[1].items():
        scale = max(float(np.abs(expected).max()), 1e-6)
        np.testing.assert_allclose(moved[0][name] / scale, expected / scale, atol=3e-4, err_msg=name)


LONG = """model Long:
    param   q[2, {n}, 16], k[2, {n}, 16], v[2, {n}, 16] ~ normal()
    s[h, i, j] = sum[c](q[h, i, c] * k[h, j, c]) / sqrt(size(c))
    p[h, i, j] = softmax[j](where(j <= i, s[h, i, j], -inf))
    o[h, i, c] = sum[j](p[h, i, j] * v[h, j, c])
    output  o
    loss    mean(o * o)

train:
    optimizer  sgd(lr=1.0)
    steps      1
"""


@pytest.mark.parametrize("program", ["run", "step"])
def test_memory_is_linear(program: str) -> None:
    """Bytes of the arena for lengths of 1024 to 16384, by the plan."""
    sizes = []
    for n in (1024, 2048, 4096, 16384):
        elaborated = lower(dslc.load(LONG.format(n=n)), program, target_of("cpu"))
        with elaborated.context, elaborated.location:
            sizes.append(make_plan(elaborated.module).arena_bytes / n)
    assert max(sizes) <= min(sizes) * 1.05
    assert max(sizes) < 2 * 16 * 4 * 8  # eight tensors as large as the queries


@pytest.mark.parametrize(("param", "bias"), [("u[2, {m}]", "u[h, i - j + {n} - 1]"), ("u[2, 17]", "u[h, clip(i - j, -8, 8) + 8]"),
                                             ("u[2]", "u[h] * (i - j)")], ids=["relative", "clipped", "slopes"])  # fmt: skip
def test_memory_of_tables_is_linear(param: str, bias: str) -> None:
    sizes = []
    for n in (1024, 2048, 8192):
        text = LONG.format(n=n).replace("~ normal()", f"~ normal()\n    param   {param} ~ normal(0.01)".replace("{m}", str(2 * n)), 1)
        text = text.replace("/ sqrt(size(c))", "/ sqrt(size(c)) + " + bias.replace("{n}", str(n)))
        elaborated = lower(dslc.load(text), "step", target_of("cpu"))
        with elaborated.context, elaborated.location:
            sizes.append(make_plan(elaborated.module).arena_bytes / n)
    assert max(sizes) <= min(sizes) * 1.05
    assert max(sizes) < 2 * 16 * 4 * 9  # eight tensors as large as the queries, and the tables


def test_what_stands_in_the_way_is_told() -> None:
    """Weights that are an output must be written."""
    model = dslc.load("""model Shown:
    param   q[2, 40, 8], k[2, 40, 8], v[2, 40, 8] ~ normal()
    s[h, i, j] = sum[c](q[h, i, c] * k[h, j, c])
    p[h, i, j] = softmax[j](s[h, i, j])
    output  o[h, i, c] = sum[j](p[h, i, j] * v[h, j, c])
    output  p
""")
    found, notes = kinds(model, "run")
    assert found["attention"] == 0
    assert len(notes) == 1 and "line 3" in notes[0] and "the result of the program" in notes[0]


BLOCK = """model Block:
    input   x[2, 40, 32]
    y = x + self_attention(rmsnorm(x), 4, causal=true)
    z = y + swiglu(rmsnorm(y), hidden=64)
    output  z
    loss    mean(z * z)

train:
    optimizer  sgd(lr=1.0)
"""


LAYERS = """
layer look(x[b, t, d], heads):
    let    c = d // heads
    param  w[d, 3, heads, c], u[heads, c, d] ~ normal(std=0.1)
    z[s, b, h, t, c] = sum[d](x[b, t, d] * w[d, s, h, c])
    s[b, h, i, j] = sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]) / sqrt(size(c))
    s[b, h, i, j] = where(j <= i, s[b, h, i, j], -inf)
    p[b, h, i, j] = softmax[j](s[b, h, i, j])
    o[b, h, i, c] = sum[j](p[b, h, i, j] * z[2, b, h, j, c])
    return y[b, i, d] = sum[h, c](o[b, h, i, c] * u[h, c, d])

model Layers:
    dims batch=2, time=48
    input x[batch, time, 32]
    repeat 4:
        x = x + look(x, 2)
    output y = x
    loss mean(x ** 2)

train:
    optimizer sgd(lr=0.1)
    steps 1
"""


@pytest.mark.parametrize("program, expected", [("run", 1), ("step", 2)])
def test_equal_layers_have_equal_kernels(program: str, expected: int) -> None:
    """Masks that the first layer made alone stand in all kernels at the same place."""
    elaborated = lower(dslc.load(LAYERS), program, working(2))
    with elaborated.context:
        kernels = [k for k in kernels_in(elaborated.module) if k.kind == "attention"]
        assert len(kernels) == 4 * expected
        assert len({kernel_key(k) for k in kernels}) == expected


def test_a_layer_whose_weights_are_written_leaves_the_others_alone() -> None:
    """All layers share one mask, which is no reason to write the scores of all."""
    shown = LAYERS.replace("* u[h, c, d])\n", "* u[h, c, d]), p\n").replace("x = x + look(x, 2)", "y, _ = look(x, 2)\n        x = x + y")
    model = dslc.load(shown.replace("    repeat 4:\n", "    y, weights = look(x, 2)\n    x = x + y\n    output weights\n    repeat 4:\n"))
    found, notes = kinds(model, "run")
    assert found["attention"] == 4 and len(notes) == 1


def test_projections_are_kept() -> None:
    """Products with weights of any rank, longer than their operands or not, are contractions of their own."""
    found, notes = kinds(dslc.load(BLOCK), "run")
    assert (found["attention"], found["contract"], notes) == (1, 7, [])
    found, notes = kinds(dslc.load(BLOCK), "step")
    assert (found["attention"], notes) == (3, [])
