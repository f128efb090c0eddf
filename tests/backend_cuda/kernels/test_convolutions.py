"""Convolutions in three directions, of tensors with the channels last: on the emulator in three orders of threads, against the float64 reference."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest

from dslc.backend_cuda import emulated, nvrtc
from dslc.backend_cuda.arch import ARCHS
from dslc.backend_cuda.gemm_schedule import hopper_cycles
from dslc.backend_cuda.kernels import contract, generate, tiles
from dslc.backend_cuda.kernels import hopper as hopper_kernels
from dslc.backend_cuda.program_text import Unit, printed
from dslc.backend_cuda.source import bundle
from dslc.core.dtypes import BFLOAT16, FLOAT16, FLOAT32, TF32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Conv, reshape, transpose
from dslc.ir.ops.movement import reverse
from dslc.ir.types import type_of
from dslc.runtime.drivers import emulator

from .products import AMPERE, HOPPER, Case, built, check, expected, run, text_of
from .test_contract import conv

BF, H16, F = BFLOAT16, FLOAT16, FLOAT32


@dataclass(frozen=True)
class Shape:
    """A convolution: channels and filters of all groups, extents of the input; kernel, stride, dilation and padding are alike along all axes."""

    batch: int
    channels: int
    filters: int
    extents: tuple[int, ...]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    pad: int = 1
    groups: int = 1

    @property
    def size(self) -> tuple[int, ...]:
        return tuple((n + 2 * self.pad - self.dilation * (self.kernel - 1) - 1) // self.stride + 1 for n in self.extents)


SHAPES = {
    "1x1": Shape(2, 64, 40, (6, 5), kernel=1, pad=0),
    "1x1_strided": Shape(2, 64, 72, (7, 6), kernel=1, stride=2, pad=0),
    "3x3": Shape(2, 64, 72, (9, 8)),
    "3x3_strided": Shape(2, 32, 64, (9, 10), stride=2),
    "7x7_first": Shape(2, 3, 64, (14, 15), kernel=7, stride=2, pad=3),
    "7x7_widened": Shape(2, 4, 64, (14, 15), kernel=7, stride=2, pad=3),
    "dilated": Shape(2, 64, 64, (11, 9), dilation=2, pad=2),
    "unpadded": Shape(1, 72, 64, (9, 8), pad=0),
    "grouped": Shape(2, 64, 32, (7, 6), groups=2),
    "groups_of_64": Shape(1, 128, 128, (6, 7), groups=2),
    "depthwise": Shape(2, 24, 24, (7, 9), groups=24),
    "odd": Shape(1, 37, 19, (7, 5)),
    "one_axis": Shape(3, 64, 64, (21,), pad=1),
    "three_axes": Shape(1, 16, 24, (4, 5, 6)),
}


def first(value):
    """A tensor with its last axis, the channels, as the second one."""
    rank = len(type_of(value).shape)
    return transpose(value, [0, rank - 1, *range(1, rank - 1)])


def grouped(x, groups):
    n, c, *space = type_of(x).shape
    return reshape(x, (n, groups, c // groups, *space))


def filters_of(s, w):
    w = first(w)
    return reshape(w, (s.groups, s.filters // s.groups, *type_of(w).shape[1:]))


def forward(s, tf32):
    def build(x, w):
        every = [1] * len(s.extents)
        return Conv.of(grouped(first(x), s.groups), filters_of(s, w), stride=[s.stride * k for k in every], dilation=[s.dilation * k for k in every],
                       spacing=every, low=[s.pad * k for k in every], size=s.size, dtype=type_of(x).dtype, tf32=tf32)  # fmt: skip

    return build


def of_input(s, tf32):
    def build(g, w):
        every = [1] * len(s.extents)
        turned = filters_of(s, w)
        turned = transpose(turned, [0, 2, 1, *range(3, 3 + len(every))])
        for k in range(len(every)):
            turned = reverse(turned, 3 + k)
        low = s.dilation * (s.kernel - 1) - s.pad
        return Conv.of(grouped(first(g), s.groups), turned, stride=every, dilation=[s.dilation * k for k in every],
                       spacing=[s.stride * k for k in every], low=[low * k for k in every], size=s.extents, dtype=type_of(g).dtype,
                       tf32=tf32)  # fmt: skip

    return build


def of_weights(s, tf32):
    def build(x, g):
        every = [1] * len(s.extents)
        order = range(3, 3 + len(every))
        xs, gs = transpose(grouped(first(x), s.groups), [2, 1, 0, *order]), transpose(grouped(first(g), s.groups), [1, 2, 0, *order])
        return Conv.of(xs, gs, stride=[s.dilation * k for k in every], dilation=[s.stride * k for k in every], spacing=every,
                       low=[s.pad * k for k in every], size=[s.kernel * k for k in every], dtype=F, tf32=tf32)  # fmt: skip

    return build


DIRECTIONS = {"forward": forward, "input": of_input, "weights": of_weights}


def case(direction, name, dtype, s=None):
    """The operands lie with the channels last: pictures [n, ..., c], filters [o, ..., c]."""
    s = s or SHAPES[name]
    label, tf32 = str(dtype), dtype == TF32
    dtype = F if tf32 else dtype
    x = (dtype, (s.batch, *s.extents, s.channels))
    w = (dtype, (s.filters, *[s.kernel for _ in s.extents], s.channels // s.groups))
    g = (dtype, (s.batch, *s.size, s.filters))
    operands = {"forward": [x, w], "input": [g, w], "weights": [x, g]}[direction]
    return Case(f"{direction}_{name}_{label}", operands, DIRECTIONS[direction](s, tf32))


CASES = [("forward", n, BF) for n in SHAPES if n != "groups_of_64"]
CASES += [(d, n, BF) for d in ("input", "weights") for n in ("3x3", "3x3_strided", "grouped", "depthwise", "odd", "three_axes")]
CASES += [
    ("weights", "7x7_first", BF),
    ("weights", "7x7_widened", BF),
    ("forward", "3x3", H16),
    *((d, "3x3_strided", t) for d in DIRECTIONS for t in (F, TF32)),
]


def made_of(which, arch, make):
    """Of every case its request, what was generated, arrays and reference."""
    found = {}
    for one in which:
        c = case(*one)
        b = built(c, arch)
        arrays = c.arrays()
        found[one] = (b, make(b.request), arrays, expected(b, arrays))
    return found


def cases(which, arch, make):
    """The cases, and one text of all."""
    found = made_of(which, arch, make)
    made = [(b.request, generated) for b, generated, _, _ in found.values()]
    units = [Unit(r.name, "contract", r.name, (), r.body, 0, 0, g.includes, list(g.functions)) for r, g in made]
    return emulated.build(bundle(printed("cases", units, arch).whole), checked=True), found


def named(which):
    return f"{which[0]}_{which[1]}_{which[2]}"


@functools.cache
def ampere():
    with nn.context(), ir.Location.unknown():
        return cases(CASES, AMPERE, lambda request: generate("contract", request))


def check_case(made, which):
    code, found = made
    b, generated, arrays, wanted = found[which]
    first_run = run(code, generated, b.request, arrays, emulator.ORDERS[0])
    for order in emulator.ORDERS[1:]:
        for x, y in zip(first_run, run(code, generated, b.request, arrays, order)):
            assert x.tobytes() == y.tobytes()
    compare(first_run, b, wanted, named(which))


def compare(results, b, wanted, name):
    (op,) = {op for op, _ in b.request.body.makers.values() if op.structure == "contract"}
    check(results, wanted, max(prod(op.maps().domain[op.type.rank :]), 1), name)


@pytest.mark.parametrize("which", CASES, ids=named)
def test_on_any_gpu(which):
    check_case(ampere(), which)


# What the copy engine reads in boxes: whole lines of channels along one operand at least, no steps between the elements of the input. In tf32 the
# filters of an input's gradient are packed along the terms first.
IN_BOXES = [
    *(("forward", n, BF) for n in ("3x3", "3x3_strided", "1x1_strided", "unpadded", "three_axes")),
    *(("input", n, BF) for n in ("3x3", "dilated", "one_axis")),
    *(("weights", n, BF) for n in ("3x3", "3x3_strided", "unpadded", "three_axes")),
    ("forward", "groups_of_64", H16),
    *(("forward", n, TF32) for n in ("3x3", "3x3_strided", "1x1_strided", "grouped", "unpadded", "three_axes")),
    *(("input", n, TF32) for n in ("3x3", "groups_of_64", "dilated", "one_axis")),
]  # fmt: skip


def on_hopper(request, chosen=lambda schedules: schedules):
    """The Hopper version, however small the product is and however empty its boxes: of schedules that are `chosen` the best."""
    (op,) = {op for op, _ in request.body.makers.values() if op.structure == "contract"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(contract, "MOST_EMPTY", 1000)
        p = contract.windowed_product(contract.epilogue_of(request, op))
    return hopper_kernels.generate(p, min(chosen(hopper_kernels.schedules(p)), key=lambda s: hopper_cycles(s, p.sizes, HOPPER, p.depth)))


@functools.cache
def hopper():
    with nn.context(), ir.Location.unknown():
        return cases(IN_BOXES, HOPPER, on_hopper)


@pytest.mark.parametrize("which", IN_BOXES, ids=named)
def test_on_hopper(which):
    check_case(hopper(), which)


IN_SHARES = [("weights", "3x3", BF), ("forward", "3x3", BF), ("forward", "unpadded", BF), ("input", "dilated", BF), ("forward", "groups_of_64", H16)]


def on_hopper_in_shares(request):
    return on_hopper(request, lambda schedules: [s for s in schedules if s.shares])


@functools.cache
def in_shares():
    with nn.context(), ir.Location.unknown():
        return cases(IN_SHARES, HOPPER, on_hopper_in_shares)


@pytest.mark.parametrize("which", IN_SHARES, ids=named)
def test_on_hopper_in_shares(which):
    """The parts of tiles lie by places, of which those of boxes that hang over have no results."""
    assert "shares" in in_shares()[1][which][1].functions[0].schedule
    check_case(in_shares(), which)


def test_pixels_that_no_window_has_are_not_read():
    """The last row and column, which steps of 3 leave out: boxes hang over the windows, and 0 times infinity would be NaN."""
    shape = Shape(1, 64, 64, (33, 33), stride=3)
    with nn.context(), ir.Location.unknown():
        b = built(case("weights", "left_out", BF, shape), HOPPER)
        generated = on_hopper(b.request)
        code = emulated.build(text_of(generated, b.request), checked=True)
    arrays = case("weights", "left_out", BF, shape).arrays()
    arrays[0][:, 32] = arrays[0][:, :, 32] = np.inf
    wanted = expected(b, arrays)
    assert np.isfinite(wanted[0]).all()
    check(run(code, generated, b.request, arrays, emulator.ORDERS[0]), wanted, 121, "left_out")


RESNET = {
    "first": Shape(8, 3, 64, (224, 224), kernel=7, stride=2, pad=3),
    "first_widened": Shape(8, 4, 64, (224, 224), kernel=7, stride=2, pad=3),
    "56": Shape(8, 64, 64, (56, 56)),
    "56_strided": Shape(8, 128, 128, (56, 56), stride=2),
    "14": Shape(8, 256, 256, (14, 14)),
    "7": Shape(8, 512, 512, (7, 7)),
}
IN_STEPS = {
    ("input", "first"),
    ("input", "first_widened"),
    ("input", "56_strided"),
}  # convolutions with steps in their input, which `channels_last` takes apart


def of_resnet(arch, dtype):
    """(direction, name, request, functions) of each convolution, at full size."""
    found = []
    for direction in DIRECTIONS:
        for name, shape in RESNET.items():
            if (direction, name) not in IN_STEPS:
                b = built(case(direction, name, dtype, shape), arch)
                found.append((direction, name, b, generate("contract", b.request)))
    return found


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
@pytest.mark.parametrize(("arch", "dtype"), [("sm_80", BF), ("sm_90a", BF), ("sm_90a", TF32)], ids=str)
def test_they_compile_well(arch, dtype):
    """No spill and no word of ptxas's about wgmma; on Hopper all but those with few channels are made by wgmma, and nothing is packed for it. In
    tf32 the gradients of filters are not, and for those of inputs the filters are packed."""
    with nn.context(), ir.Location.unknown():
        found = of_resnet(ARCHS[arch], dtype)
        units = [Unit(b.request.name, "contract", n, (), b.request.body, 0, 0, g.includes, list(g.functions)) for _, n, b, g in found]
        (cubin,) = nvrtc.build([bundle(printed("cases", units, ARCHS[arch]).whole)], arch)
    assert not re.search(r"C75\d\d", cubin.log), cubin.log
    assert all(used.stack_bytes == 0 for used in cubin.kernels.values())
    for direction, name, _, generated in found:
        packs = dtype == TF32 and direction == "input"
        first = generated.functions[packs]
        by_wgmma = arch == "sm_90a" and "first" not in name and not (dtype == TF32 and direction == "weights")
        assert ("warpgroups" in first.schedule) == by_wgmma, (direction, name, first.schedule)
        assert "first" in name or ("copy engine" in generated.functions[0].schedule) == packs
        assert cubin.kernels[first.symbol].registers == 168 or not by_wgmma


@pytest.mark.skipif(nvrtc.missing() is not None, reason="needs NVRTC and NVIDIA's headers")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_plain_floats_compile_well(arch):
    """Of one picture, channels first: 16 copies a thread, each with the index arithmetic of its tap, leave registers for the products."""
    with nn.context(), ir.Location.unknown():
        units, kept = [], []
        for name, s in {**RESNET, "14_strided": Shape(1, 512, 512, (14, 14), stride=2)}.items():
            operands = [(F, (1, 1, s.channels, *s.extents)), (F, (1, s.filters, s.channels, s.kernel, s.kernel))]
            b = built(Case(f"plain_{name}", operands, conv([s.stride] * 2, [s.pad] * 2, s.size)), ARCHS[arch])
            g = generate("contract", b.request)
            kept.append(b)
            units.append(Unit(b.request.name, "contract", name, (), b.request.body, 0, 0, g.includes, list(g.functions)))
        (cubin,) = nvrtc.build([bundle(printed("cases", units, ARCHS[arch]).whole)], arch)
    assert max(used.registers for used in cubin.kernels.values()) <= 232  # of 255: other versions of ptxas need some more


def test_threads_copy_whole_chunks():
    """Eight channels at a time, whatever the order in which the op names channels and taps; where there are four, four."""
    with nn.context(), ir.Location.unknown():
        for direction, name, b, _ in of_resnet(AMPERE, BF):
            (op,) = {op for op, _ in b.request.body.makers.values() if op.structure == "contract"}
            product = tiles.product_of(contract.epilogue_of(b.request, op))
            shape = RESNET[name]
            widths = [o.width for o in product.operands]
            wanted = [4 if shape.channels == 4 else 8, 8] if direction == "weights" else [min(8, shape.channels)] * 2
            assert name == "first" or sorted(widths) == sorted(wanted), (direction, name, widths)
