"""Convolutions of pictures whose channels lie last, as `passes.channels_last` makes them: rows of terms in runs, Winograd's products, and filters of
one channel; at sizes that tiles, vectors and blocks do not divide, and where they are used."""

import functools
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cpu import gemm, gemm_schedule
from dslc.backend_cpu.kernels import contract, depthwise, winograd_channels
from dslc.backend_cpu.machine import Machine, host
from dslc.backend_cpu.stage import request_of
from dslc.core.dtypes import FLOAT32, FLOAT64
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Max, broadcast, full_like, view
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body
from dslc.ir.types import type_of

from .harness import Case, check, plan_of, run, sample

F, D = FLOAT32, FLOAT64
ANY = Machine(16, 32, 32 << 10, 1 << 20, 2, "any")
NARROW = Machine(8, 16, 32 << 10, 1 << 20, 2, "any")
INDICES = "nijuvco"  # picture, place, tap, channel, filter
both = pytest.mark.parametrize("lanes", sorted({8, host().lanes}))


def conv(size, stride=1, pad=1, pictures="nhwc", filters="ocuv", terms="uvc", alone=False):
    """A convolution of pictures and filters whose axes lie in these orders, summed in that of `terms`, with its channels last; of two operands more
    the sum with a row and with the result's points, and relu. `alone`: each channel has a filter of its own."""

    def build(x, w, *more):
        shape = {a: type_of(x).shape[k] for k, a in enumerate(pictures)}
        taps = type_of(w).shape[filters.index("u")]
        extents = {"n": shape["n"], "i": size[0], "j": size[1], "u": taps, "v": taps, "c": shape["c"]}
        seen = ["n", "i", "j", *terms]
        moves = {"n": {"n": 1}, "h": {"i": stride, "u": 1}, "w": {"j": stride, "v": 1}, "c": {"c": 1}}
        rows = [[moves[a].get(b, 0) for b in seen] for a in pictures]
        made = view(x, rows, [-pad if a in "hw" else 0 for a in pictures], [extents[b] for b in seen])
        out = ["n", "i", "j", "c" if alone else "o"]
        lhs, rhs, out = ([INDICES.index(a) for a in axes] for axes in (seen, filters, out))
        y = Contract.of(made, w, lhs=lhs, rhs=rhs, out=out, dtype=type_of(x).dtype)
        if not more:
            return y
        shape = type_of(y).shape
        return Max.of(Add.of(Add.of(y, broadcast(more[0], shape, [3])), more[1]), full_like(y, 0))

    return build


def case(name, shape, taps, size, tolerance=2e-5, dtype=F, more=False, **how):
    """`shape` of the pictures; `taps`: extents of the axes of the filters."""
    axes = how.get("filters", "ocuv")
    out = (shape[0], *size, taps["c" if how.get("alone") else "o"])
    extra = [(dtype, out[3:]), (dtype, out)] if more else []
    return Case(name, "contract", [(dtype, shape), (dtype, tuple(taps[a] for a in axes)), *extra], conv(size, **how), tolerance)


def taps(o, c, u):
    return {"o": o, "c": c, "u": u, "v": u}


WINOGRAD = [
    case("padded", (2, 9, 9, 5), taps(20, 5, 3), (9, 9)),
    case("valid", (1, 12, 35, 17), taps(3, 17, 3), (10, 33), pad=0),
    case("work_behind", (3, 7, 10, 16), taps(36, 16, 3), (7, 10), more=True),
    case("filters_side_by_side", (1, 16, 64, 32), taps(96, 32, 3), (16, 64), filters="uvco", more=True),
    case("one_tile", (1, 4, 4, 40), taps(33, 40, 3), (2, 2), 5e-5, pad=0),
    case("wider_padding", (1, 8, 8, 16), taps(16, 16, 3), (10, 10), pad=2),
    case("channels_outside", (1, 14, 14, 24), taps(70, 24, 3), (14, 14), terms="cuv"),
]
ALONE = [
    case("sevens", (1, 14, 14, 32), taps(1, 32, 3), (14, 14), filters="uvc", alone=True, more=True),
    case("rest", (2, 9, 13, 20), taps(1, 20, 3), (9, 13), filters="uvc", alone=True, more=True),
    case("two_places", (1, 5, 2, 40), taps(1, 40, 3), (5, 2), filters="uvc", alone=True),
    case("strided", (1, 15, 17, 16), taps(1, 16, 5), (8, 9), stride=2, pad=2, filters="uvc", alone=True),
    case("unpadded", (1, 10, 11, 33), taps(1, 33, 3), (8, 9), pad=0, filters="uvc", alone=True),
    case("double", (1, 7, 7, 18), taps(1, 18, 3), (7, 7), 1e-12, D, filters="uvc", alone=True),
]
PRODUCTS = [
    case("runs_of_channels", (2, 9, 11, 5), taps(20, 5, 3), (5, 6), stride=2, more=True),
    case("runs_of_taps", (1, 3, 21, 23), taps(24, 3, 7), (11, 12), stride=2, pad=3, pictures="nchw", terms="cuv"),
    case("long_runs", (1, 6, 6, 64), taps(48, 64, 3), (3, 3), 5e-5, stride=2),
    case("long_sums", (1, 6, 7, 240), taps(40, 240, 3), (3, 4), 2e-4, stride=2),
    case("laid_out", (1, 9, 9, 80), taps(512, 80, 3), (5, 5), 1e-4, stride=2, filters="uvco"),
    case("every_second", (1, 9, 9, 37), taps(30, 37, 1), (5, 5), stride=2, pad=0),
    case("double_runs", (1, 8, 8, 6), taps(9, 6, 2), (4, 4), 1e-12, D, stride=2),
]


@functools.cache
def results(kind, lanes):
    cases = [replace(c) for c in {"winograd": WINOGRAD, "alone": ALONE, "products": PRODUCTS}[kind]]
    machine = replace(host(), lanes=lanes, registers=2 * lanes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd_channels, "GAIN", np.inf if kind == "winograd" else 0)  # small sizes gain nothing
        patch.setattr(gemm_schedule, "LARGE", 1)
        patch.setattr(gemm, "FAR", 1 << 10)
        if kind != "products":
            assert all(takes(winograd_channels if kind == "winograd" else depthwise, replace(c), machine) for c in cases)
        return {c.name: c for c in run(cases, machine=machine)}


@contextmanager
def requested(c, machine):
    """What a generator is given, and the contraction."""
    c.arrays = [sample(*operand, np.random.default_rng(0)) for operand in c.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, _ = plan_of(module, [c])
        body = Body.of(plan.steps[0].kernel.regions[0].blocks[0])
        yield request_of(body, machine), next(op for op, _ in body.makers.values() if op.operation.name == "nn.contract")


def takes(generator, c, machine=ANY):
    """Whether a generator takes it."""
    with requested(c, machine) as (request, op):
        try:
            return bool(generator.generate(request, op).stages)
        except Unsuited:
            return False


def stages(c, machine=ANY):
    with requested(c, machine) as (request, _):
        return len(contract.generate(request).stages)


@both
@pytest.mark.parametrize("name", [c.name for c in WINOGRAD])
def test_winograd(name, lanes):
    check(results("winograd", lanes)[name])


@both
@pytest.mark.parametrize("name", [c.name for c in ALONE])
def test_filters_of_one_channel(name, lanes):
    check(results("alone", lanes)[name])


@both
@pytest.mark.parametrize("name", [c.name for c in PRODUCTS])
def test_rows_of_terms_in_runs(name, lanes):
    check(results("products", lanes)[name])


def test_a_tile_with_an_infinity_or_nan_leaves_the_others_as_they_are(monkeypatch):
    monkeypatch.setattr(winograd_channels, "GAIN", np.inf)
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 16)).astype(np.float32)
    x[0, 5, 5, 3] = np.inf
    w = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
    (found,) = run([Case("infinite", "contract", [x, w], conv((8, 8)))])
    bad = ~np.isfinite(found.results[0]).all(-1)[0]
    assert bad[4:7, 4:7].all() and not bad[:3].any() and not bad[:, :3].any()


def sized(channels, filters, size, dtype=F, filters_lie="uvco", **how):
    return case("sized", (1, size, size, channels), taps(filters, channels, 3), how.pop("out", (size, size)), dtype=dtype, filters=filters_lie, **how)


@pytest.mark.parametrize("machine", [ANY, NARROW])
def test_large_convolutions_are_winograds(machine):
    for channels, size in ((64, 56), (128, 28), (256, 14)):
        assert takes(winograd_channels, sized(channels, channels, size), machine)


def test_what_is_no_such_convolution_or_gains_nothing_is_not():
    assert not takes(winograd_channels, sized(3, 64, 56))  # the tiles' transforms cost more than the products
    assert not takes(winograd_channels, sized(512, 512, 7))  # the filters' do, in memory
    assert not takes(winograd_channels, sized(64, 64, 56, D))
    assert not takes(winograd_channels, sized(64, 64, 57, out=(29, 29), stride=2))
    assert not takes(winograd_channels, sized(64, 64, 56, filters_lie="cuv", alone=True))


def test_few_rows_are_laid_out_once_where_the_weights_are_larger():
    """A row's pixels would be packed, and all weights read, for each block of rows."""
    few = sized(512, 512, 7, out=(4, 4), stride=2)
    assert stages(few) == 2
    assert stages(sized(64, 64, 57, out=(29, 29), stride=2)) == 1
