"""`python -m benchmarks.growth [--only depth,batch,...] [--threads N] --json FILE`: how dslc's times grow, and what begins a run.

`import`: seconds that `import dslc` takes, beside an interpreter that imports nothing. Then a GPT (`models/gpt.dsl`) whose `depth`, `batch` or
`length` grows, and programs of more and more different layers (`program`): for each size the passes' and the whole first call with an empty cache
(cold) and with a full one (warm), the milliseconds of a call, and of a training step its first call, its milliseconds and the most memory that was
resident above what was when dslc had been imported. Every figure is of a process of its own; compile times are the processor's. A table is printed
with the exponent of the growth between the last two sizes: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .workloads import MODELS

SMALL = {"batch": 2, "time": 64, "vocab": 65, "width": 64, "heads": 2, "depth": 4}
GROWING = {
    "depth": [SMALL | {"depth": n} for n in (6, 12, 24, 48, 96)],
    "batch": [SMALL | {"batch": n} for n in (1, 4, 16, 64)],
    "length": [SMALL | {"time": n} for n in (64, 256, 1024)],
    "program": [{"layers": n} for n in (8, 32, 128)],
}
SHOWN = {"depth": "depth", "batch": "batch", "length": "time", "program": "layers"}
LEAST_SECONDS = 0.5  # of calls that are timed


def program_of(layers: int) -> str:
    """A model of `layers` layers, no two alike: each has a width of its own."""
    lines = ["model Wide:", "    input x[32, 64]", "    h = x"]
    lines += [f"    h = h + linear(gelu(linear(rmsnorm(h), {64 + 8 * k})), 64)" for k in range(layers)]
    return "\n".join([*lines, "    output h", "    loss mean(h ** 2)", "train:", "    optimizer adamw(lr=1e-6)", "    steps 1", ""])


def _model(sizes: dict[str, int]) -> Any:
    import dslc

    return dslc.load(program_of(sizes["layers"])) if "layers" in sizes else dslc.load(str(MODELS / "gpt.dsl"), **sizes)


def _inputs(sizes: dict[str, int]) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    if "layers" in sizes:
        return {"x": rng.standard_normal((32, 64), np.float32)}
    return {name: rng.integers(0, sizes["vocab"], (sizes["batch"], sizes["time"])).astype(np.int32) for name in ("x", "y")}


def child(sizes: dict[str, int], what: str) -> dict[str, float]:
    """One process: a model's first call and those after it, `what` is "run" or "step"."""
    import dslc

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, start_cpu = time.perf_counter(), time.process_time()
    model, inputs = _model(sizes), _inputs(sizes)
    if what == "run":
        compiled, fed = dslc.compile(model, target="cpu"), {"x": inputs["x"]}

        def call() -> None:
            compiled(**fed)
    else:
        trainer = dslc.Trainer(model, target="cpu")

        def call() -> None:
            trainer.step(**inputs)

    call()
    told = {"first_s": time.perf_counter() - start, "first_cpu_s": time.process_time() - start_cpu}
    times: list[float] = []
    while sum(times) < LEAST_SECONDS or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return told | {"ms": 1e3 * statistics.median(times), "memory_mb": (most - before) / 1024}


def _process(arguments: list[str], environment: dict[str, str]) -> str:
    return subprocess.run([sys.executable, *arguments], env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def imports() -> dict[str, float]:
    """Seconds of a process that imports dslc, and of one that imports nothing: the least of five each."""

    def seconds(text: str) -> float:
        found = []
        for _ in range(5):
            start = time.perf_counter()
            _process(["-c", text], {})
            found.append(time.perf_counter() - start)
        return min(found)

    return {"dslc_s": seconds("import dslc"), "nothing_s": seconds("pass")}


def measure(sizes: dict[str, int], threads: int) -> dict[str, Any]:
    """The row of one size: each program cold, then warm from the cache that the first process filled."""
    row: dict[str, Any] = {"sizes": sizes}
    for what in ("run", "step"):
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "warm"):
                command = ["-m", "benchmarks.growth", "--child", json.dumps(sizes), what]
                row[f"{what}_{state}"] = json.loads(_process(command, {"DSLC_CACHE": folder, "DSLC_THREADS": str(threads)}))
    return row


FIGURES = (  # heading, program, figure
    ("cold, CPU s", "run_cold", "first_cpu_s"), ("warm, CPU s", "run_warm", "first_cpu_s"), ("a call, ms", "run_warm", "ms"),
    ("step cold, CPU s", "step_cold", "first_cpu_s"), ("warm, CPU s", "step_warm", "first_cpu_s"), ("a step, ms", "step_warm", "ms"),
    ("step, MB", "step_warm", "memory_mb"),
)  # fmt: skip


def exponent(rows: list[dict[str, Any]], size: str, program: str, figure: str) -> float:
    """p where the figure grows as size ** p between the last two rows."""
    a, b = rows[-2:]
    return math.log(max(b[program][figure], 1e-9) / max(a[program][figure], 1e-9)) / math.log(b["sizes"][size] / a["sizes"][size])


def table(name: str, rows: list[dict[str, Any]]) -> str:
    size = SHOWN[name]
    lines = [f"{size:>8} " + " ".join(f"{heading:>16}" for heading, _, _ in FIGURES)]
    for row in rows:
        lines.append(f"{row['sizes'][size]:8} " + " ".join(f"{row[program][figure]:16.3f}" for _, program, figure in FIGURES))
    if len(rows) > 1:
        lines.append(f"{'exponent':>8} " + " ".join(f"{exponent(rows, size, program, figure):16.2f}" for _, program, figure in FIGURES))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(["import", *GROWING]))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child[0]), options.child[1])))
        return
    asked = options.only.split(",")
    if unknown := [name for name in asked if name not in ("import", *GROWING)]:
        parser.error(f"no {', '.join(unknown)}; there are import, {', '.join(GROWING)}")
    told: dict[str, Any] = {"threads": options.threads, "date": time.strftime("%Y-%m-%d")}
    for name in asked:
        if name == "import":
            told[name] = imports()
            print(f"import dslc: {told[name]['dslc_s'] - told[name]['nothing_s']:.3f} s above {told[name]['nothing_s']:.3f} s of the interpreter")
            continue
        told[name] = [measure(sizes, options.threads) for sizes in GROWING[name]]
        print(table(name, told[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
