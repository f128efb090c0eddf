"""widen_channels: a network means the same to the bit of its sums with a fourth channel of zeros, and with pairs of columns as channels, forward and
for the gradient of filters; where nothing is copied, or too little is gained, all stays."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.compiler import lower
from dslc.ir import ops, reference
from dslc.ir.program import arguments_of, program_of
from dslc.ir.types import type_of
from dslc.ir.verify import verify
from dslc.passes import channels_last
from dslc.pipeline import pass_names, pipeline
from dslc.targets import TARGETS

TARGET = TARGETS["cuda:sm_80"]
STEM = """
model Stem:
    input   x[{n}, {channels}, 12, 13], y[{n}]: int32
    c[n, k, p, q] = {picture}
    h = relu(conv2d(c, 16, kernel=5, stride=2, pad=2))
    e = relu(conv2d(h, 8, kernel=3))
    param head[8, 4] ~ normal(std=0.5)
    m = global_mean(e)
    z[n, k] = sum[d](m[n, d] * head[d, k])
    output  z
    loss    cross_entropy(z, y)
train:
    optimizer  sgd(lr=0.1)
    steps      2
    precision  {precision}
"""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the pictures are."""
    monkeypatch.setattr(channels_last, "SAVED", 1.0)


def text(channels: int = 3, precision: str = "bfloat16", n: int = 2, picture: str = "x[n, k, p, q]") -> str:
    return STEM.format(channels=channels, precision=precision, n=n, picture=picture)


def around(model: str, program: str):
    """The module before the pass and after it."""
    loaded = dslc.load(model)
    names = pass_names(pipeline(loaded, lower(loaded, program, TARGETS["reference"]), program, TARGET, {}))
    return [lower(loaded, program, TARGET, after=after, tuned={}) for after in (names[names.index("widen_channels") - 1], "widen_channels")]


def convolutions(module) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of pictures and filters."""
    with module.context:
        found = [op for op in program_of(module).entry_block.operations if isinstance(op, ops.Conv)]
        return [(type_of(op.x).shape, type_of(op.w).shape) for op in found]


@pytest.mark.parametrize("picture", ["x[n, k, p, q]", "(x[n, k, p, q] - 0.5) / (0.2 + 0.1 * k)"])
@pytest.mark.parametrize("program", ["step", "run"])
def test_it_means_the_same(program: str, picture: str, always: None) -> None:
    """Also where the picture is scaled channel by channel before it is cast, which zeros would not survive."""
    before, after = around(text(picture=picture), program)
    with after.context:
        verify(after.module)
    made = convolutions(after.module)
    assert made[0] == ((2, 1, 4, 12, 13), (1, 16, 4, 5, 5))
    assert ((4, 1, 2, 12, 13) in [x for x, _ in made]) == (program == "step"), "the gradient of the filters"
    assert all(3 not in (x[0], x[2]) for x, _ in made)
    same(before, after)


def same(before, after) -> None:
    rng = np.random.default_rng(0)
    given = {s.name: rng.integers(0, 4, s.type.shape) if s.type.dtype.is_integer else rng.standard_normal(s.type.shape)
             for s in arguments_of(program_of(before.module))}  # fmt: skip
    meant, found = (reference.run(e.module, given) for e in (before, after))
    assert meant.keys() == found.keys()
    for key, value in meant.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


# Of filters with and without columns of zeros before and behind: the pairs, and the padding in pairs.
PAIRED = {(5, 2): 3, (7, 3): 4, (3, 1): 2, (8, 0): 4, (7, 0): 4}


@pytest.mark.parametrize(("kernel", "pad"), PAIRED)
@pytest.mark.parametrize("program", ["step", "run"])
def test_columns_go_in_pairs(program: str, kernel: int, pad: int, always: None) -> None:
    """With steps of two over an even number of columns."""
    before, after = around(paired(kernel, pad), program)
    with after.context:
        verify(after.module)
    made = convolutions(after.module)
    assert made[0] == ((2, 1, 8, 12, 7), (1, 16, 8, kernel, PAIRED[kernel, pad]))
    assert ((8, 1, 2, 12, 7) in [x for x, _ in made[1:]]) == (program == "step"), "the gradient of the filters"
    same(before, after)


@pytest.mark.parametrize(("kernel", "pad", "stride"), [(4, 1, 2), (5, 2, 1), (5, 2, 3)])
def test_where_columns_stay_single(kernel: int, pad: int, stride: int, always: None) -> None:
    """Half as many products more, and other steps."""
    _, after = around(paired(kernel, pad, stride), "step")
    assert convolutions(after.module)[0][0] == (2, 1, 4, 12, 14)


def paired(kernel: int, pad: int, stride: int = 2) -> str:
    return text().replace("12, 13", "12, 14").replace("kernel=5, stride=2, pad=2", f"kernel={kernel}, stride={stride}, pad={pad}")


def test_one_copy_with_its_zeros(always: None) -> None:
    """The cast that makes the 16-bit picture makes it with four channels, the last axis; no other kernel only moves values."""
    made = lower(dslc.load(text()), "run", TARGET, after="fuse", tuned={})
    with made.context:
        kernels = [op for op in program_of(made.module).entry_block.operations if isinstance(op, ops.Kernel)]
        assert [type_of(v).shape for k in kernels for v in k.results].count((2, 12, 13, 4)) == 1
        bare = [k for k in kernels if all(isinstance(op, (ops.View, ops.Reshape, ops.Yield)) for op in k.regions[0].blocks[0].operations)]
        assert not bare


@pytest.mark.parametrize(
    ("channels", "precision", "n"), [(1, "bfloat16", 2), (2, "float16", 2), (4, "bfloat16", 3), (3, "float32", 2), (3, "tf32", 2)]
)
def test_where_it_does_not_help_all_stays(channels: int, precision: str, n: int, always: None) -> None:
    """One channel or two, which would be many more products; whole chunks, in a batch of three; floats of 4 bytes, each of which is a copy."""
    before, after = around(text(channels, precision, n), "step")
    assert convolutions(before.module) == convolutions(after.module) != []


def test_where_it_does_not_pay_all_stays() -> None:
    """Few filters of few taps do not bring in what another order of the pictures costs."""
    before, after = around(text().replace("16, kernel=5, stride=2, pad=2", "4, kernel=3"), "step")
    assert convolutions(before.module) == convolutions(after.module) != []
