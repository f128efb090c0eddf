"""Products of bytes: exact, for every sign, zero point, layout and instruction set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from dslc.backend_cpu.kernels import integers
from dslc.backend_cpu.machine import Machine, host
from dslc.backend_cpu.stage import request_of
from dslc.core.dtypes import FLOAT32, INT32
from dslc.core.dtypes import of_numpy as dtype_of
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Constant, Contract, Mul, Sub, broadcast, cast, full, reshape, slice_axis, transpose
from dslc.ir.rows import Unsuited
from dslc.ir.trace import Body
from dslc.ir.types import TensorType, type_of

from .harness import Case, check, plan_of, run

B, I, J, K = range(4)
HOST = host()
MACHINES = {
    "vnni": HOST,
    "vnni_256": replace(HOST, lanes=8),
    "avx512": replace(HOST, vnni=False),
    "avx2": replace(HOST, lanes=8, registers=16, vnni=False),
}
RUNS = [name for name, m in MACHINES.items() if m.lanes <= HOST.lanes and (HOST.vnni or not m.vnni)]
RNG = np.random.default_rng(0)


def some(dtype: Any, *shape: int) -> np.ndarray:
    """Integers of the whole range, the ends of it among them."""
    info = np.iinfo(dtype)
    a = RNG.integers(info.min, info.max, shape, dtype, endpoint=True)
    a.reshape(-1)[:: max(1, a.size // 7)] = info.min
    a.reshape(-1)[1 :: max(1, a.size // 5)] = info.max
    return a


S8, U8 = partial(some, np.int8), partial(some, np.uint8)


def constant(a: np.ndarray) -> Any:
    t = TensorType(dtype_of(a.dtype), a.shape)
    attribute = ir.DenseElementsAttr.get(a, type=ir.Type.parse(t.dtype.mlir), shape=a.shape)
    return ir.Operation.create(Constant.OPERATION_NAME, [t.to_mlir()], [], {"value": attribute}).result


def less(x: Any, zero: Any, axes: tuple[int, ...] = ()) -> Any:
    """x in int32 minus a zero point, that lies along some axes."""
    wide = cast(x, INT32)
    return wide if zero is None else Sub.of(wide, broadcast(cast(zero, INT32), type_of(wide).shape, axes))


def from_words(w: Any, n: int, k: int) -> Any:
    """[n, k] of what lies as [n / 16, k / 4, 16, 4]."""
    lines, words, _, _ = type_of(w).shape
    whole = reshape(transpose(w, [0, 2, 1, 3]), (16 * lines, 4 * words))
    return slice_axis(slice_axis(whole, 0, 0, n), 1, 0, k)


def in_words(n: int, k: int) -> np.ndarray:
    """Columns that lie as words, with others behind the last term and column."""
    padded = S8(-(-n // 16) * 16, -(-k // 4) * 4)
    return np.ascontiguousarray(padded.reshape(-1, 16, padded.shape[1] // 4, 4).transpose(0, 2, 1, 3))


def product(a: Any, b: Any, lhs: tuple[int, ...] = (I, K), rhs: tuple[int, ...] = (K, J), out: tuple[int, ...] = (I, J)) -> Any:
    return Contract.of(a, b, lhs=lhs, rhs=rhs, out=out, dtype=INT32)


def plain(a: Any, b: Any) -> Any:
    return product(less(a, None), less(b, None))


def zeros(a: Any, b: Any, za: Any, zb: Any) -> Any:
    """One zero point for all of a, one a column of b."""
    return product(less(a, za), less(b, zb, (1,)))


def scaled(a: Any, b: Any, za: Any, scale: Any) -> Any:
    y = cast(product(less(a, za), less(b, None)), FLOAT32)
    return Mul.of(y, broadcast(scale, type_of(y).shape, [1]))


W = S8(70, 50)
CASES = [
    Case("u8_s8", "contract", [U8(9, 37), S8(37, 20)], plain),
    Case("s8_u8", "contract", [S8(9, 37), U8(37, 20)], plain),
    Case("s8_s8", "contract", [S8(40, 64), S8(64, 48)], plain),
    Case("u8_u8", "contract", [U8(5, 3), U8(3, 17)], plain),
    Case("left_transposed", "contract", [S8(41, 19), U8(41, 33)], lambda a, b: product(less(a, None), less(b, None), (K, I))),
    Case("right_transposed", "contract", [U8(13, 150), S8(70, 150)], lambda a, b: product(less(a, None), less(b, None), rhs=(J, K))),
    Case("right_transposed_u8", "contract", [S8(13, 33), U8(23, 33)], lambda a, b: product(less(a, None), less(b, None), rhs=(J, K))),
    Case("result_transposed", "contract", [U8(13, 30), S8(30, 21)], lambda a, b: product(less(a, None), less(b, None), out=(J, I))),
    Case("batched", "contract", [U8(3, 7, 29), S8(3, 29, 20)], lambda a, b: product(less(a, None), less(b, None), (B, I, K), (B, K, J), (B, I, J))),
    Case("two_axes", "contract", [U8(3, 7, 29), S8(29, 20)], lambda a, b: product(less(a, None), less(b, None), (B, I, K), (K, J), (B, I, J))),
    Case("batch_zero", "contract", [U8(3, 7, 29), S8(3, 29, 20), U8(3), S8(3, 20)],
         lambda a, b, za, zb: product(less(a, za, (0,)), less(b, zb, (0, 2)), (B, I, K), (B, K, J), (B, I, J))),
    Case("zeros", "contract", [U8(18, 61), U8(61, 35), np.array(255, np.uint8), U8(35)], zeros),
    Case("zeros_signed", "contract", [S8(18, 61), S8(61, 35), np.array(-128, np.int8), S8(35)], zeros),
    Case("zeros_right_transposed", "contract", [U8(6, 90), U8(20, 90), U8(6), U8(20)],
         lambda a, b, za, zb: product(less(a, za, (0,)), less(b, zb, (0,)), rhs=(J, K))),
    Case("zero_known", "contract", [U8(18, 61), S8(61, 35)],
         lambda a, b: product(Sub.of(cast(a, INT32), full(TensorType(INT32, (18, 61)), 128)), less(b, None))),
    Case("scaled", "contract", [U8(18, 61), S8(61, 35), np.array(7, np.uint8), np.linspace(0.1, 2, 35, dtype=np.float32)], scaled),
    Case("known_weights", "contract", [U8(11, 70), U8(11)], lambda a, za: product(less(a, za, (0,)), less(constant(W), None))),
    Case("known_weights_transposed", "contract", [S8(2, 50), U8(70)],
         lambda a, zb: product(less(a, None), less(transpose(constant(W.view(np.uint8)), [1, 0]), zb, (1,)))),
    Case("known_weights_one_row", "contract", [S8(1, 70)], lambda a: product(less(a, None), less(constant(W), None))),
    Case("in_words", "contract", [U8(13, 40), in_words(57, 40), U8(13)],
         lambda a, w, za: product(less(a, za, (0,)), less(from_words(w, 57, 40), None), rhs=(J, K))),
    Case("in_words_uneven", "contract", [S8(21, 43), in_words(130, 43), S8(130), S8(21)],
         lambda a, w, zb, za: product(less(a, za, (0,)), less(from_words(w, 130, 43), zb, (0,)), rhs=(J, K))),
    Case("in_words_one_row", "contract", [U8(1, 64), in_words(80, 64), U8()],
         lambda a, w, za: product(less(a, za), less(from_words(w, 80, 64), None), rhs=(J, K))),
    Case("several_blocks", "contract", [U8(700, 600), S8(600, 200)], plain),
    Case("wraps", "contract", [np.full((4, 140_000), 255, np.uint8), np.full((140_000, 1), 127, np.int8)], plain),
    Case("reshaped", "contract", [U8(4, 6, 10), S8(60, 16)], lambda a, b: product(reshape(less(a, None), (4, 60)), less(b, None))),
]  # fmt: skip

IN_PLACE = ("in_words", "in_words_one_row")  # nothing is laid out before the product


@pytest.mark.parametrize("machine", RUNS)
def test_they_are_exact(machine: str) -> None:
    for case in run([replace(case) for case in CASES], machine=MACHINES[machine]):
        check(case)


def test_numpy_says_the_same() -> None:
    case = run([replace(next(c for c in CASES if c.name == "zeros"))])[0]
    a, b, za, zb = (np.asarray(x, np.int64) for x in case.arrays)
    np.testing.assert_array_equal(case.results[0], (a - za) @ (b - zb))


def made(case: Case, machine: Machine = HOST) -> Any:
    """What the generator gives; Unsuited where it does not take the case."""
    case.arrays = list(case.operands)
    with nn.context(), ir.Location.unknown():
        module = ir.Module.create()
        plan, _ = plan_of(module, [case])
        body = Body.of(plan.steps[0].kernel.regions[0].blocks[0])
        op = next(op for op, _ in body.makers.values() if op.operation.name == "nn.contract")
        return integers.generate(request_of(body, machine), op)


def test_all_of_these_are_words() -> None:
    for case in CASES:
        generated = made(replace(case), replace(HOST, vnni=True))
        assert bool(generated.tables) == case.name.startswith("known")
        assert len(generated.stages) == (1 if case.name in IN_PLACE else 2)
        if case.name != "in_words_one_row":
            assert len(made(replace(case), replace(HOST, vnni=False)).stages) == 2


@pytest.mark.parametrize("case", [
    Case("wide", "contract", [some(np.int32, 8, 9), some(np.int32, 9, 10)], product),
    Case("moving_zero", "contract", [U8(8, 9), S8(9, 10), S8(9)], lambda a, b, z: product(less(a, z, (1,)), less(b, None))),
    Case("few_rows", "contract", [U8(2, 9), S8(9, 10)], plain),
], ids=lambda case: case.name)  # fmt: skip
def test_others_are_not(case: Case) -> None:
    with pytest.raises(Unsuited):
        made(replace(case))
    check(run([replace(case)])[0])
