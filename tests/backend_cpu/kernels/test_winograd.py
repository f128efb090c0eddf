"""Winograd's products against the definition, at sizes that tiles, vectors and blocks do not divide; and where they are used."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cpu.kernels import winograd
from dslc.backend_cpu.machine import Machine
from dslc.backend_cpu.stage import request_of
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Conv, Max, broadcast, full_like, reshape, reverse, transpose, view
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body

from .harness import Case, check, plan_of, run, sample

F = FLOAT32
ANY = Machine(16, 32, 32 << 10, 1 << 20, 2, "any")


def conv(pad, size, stride=(1, 1), dilation=(1, 1)):
    return lambda x, w: Conv.of(x, w, stride=stride, dilation=dilation, spacing=(1, 1), low=pad, size=size, dtype=F)


def windows(x, w, bias, more):
    """One picture, as a contraction of windows, with channels behind the taps in the filters; work on the result that reads rows and points."""
    rows = [[0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    seen = view(x, rows, [0, -1, -1], [13, 30, 5, 3, 3])
    y = Contract.of(seen, w, lhs=[1, 2, 3, 4, 5], rhs=[4, 5, 3, 0], out=[0, 1, 2], dtype=F)
    return Max.of(Add.of(Add.of(y, broadcast(bias, (20, 13, 30), [0])), more), full_like(y, 0))


def gradient(g, w):
    """Of a convolution's pictures: filters turned round, inputs before outputs."""
    turned = reverse(reverse(transpose(w, [1, 0, 2, 3]), 2), 3)
    return conv([1, 1], [11, 24])(g, reshape(turned, (1, 18, 21, 3, 3)))


CASES = [
    Case("padded", "contract", [(F, (2, 1, 5, 9, 9)), (F, (1, 20, 5, 3, 3))], conv([1, 1], [9, 9]), 2e-5),
    Case("valid", "contract", [(F, (1, 1, 17, 12, 35)), (F, (1, 3, 17, 3, 3))], conv([0, 0], [10, 33]), 2e-5),
    Case("wider_padding", "contract", [(F, (1, 1, 16, 8, 8)), (F, (1, 16, 16, 3, 3))], conv([2, 1], [10, 9]), 2e-5),
    Case("even", "contract", [(F, (1, 1, 32, 16, 64)), (F, (1, 9, 32, 3, 3))], conv([1, 1], [16, 64]), 2e-5),
    Case("wide", "contract", [(F, (1, 1, 3, 4, 470)), (F, (1, 10, 3, 3, 3))], conv([1, 1], [4, 470]), 2e-5),
    Case("one_tile", "contract", [(F, (2, 1, 40, 4, 4)), (F, (1, 33, 40, 3, 3))], conv([0, 0], [2, 2]), 5e-5),
    Case("windows", "contract", [(F, (5, 13, 30)), (F, (3, 3, 5, 20)), (F, (20,)), (F, (20, 13, 30))], windows, 2e-5),
    Case("gradient", "contract", [(F, (3, 1, 21, 11, 24)), (F, (21, 18, 3, 3))], gradient, 5e-5),
]  # fmt: skip


@functools.cache
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "GAIN", np.inf)  # small sizes gain nothing
        assert all(takes(replace(case)) for case in CASES)
        return {case.name: case for case in run(CASES)}


def takes(case, machine=ANY):
    """Whether the algorithm is used."""
    case.arrays = [sample(*operand, np.random.default_rng(0)) for operand in case.operands]
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, _ = plan_of(module, [case])
        body = Body.of(plan.steps[0].kernel.regions[0].blocks[0])
        op = next(op for op, _ in body.makers.values() if op.operation.name in ("nn.conv", "nn.contract"))
        try:
            return len(winograd.generate(request_of(body, machine), op).stages) == 2
        except Unsuited:
            return False


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_winograd(name):
    check(results()[name])


def sized(channels, filters, size, dtype=F, **kwargs):
    return Case(
        "sized", "contract", [(dtype, (1, 1, channels, size, size)), (dtype, (1, filters, channels, 3, 3))], conv([1, 1], [size, size], **kwargs)
    )


@pytest.mark.parametrize("machine", [ANY, replace(ANY, fmas=1), Machine(8, 16, 32 << 10, 1 << 20, 2, "any")])
def test_large_convolutions_use_it(machine):
    assert takes(sized(64, 64, 56), machine) and takes(sized(128, 128, 28), machine)


def test_few_places_are_worth_it_where_products_cost_more():
    """Measured: with two products a cycle the transforms of 14 x 14 places cost more than they save."""
    assert takes(sized(256, 256, 14), replace(ANY, fmas=1)) and not takes(sized(256, 256, 14), ANY)


def test_what_is_no_such_convolution_or_gains_nothing_does_not():
    assert not takes(sized(3, 64, 56))  # the tiles' transforms cost more than the products
    assert not takes(sized(512, 512, 7))  # the filters' do, and tiles fill half a vector
    assert not takes(sized(64, 64, 56, dilation=(2, 2)))
    assert not takes(sized(64, 64, 56, BFLOAT16))
    strided = [(F, (1, 1, 64, 57, 57)), (F, (1, 64, 64, 3, 3))]
    assert not takes(Case("strided", "contract", strided, conv([1, 1], [29, 29], stride=(2, 2))))
    grouped = [(F, (1, 2, 64, 56, 56)), (F, (2, 64, 64, 3, 3))]
    assert not takes(Case("grouped", "contract", grouped, conv([1, 1], [56, 56])))


def test_products_in_tf32_are_not_transformed(monkeypatch):
    def marked(x, w):
        y = conv([1, 1], [9, 9])(x, w)
        y.owner.attributes["tf32"] = ir.UnitAttr.get()
        return y

    monkeypatch.setattr(winograd, "GAIN", np.inf)
    padded = CASES[0]
    assert takes(replace(padded)) and not takes(replace(padded, build=marked))
