"""Programs on the CPU: inputs and results, threads, forks, plans with loops and branches."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dslc.backend_cpu import casts, emit, vmath
from dslc.backend_cpu.native import KernelArguments, KernelCall, KernelFunction, build_object
from dslc.core import dtypes
from dslc.core.errors import DataError, TargetError
from dslc.core.executable import Executable, Port, from_bytes, to_bytes
from dslc.ir.mlir import arith
from dslc.ir.plan import Branch, Copy, Loop, Place
from dslc.runtime.drivers.cpu import pool
from dslc.runtime.drivers.cpu.program import CpuProgram
from dslc.runtime.program import Program
from dslc.runtime.store import ParameterStore

N = 3000
F32, I32, I64, BOOL = dtypes.FLOAT32, dtypes.INT32, dtypes.INT64, dtypes.BOOL


def elementwise(symbol: str, function: Any, operands: int, n: int = N) -> KernelFunction:
    """A kernel whose last operand is the function of the others, point by point."""

    def body(a: KernelArguments) -> None:
        def point(i: Any, lanes: int, mask: Any) -> None:
            a.operands[-1].store(function(*(m.load([i], lanes, mask) for m in a.operands[:-1])), [i], mask)

        emit.vector_loop(*emit.share_in_steps(n, 16, a.tid, a.nt), 16, point)

    return KernelFunction(symbol, ((F32, (n,)),) * operands, body)


def executable(kernels: list[KernelFunction], steps: list[Any], ports: list[Port], arena: int = 1 << 16, constants: bytes = b"") -> Executable:
    built = build_object(kernels, steps, arena, constant_bytes=len(constants))
    return Executable("cpu", "run", "test", "", tuple(ports), (), (), arena, built.scratch_bytes, constants, built.code)


ADD = elementwise("add", lambda a, b: arith.addf(a, b), 3)
EXP = elementwise("exp", vmath.exp, 2)
SLOT = [Place("slot", i) for i in range(8)]
PORTS = [Port("x", "input", F32, (N,), 0), Port("w", "param", F32, (N,), 1), Port("y", "output", F32, (N,), 2)]


@pytest.fixture(scope="module")
def sums() -> Executable:
    """y = exp(x + w) + w, written as three kernels; the executable goes through bytes, as a package does."""
    steps = [KernelCall("add", (SLOT[0], SLOT[1], Place("arena", 0))), KernelCall("exp", (Place("arena", 0), Place("arena", 12032)))]
    steps.append(KernelCall("add", (Place("arena", 12032), SLOT[1], SLOT[2])))
    return from_bytes(to_bytes(executable([ADD, EXP], steps, PORTS)))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    pool.configure(2)
    yield
    pool.configure(None)


def store() -> ParameterStore:
    s = ParameterStore(PORTS)
    s["w"] = np.linspace(-1, 1, N, dtype=np.float32)
    return s


def bound(sums: Executable, threads: int | None = None) -> tuple[CpuProgram, np.ndarray, np.ndarray]:
    program, s = CpuProgram(sums, threads), store()
    program.bind(s)
    x = np.linspace(-3, 3, N, dtype=np.float32)
    return program, x, np.exp(x.astype(np.float64) + s["w"]) + s["w"]


def test_result_on_any_number_of_threads(sums: Executable) -> None:
    found = []
    for threads in (1, 2, 3):
        pool.configure(threads)
        program, x, expected = bound(sums)
        assert isinstance(program, Program)
        found.append(program({"x": x})["y"])
        np.testing.assert_allclose(found[-1], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_one_thread_never_makes_a_pool(sums: Executable) -> None:
    program, x, expected = bound(sums, threads=1)
    np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)
    assert pool.state.pool is None


def test_a_program_follows_the_pool_when_it_changes(sums: Executable) -> None:
    program, x, expected = bound(sums)
    for threads in (2, 1, 4, 2):
        pool.configure(threads)
        np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_results_belong_to_the_caller(sums: Executable) -> None:
    program, x, _ = bound(sums)
    first = program({"x": x})["y"]
    kept = first.copy()
    second = program({"x": x + 1})["y"]
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    out = np.zeros(N, np.float32)
    assert program({"x": x}, out={"y": out})["y"] is out
    np.testing.assert_array_equal(out, kept)


def test_inputs_of_other_kinds(sums: Executable) -> None:
    torch = pytest.importorskip("torch")
    program, x, _ = bound(sums)
    expected = program({"x": x})["y"]
    strided = np.repeat(x, 2)[::2]
    for other in (torch.from_numpy(x.copy()), strided, x.astype(">f4"), x.tolist(), x.astype(np.float64)):
        np.testing.assert_array_equal(program({"x": other})["y"], expected)


def test_inputs_that_do_not_fit(sums: Executable) -> None:
    program, x, _ = bound(sums)
    ports = [replace(p, line=2) if p.name == "x" else p for p in sums.ports]
    lined = CpuProgram(replace(sums, ports=tuple(ports)))
    lined.bind(store())
    for bad, message in (
        ({}, "input 'x' was not given"),
        ({"x": x, "z": x}, "the program has no input 'z'"),
        ({"x": x[:3].astype(np.int64)}, r"input 'x' is int64\[3\], declared float32\[3000\] \(line 2\)"),
        ({"x": np.array(["a"] * N)}, "input 'x'"),
    ):
        with pytest.raises(DataError, match=message):
            lined(bad)
    with pytest.raises(DataError, match="bind a ParameterStore first"):
        CpuProgram(sums)({"x": x})
    for out, message in (
        ({"q": x}, "no result 'q'"),
        ({"y": x[:5]}, r"out\['y'\] is float32\[5\]"),
        ({"y": np.zeros(2 * N, np.float32)[::2]}, "C-contiguous"),
    ):
        with pytest.raises(DataError, match=message):
            program({"x": x}, out=out)


def test_after_an_error_the_next_call_works(sums: Executable) -> None:
    program, x, expected = bound(sums)
    with pytest.raises(DataError):
        program({"x": x[:5]})
    np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_indices_are_checked() -> None:
    ports = [Port("ids", "input", I32, (4, 5), 0, bounds=(0, 10)), Port("y", "output", F32, (N,), 2)]
    program = CpuProgram(executable([EXP], [KernelCall("exp", (Place("arena", 0), SLOT[2]))], ports))
    ids = np.full((4, 5), 9, np.int32)
    program({"ids": ids})
    for value in (10, -1):
        ids[2, 3] = value
        with pytest.raises(DataError, match=rf"has the value {value} at \[2, 3\]; it is used as an index and must be in \[0, 10\)"):
            program({"ids": ids})


def test_host_scalars_reach_the_program() -> None:
    def body(a: KernelArguments) -> None:
        for source, at in ((a.operands[0], 0), (a.operands[1], 1), (a.operands[2], 2)):
            value = casts.cast(source.load([0]), source.dtype, I64)
            emit.when(emit.icmp("eq", a.tid, 0), lambda value=value, at=at: a.operands[3].store(value, [at]))  # type: ignore[misc]

    kernel = KernelFunction("scalars", ((I64, (1,)), (I32, (1,)), (I32, (1,)), (I64, (3,))), body)
    names = (("seed", I64), ("step", I32), ("microbatch", I32))
    ports = [Port(n, "scalar", t, (), i) for i, (n, t) in enumerate(names)] + [Port("y", "output", I64, (3,), 3)]
    program = CpuProgram(executable([kernel], [KernelCall("scalars", tuple(SLOT[:4]))], ports))
    assert program({}, seed=(1 << 63) + 5, step=7, microbatch=2)["y"].tolist() == [5 - (1 << 63), 7, 2]


def test_calls_from_several_python_threads(sums: Executable) -> None:
    program, x, expected = bound(sums)
    other, _, _ = bound(sums)
    failures = []

    def work(p: CpuProgram, shift: int) -> None:
        for _ in range(50):
            found = p({"x": np.roll(x, shift)})["y"]
            exact = np.exp(np.roll(x, shift).astype(np.float64) + store_w) + store_w
            if not np.allclose(found, exact, rtol=1e-5, atol=1e-5):
                failures.append(shift)

    store_w = store()["w"]
    threads = [threading.Thread(target=work, args=(p, s)) for s, p in enumerate((program, program, other))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_after_a_fork_the_child_has_its_own_pool(sums: Executable) -> None:
    program, x, expected = bound(sums)
    program({"x": x})
    child = os.fork()
    if child == 0:
        status = 1
        try:
            good = all(np.allclose(program({"x": x})["y"], expected, rtol=1e-5, atol=1e-5) for _ in range(20))
            status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_a_process_with_a_pool_ends(sums: Executable, tmp_path: Any) -> None:
    file = tmp_path / "program"
    file.write_bytes(to_bytes(replace(sums, ports=tuple(replace(p, role="input") if p.name == "w" else p for p in sums.ports))))
    script = f"""
import numpy as np, sys
from dslc.core.executable import from_bytes
from dslc.runtime.drivers.cpu.program import CpuProgram
p = CpuProgram(from_bytes(open({str(file)!r}, "rb").read()))
x = np.zeros({N}, np.float32)
assert (p({{"x": x, "w": x}})["y"] == 1).all()
assert not any(m.startswith(("torch_mlir", "dslc.ir")) for m in sys.modules)
"""
    environment = {**os.environ, "DSLC_THREADS": "3"}
    assert subprocess.run([sys.executable, "-c", script], env=environment, timeout=60).returncode == 0
    assert multiprocessing.active_children() == []


def test_the_number_of_threads(sums: Executable, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.configure(None)
    monkeypatch.setenv("DSLC_THREADS", "3")
    assert pool.thread_count() == 3
    for bad in ("0", "many", "-1", "99999"):
        monkeypatch.setenv("DSLC_THREADS", bad)
        with pytest.raises(TargetError, match="not a number of threads"):
            pool.thread_count()
    monkeypatch.delenv("DSLC_THREADS")
    assert pool.thread_count() == len(os.sched_getaffinity(0))


def test_pinned_workers_leave_the_caller_alone(sums: Executable) -> None:
    pool.configure(2, pin=True)
    program, x, expected = bound(sums)
    before = os.sched_getaffinity(0)
    np.testing.assert_allclose(program({"x": x})["y"], expected, rtol=1e-6, atol=1e-6)
    assert os.sched_getaffinity(0) == before
    assert all(len(os.sched_getaffinity(w.native_id)) == 1 for w in pool.state.pool._workers)


def test_denormals_are_flushed_and_the_callers_mode_is_kept(sums: Executable) -> None:
    ports = [Port("x", "input", F32, (N,), 0), Port("w", "input", F32, (N,), 1), Port("y", "output", F32, (N,), 2)]
    for threads in (1, 2):
        pool.configure(threads)
        program = CpuProgram(executable([ADD], [KernelCall("add", (SLOT[0], SLOT[1], SLOT[2]))], ports))
        tiny = np.full(N, 1e-40, np.float32)
        assert (program({"x": tiny, "w": tiny})["y"] == 0).all()
        assert tiny[0] + tiny[0] > 0


def test_calls_allocate_nothing_that_grows(sums: Executable) -> None:
    program, x, _ = bound(sums)

    def resident() -> int:
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(100):
        program({"x": x})
    before = resident()
    for _ in range(1000):
        program({"x": x})
    assert resident() - before < 1 << 20


def test_loops_advance_their_places() -> None:
    """y[t] = x[t] + carry, carry = y[t], forward and backward; the turn is readable; inner loops see both counters."""
    rows, n = 5, 64
    add = elementwise("add_row", lambda a, b: arith.addf(a, b), 3, n)

    def body(a: KernelArguments) -> None:
        value = casts.cast(a.operands[0].load([0]), I32, F32)
        emit.when(emit.icmp("eq", a.tid, 0), lambda: a.operands[1].store(value, [0]))

    turn = KernelFunction("turn", ((I32, (1,)), (F32, (1,))), body)
    x = np.random.default_rng(0).standard_normal((rows, n)).astype(np.float32)
    ports = [Port("x", "input", F32, (rows, n), 0), Port("y", "output", F32, (rows, n), 1), Port("turns", "output", F32, (rows,), 2)]
    row = 4 * n
    for backward in (False, True):
        carry, counter = Place("arena", 0), Place("arena", 1024)
        steps = (
            KernelCall("add_row", (Place("slot", 0, (row,)), carry, Place("slot", 1, (row,)))),
            KernelCall("turn", (counter, Place("slot", 2, (4,))), barrier=False),
            Copy(Place("slot", 1, (row,)), carry, row),
        )
        program = CpuProgram(
            executable([add, turn], [Copy(Place("constant", 0), carry, row), Loop(rows, backward, counter, steps)], ports, 2048, bytes(row))
        )
        for _ in range(2):
            found = program({"x": x})
            expected = np.cumsum(x[::-1], 0, dtype=np.float32)[::-1] if backward else np.cumsum(x, 0, dtype=np.float32)
            np.testing.assert_allclose(found["y"], expected, rtol=1e-5, atol=1e-5)
            assert found["turns"].tolist() == [0, 1, 2, 3, 4]


def test_nested_loops() -> None:
    n = 64
    add = elementwise("add_row", lambda a, b: arith.addf(a, b), 3, n)
    x = np.random.default_rng(0).standard_normal((3, 4, n)).astype(np.float32)
    ports = [Port("x", "input", F32, (3, 4, n), 0), Port("y", "output", F32, (3, 4, n), 1)]
    place = [Place("slot", i, (16 * n, 4 * n)) for i in range(2)]
    inner = Loop(4, False, Place("arena", 8), (KernelCall("add_row", (place[0], place[0], place[1])),))
    program = CpuProgram(executable([add], [Loop(3, True, Place("arena", 0), (inner,))], ports, 128))
    np.testing.assert_array_equal(program({"x": x})["y"], 2 * x)


def test_branches() -> None:
    flag = Port("flag", "input", BOOL, (), 3)
    for_then, for_else = KernelCall("add", (SLOT[0], SLOT[1], SLOT[2])), Copy(SLOT[0], SLOT[2], 4 * N)
    ports = [replace(p, role="input") if p.name == "w" else p for p in PORTS] + [flag]
    program = CpuProgram(executable([ADD], [Branch(SLOT[3], (for_then,), (for_else,))], ports))
    x = np.arange(N, dtype=np.float32)
    for value, expected in ((True, x + x), (False, x), (True, x + x)):
        np.testing.assert_array_equal(program({"x": x, "w": x, "flag": np.array(value)})["y"], expected)


@pytest.mark.parametrize("size", [1, 63, 64, 1000, 12345])
def test_copies_of_any_size(size: int) -> None:
    ports = [Port("x", "input", dtypes.INT8, (size,), 0), Port("y", "output", dtypes.INT8, (size,), 1)]
    program = CpuProgram(executable([], [Copy(SLOT[0], SLOT[1], size)], ports))
    x = np.random.default_rng(0).integers(-128, 127, size, np.int8)
    for threads in (1, 2, 3):
        pool.configure(threads)
        np.testing.assert_array_equal(program({"x": x})["y"], x)


def test_an_empty_plan_runs() -> None:
    program = CpuProgram(executable([], [], []))
    for _ in range(100):
        assert program({}) == {}


def test_code_of_another_convention_is_refused(sums: Executable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ABI", 99)
    with pytest.raises(TargetError, match="calling convention 1"):
        CpuProgram(sums)
    with pytest.raises(TargetError, match="compiled for reference"):
        CpuProgram(replace(sums, target="reference"))
