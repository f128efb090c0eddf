"""`python -m benchmarks.cpu_gemm [--threads 1,2] [--against torch,onnxruntime] [--only M,N,K] [--json FILE]`: matrix products of the CPU target
against numpy (OpenBLAS), torch (oneDNN, with packed weights where they are packed beforehand) and onnxruntime (MLAS, weights as constants there), in
GFLOP/s, medians; results are compared first, and the ratio is of the best of them to dslc.

numpy's own threads follow OPENBLAS_NUM_THREADS, so each number of threads runs in a process of its own. The contestants take turns in short rounds:
one thread's by its processor time, which other load of the machine changes little, several threads' by the clock, with a pause before each, for
OpenBLAS's threads spin for some 0.1 s after their last product.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PEERS = ("torch", "onnxruntime")
CASES = [  # m, n, k, batch, how the operands lie: t is transposed, p is packed beforehand, l lies in lines (`passes.lines`)
    (1024, 1024, 1024, 1, "nn"), (1024, 1024, 1024, 1, "np"), (1024, 1024, 1024, 1, "nl"), (1024, 1024, 1024, 1, "nt"), (1024, 1024, 1024, 1, "tn"),
    *((m, 1536, 384, 1, how) for m in (2, 4, 16, 32, 64, 256, 512, 2048) for how in ("nn", "np")),
    *((m, 1536, 384, 1, "nl") for m in (16, 32, 64, 256, 512)),
    (2048, 384, 1536, 1, "nn"), *((128, 512, 784, 1, how) for how in ("nn", "np", "nl")), (128, 784, 512, 1, "nt"), (784, 512, 128, 1, "tn"),
    (8, 1536, 384, 1, "nn"), (8, 1536, 384, 1, "np"), (8, 1536, 384, 1, "nt"), (1, 1536, 384, 1, "nn"), (1, 1536, 384, 1, "nt"),
    (4096, 384, 128, 1, "nn"), (4096, 128, 384, 1, "nt"), (128, 384, 4096, 1, "tn"), (512, 128, 4096, 1, "tn"),
    (128, 128, 32, 128, "nt"), (128, 32, 128, 128, "nn"), (128, 10, 512, 1, "nn"), (64, 64, 64, 1, "nn"), (101, 103, 107, 1, "nn"),
]  # fmt: skip
ROUNDS, ROUND_SECONDS, TURN_SECONDS, PAUSE = 5, 0.03, 2e-4, 0.15


def _rates(contestants: dict[str, Callable[[], object]], flops: float, threads: int) -> dict[str, float]:
    """GFLOP/s of each, the median of short rounds taken in turn."""
    clock, rounds, pause = (time.thread_time, 5 * ROUNDS, 0.0) if threads == 1 else (time.perf_counter, ROUNDS, PAUSE)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            time.sleep(pause)
            seconds[name].append(_seconds(run, clock, ROUND_SECONDS * ROUNDS / rounds))
    return {name: flops / statistics.median(each) / 1e9 for name, each in seconds.items()}


def _seconds(run: Callable[[], object], clock: Callable[[], float], about: float) -> float:
    """Of one call, the median of turns that are long enough for a clock that itself takes a microsecond."""
    run()
    start = clock()
    run()
    calls = max(1, int(TURN_SECONDS / max(clock() - start, 1e-7)))
    times: list[float] = []
    while len(times) < 3 or sum(times) * calls < about:
        start = clock()
        for _ in range(calls):
            run()
        times.append((clock() - start) / calls)
    return statistics.median(times)


def _torch(a: np.ndarray, b: np.ndarray, packed: bool, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    if packed:
        rows = left[0]
        weights = torch.ops.mkldnn._reorder_linear_weight(right[0].T.contiguous(), rows.shape[0])
        return lambda: torch.ops.mkldnn._linear_pointwise(rows, weights, None, "none", [], "")
    out = torch.empty(left.shape[0], left.shape[1], right.shape[2])
    return lambda: torch.matmul(left, right, out=out)


def _onnxruntime(a: np.ndarray, b: np.ndarray, packed: bool, threads: int) -> Callable[[], Any]:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in (("a", a), ("b", b)) if name == "a" or not packed]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (a.shape[0], a.shape[1], b.shape[2]))
    constants = [numpy_helper.from_array(b, "b")] if packed else []
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "product", ports, [result], constants)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = {"a": a} if packed else {"a": a, "b": b}
    return lambda: session.run(["y"], fed)[0]


def _peers(names: list[str], a: np.ndarray, b: np.ndarray, packed: bool, threads: int) -> dict[str, Callable[[], Any]]:
    """Each peer's product of a and b, both [batch, rows, columns] and maybe transposed. `packed`: b may be laid out before."""
    makers = {"torch": _torch, "onnxruntime": _onnxruntime}
    return {name: makers[name](a, b, packed, threads) for name in names}


def measure(threads: int, against: list[str], only: list[str]) -> list[dict[str, object]]:
    """One row a case on `threads` threads."""
    import ctypes

    import numpy as np

    from dslc.backend_cpu.gemm_schedule import Shape, choose_whole
    from dslc.backend_cpu.machine import host
    from dslc.runtime.drivers.cpu import pool
    from dslc.runtime.drivers.cpu.loader import LoadedObject
    from dslc.runtime.pages import zero_bytes
    from tests.backend_cpu import products

    pool.configure(threads, pin=True)
    rows = []
    for m, n, k, batch, how in CASES:
        if only and f"{m},{n},{k}" not in only:
            continue
        shape = Shape(m, n, k, batch)
        layout = products.Layout(ta=how[0] == "t", tb=how[1] == "t", packed=how[1] == "p", lines=how[1] == "l")
        start = time.perf_counter()
        s, product, pack = products.build(shape, layout, schedule=choose_whole(shape, *products.sides(shape, layout), host()))
        seconds = time.perf_counter() - start
        given = products.arrays(shape, s, layout)
        arrays = [zero_bytes(max(a.nbytes, 1), 4096).view(a.dtype)[: a.size].reshape(a.shape) for a in given]
        for place, a in zip(arrays, given):
            place[...] = a
        table = np.array([a.ctypes.data for a in arrays], np.uint64)
        memory = zero_bytes(threads * product.scratch_bytes + 64, 4096)

        def runner(code: LoadedObject, memory: np.ndarray = memory, table: np.ndarray = table) -> Callable[[], object]:
            workers = pool.pool_for(code)
            control, follow = workers.control, workers.before_call or (lambda: None)
            launch, plan = code.function("dslc_launch", *pool.LAUNCH), ctypes.c_void_p(code.symbols["dslc_plan"])
            where = memory.ctypes.data, table.ctypes.data, control

            def run() -> None:
                follow()
                launch(plan, threads, *where)

            return run

        code, pack_code = LoadedObject(product.code), LoadedObject(pack.code)
        if layout.packed:
            runner(pack_code)()
        a = arrays[0].swapaxes(1, 2) if layout.ta else arrays[0]
        b = arrays[1].swapaxes(1, 2) if layout.tb else arrays[1]
        out = np.empty_like(arrays[2])
        contestants = {"dslc": runner(code), "numpy": lambda a=a, b=b, out=out: np.matmul(a, b, out=out)}
        contestants |= _peers(against, a, b, layout.packed or layout.lines, threads)
        for name, contestant in contestants.items():
            given_back = contestant()
            result = arrays[2] if name == "dslc" else np.asarray(given_back)
            assert np.allclose(result.reshape(arrays[2].shape), a.astype(np.float64) @ b.astype(np.float64), rtol=1e-3, atol=1e-3), name
        rates = _rates(contestants, 2.0 * m * n * k * batch, threads)
        rows.append({"m": m, "n": n, "k": k, "batch": batch, "layout": how, "threads": threads, "compile_s": round(seconds, 3),
                     "form": f"{s.form} {s.mr}x{s.nv}", **{name: round(r, 1) for name, r in rates.items()}})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_gemm", description=__doc__)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--against", default=",".join(PEERS))
    parser.add_argument("--only", action="append", default=[], metavar="M,N,K", help="a shape; may be given several times")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    asked = [name for name in options.against.split(",") if name]
    if unknown := [name for name in asked if name not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    against = [name for name in asked if importlib.util.find_spec(name)]
    if missing := [name for name in asked if name not in against]:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    if options.child:
        print(json.dumps(measure(options.child, against, options.only)))
        return
    rows = []
    for threads in options.threads.split(","):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "benchmarks.cpu_gemm", "--child", threads, "--against", ",".join(against)]
        command += [word for shape in options.only for word in ("--only", shape)]
        rows += json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    names = ["dslc", "numpy", *against]
    print(f"{'m x n x k (x batch)':28} {'layout':6} {'threads':>7} {'form':>10} " + " ".join(f"{name:>11}" for name in names) + " GFLOP/s  best/dslc")
    for r in rows:
        size = f"{r['m']} x {r['n']} x {r['k']}" + (f" (x {r['batch']})" if r["batch"] > 1 else "")
        best = max(r[name] for name in names[1:]) / r["dslc"]
        print(f"{size:28} {r['layout']:6} {r['threads']:7} {r['form']:>10} " + " ".join(f"{r[name]:11.1f}" for name in names) + f" {best:18.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
