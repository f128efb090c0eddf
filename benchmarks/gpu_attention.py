"""`python -m benchmarks.gpu_attention [--only NAME,...] --json FILE`: causal attention in bfloat16 on this GPU, beside torch's flash attention.

Results and gradients are compared with torch's first. Contestants take turns in rounds; times are medians of runs behind each other, dslc's the sum
of its launches. Rates count the products of the half that the mask leaves, 2 forward and 5 backward, as is usual, whatever is made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH, HEADS = 4, 16
LENGTHS, FEATURES = (1024, 2048, 4096, 8192), (64, 128)
ROUNDS, ROUND_SECONDS = 7, 0.02
LIMIT = 1e-2  # |found - torch's| / |torch's|: both round weights and results to 8 bits

MODEL = """model Attention:
    input   q[{shape}]: bfloat16, k[{shape}]: bfloat16, v[{shape}]: bfloat16
    s[b, h, i, j] = sum[c](float32(q[b, h, i, c]) * float32(k[b, h, j, c])) / sqrt(size(c))
    p[b, h, i, j] = softmax[j](where(j <= i, s[b, h, i, j], -inf))
    o[b, h, i, c] = bfloat16(sum[j](p[b, h, i, j] * float32(v[b, h, j, c])))
    output  o
{gradient}
train:
    steps      1
    precision  bfloat16
"""
GRADIENT = """    input   g[{shape}]: bfloat16
    along = sum(float32(o) * float32(g))
    output  dq = grad(along, q)
    output  dk = grad(along, k)
    output  dv = grad(along, v)
"""


@dataclass(frozen=True)
class Workload:
    time: int
    features: int

    @property
    def name(self) -> str:
        return f"T{self.time}_d{self.features}"

    @property
    def shape(self) -> tuple[int, ...]:
        return BATCH, HEADS, self.time, self.features

    @property
    def product(self) -> float:
        """Floating point operations of one product of the half that the mask leaves."""
        return 2.0 * BATCH * HEADS * self.time**2 * self.features / 2

    def model(self, gradient: bool) -> str:
        shape = ", ".join(map(str, self.shape))
        return MODEL.format(shape=shape, gradient=GRADIENT.format(shape=shape) if gradient else "")


WORKLOADS = {w.name: w for w in (Workload(t, d) for d in FEATURES for t in LENGTHS)}


def measure(workload: Workload) -> dict[str, Any]:
    """One row: milliseconds and TFLOP/s of dslc and torch, forward, and forward and backward together; errors first."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    import dslc

    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v, g = (torch.randn(workload.shape, generator=generator, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    leaves = [x.requires_grad_() for x in (q, k, v)]

    def peer() -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    def peer_forward() -> None:
        with torch.no_grad():
            peer()

    def peer_both() -> None:
        torch.autograd.grad(peer(), leaves, g)

    forward, both = (dslc.compile(dslc.load(workload.model(gradient)), target="cuda") for gradient in (False, True))
    given = {name: x.detach() for name, x in (("q", q), ("k", k), ("v", v))}
    found = {"forward": forward(**given)["o"], **both(**given, g=g)}
    o = peer()
    expected = dict(zip(("forward", "o", "dq", "dk", "dv"), (o, o, *torch.autograd.grad(o, leaves, g))))
    errors = {name: _error(found[name], expected[name]) for name in expected}
    row: dict[str, Any] = {"workload": workload.name, "shape": workload.shape, "errors": errors}
    if not all(e < LIMIT for e in errors.values()):
        return row | {"different": max(errors.values())}
    contestants = {
        "dslc_forward": _launches(forward), "torch_forward": _events(peer_forward), "dslc_both": _launches(both), "torch_both": _events(peer_both),
    }  # fmt: skip
    for name, seconds in _interleaved(contestants).items():
        row[f"{name}_ms"] = seconds * 1e3
        row[f"{name}_tflops"] = (2 if name.endswith("forward") else 7) * workload.product / seconds / 1e12
    for who in ("dslc", "torch"):
        row[f"{who}_backward_tflops"] = 5 * workload.product / (row[f"{who}_both_ms"] - row[f"{who}_forward_ms"]) / 1e9
    executable = both.program.executable
    names = (executable.kernels[launch.kernel].symbol for launch in executable.launches)
    row["launches"] = [{"kernel": name, "ms": seconds * 1e3} for name, seconds in zip(names, both.program.times())]
    return row


def _error(found: Any, expected: Any) -> float:
    import numpy as np
    import torch

    mine = torch.from_numpy(np.asarray(found, np.float32)).cuda()
    return float((mine - expected.float()).norm() / expected.float().norm())


def _launches(compiled: Any) -> Callable[[int], float]:
    """Seconds of one run of all launches, from so many."""
    return lambda turns: sum(compiled.program.times(turns))


def _events(run: Callable[[], Any]) -> Callable[[int], float]:
    import torch

    def seconds(turns: int) -> float:
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        run()
        first.record()
        for _ in range(turns):
            run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / turns / 1e3

    return seconds


def _interleaved(contestants: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """Medians over rounds in which all take turns."""
    turns = {name: max(2, int(ROUND_SECONDS / run(2))) for name, run in contestants.items()}
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, run in contestants.items():
            found[name].append(run(turns[name]))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_attention", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    out: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": []}
    for name in options.only.split(","):
        row = measure(WORKLOADS[name])
        out["rows"].append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
