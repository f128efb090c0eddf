"""`python -m benchmarks.gpu_gemm [--only NAME,...] [--against PEER,...] --json FILE`: matrix products on this machine's GPU beside torch's (cuBLAS;
eager, compiled, max-autotune) and jax's: squares, and those of a GPT-2 step.

Results are compared first, of large ones some rows alone. A time is that of a product's launches behind each other on the same operands, of torch and
jax between events or calls; `NAME_tflops` counts two operations a term.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gpu_contest import ROUNDS, Entrant, Place, array, jax_calls, launched, launches, main, measured

TOKENS = 16384
TOLERANCES = {"bfloat16": 4e-3, "float16": 5e-4, "float32": 4e-6, "tf32": 1e-3}  # |found - torch's| / |torch's|: a rounding of each result, or factor
COMPARED = 1 << 24  # elements of a result, at most


@dataclass(frozen=True)
class Workload:
    """[rows, terms] by [terms, columns]; `layout`: how each operand lies, n: as it is written, t: transposed."""

    role: str
    rows: int
    columns: int
    terms: int
    layout: str
    precision: str = "bfloat16"

    @property
    def name(self) -> str:
        return f"{self.role}_{self.layout}" + ("" if self.precision == "bfloat16" else f"_{self.precision}")

    @property
    def dtype(self) -> str:
        """Of operands and result."""
        return "float32" if self.precision == "tf32" else self.precision

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        m, n, k = self.rows, self.columns, self.terms
        return ((m, k) if self.layout[0] == "n" else (k, m)), ((k, n) if self.layout[1] == "n" else (n, k))

    def model(self) -> str:
        a, b = ("ik" if self.layout[0] == "n" else "ki"), ("kj" if self.layout[1] == "n" else "jk")
        inputs = ", ".join(f"{x}[{m}, {n}]: {self.dtype}" for x, (m, n) in zip("ab", self.shapes))
        factors = " * ".join(f"{x}[{', '.join(axes)}]" for x, axes in (("a", a), ("b", b)))
        train = "train:\n    optimizer  sgd(lr=1.0)\n    precision  tf32\n" if self.precision == "tf32" else ""
        return f"model Product:\n    input   {inputs}\n    c[i, j] = sum[k]({factors})\n    output  c\n{train}"


PRODUCTS = (
    *(("square_8192", 8192, 8192, 8192, layout) for layout in ("nt", "nn")),
    *(("square_4096", 4096, 4096, 4096, layout) for layout in ("nt", "nn", "tn")),
    ("qkv", TOKENS, 2304, 768, "nn"),
    ("proj", TOKENS, 768, 768, "nn"),
    ("fc", TOKENS, 3072, 768, "nn"),
    ("fc2", TOKENS, 768, 3072, "nn"),
    ("head", TOKENS, 50304, 768, "nt"),
    ("qkv_dx", TOKENS, 768, 2304, "nt"),
    ("fc2_dx", TOKENS, 3072, 768, "nt"),
    ("head_dx", TOKENS, 768, 50304, "nn"),
    ("qkv_dw", 768, 2304, TOKENS, "tn"),
    ("proj_dw", 768, 768, TOKENS, "tn"),
    ("fc_dw", 768, 3072, TOKENS, "tn"),
    ("head_dw", 50304, 768, TOKENS, "tn"),
)
IN_TF32 = ("square_4096", "qkv", "fc", "fc2_dx", "fc_dw")
WORKLOADS = {
    w.name: w
    for w in (
        *(Workload(*p) for p in PRODUCTS),
        *(Workload(*p, precision="tf32") for p in PRODUCTS if p[0] in IN_TF32),
        Workload("square_4096", 4096, 4096, 4096, "nn", "float32"),
    )
}


def measure(workload: Workload, place: Place, peers: list[str], rounds: int = ROUNDS, seconds: float = 0.02) -> dict[str, Any]:
    """One row: milliseconds and rates of all, and how dslc's kernel is made."""
    import torch

    import dslc

    generator = torch.Generator(place.device).manual_seed(0)
    given = [torch.randn(s, generator=generator, device=place.device).to(getattr(torch, workload.dtype)) for s in workload.shapes]
    step = max(1, workload.rows * workload.columns // COMPARED)
    program: Any = None

    def build(name: str) -> Entrant:
        nonlocal program
        if name == "dslc":
            program = dslc.compile(dslc.load(workload.model()), target=place.target)
            fed = dict(zip("ab", given if place.gpu else map(_plain, given)))
            return Entrant(lambda: np.asarray(program(**fed)["c"][::step], np.float32), {"": launched(program.program)})
        if name == "jax":
            return _jax_entrant(workload, place, given, step)
        call = place.compiled(torch.matmul, name)
        laid = [x if how == "n" else x.T for x, how in zip(given, workload.layout)]
        return Entrant(lambda: array(call(*laid)[::step]), {"": place.events(lambda: call(*laid))})

    row: dict[str, Any] = {"workload": workload.name, "shape": (workload.rows, workload.columns, workload.terms), "precision": workload.precision}
    with _torch_tf32(workload.precision == "tf32"):
        row = measured(row, build, peers, place, TOLERANCES[workload.precision], rounds, seconds)
    flops = 2.0 * workload.rows * workload.columns * workload.terms
    row |= {f"{name}_tflops": flops / row[f"{name}_ms"] / 1e9 for name in ("dslc", *peers) if f"{name}_ms" in row}
    if "dslc_ms" in row:
        made = re.findall(r"^// (?:contract: (.*?);|.*, the next step of \w+: (.*))", program.executable.source, re.MULTILINE)
        row |= {"made": [first or later for first, later in made]} | launches(program.program)
    return row


def _plain(x: Any) -> Any:
    """A tensor as numpy's array."""
    import ml_dtypes
    import torch

    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()


@contextmanager
def _torch_tf32(allowed: bool) -> Iterator[None]:
    """Within, torch multiplies float32 in tf32, or not."""
    import torch

    settings = torch.backends.cuda.matmul
    before = settings.allow_tf32
    settings.allow_tf32 = allowed
    try:
        yield
    finally:
        settings.allow_tf32 = before


def _jax_entrant(workload: Workload, place: Place, given: list[Any], step: int) -> Entrant:
    jax = place.jax()
    precision = "tensorfloat32" if workload.precision == "tf32" else "highest"
    operands = [jax.numpy.asarray(x.float().cpu().numpy(), workload.dtype) for x in given]

    def product(a: Any, b: Any) -> Any:
        return jax.numpy.matmul(*(x if how == "n" else x.T for x, how in zip((a, b), workload.layout)), precision=precision)

    call, timer = jax_calls(jax, product, *operands)
    return Entrant(lambda: np.asarray(call()[::step], np.float32), {"": timer})


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", "gpu_gemm", WORKLOADS, measure))
