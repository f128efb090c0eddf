"""`python -m benchmarks.gpu_train [--only NAME,...] [--against PEER,...] --json FILE`: training steps of GPTs on this machine's GPU, beside torch
(eager, compiled, and max-autotune, which uses CUDA graphs and compiles for minutes).

Same weights, same tokens, AdamW; in bfloat16 torch runs under autocast. Losses of the first steps are compared before anything is timed: dslc's and
torch's may differ by the type's rounding. A step takes its tokens from the host and gives its loss back. Contestants take turns in rounds; times are
medians. Beside it: the time of each of dslc's launches on its own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .gpu_contest import ROUNDS, TORCH, Entrant, Place, launches, main, measured
from .workloads import MODELS, weights

STEPS = 3  # whose losses are compared
SIZES = {"batch": 8, "time": 256, "vocab": 65}  # of models/gpt.dsl
GPT2 = {"batch": 16, "time": 1024, "vocab": 50304, "width": 768, "heads": 12, "depth": 12}


@dataclass(frozen=True)
class Workload:
    """`sizes` of models/gpt.dsl that are others than its own; `tolerance`: of the losses, relative."""

    name: str
    precision: str
    tolerance: float
    sizes: Mapping[str, int] = field(default_factory=dict)


WORKLOADS = {w.name: w for w in (Workload("gpt_small", "float32", 1e-5), Workload("gpt2_124m", "bfloat16", 2e-3, GPT2))}


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.2) -> dict[str, Any]:
    """One row: losses, milliseconds a step of every contestant, dslc's tokens a second and where its time goes."""
    import dslc
    from dslc.compiled import program_of

    sizes = SIZES | workload.sizes
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, sizes["vocab"], (sizes["batch"], sizes["time"])).astype(np.int32) for _ in range(2))
    model = dslc.load(str(MODELS / "gpt.dsl"), precision=workload.precision, **workload.sizes)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    losses: dict[str, list[float]] = {}

    def build(name: str) -> Entrant:
        if name == "dslc":
            for path, value in drawn.items():
                model.params[path] = value
            trainer = dslc.Trainer(model, target=place.target)
            step = lambda: trainer.step(x=x, y=y)  # noqa: E731
        else:
            step = _torch(workload, place, drawn, x, y, name)

        def result() -> list[float]:
            losses[name] = [float(step()) for _ in range(STEPS)]
            return losses[name]

        return Entrant(result, {"": place.wall(step)})

    row = {"workload": workload.name, "precision": workload.precision, **sizes}
    row = measured(row, build, peers, place, workload.tolerance, rounds, seconds) | {"losses": losses}
    if "dslc_ms" in row:
        row["tokens_s"] = sizes["batch"] * sizes["time"] / row["dslc_ms"] * 1e3
        row |= launches(program_of(model, "step", place.target))
    return row


def _torch(workload: Workload, place: Place, drawn: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, peer: str) -> Any:
    import torch
    import torch.nn.functional as F

    from .peers.torch_models import GPT
    from .peers.torch_training import stepper

    network = GPT(drawn).to(place.device)
    run = place.compiled(network, peer)
    dtype = getattr(torch, workload.precision)

    def loss(tokens: Any, targets: Any) -> Any:
        with torch.autocast(place.device, dtype=dtype, enabled=dtype != torch.float32):
            logits = run(tokens)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    step = stepper(network, loss)
    return lambda: step(*(torch.from_numpy(a).to(place.device, non_blocking=True).long() for a in (x, y)))


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_train", WORKLOADS, measure, TORCH))
