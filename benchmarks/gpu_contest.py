"""What the groups of GPU benchmarks share: where contestants run, torch's modes, and rounds in which all take turns."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# name: torch.compile's mode, None for eager torch; "max-autotune" measures kernels as it compiles and runs them as CUDA graphs
TORCH = {"torch": None, "torch.compile": "default", "torch.max-autotune": "max-autotune"}
PEERS = (*TORCH, "jax")
ROUNDS, ROUND_SECONDS = 7, 0.2


@dataclass(frozen=True)
class Place:
    """dslc's target, torch's device and what torch.compile compiles with; jax uses the fastest device that it has."""

    target: str = "cuda"
    device: str = "cuda"
    backend: str = "inductor"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def compiled(self, run: Callable[..., Any], peer: str) -> Callable[..., Any]:
        """A function as one of torch's modes has it."""
        import torch

        mode = TORCH[peer]
        options = {"mode": mode} if mode and self.backend == "inductor" else {}
        return torch.compile(run, backend=self.backend, dynamic=False, **options) if mode else run

    def words(self) -> dict[str, str]:
        import torch

        return {"device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu", "torch": torch.__version__}


def present(peers: Iterable[str]) -> list[str]:
    """Those that are installed."""
    return [p for p in peers if p in TORCH or importlib.util.find_spec(p)]


def difference(found: Any, expected: Any) -> float:
    """|found - expected| / |expected|, of several results the greatest; infinite where shapes differ or something is no number."""
    if isinstance(found, tuple):
        return max(map(difference, found, expected))
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))


def contest(contestants: Mapping[str, Callable[[], Any]], place: Place, rounds: int = ROUNDS, seconds: float = ROUND_SECONDS) -> dict[str, Any]:
    """Milliseconds of a call of each, `NAME_ms` the median of rounds and `NAME_spread` the least and the most: all take turns in each round, and run
    behind each other for so long."""

    def timed(run: Callable[[], Any], turns: int) -> float:
        place.wait()
        start = time.perf_counter()
        for _ in range(turns):
            run()
        place.wait()
        return (time.perf_counter() - start) / turns

    turns = {name: max(1, int(seconds / max(timed(run, 2), 1e-7))) for name, run in contestants.items()}
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            found[name].append(timed(run, turns[name]) * 1e3)
    row: dict[str, Any] = {}
    for name, times in found.items():
        row |= {f"{name}_ms": statistics.median(times), f"{name}_spread": [min(times), max(times)]}
    return row


def matching(results: Mapping[str, Any], tolerance: float) -> dict[str, float]:
    """How far dslc's result is from each peer's, and the one of a peer that is too far as `different`."""
    errors = {name: difference(results["dslc"], value) for name, value in results.items() if name != "dslc"}
    return errors | ({"different": max(errors.values())} if errors and max(errors.values()) > tolerance else {})


def main(about: str, program: str, known: Mapping[str, Any], measure: Callable[..., dict[str, Any]], peers: Iterable[str] = PEERS) -> None:
    """The command of a group: rows are printed as they come, and all so far are written, so that what is cut off keeps what was measured."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=about)
    parser.add_argument("--only", default=",".join(known))
    parser.add_argument("--against", default=",".join(p for p in peers if p != "torch.max-autotune"), help="of " + ", ".join(peers))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := [name for name in options.only.split(",") if name not in known]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    asked = [p for p in options.against.split(",") if p]
    if unknown := [p for p in asked if p not in peers]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(peers)}")
    place = Place()
    out: dict[str, Any] = {**place.words(), "not_installed": [p for p in asked if p not in present(asked)], "rows": []}
    for name in options.only.split(","):
        row = measure(known[name], place, present(asked))
        out["rows"].append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(out, indent=1) + "\n")
