"""`python -m benchmarks.gpu_decode [--only NAME,...] [--against PEER,...] --json FILE`: greedy decoding with caches on this machine's GPU, one row,
beside torch.

Same weights and prompt; torch has caches of the full length, eager and as CUDA graphs (torch.compile: reduce-overhead). A token's logits come back to
the host in dslc, its id alone in torch. The tokens of float32 must be the same; in bfloat16 roundings differ, and how many agree is told. Times are
those of a token. Bytes are those of the weights that a token reads; their share of the copy bandwidth is the figure to look at.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .gpu_contest import TORCH, Entrant, Place, launches, main, measured, of_copy
from .gpu_train import GPT2
from .workloads import MODELS, weights

PROMPT = 8
MODES = TORCH | {"torch.compile": "reduce-overhead"}  # without CUDA graphs the host is what is measured


@dataclass(frozen=True)
class Workload:
    """`count` tokens after the prompt, by models/gpt.dsl of these sizes; `tolerance`: of the tokens."""

    precision: str
    tolerance: float
    sizes: Mapping[str, int] = field(default_factory=lambda: GPT2 | {"batch": 1})
    count: int = 200


WORKLOADS = {w.precision: w for w in (Workload("float32", 0.0), Workload("bfloat16", float("inf")))}


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = 5, seconds: float = 0.0) -> dict[str, Any]:
    """One row: milliseconds a token of every contestant, and where dslc's time goes."""
    import torch

    import dslc
    from dslc.compiled import decoder_of
    from dslc.runtime.generation import generate
    from dslc.runtime.sampling import Sampling

    from .peers.torch_decoding import torch_decoder
    from .peers.torch_models import GPT

    sizes, count = workload.sizes, workload.count
    model = dslc.load(str(MODELS / "gpt.dsl"), precision=workload.precision, **sizes)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    for path, value in drawn.items():
        model.params[path] = value
    prompt = np.random.default_rng(1).integers(0, sizes["vocab"], PROMPT).tolist()
    decoder: Any = None
    tokens: dict[str, np.ndarray] = {}

    def build(name: str) -> Entrant:
        if name == "dslc":
            nonlocal decoder
            decoder = decoder_of(model, place.target)
            run = lambda: np.array(generate(decoder, [prompt], count, Sampling("greedy"))[0])  # noqa: E731
        else:
            network = GPT(drawn).to(place.device, getattr(torch, workload.precision))
            run = torch_decoder(network, prompt, count, partial(place.compiled, peer=name, modes=MODES))

        def result() -> np.ndarray:
            tokens[name] = run()
            return tokens[name]

        return Entrant(result, {"": place.wall(run)})

    row: dict[str, Any] = {"workload": f"gpt2_124m_decode_{workload.precision}", **sizes, "tokens": count}
    row |= measured(row, build, peers, place, workload.tolerance, rounds, seconds)
    row |= {k: v / count for k, v in row.items() if k.endswith("_ms")} | {k: [x / count for x in row[k]] for k in row if k.endswith("_spread")}
    row["tokens_that_agree"] = {name: int(np.cumprod(found == tokens["dslc"]).sum()) for name, found in tokens.items()}
    read = sum(v.size for k, v in drawn.items() if k != "wpe") * (4 if workload.precision == "float32" else 2)
    row |= {"weights_bytes": read} | of_copy(row, read, place)
    return row | launches(decoder.step) if "dslc_ms" in row else row


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_decode", WORKLOADS, measure, TORCH))
