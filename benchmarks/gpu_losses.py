"""`python -m benchmarks.gpu_losses [--only NAME,...] [--against PEER,...] --json FILE`: cross-entropy with its gradient, and AdamW on GPT-2's 124
million parameters, on this machine's GPU, beside torch (eager, compiled, max-autotune; its fused AdamW) and jax.

Results are compared first. dslc's time is the sum of its launches, of AdamW those of the update alone; peers run behind each other with operands
on the device. `of_copy` is the share of the copy bandwidth that counts every operand and result once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gpu_contest import ROUNDS, Entrant, Place, array, jax_calls, launched, main, measured, of_copy

LOSS = """model Loss:
    dims    rows=16384, classes=50304
    input   logits[rows, classes]: {dtype}, label[rows]: int32
    total = cross_entropy(float32(logits), label)
    output  total
    output  slope = grad(total, logits)
"""
UPDATE = """model Update:
    dims    vocab=50304, blocks=12, width=768, fan=9216
    input   g[vocab, width], h[blocks, width, fan]
    param   table[vocab, width], weight[blocks, width, fan] ~ ones()
    loss    sum(table * g) + sum(weight * h)

train:
    optimizer  adamw(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    steps      1000
"""
RATE, DECAY = 1e-3, 0.01
STEPS = 3  # of AdamW, before parameters are compared


@dataclass(frozen=True)
class Workload:
    """`sizes` replace those of the model; `build` gives the maker of contestants; `moved`: bytes of every operand and result."""

    name: str
    build: Callable[[Workload, Place], Callable[[str], Entrant]]
    moved: Callable[[dict[str, int]], int]
    tolerance: float
    sizes: dict[str, int]
    dtype: str = "float32"


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.2) -> dict[str, Any]:
    """One row: milliseconds of every contestant, dslc's by its launches."""
    row: dict[str, Any] = {"workload": workload.name, "dtype": workload.dtype, **workload.sizes}
    row |= measured(row, workload.build(workload, place), peers, place, workload.tolerance, rounds, seconds)
    return row | of_copy(row, workload.moved(workload.sizes), place)


def losses(workload: Workload, place: Place) -> Callable[[str], Entrant]:
    """The mean of all rows' losses and its gradient."""
    import torch
    import torch.nn.functional as F

    import dslc

    rng = np.random.default_rng(0)
    n, classes = workload.sizes["rows"], workload.sizes["classes"]
    label = rng.integers(0, classes, n).astype(np.int32)
    x = torch.from_numpy(rng.standard_normal((n, classes), np.float32)).to(place.device, getattr(torch, workload.dtype))
    y = torch.from_numpy(label).to(place.device).long()

    def ours() -> Entrant:
        compiled = dslc.compile(dslc.load(LOSS.format(dtype=workload.dtype), **workload.sizes), target=place.target)
        fed = {"logits": x if place.gpu else array(x), "label": label}

        def result() -> tuple[Any, ...]:
            found = compiled(**fed)
            return found["total"], found["slope"]

        return Entrant(result, {"": launched(compiled.program)})

    def of_jax() -> Entrant:
        jax = place.jax()
        from .peers.jax_networks import cross_entropy

        given = jax.numpy.asarray(array(x), workload.dtype), jax.numpy.asarray(label)
        call, timer = jax_calls(jax, jax.value_and_grad(lambda a, b: cross_entropy(a, b).mean()), *given)
        return Entrant(lambda: tuple(map(np.asarray, call())), {"": timer})

    def of_torch(peer: str) -> Entrant:
        loss = place.compiled(lambda a, b: F.cross_entropy(a.float(), b, reduction="mean"), peer)

        def both() -> tuple[Any, Any]:
            leaf = x.detach().requires_grad_()
            total = loss(leaf, y)
            return total.detach(), torch.autograd.grad(total, leaf)[0]

        return Entrant(lambda: tuple(map(array, both())), {"": place.wall(both)})

    return lambda name: ours() if name == "dslc" else of_jax() if name == "jax" else of_torch(name)


def updates(workload: Workload, place: Place) -> Callable[[str], Entrant]:
    """Some steps of AdamW with given gradients; the parameters after them."""
    import torch

    import dslc
    from dslc.compiled import program_of

    rng = np.random.default_rng(0)
    model = dslc.load(UPDATE, **workload.sizes)
    shapes = {path: np.shape(model.params[path]) for path in ("table", "weight")}
    slopes = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    starts = {path: rng.standard_normal(shape, np.float32) for path, shape in shapes.items()}
    on = {k: torch.from_numpy(v).to(place.device) for k, v in slopes.items()}

    def ours() -> Entrant:
        for path, value in starts.items():
            model.params[path] = value
        trainer = dslc.Trainer(model, target=place.target)
        given = on if place.gpu else slopes
        program: Any = program_of(model, "step", place.target)
        kinds = [program.executable.kernels[launch.kernel].kind for launch in program.executable.launches]

        def values() -> tuple[Any, ...]:
            return tuple(np.asarray(model.params[path]) for path in shapes)

        return Entrant(
            _steps(lambda: trainer.step(g=given["table"], h=given["weight"]), values),
            {"": lambda turns: sum(s for s, kind in zip(program.times(turns), kinds) if kind == "update")},
        )

    def theirs(peer: str) -> Entrant:
        run, values = _jax_updates(place, starts, slopes) if peer == "jax" else _torch_updates(starts, on, place, peer)
        return Entrant(_steps(run, lambda: tuple(values())), {"": place.wall(run)})

    return lambda name: ours() if name == "dslc" else theirs(name)


def _steps(run: Callable[[], Any], values: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    """The values after some steps."""

    def result() -> tuple[Any, ...]:
        for _ in range(STEPS):
            run()
        return values()

    return result


def _torch_updates(
    starts: dict[str, np.ndarray], slopes: dict[str, Any], place: Place, peer: str
) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
    import torch

    kept = [torch.nn.Parameter(torch.from_numpy(v.copy()).to(place.device)) for v in starts.values()]
    for parameter, slope in zip(kept, slopes.values()):
        parameter.grad = slope.clone()
    fused = peer == "torch"  # what torch.compile sees through is the plain one, for which steps must be tensors
    optimizer = torch.optim.AdamW(kept, lr=RATE, weight_decay=DECAY, fused=fused, capturable=not fused and place.device == "cuda")
    return place.compiled(lambda: optimizer.step(), peer), lambda: [array(p.detach()) for p in kept]


def _jax_updates(place: Place, starts: dict[str, np.ndarray], slopes: dict[str, np.ndarray]) -> tuple[Callable[[], Any], Callable[[], list[Any]]]:
    jax = place.jax()
    jnp = jax.numpy

    from .peers.jax_networks import adamw

    jitted = jax.jit(lambda w, m, v, g, t: adamw(w, m, v, g, t, RATE, DECAY), donate_argnums=(0, 1, 2))
    given = {k: jnp.asarray(v) for k, v in slopes.items()}
    kept: list[Any] = [{k: jnp.asarray(v) for k, v in starts.items()}, *({k: jnp.zeros_like(v) for k, v in given.items()} for _ in range(2))]
    count = [0]

    def run() -> None:
        count[0] += 1
        kept[:] = jax.block_until_ready(jitted(*kept, given, jnp.float32(count[0])))

    return run, lambda: [np.asarray(kept[0][k]) for k in starts]


PARAMETERS = {"vocab": 50304, "blocks": 12, "width": 768, "fan": 9216}
WORKLOADS = {
    w.name: w
    for w in (
        Workload("cross_entropy", losses, lambda s: 2 * 4 * s["rows"] * s["classes"], 1e-5, {"rows": 8192, "classes": 50304}),
        Workload("cross_entropy_bfloat16", losses, lambda s: 2 * 2 * s["rows"] * s["classes"], 1e-2, {"rows": 16384, "classes": 50304}, "bfloat16"),
        Workload("adamw", updates, lambda s: 7 * 4 * (s["vocab"] + s["blocks"] * s["fan"]) * s["width"], 1e-5, PARAMETERS),
    )
}

if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_losses", WORKLOADS, measure))
