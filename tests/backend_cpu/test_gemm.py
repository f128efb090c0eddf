"""Matrix products of any size and layout against float64 numpy; one and two threads give the same bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dslc.backend_cpu import emit, vmath
from dslc.backend_cpu.gemm_schedule import BLOCK_K, Shape, Side, choose, choose_whole, panel_length, part_start
from dslc.backend_cpu.machine import Machine, host
from dslc.backend_cpu.native import KernelArguments, KernelFunction
from dslc.backend_cpu.types import i64
from dslc.core import dtypes
from dslc.ir.mlir import arith

from . import products
from .native import run_kernel, run_plan
from .products import Layout

PLAIN, TA, TB, BOTH = Layout(), Layout(ta=True), Layout(tb=True), Layout(ta=True, tb=True)


def check(shape: Shape, layout: Layout, **options: object) -> None:
    s, multiply, pack = products.build(shape, layout, **options)  # type: ignore[arg-type]
    a, b, c, packed = products.arrays(shape, s, layout)
    expected = products.exact(a, b, layout)
    found = []
    for threads in (1, 2):
        c[:] = np.nan
        if layout.packed:
            packed[:] = np.nan
            run_plan(pack, [a, b, c, packed], threads)
        run_plan(multiply, [a, b, c, packed], threads)
        found.append(c.copy())
    np.testing.assert_array_equal(found[0], found[1])
    # each of k roundings is half a unit of a partial sum, which is at most sum |a b| ~ k
    bound = 2.0 * (shape.k + 4) * np.finfo(shape.dtype.numpy).eps
    assert np.abs(found[0] - expected).max() <= bound, (s, np.abs(found[0] - expected).max(), bound)


@pytest.mark.parametrize("layout", [PLAIN, TA, TB, BOTH], ids=["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 7), (17, 33, 65), (100, 10, 300), (12, 40, 100)], ids=str)
def test_odd_sizes(size: tuple[int, int, int], layout: Layout) -> None:
    check(Shape(*size), layout)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        (Shape(7, 21, 19, batch=3), PLAIN),
        (Shape(20, 36, 50, batch=2), TB),
        (Shape(9, 16, 40, batch=3), Layout(opaque=True)),
        (Shape(65, 130, 70), Layout(packed=True)),
        (Shape(5, 100, 33, batch=2), Layout(tb=True, packed=True)),
        (Shape(33, 47, 5000), Layout(opaque=True)),
        (Shape(30, 512, 4100), TA),
        (Shape(1, 300, 200), PLAIN),
        (Shape(1, 301, 203), TB),
    ],
    ids=str,
)
def test_batches_packing_and_long_sums(shape: Shape, layout: Layout) -> None:
    check(shape, layout)


def test_float64() -> None:
    for layout in (PLAIN, TB, Layout(opaque=True)):
        check(Shape(13, 21, 130, batch=2, dtype=dtypes.FLOAT64), layout)


@pytest.mark.parametrize("seed", range(10))
def test_random_products(seed: int) -> None:
    """Any sizes and layouts; every other one of A transposed with rows of whole cache lines, or with a long sum, where lines are fetched ahead."""
    rng = np.random.default_rng(seed)
    m, n, k = (int(2 ** rng.uniform(0, most)) for most in (7, 7, 9))
    k = int(rng.integers(2049, 4500)) if rng.random() < 0.3 else k
    layout = Layout(ta=seed % 2 == 0, **{str(rng.choice(["tb", "packed", "opaque", "lines"])): bool(rng.integers(2))})
    if layout.ta and rng.integers(2):
        m = -(-m // 16) * 16
    check(Shape(m, n, k, 1 if k > 2048 else int(rng.integers(1, 4))), layout)


@pytest.mark.parametrize(
    ("shape", "layout", "asked"),
    [
        (Shape(512, 32, 300), TA, True),  # each term begins a line
        (Shape(500, 32, 300), TA, False),  # the processor sees these coming
        (Shape(500, 128, 300), TA, True),  # a part of each line is packed
        (Shape(64, 32, 300), PLAIN, True),  # the next strip
        (Shape(1, 32, 300), PLAIN, False),  # there is none
        (Shape(1, 640, 512), Layout(lines=True), True),  # the next panel of large weights
        (Shape(1, 320, 512), Layout(lines=True), False),
    ],
    ids=str,
)
def test_lines_that_will_be_read_are_asked_for(shape: Shape, layout: Layout, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    count, real = [], emit.Memory.fetch
    monkeypatch.setattr(emit.Memory, "fetch", lambda memory, at: (count.append(at), real(memory, at)))
    check(shape, layout)
    assert bool(count) == asked


def test_panels_of_rows_do_not_fall_on_each_other() -> None:
    """512 terms of 4 rows are 8 KiB: at that distance all panels would share a few lines of the cache while they are filled."""
    for k in (32, 256, 512, 1000, 1024):
        panels = panel_length(replace(choose(Shape(512, 256, k), Side("x", stride=512), Side("x", stride=256), host()), mr=4, kc=k))
        assert panels >= 4 * k and panels % 16 == 0 and panels * 4 % 1024


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (33, 100, 40, 3), (20, 17, 9, 2), (64, 320, 48, 1), (40, 250, 2100, 1)], ids=str)
def test_columns_in_lines(size: tuple[int, int, int, int]) -> None:
    narrow = replace(host(), lanes=8, registers=16)
    for machine in (host(), narrow):
        check(Shape(*size), Layout(lines=True), machine=machine)
    check(Shape(*size, dtype=dtypes.FLOAT64), Layout(lines=True))


def test_columns_in_lines_in_every_blocking() -> None:
    shape, layout = Shape(37, 100, 90), Layout(lines=True)
    chosen = choose(shape, *products.sides(shape, layout), host())
    assert not chosen.pack_b
    for rows_outer in (False, True):
        for kc in (90, 32):
            for nv in (1, 3, 5):
                nc = 2 * nv * chosen.lanes
                check(shape, layout, schedule=replace(chosen, mr=4, nv=nv, mc=12, nc=nc, kc=kc, pack_a=True, rows_outer=rows_outer))


def test_avx2_schedules() -> None:
    narrow = replace(host(), lanes=8, registers=16)
    for layout in (PLAIN, TA, TB):
        check(Shape(29, 43, 61), layout, machine=narrow)
        check(Shape(6, 43, 61), layout, machine=narrow)


def test_every_blocking_gives_the_same_answer() -> None:
    shape = Shape(37, 100, 90)
    chosen = choose(shape, *products.sides(shape, PLAIN), host())
    for rows_outer in (False, True):
        for kc in (90, 32):
            s = replace(chosen, mr=4, nv=2, mc=12, nc=64, kc=kc, pack_a=True, pack_b=True, rows_outer=rows_outer)
            check(shape, PLAIN, schedule=s)
            check(shape, TA, schedule=s)


@pytest.mark.parametrize("shape", [Shape(300, 256, 70), Shape(80, 100, 60, batch=3)], ids=str)
def test_a_whole_b_is_packed_before(shape: Shape) -> None:
    whole = choose_whole(shape, *products.sides(shape, TA), host())
    assert whole.whole_b or shape.batch > 1
    check(shape, TA, schedule=replace(whole, whole_b=True, pack_b=False))


def test_the_epilogue_is_applied_once() -> None:
    shape = Shape(19, 40, 4300)
    for layout in (PLAIN, Layout(opaque=True)):
        s, multiply, _ = products.build(shape, layout, epilogue=lambda v: arith.addf(vmath.tanh(v), v))
        a, b, c, packed = products.arrays(shape, s, layout)
        run_plan(multiply, [a, b, c, packed], 2)
        exact = products.exact(a, b, layout)
        np.testing.assert_allclose(c, np.tanh(exact) + exact, rtol=2e-3, atol=2e-3)


def test_infinities_and_nan_stay_in_their_rows() -> None:
    shape = Shape(10, 20, 33)
    for layout in (PLAIN, TA, TB):
        s, multiply, _ = products.build(shape, layout)
        a, b, c, packed = products.arrays(shape, s, layout)
        (a.swapaxes(1, 2) if layout.ta else a)[0, 3, :] = np.nan
        run_plan(multiply, [a, b, c, packed], 1)
        assert np.isnan(c[0, 3]).all()
        assert np.isfinite(np.delete(c[0], 3, 0)).all()


@pytest.mark.parametrize("n", [384, 1152, 1536])
def test_the_columns_of_one_row_make_equal_shares(n: int) -> None:
    """Of two threads: three tasks, or five, would leave one of them idle."""
    schedule = choose(Shape(1, n, 384), Side("k"), Side("x", stride=n), Machine(16, 32, 32 << 10, 1 << 20, 2, "any"))
    tasks = -(-n // schedule.nc)
    assert tasks % 2 == 0 and n % schedule.nc == 0
    assert tasks >= min(8, n // schedule.nr)  # for more threads too


@pytest.mark.parametrize("size", [(512, 1536, 384), (256, 1536, 384), (2048, 1536, 384), (128, 784, 512), (784, 512, 128)], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_blocks_make_equal_shares(size: tuple[int, int, int], packed: bool) -> None:
    """Of two threads and of four, counted in tiles: 57 strips by 8 and a last one, or 10 panels by 3, would leave a thread idle for a tenth."""
    m, n, k = size
    s = choose(Shape(m, n, k), Side("k", stride=k), Side("x", stride=n, packed=packed), Machine(16, 32, 48 << 10, 1 << 20, 2, "any"))

    def sizes(count: int, blocks: int) -> list[int]:
        ends = [part_start(i, count, blocks) for i in range(blocks + 1)]
        assert (ends[0], ends[-1]) == (0, count)
        return [high - low for low, high in pairwise(ends)]

    rows, columns = sizes(-(-m // s.mr), -(-m // s.mc)), sizes(-(-n // s.nr), -(-n // s.nc))
    assert max(rows) * s.mr == s.mc and max(columns) * s.nr == s.nc  # what fits the caches, and the room for sums
    tasks = [r * c for r in rows for c in columns] if s.rows_outer else [r * c for c in columns for r in rows]
    for threads in (2, 4):
        ends = [len(tasks) * t // threads for t in range(threads + 1)]
        assert max(sum(tasks[low:high]) for low, high in pairwise(ends)) <= 1.04 * sum(tasks) / threads


def test_rows_that_lie_together_are_packed_for_many_columns() -> None:
    """Of long sums too, whose lines would come from the second cache for every panel; for few columns packing costs more than it spares."""
    machine = Machine(16, 32, 48 << 10, 1 << 20, 2, "any")
    for k in (256, 1024, 4096):
        chosen = [choose(Shape(512, n, k), Side("x", stride=512), Side("x", packed=True), machine) for n in (32, 64, 128, 512)]
        assert [s.pack_a for s in chosen] == [False, False, True, True]
        assert all(s.mr == 8 for s in chosen)  # one line has them all: more rows cost nothing, fewer vectors less


def test_long_sums_are_cut_where_less_is_packed_or_read_again() -> None:
    """Rows that share lines are cut last, unless they are packed: then as often as half as many columns."""
    machine = Machine(16, 32, 48 << 10, 1 << 20, 2, "any")
    blocks = {}
    for m, n in ((200, 96), (512, 512), (128, 2048)):
        s = choose(Shape(m, n, 4096), Side("x", stride=m), Side("x", stride=n), machine)
        blocks[m, n] = (s.kc, s.pack_a, -(-m // s.mc), -(-n // s.nc))
    assert blocks == {(200, 96): (256, False, 4, 3), (512, 512): (256, True, 4, 2), (128, 2048): (256, True, 1, 8)}


def test_long_sums_of_rows_that_share_lines_go_by_blocks() -> None:
    """Also where B is packed before: the lines of a strip's terms are near when the strips beside it read them."""
    machine = Machine(16, 32, 32 << 10, 1 << 20, 2, "any")
    packed = Side("x", packed=True)
    for k in (2500, 4096, 9000):
        s = choose(Shape(512, 64, k), Side("x", stride=512), packed, machine)
        assert not s.pack_a and s.kc <= BLOCK_K + 16


@pytest.mark.parametrize("k", [1024, 2500, 4096, 9000])
def test_a_packed_panel_that_all_strips_read_stays_in_the_second_cache(k: int) -> None:
    machine = Machine(16, 32, 32 << 10, 1 << 20, 2, "any")
    s = choose(Shape(512, 64, k), Side("k", stride=k), Side("x", packed=True), machine)
    assert s.nr * (s.kc - 16) * 4 <= machine.l2 // 2 and (s.kc == k) == (s.nr * k * 4 <= machine.l2 // 2)
    few = choose(Shape(4, 64, k), Side("k", stride=k), Side("x", packed=True), machine)
    assert few.kc == k  # one strip reads it once


def test_schedules_fit_the_registers() -> None:
    for lanes, registers in ((16, 32), (8, 16)):
        machine = replace(host(), lanes=lanes, registers=registers)
        for m, n, k in ((1, 1, 1), (8, 1536, 384), (1024, 1024, 1024), (128, 384, 4096), (5, 7, 9000)):
            s = choose(Shape(m, n, k), Side("k", stride=k), Side("x", stride=n), machine)
            assert s.mr * s.nv + s.nv + 1 <= registers
            assert s.nr % lanes == 0 and s.mc % s.mr == 0 and s.nc % s.nr == 0


def test_where_an_element_lies_in_its_line() -> None:
    def tell(k: KernelArguments) -> None:
        for n in range(3):
            k.operands[1].store(arith.index_cast(i64(), emit.idx(k.operands[0].place_in_line(7 * n))), [n])

    kernel = KernelFunction("tell", ((dtypes.FLOAT32, (32,)), (dtypes.INT64, (3,))), tell)
    whole = np.zeros(64, np.float32)
    for start in (0, 1, 5, 16):
        a, found = whole[start : start + 32], np.zeros(3, np.int64)
        run_kernel(kernel, [a, found])
        np.testing.assert_array_equal(found, (a.ctypes.data // 4 + np.array([0, 7, 14])) % 16)
