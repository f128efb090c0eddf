"""`python -m benchmarks cpu [--only NAME,...] [--against torch,torch.compile,onnxruntime,jax] [--threads N]`: one table, one JSON file, one picture;
`dslc.onnx` is dslc with the graph that onnxruntime is given, `dslc.package` what `dslc compile` made before, run without the compiler.
`python -m benchmarks gpu [--only GROUP,...] [--out FOLDER]`: groups of a few minutes, each a process of its own and one JSON file in the folder."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from .driver import all_workloads, as_installed, measure, table
from .gpu_children import GROUP_SECONDS
from .gpu_contest import Place
from .plot import plot
from .workloads import WORKLOADS

RESULTS = Path(__file__).parent / "results"
PEERS = {  # contestant: the package that it needs
    "torch": "torch",
    "torch.compile": "torch",
    "onnxruntime": "onnxruntime",
    "jax": "jax",
    "dslc.onnx": "torch",
    "dslc.package": "dslc",
}


def _machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


START = 30.0  # seconds of a group before and behind its children
# Each takes a few minutes; torch's max-autotune compiles for as long again, and has groups of its own.
GPU_GROUPS: dict[str, tuple[str, ...]] = {
    "gemm": ("benchmarks.gpu_gemm",),
    "gemm_autotune": ("benchmarks.gpu_gemm", "--against", "torch.max-autotune"),
    "attention": ("benchmarks.gpu_attention",),
    "rows": ("benchmarks.gpu_rows",),
    "rows_autotune": ("benchmarks.gpu_rows", "--against", "torch.max-autotune"),
    "losses": ("benchmarks.gpu_losses",),
    "losses_autotune": ("benchmarks.gpu_losses", "--against", "torch.max-autotune"),
    "lstm": ("benchmarks.gpu_networks", "--only", "lstm_train,lstm_run"),
    "resnet": ("benchmarks.gpu_networks", "--only", "resnet50_train,resnet50_run,resnet50_run_one"),
    "resnet_train_autotune": ("benchmarks.gpu_networks", "--only", "resnet50_train", "--against", "torch.max-autotune"),
    "resnet_run_autotune": ("benchmarks.gpu_networks", "--only", "resnet50_run,lstm_run", "--against", "torch.max-autotune"),
    "train": ("benchmarks.gpu_train",),
    "train_autotune": ("benchmarks.gpu_train", "--only", "gpt2_124m", "--against", "torch.max-autotune"),
    "decode": ("benchmarks.gpu_decode",),
    "decode_autotune": ("benchmarks.gpu_decode", "--against", "torch.max-autotune"),
}


def group_command(group: str, file: str) -> list[str]:
    """The module of a group and what it is given."""
    return [*GPU_GROUPS[group], "--json", file]


def gpu(groups: list[str], out: Path) -> int:
    """Runs each group; how many failed, or 2 where there is no GPU."""
    if lacking := Place().missing():
        print(f"python -m benchmarks gpu needs a GPU: {lacking}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for group in groups:
        file = out / f"{group}.json"
        try:
            failed += subprocess.run([sys.executable, "-m", *group_command(group, str(file))], timeout=GROUP_SECONDS + START).returncode != 0
        except subprocess.TimeoutExpired:  # its own limit did not end it
            print(f"{group}: nothing ends it, it is left out", file=sys.stderr)
            failed += 1
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["cpu", "gpu"])
    parser.add_argument("--only", default=None, help="workloads, or groups: " + ", ".join(GPU_GROUPS))
    parser.add_argument("--against", default="torch,torch.compile,onnxruntime,jax")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of running a contestant in each round")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    known = GPU_GROUPS if options.suite == "gpu" else tuple(all_workloads())
    only = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in only if name not in known]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    if options.suite == "gpu":
        sys.exit(gpu(only, options.out or RESULTS / "gpu"))
    asked = [p for p in options.against.split(",") if p]
    if unknown := [p for p in asked if p not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(PEERS)}")
    peers = [p for p in asked if importlib.util.find_spec(PEERS[p])]
    missing = [p for p in asked if p not in peers]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}", file=sys.stderr)
    as_installed()
    rows = []
    for name in only:
        rows.append(measure(WORKLOADS[name], ["dslc", *peers], options.threads, options.rounds, options.seconds))
        print(table(rows[-1]), flush=True)
    report = {"machine": _machine(), "cores": os.cpu_count(), "date": time.strftime("%Y-%m-%d"), "not_installed": missing, "rows": rows}
    out = options.out or RESULTS / "cpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, out.with_suffix(".png"))
    print(f"written: {out}, {out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
