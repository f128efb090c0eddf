"""Plans to executables: equal kernels compiled once, loops, constants, keys, what a report says, groups that are updated in place."""

import numpy as np

from dslc.backend_cpu.backend import compile_plan
from dslc.backend_cpu.machine import host
from dslc.core.dtypes import FLOAT32, INT32
from dslc.core.errors import Span
from dslc.core.executable import Port, from_bytes, to_bytes
from dslc.ir import op as nn
from dslc.ir.mlir import ir
from dslc.ir.ops import Add, Kernel, Mul, Yield, constant, full_like
from dslc.ir.plan import Call, Loop, Place, Plan, readers_first
from dslc.ir.types import TensorType, location_of
from dslc.runtime.drivers.cpu.program import CpuProgram

T = TensorType(FLOAT32, (40,))


def kernel(body, operands, role="twice"):
    sources = [ir.Operation.create("test.source", [t.to_mlir()], [], {}).result for t in operands]
    made = Kernel.build(sources, [T], "map", role)
    with ir.InsertionPoint(made.regions[0].blocks[0]):
        Yield.of(body(*made.regions[0].blocks[0].arguments))
    return made


def twice(x):
    return Mul.of(x, full_like(x, 2))


def ports(*names):
    return tuple(Port(n, "input" if n == "x" else "output", FLOAT32, T.shape, k) for k, n in enumerate(names))


def built(make):
    """The executable of a plan that is made in a fresh module."""
    with nn.context(), location_of(Span("m.dsl", 3, 1, 3, 9)):
        module = ir.Module.create()
        with ir.InsertionPoint(module.body):
            plan = make()
        return compile_plan(plan, host())


def test_equal_kernels_are_compiled_once_and_the_report_names_their_lines():
    def make():
        calls = [
            Call(kernel(twice, [T]), (Place("slot", 0),), (Place("arena", 0),)),
            Call(kernel(twice, [T]), (Place("arena", 0),), (Place("slot", 1),)),
        ]
        return Plan("run", ports("x", "y"), tuple(calls), 256, b"")

    executable = built(make)
    assert len(executable.kernels) == 1 and len(executable.launches) == 2
    info = executable.kernels[0]
    assert (info.kind, info.lines, info.flops, info.bytes) == ("map", ("m.dsl:3",), 40, 320)
    x = np.arange(40, dtype=np.float32)
    program = CpuProgram(from_bytes(to_bytes(executable)))
    np.testing.assert_array_equal(program({"x": x})["y"], 4 * x)


def test_tables_follow_the_plans_constants():
    table = np.arange(40, dtype=np.float32)
    given = np.full(40, 7, np.float32)

    def make():
        added = kernel(lambda x, c: Add.of(Add.of(x, constant(table)), c), [T, T])
        call = Call(added, (Place("slot", 0), Place("constant", 0)), (Place("slot", 1),))
        return Plan("run", ports("x", "y"), (call,), 0, given.tobytes())

    executable = built(make)
    x = np.ones(40, np.float32)
    np.testing.assert_array_equal(CpuProgram(executable)({"x": x})["y"], x + table + given)


def test_loops_move_their_places():
    rows = TensorType(FLOAT32, (3, 40))

    def make():
        step = kernel(lambda x, t: Mul.of(x, x), [T, TensorType(INT32, ())])
        call = Call(step, (Place("slot", 0, (160,)), Place("arena", 0)), (Place("slot", 1, (160,)),))
        two = tuple(Port(n, role, FLOAT32, rows.shape, k) for k, (n, role) in enumerate((("x", "input"), ("y", "output"))))
        return Plan("run", two, (Loop(3, True, Place("arena", 0), (call,)),), 64, b"")

    executable = built(make)
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    np.testing.assert_array_equal(CpuProgram(executable)({"x": x})["y"], x * x)


def test_groups_that_read_what_others_overwrite_come_first():
    a, b, c = (Place("slot", k) for k in range(3))
    assert readers_first([([a], [a]), ([a, b], [b])]) == ([1, 0], True)
    assert readers_first([([a], [a]), ([b], [b]), ([c], [c])]) == ([0, 1, 2], False)
