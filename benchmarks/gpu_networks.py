"""`python -m benchmarks.gpu_networks [--only NAME,...] [--against PEER,...] --json FILE`: ResNet-50 and an LSTM on this machine's GPU, training
steps and inference, beside torch (eager, compiled, max-autotune with CUDA graphs) and, of the LSTM, jax.

Same weights and inputs, which lie on the device. Outputs of inference, or the losses of the first steps, are compared before anything is timed. In
bfloat16 torch runs under autocast, pictures with channels last. A call ends when its result is on the host. A training step is AdamW's. Beside it:
the time of each of dslc's launches on its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .gpu_contest import PEERS, ROUNDS, TORCH, Entrant, Place, launches, main, measured
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
    peers: tuple[str, ...] = tuple(TORCH)
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
    """One row: milliseconds of a call of every contestant, and where dslc's time goes."""
    import dslc

    given = network.inputs()
    model = dslc.load(str(MODELS / f"{network.model}.dsl"), precision=network.precision, **network.sizes)
    drawn = weights({k: np.shape(v) for k, v in model.params.items()})
    for path, value in drawn.items():
        model.params[path] = value
    program: Callable[[], Any] = lambda: None  # noqa: E731

    def build(name: str) -> Entrant:
        nonlocal program
        if name == "dslc":
            program, call = dslc_call(network, place, model, given)
        else:
            call = jax_call(network, place, drawn, given) if name == "jax" else torch_call(network, place, drawn, given, name)
        return Entrant(lambda: [call() for _ in range(STEPS)] if network.train else call(), {"": place.wall(call)})

    row: dict[str, Any] = {"workload": network.name, "precision": network.precision, **network.sizes}
    row |= measured(row, build, [p for p in peers if p in network.peers], place, network.tolerance, rounds, seconds)
    return row | launches(program()) if "dslc_ms" in row else row


def dslc_call(network: Network, place: Place, model: Any, given: dict[str, np.ndarray]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """(its program, for a profile; the call)"""
    import torch

    import dslc
    from dslc.compiled import program_of

    fed: dict[str, Any] = {k: torch.from_numpy(v).to(place.device) for k, v in given.items()} if place.gpu else dict(given)
    if network.train:
        trainer = dslc.Trainer(model, target=place.target)
        return lambda: program_of(model, "step", place.target), lambda: trainer.step(**fed)
    compiled = dslc.compile(model, target=place.target)
    return lambda: compiled.program, lambda: compiled(x=fed["x"])["logits"].astype(np.float32, copy=False)


def torch_call(network: Network, place: Place, drawn: dict[str, np.ndarray], given: dict[str, np.ndarray], peer: str) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    from .peers.torch_models import NETWORKS as BUILDERS
    from .peers.torch_training import stepper

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

    def loss() -> Any:
        found = logits()
        return F.cross_entropy(found.reshape(-1, found.shape[-1]).float(), y)

    return stepper(plain, loss) if network.train else forward


def jax_call(network: Network, place: Place, drawn: dict[str, np.ndarray], given: dict[str, np.ndarray]) -> Callable[[], Any]:
    jnp = place.jax().numpy

    from .peers.jax_networks import cross_entropy, lstm, runner, stepper

    state, x, y = {k: jnp.asarray(v) for k, v in drawn.items()}, jnp.asarray(given["x"]), jnp.asarray(given["y"])
    if not network.train:
        call = runner(lambda: (state, x), lstm)
        return lambda: np.asarray(call())
    step = stepper(state, lambda w: cross_entropy(lstm(w, x), y).mean(), 1e-6, 0.01)
    return lambda: float(step())


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_networks", NETWORKS, measure))
