"""Tensors of more elements than 32 bits number: a place is computed in 64 bits though each index fits 32, and the text compiles."""

from __future__ import annotations

import re

import pytest

from dslc.backend_cuda import source
from dslc.backend_cuda.arch import arch_of
from dslc.backend_cuda.backend import lower_plan
from dslc.backend_cuda.emulated import build
from dslc.core.dtypes import BFLOAT16, FLOAT32
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Contract, Kernel, Reduce, Yield, broadcast, cast, reshape, transpose, view
from dslc.ir.plan import Call, Place, Plan
from dslc.ir.types import TensorType, type_of
from dslc.targets import TARGETS

ROWS, COLUMNS = 100_000, 40_000
LARGE = TensorType(BFLOAT16, (ROWS, COLUMNS))
FACTOR = re.compile(r"\b(\d+) \* ([a-z]\w*)\b")
DECLARED = re.compile(r"\bint ((?:\w+ = [^;]*?(?:, )?)+);")


def shifted(x):
    """Taken apart and joined behind a shift: quotients of what may be negative."""
    return view(reshape(view(x, [[1, 0], [0, 1]], [-3, 0], (ROWS, COLUMNS)), (ROWS // 2, 2 * COLUMNS)), [[1, 0], [0, 1]], [-1, -1], (ROWS, COLUMNS))


def product(a, b, c):
    return Add.of(Contract.of(a, b, lhs=[0, 2], rhs=[2, 1], out=[0, 1], dtype=BFLOAT16, tf32=False), c)


def total(*axes):
    return lambda x: Reduce.of(cast(x, FLOAT32), kind="sum", axes=list(axes))


CASES = {
    "a row for each": ("map", [LARGE, TensorType(BFLOAT16, (COLUMNS,))], lambda x, b: Add.of(x, broadcast(b, LARGE.shape, [1]))),
    "turned": ("map", [LARGE], lambda x: transpose(x, [1, 0])),
    "shifted": ("map", [LARGE], shifted),
    "product": ("contract", [TensorType(BFLOAT16, (ROWS, 64)), TensorType(BFLOAT16, (64, COLUMNS)), LARGE], product),
    "rows": ("reduce", [LARGE], total(1)),
    "columns": ("reduce", [LARGE], total(0)),
    "all": ("reduce", [LARGE], total(0, 1)),
}


def text_of(kind, operands, build_body, arch):
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        with ir.InsertionPoint(module.body):
            values = [ir.Operation.create("test.source", [t.to_mlir()], [], {}).result for t in operands]
            result = type_of(build_body(*values))
            kernel = Kernel.build(values, [result], kind, "large", "{}")
        with ir.InsertionPoint(kernel.regions[0].blocks[0]):
            Yield.of(build_body(*kernel.regions[0].blocks[0].arguments))
        places = [Place("slot", k) for k in range(len(operands) + 1)]
        call = Call(kernel, tuple(places[:-1]), tuple(places[-1:]))
        return lower_plan(Plan("run", (), (call,), 0, b""), arch_of(arch)).text.whole


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("case", CASES)
def test_no_place_is_a_product_of_ints(case, arch):
    text = text_of(*CASES[case], arch)
    ints = {name for line in text.splitlines() if (found := DECLARED.search(line)) for name in re.findall(r"(\w+) = ", found[1])}
    rows = ints - {"term"}  # of which there are 64
    narrow = [f"{factor} * {name}" for factor, name in FACTOR.findall(text) if name in rows and int(factor) >= COLUMNS]
    assert not narrow, f"{case}: {narrow}"
    assert "long long" in text


@pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
def test_parts_of_a_long_sum_compile():
    assert build(source.bundle(text_of(*CASES["all"], "emulated")))
