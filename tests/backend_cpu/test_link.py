"""Parts of a program: compiled beside each other, joined into one object that is the same each time."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dslc.backend_cpu import emit
from dslc.backend_cpu.codegen import Codegen
from dslc.backend_cpu.link import join
from dslc.backend_cpu.native import LOWERING, KernelArguments, KernelCall, KernelFunction, build_object
from dslc.core import dtypes
from dslc.core.errors import Error
from dslc.ir.mlir import arith, func, ir
from dslc.ir.plan import Place
from dslc.runtime.drivers.cpu.loader import LoadedObject

from .native import run_plan

INNER = "llvm.func @inner(%x: i64) -> i64 { %c = llvm.mlir.constant(2 : i64) : i64\n %y = llvm.mul %x, %c : i64\n llvm.return %y : i64 }"
OUTER = """
llvm.func @inner(i64) -> i64
llvm.func internal @more(%x: i64) -> i64 attributes {passthrough = ["noinline"]} {
  %c = llvm.mlir.constant(1 : i64) : i64
  %y = llvm.add %x, %c : i64
  llvm.return %y : i64
}
llvm.func @outer(%x: i64) -> i64 {
  %y = llvm.call @inner(%x) : (i64) -> i64
  %z = llvm.call @more(%y) : (i64) -> i64
  llvm.return %z : i64
}
"""
TABLE = """
llvm.mlir.global internal constant @numbers(dense<[5.0, 7.0, 11.0]> : tensor<3xf64>) : !llvm.array<3 x f64>
llvm.func @number(%i: i64) -> f64 {
  %base = llvm.mlir.addressof @numbers : !llvm.ptr
  %at = llvm.getelementptr %base[%i] : (!llvm.ptr, i64) -> !llvm.ptr, f64
  %v = llvm.load %at : !llvm.ptr -> f64
  llvm.return %v : f64
}
"""
TENSORS = "func.func @inner(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }"


def objects(*texts: tuple[str, str, tuple[str, ...]]) -> list[bytes]:
    with Codegen(LOWERING, 0) as codegen:
        for text, entry, elsewhere in texts:
            codegen.add_text(text, entry, elsewhere)
        return codegen.objects()


@pytest.mark.parametrize("turned", [False, True])
def test_calls_and_data_of_several_objects(turned: bool) -> None:
    made = objects((INNER, "inner", ()), (OUTER, "outer", ("inner",)), (TABLE, "number", ()))
    loaded = LoadedObject(join(made[::-1] if turned else made))
    assert loaded.function("outer", ctypes.c_int64, ctypes.c_int64)(20) == 41
    assert [loaded.function("number", ctypes.c_double, ctypes.c_int64)(i) for i in range(3)] == [5, 7, 11]


def test_local_symbols_stand_first() -> None:
    code = join(objects((OUTER, "outer", ("inner",)), (INNER, "inner", ()), (TABLE, "number", ())))
    (start,) = struct.unpack_from("<Q", code, 40)
    rows = [struct.unpack_from("<IIQQQQIIQQ", code, start + 64 * i) for i in range(struct.unpack_from("<H", code, 60)[0])]
    (table,) = (r for r in rows if r[1] == 2)
    kinds = [code[at + 4] >> 4 for at in range(table[4], table[4] + table[5], 24)]
    assert kinds == sorted(kinds) and kinds.index(1) == table[7]


def test_two_functions_of_one_name() -> None:
    with pytest.raises(ValueError, match="inner is defined twice"):
        join(objects((INNER, "inner", ())) * 2)


def test_what_cannot_be_compiled_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Error, match="'inner'"):
        objects((INNER, "inner", ()), (TENSORS, "inner", ()))
    capfd.readouterr()


def test_what_every_program_has_is_compiled_once() -> None:
    made = []
    for _ in range(2):
        with Codegen(LOWERING, 0) as codegen:
            codegen.add_once(INNER, "inner")
            (code,) = codegen.objects()
            made.append(code)
    assert made[0] is made[1]
    with Codegen(LOWERING, 0) as codegen, pytest.raises(Error):
        codegen.add_once(TENSORS, "inner")
        codegen.objects()
    with Codegen(LOWERING, 0) as codegen, pytest.raises(Error):  # what failed is not kept as made
        codegen.add_once(TENSORS, "inner")
        codegen.objects()


def calls_what_nobody_defines(a: KernelArguments) -> None:
    kernel = ir.InsertionPoint.current.block.owner
    with ir.InsertionPoint(kernel):
        func.FuncOp("nowhere", ir.FunctionType.get([], []), visibility="private")
    func.CallOp([], "nowhere", [])


def has_what_no_pass_lowers(a: KernelArguments) -> None:
    tensor = arith.ConstantOp(ir.RankedTensorType.get([4], ir.F32Type.get()), ir.DenseElementsAttr.get(np.zeros(4, np.float32))).result
    thread = ir.Operation.create("builtin.unrealized_conversion_cast", results=[a.tid.type], operands=[tensor]).result
    x, y = a.operands
    emit.vector_loop(*emit.share_in_steps(100, 16, thread, a.nt), 16, lambda i, lanes, mask: y.store(x.load([i], lanes, mask), [i], mask))


@pytest.mark.parametrize("count", [3, 8])  # in one part, in several
@pytest.mark.parametrize(
    "body, words",
    [
        (calls_what_nobody_defines, "code generation gave no object for 'add_2 (m.dsl:2)': .*Symbols not found: .*nowhere"),
        (has_what_no_pass_lowers, "LLVM does not take what the passes made for 'add_2 (m.dsl:2)': .*arith.constant"),
    ],
)
def test_a_kernel_that_cannot_be_compiled_is_named(body: Callable, words: str, count: int, capfd: pytest.CaptureFixture[str]) -> None:
    """With its lines and what the compiler says, which is not printed beside it but for what LLVM prints by itself."""
    kernels = [replace(add(k), lines=(f"m.dsl:{k}",)) for k in range(count)]
    kernels[2] = replace(kernels[2], emit=body)
    with pytest.raises(Error, match=words.replace("(", r"\(").replace(")", r"\)")):
        build_object(kernels, [KernelCall(k.symbol, (Place("slot", 0), Place("slot", 1))) for k in kernels], 0)
    out, printed = capfd.readouterr()
    assert out == "" and set(printed.splitlines()) <= {"JIT session error: Symbols not found: [ nowhere ]"}


def add(k: int) -> KernelFunction:
    def body(a: KernelArguments) -> None:
        x, y = a.operands

        def point(i: object, lanes: int, mask: object) -> None:
            value = x.load([i], lanes, mask)
            y.store(arith.addf(value, emit.const(float(k), value.type)), [i], mask)

        emit.vector_loop(*emit.share_in_steps(100, 16, a.tid, a.nt), 16, point)

    return KernelFunction(f"add_{k}", ((dtypes.FLOAT32, (100,)),) * 2, body)


def test_many_kernels_are_one_program_and_the_same_each_time() -> None:
    kernels = [add(k) for k in range(23)]
    steps = [KernelCall(k.symbol, (Place("slot", 0), Place("slot", 0))) for k in kernels]
    first, second = (build_object(kernels, steps, 0) for _ in range(2))
    assert first.code == second.code
    x = np.arange(100, dtype=np.float32)
    run_plan(first, [x])
    np.testing.assert_array_equal(x, np.arange(100) + sum(range(23)))
