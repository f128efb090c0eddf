"""`python -m benchmarks.gpu_rows [--only NAME,...] [--against PEER,...] --json FILE`: kernels that memory bounds, on this machine's GPU, beside torch
(eager, compiled, max-autotune) and jax, as shares of the copy bandwidth.

Results are compared first. A kernel's time is that of runs behind each other, on operands larger than the second cache; its bandwidth counts every
operand and result once. The copy is torch's, of half a gigabyte, in the same process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .gpu_contest import ROUNDS, Entrant, Place, array, jax_calls, launched, main, measured, of_copy

SIZES = {"rows": 16384, "columns": 4096}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Workload:
    """`body` of a model with inputs of [n, d]; the same in torch, over torch.nn.functional, and in jax; `moved`: tensors of that size read and
    written."""

    name: str
    body: str
    inputs: tuple[str, ...]
    torch: Callable[..., Any]
    jax: Callable[..., Any]
    moved: int
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)

    @property
    def shape(self) -> tuple[int, int]:
        return self.sizes["rows"], self.sizes["columns"]

    def model(self) -> str:
        head = "".join(f"    input   {name}[{self.shape[0]}, {self.shape[1]}]\n" for name in self.inputs)
        return f"model Rows:\n{head}    output  {self.body}\n"


def _normalized(jax: Any, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)


def _gelu(jax: Any, x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("layernorm", "y = layernorm(x)", ("x",), lambda F, x: F.layer_norm(x, x.shape[1:]), _normalized, 2),
        Workload("softmax", "y[n, d] = softmax[d](x[n, d])", ("x",), lambda F, x: F.softmax(x, -1), lambda jax, x: jax.nn.softmax(x, -1), 2),
        Workload("gelu_add", "y = gelu(x) + z", ("x", "z"), lambda F, x, z: F.gelu(x) + z, lambda jax, x, z: _gelu(jax, x) + z, 3),
        Workload("gelu_add_layernorm", "y = layernorm(gelu(x) + z)", ("x", "z"), lambda F, x, z: F.layer_norm(F.gelu(x) + z, x.shape[1:]),
                 lambda jax, x, z: _normalized(jax, _gelu(jax, x) + z), 3),
        Workload("row_sums", "y[n] = sum[d](x[n, d])", ("x",), lambda F, x: x.sum(-1), lambda jax, x: x.sum(-1), 1),
        Workload("column_sums", "y[d] = sum[n](x[n, d])", ("x",), lambda F, x: x.sum(0), lambda jax, x: x.sum(0), 1),
        Workload("transpose", "y[d, n] = x[n, d]", ("x",), lambda F, x: x.t().contiguous(), lambda jax, x: x.T, 2),
    )
}  # fmt: skip


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.01) -> dict[str, Any]:
    """One row: milliseconds of dslc's kernels and of the peers, and dslc's share of the copy bandwidth."""
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(workload.shape, np.float32) for name in workload.inputs}
    row = {"workload": workload.name, "shape": workload.shape}
    row |= measured(row, lambda name: entrant(workload, place, feed, name), peers, place, TOLERANCE, rounds, seconds)
    return row | of_copy(row, workload.moved * workload.shape[0] * workload.shape[1] * 4, place)


def entrant(workload: Workload, place: Place, feed: dict[str, np.ndarray], name: str) -> Entrant:
    if name == "dslc":
        import dslc

        program = dslc.compile(dslc.load(workload.model()), target=place.target)
        return Entrant(lambda: program(**feed)["y"], {"": launched(program.program)})
    if name == "jax":
        jax = place.jax()
        call, timer = jax_calls(jax, lambda *given: workload.jax(jax, *given), *map(jax.numpy.asarray, feed.values()))
        return Entrant(lambda: np.asarray(call()), {"": timer})
    import torch
    from torch.nn import functional

    given = [torch.from_numpy(x).to(place.device) for x in feed.values()]
    compiled = place.compiled(lambda *xs: workload.torch(functional, *xs), name)
    return Entrant(lambda: array(compiled(*given)), {"": place.events(lambda: compiled(*given))})


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_rows", WORKLOADS, measure))
