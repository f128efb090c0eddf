"""`python -m benchmarks.gpu_attention [--only NAME,...] [--against PEER,...] --json FILE`: causal attention in bfloat16 on this GPU, beside torch's
flash attention (eager, compiled, max-autotune) and cuDNN's through jax.

Results and gradients are compared first. Contestants take turns in rounds; times are medians of runs behind each other, dslc's the sum of its
launches. Rates count the products of the half that the mask leaves, 2 forward and 5 backward, as is usual, whatever is made again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .gpu_contest import ROUNDS, Entrant, Place, jax_calls, launched, launches, main, measured

LENGTHS, FEATURES = (1024, 2048, 4096, 8192), (64, 128)
LIMIT = 1e-2  # |found - a peer's| / |a peer's|: both round weights and results to 8 bits

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
    batch: int = 4
    heads: int = 16

    @property
    def name(self) -> str:
        return f"T{self.time}_d{self.features}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch, self.heads, self.time, self.features

    @property
    def product(self) -> float:
        """Floating point operations of one product of the half that the mask leaves."""
        return 2.0 * self.batch * self.heads * self.time**2 * self.features / 2

    def model(self, gradient: bool) -> str:
        shape = ", ".join(map(str, self.shape))
        return MODEL.format(shape=shape, gradient=GRADIENT.format(shape=shape) if gradient else "")


WORKLOADS = {w.name: w for w in (Workload(time, features) for features in FEATURES for time in LENGTHS)}


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.02) -> dict[str, Any]:
    """One row: times and rates, forward, and forward and backward together."""
    import torch

    import dslc

    generator = torch.Generator(place.device).manual_seed(0)
    given = [torch.randn(workload.shape, generator=generator, device=place.device, dtype=torch.bfloat16) for _ in "qkvg"]
    program: Any = None

    def build(name: str) -> Entrant:
        nonlocal program
        if name == "dslc":
            forward, both = (dslc.compile(dslc.load(workload.model(gradient)), target=place.target) for gradient in (False, True))
            program = both.program
            fed = {k: x if place.gpu else _plain(x) for k, x in zip("qkvg", given)}
            result: Callable[[], Any] = lambda: _results(forward(**{k: fed[k] for k in "qkv"})["o"], both(**fed), place)  # noqa: E731
            return Entrant(result, {"forward": launched(forward.program), "both": launched(both.program)})
        if name == "jax":
            row["jax_attention"] = "cudnn" if place.gpu else "xla"
            return jax_entrant(place, given, row["jax_attention"])
        return torch_entrant(place, given, name)

    row: dict[str, Any] = {"workload": workload.name, "shape": workload.shape}
    row = measured(row, build, peers, place, LIMIT, rounds, seconds)
    for name in [k.removesuffix("_both_ms") for k in row if k.endswith("_both_ms") and k.replace("_both_", "_forward_") in row]:
        times = row[f"{name}_forward_ms"], row[f"{name}_both_ms"]
        parts = {"forward": (2, times[0]), "both": (7, times[1]), "backward": (5, times[1] - times[0])}
        row |= {f"{name}_{part}_tflops": products * workload.product / ms / 1e9 for part, (products, ms) in parts.items()}
    return row | launches(program) if "dslc_both_ms" in row else row


def _plain(x: Any) -> Any:
    """A tensor of bfloat16 as numpy's array."""
    import ml_dtypes
    import torch

    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _results(o: Any, found: dict[str, Any], place: Place) -> tuple[Any, ...]:
    """(o, o of the program with gradients, dq, dk, dv) on torch's device"""
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.asarray(x, np.float32)).to(place.device) for x in (o, *(found[k] for k in ("o", "dq", "dk", "dv"))))


def torch_entrant(place: Place, given: list[Any], name: str) -> Entrant:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    *inputs, g = given
    leaves = [x.detach().requires_grad_() for x in inputs]
    call = place.compiled(lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True), name)

    def forward() -> Any:
        with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return call(*inputs)

    def both() -> tuple[Any, ...]:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            o = call(*leaves)
            return (o, *torch.autograd.grad(o, leaves, g))

    return Entrant(lambda: (forward().clone(), *(x.clone() for x in both())), {"forward": place.events(forward), "both": place.events(both)})


def jax_entrant(place: Place, given: list[Any], implementation: str) -> Entrant:
    """Operands lie as jax's attention has them, [batch, time, heads, features]."""
    import numpy as np
    import torch

    jax = place.jax()
    *inputs, g = (jax.numpy.asarray(x.transpose(1, 2).float().cpu().numpy(), jax.numpy.bfloat16) for x in given)

    def attention(q: Any, k: Any, v: Any) -> Any:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)

    def gradients(q: Any, k: Any, v: Any, g: Any) -> Any:
        o, back = jax.vjp(attention, q, k, v)
        return (o, *back(g))

    def laid(x: Any) -> Any:
        return torch.from_numpy(np.array(x, np.float32)).transpose(1, 2).to(place.device)

    forward, forward_timer = jax_calls(jax, attention, *inputs)
    both, both_timer = jax_calls(jax, gradients, *inputs, g)
    return Entrant(lambda: tuple(map(laid, (forward(), *both()))), {"forward": forward_timer, "both": both_timer})


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_attention", WORKLOADS, measure))
