"""`python -m benchmarks.gpu_train [--only NAME,...] --json FILE`: training steps of GPTs on this machine's GPU, beside torch and torch.compile.

Same weights, same tokens, AdamW; in bfloat16 torch runs under autocast. Losses of the first steps are compared before anything is timed: dslc's and
eager torch's may differ by the type's rounding. A step takes its tokens from the host and gives its loss back. Contestants take turns in rounds;
times are medians. Beside it: the time of each of dslc's launches on its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .workloads import MODELS, weights

CHECKED, TURNS, ROUNDS = 3, 5, 7


@dataclass(frozen=True)
class Workload:
    """`sizes` of models/gpt.dsl; `tolerance`: of the losses, relative."""

    name: str
    precision: str
    tolerance: float
    sizes: dict[str, int] = field(default_factory=dict)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("gpt_small", "float32", 1e-5),
        Workload("gpt2_124m", "bfloat16", 2e-3, {"batch": 16, "time": 1024, "vocab": 50304, "width": 768, "heads": 12, "depth": 12}),
    )
}


def _dslc(workload: Workload) -> tuple[dict[str, np.ndarray], Callable[[np.ndarray, np.ndarray], float], Any, float]:
    """(weights, a step, the program, seconds of its compilation)"""
    import dslc
    from dslc.compiled import program_of

    model = dslc.load(str(MODELS / "gpt.dsl"), precision=workload.precision, **workload.sizes)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    for k, v in drawn.items():
        model.params[k] = v
    start = time.perf_counter()
    trainer = dslc.Trainer(model, target="cuda")
    seconds = time.perf_counter() - start
    return drawn, lambda x, y: trainer.step(x=x, y=y), program_of(model, "step", "cuda"), seconds


def _torch(workload: Workload, drawn: dict[str, np.ndarray], mode: str | None) -> Callable[[np.ndarray, np.ndarray], float]:
    import torch
    import torch.nn.functional as F

    from .peers.torch_models import GPT

    network = GPT(drawn).cuda()
    run = torch.compile(network, dynamic=False, mode=mode) if mode else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.01, fused=True)
    dtype = getattr(torch, workload.precision)

    def step(x: np.ndarray, y: np.ndarray) -> float:
        tokens, targets = (torch.from_numpy(a).cuda(non_blocking=True).long() for a in (x, y))
        with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
            logits = run(tokens)
            loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def measure(workload: Workload, mode: str | None) -> dict[str, Any]:
    """One row. `mode`: torch.compile's, None for eager torch alone."""
    import torch

    sizes = {"batch": 8, "time": 256, "vocab": 65} | workload.sizes
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, sizes["vocab"], (sizes["batch"], sizes["time"])).astype(np.int32) for _ in range(2))
    drawn, ours, program, seconds = _dslc(workload)
    steps = {"dslc": ours, "torch": _torch(workload, drawn, None)}
    if mode:
        steps["torch.compile" if mode == "default" else f"torch.{mode}"] = _torch(workload, drawn, mode)
    losses: dict[str, list[float]] = {}
    first = {"dslc": seconds}
    for name, step in steps.items():
        start = time.perf_counter()
        losses[name] = [step(x, y) for _ in range(CHECKED)]
        first[name] = first.get(name, 0.0) + time.perf_counter() - start
        print(name, losses[name], f"first {first[name]:.1f} s", flush=True)
    row: dict[str, Any] = {"workload": workload.name, "precision": workload.precision, **sizes, "losses": losses, "first_s": first}
    if not np.allclose(losses["dslc"], losses["torch"], rtol=workload.tolerance, atol=0):
        return row | {"different": float(np.abs(np.subtract(losses["dslc"], losses["torch"])).max())}
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(TURNS):
                step(x, y)
            times[name].append((time.perf_counter() - start) / TURNS * 1e3)
    for name, found in times.items():
        row[f"{name}_ms"] = statistics.median(found)
        row[f"{name}_spread"] = [min(found), max(found)]
    row["tokens_s"] = sizes["batch"] * sizes["time"] / row["dslc_ms"] * 1e3
    row["torch_peak_bytes"] = torch.cuda.max_memory_allocated()
    row["dslc_arena_bytes"] = program.executable.arena_bytes
    return row | launches(program)


def launches(program: Any) -> dict[str, Any]:
    """Milliseconds of each launch on its own: the sum, by kind and the slowest."""
    executable = program.executable
    single = [s * 1e3 for s in program.times(3)]
    kernels = [executable.kernels[launch.kernel] for launch in executable.launches]
    kinds: dict[str, float] = defaultdict(float)
    symbols: dict[str, list[float]] = defaultdict(list)
    for ms, kernel in zip(single, kernels):
        kinds[kernel.symbol.split("_")[1]] += ms
        symbols[kernel.symbol].append(ms)
    slowest = sorted(symbols.items(), key=lambda item: -sum(item[1]))[:40]
    return {"launches": len(single), "launches_ms": sum(single), "by_kind_ms": dict(kinds),
            "slowest": [{"kernel": k, "runs": len(v), "ms": sum(v)} for k, v in slowest]}  # fmt: skip


def report(rows: Iterable[dict[str, Any]], file: Path | None) -> None:
    """Prints each row as it comes, and writes all so far, so that what is cut off keeps what was measured."""
    import torch

    out: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": []}
    for row in rows:
        out["rows"].append(row)
        print({k: v for k, v in row.items() if k != "slowest"}, *row.get("slowest", []), sep="\n", flush=True)
        if file:
            file.write_text(json.dumps(out, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_train", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--mode", default="default", help="torch.compile's: default, or max-autotune, which uses CUDA graphs and compiles for minutes"
    )
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which takes minutes")
    options = parser.parse_args()
    report((measure(WORKLOADS[name], None if options.eager else options.mode) for name in options.only.split(",")), options.json)


if __name__ == "__main__":
    main()
