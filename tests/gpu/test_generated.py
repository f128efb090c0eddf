"""Products, convolutions and attention by every way that a kernel is made: the cases of the emulator's tests on a GPU, against the float64 reference.
Needs the compiler beside the GPU; without one, a case of each group runs on the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch_mlir")

from dslc.backend_cuda.arch import ARCHS, Arch
from dslc.backend_cuda.kernels import attention_hopper
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.targets import TARGETS
from tests.backend_cuda.kernels import test_attention_hopper as hopper_attention
from tests.backend_cuda.kernels import test_attention_mma as mma_attention
from tests.backend_cuda.kernels import test_contract as products
from tests.backend_cuda.kernels import test_contract_schedules as schedules
from tests.backend_cuda.kernels import test_convolutions as convolutions
from tests.backend_cuda.kernels.products import check

from .devices import DRIVERS
from .generated import compiled, results_of

NEEDS_EMULATOR = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")


@dataclass(frozen=True)
class Made:
    """One kernel: what was generated, operands, and what compares its results."""

    request: Any
    generated: Any
    arrays: list[np.ndarray]
    compare: Callable[[list[np.ndarray]], None]
    keep: Any = None  # what the request's body lives in


Maker = Callable[[Arch, bool, ExitStack], Iterator[Made]]
"""Kernels for an architecture, all or few; modules that they live in are entered in the stack."""


@dataclass(frozen=True)
class Group:
    """`hopper`: sm_90a alone has them."""

    make: Maker
    hopper: bool


def of_products(names: Any, make: Callable[[Any], Any]) -> Maker:
    def made(arch: Arch, few: bool, _: ExitStack) -> Iterator[Made]:
        for name, (b, generated, arrays, wanted) in products.made_of(list(names)[:1] if few else names, arch, make).items():
            yield Made(b.request, generated, arrays, lambda found, b=b, wanted=wanted, name=name: products.compare(found, b, wanted, name), b)

    return made


def of_convolutions(cases: Any, make: Callable[[Any], Any]) -> Maker:
    def made(arch: Arch, few: bool, _: ExitStack) -> Iterator[Made]:
        for which, (b, generated, arrays, wanted) in convolutions.made_of(cases[:1] if few else cases, arch, make).items():
            name = convolutions.named(which)
            yield Made(b.request, generated, arrays, lambda found, b=b, wanted=wanted, name=name: convolutions.compare(found, b, wanted, name), b)

    return made


def of_schedules(kinds: list[tuple[Callable[[], Any], int]]) -> Maker:
    """Every schedule of some products; each with the terms of its sums."""

    def made(_: Arch, few: bool, __: ExitStack) -> Iterator[Made]:
        for kind, terms in kinds[:1] if few else kinds:
            b, arrays, wanted, kernels = kind()
            for schedule, generated in kernels[:1] if few else kernels:
                compare = lambda found, wanted=wanted, terms=terms, schedule=schedule: check(found, wanted, terms, str(schedule))  # noqa: E731
                yield Made(b.request, generated, arrays, compare, b)

    return made


def by_hopper(_: Arch, few: bool, modules: ExitStack) -> Iterator[Made]:
    cases = dict(list(hopper_attention.CASES.items())[: 1 if few else None])
    for request, generated, wanted in hopper_attention.made_of(cases, modules):
        yield Made(request, generated, wanted[0], lambda found, wanted=wanted, name=request.name: hopper_attention.compare(found, wanted, name))


def by_mma(arch: Arch, few: bool, modules: ExitStack) -> Iterator[Made]:
    folder = mma_attention.SPECS[0].parent
    spelled = {
        "bfloat16": ("cross", "bias_input", "difference", "dropout"), "float16": ("causal", "grouped", "sigmoid"),
        "float32": ("causal", "grouped", "two_sided_window"),
    }  # fmt: skip
    for dtype, names in spelled.items():
        text = mma_attention.in_tf32 if dtype == "float32" else lambda text, dtype=dtype: mma_attention.narrowed(text, dtype)
        texts = {f"{name}_{dtype}": text((folder / f"{name}.dsl").read_text()) for name in (names[:1] if few else names)}
        tolerance = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-9}[dtype]
        for request, generated, wanted in mma_attention.made_of(texts, arch, modules):
            compare = lambda found, w=wanted, t=tolerance, name=request.name: mma_attention.compare(found, w, t, name)  # noqa: E731
            yield Made(request, generated, wanted[0], compare)


ON_HOPPER = [
    *((lambda layout=layout: schedules.on_hopper(layout), schedules.SIZES[2]) for layout in ("nn", "tt")),
    (lambda: schedules.on_hopper("nt", FLOAT32, tf32=True), schedules.TF32[2]),
    (schedules.in_shares, 448),
    *((lambda dtype=dtype: schedules.with_residual(dtype), schedules.RESIDUAL[2]) for dtype in (BFLOAT16, FLOAT32)),
]
GROUPS = {
    "products by tiles": Group(of_products(products.CASES, products.by_tiles), False),
    "convolutions by tiles": Group(of_convolutions(convolutions.CASES, products.by_tiles), False),
    "attention by mma": Group(by_mma, False),
    "products by wgmma": Group(of_products(products.ON_HOPPER, products.on_hopper), True),
    "convolutions in shares": Group(of_convolutions(convolutions.IN_SHARES, convolutions.on_hopper_in_shares), True),
    "convolutions in boxes": Group(of_convolutions(convolutions.IN_BOXES, convolutions.on_hopper), True),
    "schedules of wgmma": Group(of_schedules(ON_HOPPER), True),
    "attention by wgmma": Group(by_hopper, True),
}


def right(device: str, group: str, few: bool) -> int:
    """Compares a group's kernels on a device; how many they are."""
    driver = DRIVERS[device]()
    arch = ARCHS["sm_90a" if GROUPS[group].hopper or driver.arch == "emulated" else driver.arch]
    wrong = []
    with ExitStack() as modules:
        modules.enter_context(nn.context())
        modules.enter_context(ir.Location.unknown())
        made = list(GROUPS[group].make(replace(arch, sms=3), few, modules))
        for one, functions in zip(made, compiled(driver, [(m.request, m.generated) for m in made]), strict=True):
            try:
                one.compare(results_of(driver, functions, one.request, one.generated, one.arrays))
            except AssertionError as error:
                wrong.append(f"{one.request.name}: {error}")
    assert not wrong, "\n".join(wrong)
    return len(made)


@pytest.mark.gpu
@pytest.mark.parametrize("group", GROUPS)
def test_on_a_gpu(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches overlap, and all run twice, to the same bits."""
    if GROUPS[group].hopper and DRIVERS["cuda"]().arch != "sm_90a":
        pytest.skip("Hopper alone has its instructions")
    monkeypatch.setattr(attention_hopper, "pays", lambda *_: True)
    right("cuda", group, few=False)


@NEEDS_EMULATOR
@pytest.mark.parametrize("group", [g for g in GROUPS if g != "attention by mma"])
def test_on_the_emulator(group: str) -> None:
    """One of each, by the same way."""
    assert right("emulator", group, few=True) >= 1
