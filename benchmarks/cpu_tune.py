"""`python -m benchmarks.cpu_tune [--seconds 15] [--threads 1] [--only NAME] [--json FILE]`: what measured tuning gains on the CPU.

Each case is a model of one kernel that matters. Its program by the cost model and its program after `--seconds` of tuning, in a cache of its own, run
in turns; the figure is the median of the pairs' ratios, with their quartiles. Times are of the kernels alone, by the program's own stamps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

PAIRS = 60


def product(m: int, n: int, k: int, how: str = "nn", batch: int = 0) -> str:
    """A model that multiplies matrices; t: an operand lies transposed."""
    b, i = (f"{batch}, ", "s, ") if batch else ("", "")
    a_shape, a_read = (f"{k}, {m}", "k, i") if how[0] == "t" else (f"{m}, {k}", "i, k")
    b_shape, b_read = (f"{n}, {k}", "j, k") if how[1] == "t" else (f"{k}, {n}", "k, j")
    lines = [f"input a[{b}{a_shape}], b[{b}{b_shape}]", f"y[{i}i, j] = sum[k](a[{i}{a_read}] * b[{i}{b_read}])", "output y"]
    return "model Product:\n" + "".join(f"    {line}\n" for line in lines)


def attention(batch: int, heads: int, time: int, width: int, causal: bool) -> str:
    """A model of attention between given queries, keys and values."""
    lines = [
        f"input q[{batch}, {heads}, {time}, {width}], k[{batch}, {heads}, {time}, {width}], v[{batch}, {heads}, {time}, {width}]",
        "s[b, h, i, j] = sum[c](q[b, h, i, c] * k[b, h, j, c]) / sqrt(size(c))",
        f"m[b, h, i, j] = {'where(j <= i, s[b, h, i, j], -inf)' if causal else 's[b, h, i, j]'}",
        "p[b, h, i, j] = softmax[j](m[b, h, i, j])",
        "y[b, h, i, c] = sum[j](p[b, h, i, j] * v[b, h, j, c])",
        "output y",
    ]
    return "model Attention:\n" + "".join(f"    {line}\n" for line in lines)


def reduction(rows: int, columns: int, text: str) -> str:
    """A model that folds a matrix x."""
    return f"model Reduction:\n    input x[{rows}, {columns}]\n    y{text}\n    output y\n"


CASES = {
    "product 1024x1024x1024": product(1024, 1024, 1024),
    "product 1024x1024x1024 nt": product(1024, 1024, 1024, "nt"),
    "product 256x1536x384": product(256, 1536, 384),
    "product 8x1536x384": product(8, 1536, 384),
    "product 16x1000x2048 nt": product(16, 1000, 2048, "nt"),
    "product 784x512x128 tn": product(784, 512, 128, "tn"),
    "product 128x384x4096 tn": product(128, 384, 4096, "tn"),
    "product 20x33x2500": product(20, 33, 2500),
    "product 101x103x107": product(101, 103, 107),
    "product 128x32x128 of 64": product(128, 32, 128, batch=64),
    "attention 2x4, 128 x 32": attention(2, 4, 128, 32, False),
    "attention 1x8, 512 x 64, causal": attention(1, 8, 512, 64, True),
    "attention 32x4, 16 x 8": attention(32, 4, 16, 8, False),
    "sum of columns 4096x384": reduction(4096, 384, "[j] = sum[i](x[i, j])"),
    "sum of rows 8x65536": reduction(8, 65536, "[i] = sum[j](x[i, j])"),
    "softmax of rows 512x1000": reduction(512, 1000, "[i, j] = softmax[j](x[i, j])"),
    "softmax of columns 1000x512": reduction(1000, 512, "[i, j] = softmax[i](x[i, j])"),
}


@dataclass(frozen=True)
class Row:
    """A case: milliseconds by the cost model, the tuned program's time over that (median and quartiles of pairs), and the kernels' schedules."""

    name: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    tried: int
    schedules: dict[str, str]


def measure(name: str, seconds: float) -> Row:
    """One case."""
    import dslc
    from dslc.compiler import compile_program
    from dslc.tuning import tune

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DSLC_CACHE"] = folder
        model = dslc.load(CASES[name])
        by_cost = compile_program(model, "run", "cpu", timed=True)
        found = tune(model, seconds)
        tuned = compile_program(model, "run", "cpu", timed=True)
    pairs = [(a(), b()) for a, b in [(ticks(model, by_cost), ticks(model, tuned))] for _ in range(PAIRS)]
    low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    return Row(name, _milliseconds(model), middle, low, high, sum(t.tried for t in found), {t.kernel: t.schedule for t in found if t.schedule})


def ticks(model, executable) -> Callable[[], float]:
    """A function that runs a timed program and gives the time of its launches."""
    from dslc.core.executable import TIMES
    from dslc.measuring import caller, load_executable

    call = caller(model, load_executable(executable))
    call()
    return lambda: float(call()[TIMES][2:].reshape(-1, 3)[:, 0].sum())


def _milliseconds(model) -> float:
    """Of a call by the cost model: nothing is known in the empty cache."""
    from dslc.measuring import launch_times

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DSLC_CACHE"] = folder
        return sum(t.seconds for t in launch_times(model, "run", "cpu", 0.2)[1]) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_tune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="one case, or some, by the beginning of their names")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["DSLC_THREADS"] = str(options.threads)
    from dslc.backend_cpu.machine import host

    rows = []
    print(f"{'case':34} {'ms':>9} {'tuned':>6} {'quartiles':>13} {'tried':>6}")
    for name in (n for n in CASES if n.startswith(options.only)):
        rows.append(row := measure(name, options.seconds))
        print(f"{row.name:34} {row.milliseconds:9.4f} {row.ratio:6.2f} {row.low:6.2f} {row.high:6.2f} {row.tried:6}", flush=True)
        if options.json:
            told = {"machine": host().model, "threads": options.threads, "seconds": options.seconds, "rows": [asdict(r) for r in rows]}
            options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
