"""`python -m benchmarks cpu [--only NAME,...] [--against torch,torch.compile,onnxruntime,jax] [--threads N]`: one table, one JSON file."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import time
from pathlib import Path

from .driver import all_workloads, measure, table
from .workloads import WORKLOADS

RESULTS = Path(__file__).parent / "results"
PEERS = {"torch": "torch", "torch.compile": "torch", "onnxruntime": "onnxruntime", "jax": "jax"}  # contestant: package


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=["cpu"])
    parser.add_argument("--only", default=",".join(all_workloads()))
    parser.add_argument("--against", default="torch,torch.compile,onnxruntime,jax")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of running a contestant in each round")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    peers = [p for p in options.against.split(",") if p and importlib.util.find_spec(PEERS[p])]
    rows = []
    for name in options.only.split(","):
        rows.append(measure(WORKLOADS[name], ["dslc", *peers], options.threads, options.rounds, options.seconds))
        print(table(rows[-1]), flush=True)
    report = {"machine": _machine(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "rows": rows}
    out = options.out or RESULTS / "cpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {out}")


if __name__ == "__main__":
    main()
