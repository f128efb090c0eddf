"""`python -m benchmarks.gpu_decode [--only NAME,...] --json FILE`: greedy decoding with caches on this machine's GPU, one row, beside torch.

Same weights and prompt; torch has caches of the full length, eager and as CUDA graphs (torch.compile, reduce-overhead). A token's logits come back to
the host in dslc, its id alone in torch. The tokens of float32 must be the same; in bfloat16 roundings differ, and how many agree is told. Bytes are
those of the weights that a token reads; their share of the copy bandwidth is the figure to look at.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .gpu_rows import copy_bandwidth
from .gpu_train import WORKLOADS as TRAINED
from .gpu_train import launches, report
from .workloads import MODELS, weights

SIZES = TRAINED["gpt2_124m"].sizes | {"batch": 1}
PROMPT, COUNT, ROUNDS = 8, 200, 5


def measure(precision: str) -> dict[str, Any]:
    """One row: milliseconds a token of every contestant, and where dslc's time goes."""
    import torch

    import dslc
    from dslc.compiled import decoder_of
    from dslc.runtime.generation import generate
    from dslc.runtime.sampling import Sampling

    from .peers.torch_decoding import torch_decoder
    from .peers.torch_models import GPT

    model = dslc.load(str(MODELS / "gpt.dsl"), precision=precision, **SIZES)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    for name, value in drawn.items():
        model.params[name] = value
    start = time.perf_counter()
    decoder: Any = decoder_of(model, "cuda")
    seconds = time.perf_counter() - start
    prompt = np.random.default_rng(1).integers(0, SIZES["vocab"], PROMPT).tolist()
    network = GPT(drawn).cuda().to(getattr(torch, precision))
    runs = {"dslc": lambda: np.array(generate(decoder, [prompt], COUNT, Sampling("greedy"))[0])}
    runs |= {f"torch{'.compile' * c}": torch_decoder(network, prompt, COUNT, c and "reduce-overhead") for c in (False, True)}
    found = {name: run() for name, run in runs.items()}
    agree = {name: int(np.cumprod(tokens == found["dslc"]).sum()) for name, tokens in found.items()}
    bytes_read = sum(v.size for k, v in drawn.items() if k != "wpe") * (4 if precision == "float32" else 2)
    row: dict[str, Any] = {"workload": f"gpt2_124m_decode_{precision}", **SIZES, "tokens": COUNT, "tokens_that_agree": agree, "first_s": seconds}
    if precision == "float32" and min(agree.values()) < COUNT:
        return row | {"different": agree}
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / COUNT * 1e3)
    for name, measured in times.items():
        row[f"{name}_ms"] = statistics.median(measured)
        row[f"{name}_spread"] = [min(measured), max(measured)]
    copied = copy_bandwidth()
    row |= {"weights_bytes": bytes_read, "copy_bytes_s": copied, "of_copy": bytes_read / (row["dslc_ms"] * 1e-3) / copied}
    return row | launches(decoder.step)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_decode", description=__doc__)
    parser.add_argument("--only", default="float32,bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report(map(measure, options.only.split(",")), options.json)


if __name__ == "__main__":
    main()
