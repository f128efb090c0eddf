"""`python -m benchmarks.gpu_rows --json FILE`: kernels that memory bounds, on this machine's GPU, beside torch, as shares of the copy bandwidth.

Results are compared with torch's first. A kernel's time is the mean of runs behind each other, on operands larger than the second cache; its
bandwidth counts every operand and result once. The copy is torch's, of half a gigabyte, in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

N, D = 16384, 4096
TURNS, ROUNDS = 20, 5


@dataclass(frozen=True)
class Workload:
    """`spec` is a model with inputs of [N, D] (`inputs`); `peer` the same in torch; `moved`: tensors of that size read and written."""

    name: str
    spec: str
    inputs: tuple[str, ...]
    peer: Callable[..., Any]
    moved: int


def _model(body: str, *inputs: str) -> str:
    head = "".join(f"    input   {name}[{N}, {D}]\n" for name in inputs)
    return f"model Rows:\n{head}{body}"


def _workloads() -> list[Workload]:
    import torch
    from torch.nn import functional

    return [
        Workload("layernorm", _model("    output  y = layernorm(x)\n", "x"), ("x",), lambda x: functional.layer_norm(x, (D,)), 2),
        Workload("softmax", _model("    output  y[n, d] = softmax[d](x[n, d])\n", "x"), ("x",), lambda x: torch.softmax(x, -1), 2),
        Workload("gelu_add", _model("    output  y = gelu(x) + z\n", "x", "z"), ("x", "z"), lambda x, z: functional.gelu(x) + z, 3),
        Workload("gelu_add_layernorm", _model("    output  y = layernorm(gelu(x) + z)\n", "x", "z"), ("x", "z"),
                 lambda x, z: functional.layer_norm(functional.gelu(x) + z, (D,)), 3),
        Workload("row_sums", _model("    output  y[n] = sum[d](x[n, d])\n", "x"), ("x",), lambda x: x.sum(-1), 1),
        Workload("column_sums", _model("    output  y[d] = sum[n](x[n, d])\n", "x"), ("x",), lambda x: x.sum(0), 1),
        Workload("transpose", _model("    output  y[d, n] = x[n, d]\n", "x"), ("x",), lambda x: x.t().contiguous(), 2),
    ]  # fmt: skip


def _timed(run: Callable[[], Any]) -> float:
    """Seconds of one run on torch's stream: the median of rounds of runs behind each other."""
    import torch

    run()
    found = []
    for _ in range(ROUNDS):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(TURNS):
            run()
        last.record()
        last.synchronize()
        found.append(first.elapsed_time(last) / TURNS / 1e3)
    return statistics.median(found)


def copy_bandwidth() -> float:
    """Bytes read and written a second by torch's copy."""
    import torch

    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / _timed(lambda: target.copy_(source))


def measure(workload: Workload, copied: float) -> dict[str, Any]:
    """One row: milliseconds of dslc's kernels, of eager torch and of torch.compile, and dslc's share of the copy bandwidth."""
    import torch

    import dslc

    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal((N, D), np.float32) for name in workload.inputs}
    compiled = dslc.compile(dslc.load(workload.spec), target="cuda")
    found = compiled(**feed)["y"]
    given = [torch.tensor(feed[name], device="cuda") for name in workload.inputs]
    expected = workload.peer(*given).cpu().numpy()
    if not np.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))):
        return {"workload": workload.name, "different": float(np.abs(found - expected).max())}
    ours = statistics.median(sum(compiled.program.times(TURNS)) for _ in range(ROUNDS))
    fused = torch.compile(workload.peer)
    bytes_moved = workload.moved * N * D * 4
    return {
        "workload": workload.name, "kernels": len(compiled.program.executable.launches), "dslc_ms": ours * 1e3,
        "torch_ms": _timed(lambda: workload.peer(*given)) * 1e3, "torch_compile_ms": _timed(lambda: fused(*given)) * 1e3,
        "of_copy": bytes_moved / ours / copied,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_rows", description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    copied = copy_bandwidth()
    out: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_tb_s": copied / 1e12,
        "shape": [N, D],
        "rows": [],
    }
    print(f"{out['device']}: copies move {copied / 1e12:.2f} TB/s")
    for workload in _workloads():
        row = measure(workload, copied)
        out["rows"].append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
