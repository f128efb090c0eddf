"""`python -m benchmarks.memory [--only NAME,...] --json FILE`: training steps under budgets of memory, from the least possible to the unbounded one.

Each row: the arena that the plan takes and its packing's lower bound; the time that repeats add by the cost model, and what any plan must add; with
`measured` also the step's time beside that without a budget, both in turns in one process, and that the losses are equal to the bit. A plot of
budget against time lies beside the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .workloads import MODELS

STEPS = 8  # budgets
TURNS = 5


@dataclass(frozen=True)
class Workload:
    """`sizes` of models/gpt.dsl; `measured`: steps are run, not planned alone."""

    name: str
    measured: bool
    sizes: dict[str, int] = field(default_factory=dict)


WORKLOADS = {
    w.name: w
    for w in (
        Workload("gpt", True),
        Workload("gpt2_124m", False, {"batch": 4, "time": 1024, "vocab": 50304, "width": 768, "heads": 12, "depth": 12}),
    )
}


def _model(workload: Workload, **settings: Any) -> Any:
    import dslc

    return dslc.load(str(MODELS / "gpt.dsl"), **workload.sizes, **settings)


def planned(workload: Workload) -> list[dict[str, Any]]:
    """What the checkpoint pass chooses for each budget."""
    from dslc.compiler import lower
    from dslc.ir.program import program_of
    from dslc.passes.packing import pack
    from dslc.passes.rematerialize import choose, least
    from dslc.passes.timeline import Timeline
    from dslc.targets import target_of

    elaborated = lower(_model(workload), "step", target_of("cpu"))
    with elaborated.context, elaborated.location:
        line = Timeline.of(program_of(elaborated.module))
        free, smallest = pack(line.intervals(line.base)).total, least(line)[1].total
        rows = []
        for k in range(STEPS):
            room = smallest + (free - smallest) * k // (STEPS - 1)
            start = time.perf_counter()
            choice = choose(line, room)
            assert choice is not None
            rows.append({"budget": line.slots + room, "room": room, "of_least": room / smallest, "arena": choice.packing.total,
                         "arena_bound": choice.packing.lower_bound, "repeats": len(choice.plan) - len(line.tasks),
                         "added": choice.extra / line.seconds, "bound": choice.bound / line.seconds,
                         "seconds_to_plan": time.perf_counter() - start})  # fmt: skip
    return rows


def _trainer(workload: Workload, **settings: Any) -> Any:
    import dslc

    return dslc.Trainer(_model(workload, **settings), target="cpu")


def measured(workload: Workload, rows: list[dict[str, Any]]) -> None:
    """Adds the step's time to each row."""
    rng = np.random.default_rng(1)
    given = {n: rng.integers(0, 65, (8, 256)).astype(np.int32) for n in ("x", "y")}
    for row in rows[:-1]:
        spare = 1 << 16  # what kernels need behind the arena
        free, under = _trainer(workload), _trainer(workload, memory=f"{row['budget'] + spare} B")
        row["same_losses"] = [free.step(**given) for _ in range(2)] == [under.step(**given) for _ in range(2)]
        times: dict[str, list[float]] = {"free": [], "under": []}
        for _ in range(TURNS):
            for name, trainer in (("free", free), ("under", under)):
                start = time.perf_counter()
                trainer.step(**given)
                times[name].append(time.perf_counter() - start)
        row["step_ms"], row["free_step_ms"] = (statistics.median(times[n]) * 1e3 for n in ("under", "free"))
        row["measured_added"] = row["step_ms"] / row["free_step_ms"] - 1
        print(f"  {row['budget'] / 1e6:8.1f} MB: measured {100 * row['measured_added']:.1f}%, same losses: {row['same_losses']}", flush=True)


def plot(rows: list[dict[str, Any]], name: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    x = [r["budget"] / 2**20 for r in rows]
    axes.plot(x, [100 * r["added"] for r in rows], "o-", label="plan, by the cost model")
    axes.plot(x, [100 * r["bound"] for r in rows], "--", label="no plan adds less")
    if "measured_added" in rows[0]:
        axes.plot(x[:-1], [100 * r["measured_added"] for r in rows[:-1]], "s", label="measured")
    axes.set(xlabel="budget, MiB", ylabel="time added, %", title=name)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    out: dict[str, Any] = {}
    for name in options.only.split(","):
        workload = WORKLOADS[name]
        rows = out[name] = planned(workload)
        for row in rows:
            added, arena = f"{100 * row['added']:6.2f}% added, bound {100 * row['bound']:6.2f}%", f"{row['arena'] / 1e6:.1f} MB"
            print(f"{name} {row['budget'] / 1e6:8.1f} MB: {added}, arena {arena}, {row['seconds_to_plan']:.1f} s", flush=True)
        if workload.measured:
            measured(workload, rows)
        plot(rows, name, options.json.with_name(f"{options.json.stem}_{name}.png"))
        options.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
