"""`python -m benchmarks.gpu_networks [--only NAME,...] [--against PEER,...] --json FILE`: ResNet-50 and an LSTM on this machine's GPU, training
steps and inference, beside torch (eager, compiled, max-autotune with CUDA graphs) and, of the LSTM, jax.

Same weights and inputs, which lie on the device. Outputs of inference, or the losses of the first steps, are compared before anything is timed. In
bfloat16 torch runs under autocast, pictures with channels last. A call ends when its result is on the host. A training step is AdamW's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .gpu_contest import PEERS, ROUNDS, Place, contest, main, matching
from .workloads import MODELS, weights

STEPS = 3  # whose losses are compared


@dataclass(frozen=True)
class Network:
    """`sizes` of a file under models/; `tolerance` bounds |found - torch's| / |torch's|; `peers` that have the network."""

    name: str
    model: str
    train: bool
    precision: str
    sizes: dict[str, int]
    tolerance: float
    peers: tuple[str, ...] = ("torch", "torch.compile", "torch.max-autotune")
    classes: int = field(default=1000)

    def inputs(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        shape = (self.sizes["batch"], self.sizes["time"]) if self.model == "lstm" else (self.sizes["batch"],)
        x = (*shape, self.sizes["width"]) if self.model == "lstm" else (*shape, 3, self.sizes["size"], self.sizes["size"])
        return {"x": rng.standard_normal(x, np.float32), "y": rng.integers(0, self.classes, shape).astype(np.int32)}


RESNET = {"batch": 128, "size": 224}
LSTM = {"batch": 128, "time": 256, "width": 1024}
NETWORKS = {
    w.name: w
    for w in (
        Network("resnet50_train", "resnet50", True, "bfloat16", RESNET, 1e-2),
        Network("resnet50_run", "resnet50", False, "bfloat16", RESNET, 4e-2),
        Network("resnet50_run_one", "resnet50", False, "float32", {"batch": 1, "size": 224}, 1e-4),
        Network("lstm_train", "lstm", True, "float32", LSTM, 1e-4, PEERS, LSTM["width"]),
        Network("lstm_run", "lstm", False, "float32", LSTM, 1e-4, PEERS, LSTM["width"]),
    )
}


def measure(network: Network, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.2) -> dict[str, Any]:
    """One row: the differences of results, then milliseconds of a call of every contestant."""
    given = network.inputs()
    drawn, ours = dslc_call(network, place, given)
    calls = {"dslc": ours}
    for peer in peers:
        if peer in network.peers:
            calls[peer] = jax_call(network, drawn, given) if peer == "jax" else torch_call(network, place, drawn, given, peer)
    results = {name: [call() for _ in range(STEPS)] if network.train else call() for name, call in calls.items()}
    row: dict[str, Any] = {"workload": network.name, "precision": network.precision, **network.sizes}
    row |= {f"from {k}" if k != "different" else k: v for k, v in matching(results, network.tolerance).items()}
    return row if "different" in row else row | contest(calls, place, rounds, seconds)


def dslc_call(network: Network, place: Place, given: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Callable[[], Any]]:
    """(the weights by the model file's names, the call)"""
    import torch

    import dslc

    model = dslc.load(str(MODELS / f"{network.model}.dsl"), precision=network.precision, **network.sizes)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    for k, v in drawn.items():
        model.params[k] = v
    fed: dict[str, Any] = {k: torch.from_numpy(v).to(place.device) for k, v in given.items()} if place.device == "cuda" else dict(given)
    if network.train:
        trainer = dslc.Trainer(model, target=place.target)
        return drawn, lambda: trainer.step(**fed)
    program = dslc.compile(model, target=place.target)
    return drawn, lambda: program(x=fed["x"])["logits"].astype(np.float32)


def torch_call(network: Network, place: Place, drawn: dict[str, np.ndarray], given: dict[str, np.ndarray], peer: str) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    from .peers.torch_models import NETWORKS as BUILDERS

    plain = BUILDERS[network.model](drawn).to(place.device)
    x, y = torch.from_numpy(given["x"]).to(place.device), torch.from_numpy(given["y"]).to(place.device).long().reshape(-1)
    if x.ndim == 4:
        plain, x = plain.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    plain.train(network.train)
    run = place.compiled(plain, peer)
    dtype = getattr(torch, network.precision)

    def logits() -> Any:
        with torch.autocast(place.device, dtype=dtype, enabled=dtype != torch.float32):
            return run(x)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return logits().float().cpu().numpy()

    if not network.train:
        return forward
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-6, weight_decay=0.01, fused=True)

    def step() -> float:
        found = logits()
        loss = F.cross_entropy(found.reshape(-1, found.shape[-1]).float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def jax_call(network: Network, drawn: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> Callable[[], Any]:
    import jax.numpy as jnp

    from .peers.jax_networks import cross_entropy, lstm, runner, stepper

    state, x, y = {k: jnp.asarray(v) for k, v in drawn.items()}, jnp.asarray(given["x"]), jnp.asarray(given["y"])
    if not network.train:
        call = runner(lambda: (state, x), lstm)
        return lambda: np.asarray(call())
    step = stepper(state, lambda w: cross_entropy(lstm(w, x), y).mean(), 1e-6, 0.01)
    return lambda: float(step())


if __name__ == "__main__":
    main(__doc__ or "", "gpu_networks", NETWORKS, measure)
