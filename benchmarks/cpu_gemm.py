"""`python -m benchmarks.cpu_gemm [--threads 1,2] [--json FILE]`: matrix products of the CPU target against numpy, in GFLOP/s, medians.

numpy's own threads follow OPENBLAS_NUM_THREADS, so each number of threads runs in a process of its own. The contestants take turns in short rounds,
with a pause before each, for OpenBLAS's threads spin for some 0.1 s after their last product.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CASES = [  # m, n, k, batch, how the operands lie: t is transposed, p is packed beforehand
    (1024, 1024, 1024, 1, "nn"), (1024, 1024, 1024, 1, "np"), (1024, 1024, 1024, 1, "nt"), (1024, 1024, 1024, 1, "tn"),
    *((m, 1536, 384, 1, "nn") for m in (2, 4, 16, 32, 64, 256, 512)),
    (2048, 384, 1536, 1, "nn"), (128, 512, 784, 1, "nn"), (128, 512, 784, 1, "np"), (128, 784, 512, 1, "nt"), (784, 512, 128, 1, "tn"),
    (8, 1536, 384, 1, "nn"), (8, 1536, 384, 1, "np"), (8, 1536, 384, 1, "nt"), (1, 1536, 384, 1, "nn"), (1, 1536, 384, 1, "nt"),
    (4096, 384, 128, 1, "nn"), (4096, 128, 384, 1, "nt"), (128, 384, 4096, 1, "tn"), (512, 128, 4096, 1, "tn"),
    (128, 128, 32, 128, "nt"), (128, 32, 128, 128, "nn"), (128, 10, 512, 1, "nn"), (64, 64, 64, 1, "nn"), (101, 103, 107, 1, "nn"),
]  # fmt: skip
ROUNDS, ROUND_SECONDS, PAUSE = 5, 0.03, 0.15


def _rates(contestants: dict[str, Callable[[], object]], flops: float) -> dict[str, float]:
    """GFLOP/s of each, the median of short rounds taken in turn."""
    rounds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            time.sleep(PAUSE)
            for _ in range(3):
                run()
            times, end = [], time.perf_counter() + ROUND_SECONDS
            while len(times) < 3 or time.perf_counter() < end:
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            rounds[name].append(statistics.median(times))
    return {name: flops / statistics.median(seconds) / 1e9 for name, seconds in rounds.items()}


def measure(threads: int) -> list[dict[str, object]]:
    """One row a case on `threads` threads."""
    import ctypes

    import numpy as np

    from dslc.backend_cpu.gemm_schedule import Shape
    from dslc.runtime.drivers.cpu import pool
    from dslc.runtime.drivers.cpu.loader import LoadedObject
    from tests.backend_cpu import products

    pool.configure(threads, pin=True)
    rows = []
    for m, n, k, batch, how in CASES:
        shape = Shape(m, n, k, batch)
        layout = products.Layout(ta=how[0] == "t", tb=how[1] == "t", packed=how[1] == "p")
        start = time.perf_counter()
        s, product, pack = products.build(shape, layout)
        seconds = time.perf_counter() - start
        given = products.arrays(shape, s, layout)
        arrays = [pool.aligned_bytes(max(a.nbytes, 1)).view(a.dtype)[: a.size].reshape(a.shape) for a in given]
        for place, a in zip(arrays, given):
            place[...] = a
        table = np.array([a.ctypes.data for a in arrays], np.uint64)
        memory = pool.aligned_bytes(threads * product.scratch_bytes + 64)

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
        rates = _rates({"dslc": runner(code), "numpy": lambda a=a, b=b, out=out: np.matmul(a, b, out=out)}, 2.0 * m * n * k * batch)
        assert np.allclose(arrays[2], out, rtol=1e-3, atol=1e-3)
        rows.append({"m": m, "n": n, "k": k, "batch": batch, "layout": how, "threads": threads, "compile_s": round(seconds, 3),
                     "form": f"{s.form} {s.mr}x{s.nv}", **{name: round(r, 1) for name, r in rates.items()}})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_gemm", description=__doc__)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    rows = []
    for threads in options.threads.split(","):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-m", "benchmarks.cpu_gemm", "--child", threads]
        rows += json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"{'m x n x k (x batch)':28} {'layout':6} {'threads':>7} {'form':>10} {'dslc':>7} {'numpy':>7} GFLOP/s")
    for r in rows:
        size = f"{r['m']} x {r['n']} x {r['k']}" + (f" (x {r['batch']})" if r["batch"] > 1 else "")
        print(f"{size:28} {r['layout']:6} {r['threads']:7} {r['form']:>10} {r['dslc']:7.1f} {r['numpy']:7.1f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
