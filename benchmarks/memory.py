"""`python -m benchmarks.memory [--only NAME,...] [--rounds N] --json FILE`: training steps under budgets of memory.

Each row is a budget, from the least possible to the unbounded one: the arena that the plan takes and its packing's lower bound; the time that
repeats, and turns of a loop over the logits, add by the cost model, what any plan with so many turns must add, what the greedy plan without turns
adds. Where steps are `measured`, contestants in processes of their own take them side by side, as in `benchmarks.driver`: dslc under some of the
budgets, torch.compile under shares of its `activation_memory_budget`; for each the most memory that was resident and the time of a step, with the
share of the machine that others used meanwhile. A table is printed; a plot of budget against time lies beside the file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import driver
from .peers.dslc_peer import shapes
from .workloads import MODELS, WORKLOADS, weights

STEPS = 8  # budgets
FROM = 1.15  # times the least budget: from here on the plan should be near the bound
MEASURED = (0, 2, 5)  # rows whose budgets dslc runs under
SHARES = (1.0, 0.5, 0.0)  # of torch's activation_memory_budget
SPARE = 1 << 22  # bytes that kernels need behind the arena
SECONDS = 0.5  # of each contestant's part of a round
THREADS = 2


@dataclass(frozen=True)
class Step:
    """`sizes` of the model's file; `measured`: the workload of `benchmarks.workloads` that is run, not planned alone. `scans`: which turns of scans
    are made again is part of the plan, and steps are measured in this process, without peers."""

    name: str
    model: str
    measured: str = ""
    scans: bool = False
    sizes: dict[str, int] = field(default_factory=dict)


ALL = {
    s.name: s
    for s in (
        Step("gpt", "gpt", "gpt_train"),
        Step("gpt_words", "gpt", "gpt_words_train", dict(WORKLOADS["gpt_words_train"].sizes)),
        Step("gpt2_124m", "gpt", sizes={"batch": 4, "time": 1024, "vocab": 50304, "width": 768, "heads": 12, "depth": 12}),
        Step("resnet50", "resnet50", sizes={"batch": 32}),
        Step("unet", "unet"),
        Step("lstm_long", "lstm_long", scans=True),
    )
}


def planned(step: Step) -> list[dict[str, Any]]:
    """What the chunk and checkpoint passes choose for each budget."""
    import dslc
    from dslc.compiler import lower
    from dslc.ir.program import program_of
    from dslc.passes.chunk import cheapest, choices, losses, timeline
    from dslc.passes.packing import pack
    from dslc.passes.rematerialize import greedy, least
    from dslc.passes.searched import Searched
    from dslc.targets import target_of

    elaborated = lower(dslc.load(str(MODELS / f"{step.model}.dsl"), **step.sizes), "step", target_of("cpu"), after="attention")
    with elaborated.context, elaborated.location:
        program = program_of(elaborated.module)
        lines = [(turns, timeline(program, turns)) for turns in choices(losses(program.entry_block, []))]
    whole = lines[0][1]
    free, smallest = pack(whole.intervals(whole.base)).total, min(least(line)[1].total for _, line in lines)
    first = (whole.slots + smallest) * FROM - whole.slots  # the arena of FROM times the least budget
    rooms = {smallest + (free - smallest) * k // (STEPS - 1) for k in range(STEPS)} | ({int(first)} if first < free else set())
    rows = []
    for room in sorted(rooms):
        start, start_cpu = time.perf_counter(), time.process_time()
        turns, line, choice = cheapest(lines, whole.slots + room, Searched())
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        by_greed = greedy(whole, room)
        assert choice is not None
        looped = line.seconds - whole.seconds  # what the turns of the loop add
        rows.append({"budget": line.slots + room, "room": room, "of_least_budget": (line.slots + room) / (line.slots + smallest),
                     "of_least_arena": room / smallest, "arena": choice.packing.total, "arena_bound": choice.packing.lower_bound,
                     "turns": turns, "repeats": len(choice.plan) - len(line.tasks), "added": (looped + choice.extra) / whole.seconds,
                     "bound": (looped + choice.bound) / whole.seconds, "greedy": by_greed.extra / whole.seconds if by_greed else None,
                     "seconds_to_plan": seconds, "cpu_seconds_to_plan": cpu})  # fmt: skip
    return rows


def planned_with_scans(step: Step) -> list[dict[str, Any]]:
    """As `planned`, where each budget has a program of its own; `scans` tells the segments. Greed knows none."""
    import dslc
    from dslc.compiler import lower
    from dslc.core.errors import BudgetError
    from dslc.ir.mlir import ir
    from dslc.ir.plan import Plan
    from dslc.ir.program import program_of
    from dslc.passes.plan import make_plan
    from dslc.passes.scan_schedules import KEPT_ALL, NOTE
    from dslc.passes.timeline import Timeline
    from dslc.targets import target_of

    def under(memory: int | None) -> tuple[Plan, Timeline, tuple[float, float], str]:
        budget = {} if memory is None else {"memory": f"{memory} B"}
        elaborated = lower(dslc.load(str(MODELS / f"{step.model}.dsl"), **step.sizes, **budget), "step", target_of("cpu"))
        with elaborated.context, elaborated.location:
            attributes, line = elaborated.module.operation.attributes, Timeline.of(program_of(elaborated.module))
            base, bound = ir.DenseF64ArrayAttr(attributes[KEPT_ALL]) if KEPT_ALL in attributes else (line.seconds, line.seconds)
            return make_plan(elaborated.module), line, (base, bound), attributes[NOTE].value if NOTE in attributes else ""

    free, line, *_ = under(None)
    try:
        under(1)
    except BudgetError as error:
        smallest = error.least - line.slots
    rooms = {smallest + (free.arena_bytes - smallest) * k // (STEPS - 1) for k in range(STEPS)} | {int((line.slots + smallest) * FROM) - line.slots}
    rows = []
    for room in sorted(rooms):
        start, start_cpu = time.perf_counter(), time.process_time()
        plan, line, (base, bound), scans = under(line.slots + room)
        rows.append({"budget": line.slots + room, "room": room, "of_least_budget": (line.slots + room) / (line.slots + smallest),
                     "of_least_arena": room / smallest, "arena": plan.arena_bytes, "arena_bound": plan.lower_bound, "scans": scans,
                     "added": line.seconds / base - 1, "bound": bound / base - 1, "greedy": None,
                     "seconds_to_plan": time.perf_counter() - start, "cpu_seconds_to_plan": time.process_time() - start_cpu})  # fmt: skip
    return rows


def measured_alone(step: Step, rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Steps without a budget, at `FROM` times the least and half-way, by turns in this process: wall time, and the processor's."""
    import dslc

    chosen = [min(rows, key=lambda r: abs(r["of_least_budget"] - FROM)), rows[len(rows) // 2]]
    rng = np.random.default_rng(0)
    trainers: dict[int, Any] = {}
    times: dict[int, list[tuple[float, float]]] = {}
    for budget in (0, *(r["budget"] + SPARE for r in chosen)):
        memory = {"memory": f"{budget} B"} if budget else {}
        trainers[budget], times[budget] = dslc.Trainer(dslc.load(str(MODELS / f"{step.model}.dsl"), **step.sizes, **memory), target="cpu"), []
    batch = {name: rng.integers(0, 65, (16, 1024)).astype(np.int32) for name in ("x", "y")}
    losses = [{t.step(**batch) for t in trainers.values()} for _ in range(2)]
    assert all(len(one) == 1 for one in losses), "the losses differ"
    for _ in range(rounds):
        for budget, trainer in trainers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            trainer.step(**batch)
            times[budget].append((time.perf_counter() - wall, time.process_time() - cpu))
    figures = []
    for budget, taken in times.items():
        ratios = [[mine[k] / free[k] - 1 for mine, free in zip(taken, times[0])] for k in (0, 1)]
        figures.append({"budget": budget, "median_ms": 1e3 * statistics.median(t for t, _ in taken), "added": statistics.median(ratios[0]),
                        "added_cpu": statistics.median(ratios[1]), "added_spread": [min(ratios[0]), max(ratios[0])]})  # fmt: skip
    return {"steps": figures}


def measured(step: Step, rows: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Steps of the contestants, all in every round; noise is told, not thrown away: `outside` is what others used of the machine."""
    workload = WORKLOADS[step.measured]
    names = ["dslc", *(f"dslc@{rows[k]['budget'] + SPARE}" for k in MEASURED), *(f"torch.compile@{share:g}" for share in SHARES)]
    players: list[driver.Contestant] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/weights.npz"
            np.savez(file, **weights(shapes(workload)))
            for name in [name for name in names for _ in range(2)]:  # the first of two fills the caches: what compiling takes is not the step's
                player = driver.start(name, THREADS, folder)
                if players and players[-1].name == name:
                    players.pop().process.kill()
                players.append(player)
                reply = player.ask({"prepare": workload.name, "weights": file})
                player.first, player.peak, player.result = reply["first"], reply["peak"], reply["result"]
        same, differs = driver.compare(workload.tolerance, players)
        pids = [os.getpid(), *(p.process.pid for p in players)]
        order, loads = random.Random(0), []
        for _ in range(rounds):
            mark = (driver._busy_ticks(), driver._own_ticks(pids), time.time())
            for player in order.sample(same, len(same)):
                player.rounds.append(statistics.median(player.ask({"run": SECONDS})["times"]))
            loads.append(driver._others(pids, mark))
        return {"threads": THREADS, "outside": loads, "differs": differs, "contestants": [_figures(p, same) for p in same]}
    finally:
        for player in players:
            player.process.kill()


def _figures(player: driver.Contestant, players: list[driver.Contestant]) -> dict[str, Any]:
    """`added`: of the time of the same contestant without a budget, a median of ratios in one round each."""
    name, _, budget = player.name.partition("@")
    free = next(p for p in players if p.name.partition("@")[0] == name)  # the first of its kind has none
    ratios = [mine / theirs for mine, theirs in zip(player.rounds, free.rounds)]
    return {"name": name, "budget": float(budget) if budget else None, "peak_mb": player.peak / 2**20,
            "median_ms": statistics.median(player.rounds) * 1e3, "added": statistics.median(ratios) - 1,
            "added_spread": [min(ratios) - 1, max(ratios) - 1], "first_call_s": player.first}  # fmt: skip


def table(name: str, told: dict[str, Any]) -> str:
    """Budgets and times as text."""
    lines = [f"{name:10} {'budget':>10} {'of least':>9} {'plan':>8} {'bound':>8} {'greedy':>8} {'turns':>6} {'to plan':>8}"]
    for r in told["plans"]:
        greedy = "none" if r["greedy"] is None else f"{100 * r['greedy']:.2f}%"
        lines.append(f"{'':10} {r['budget'] / 1e6:7.1f} MB {r['of_least_budget']:9.3f} {100 * r['added']:7.2f}% {100 * r['bound']:7.2f}% {greedy:>8} "
                     f"{r['turns']:6} {r['cpu_seconds_to_plan']:6.1f} s")  # fmt: skip
    for r in told.get("alone", {}).get("steps", ()):
        under = f"{r['budget'] / 1e6:.1f} MB" if r["budget"] else "no budget"
        spread = " .. ".join(f"{100 * a:+.0f}" for a in r["added_spread"])
        lines.append(
            f"{'':10} {under:>10}: {r['median_ms']:8.1f} ms, {100 * r['added']:+6.1f}% [{spread}], {100 * r['added_cpu']:+6.1f}% of processor time"
        )
    steps = told.get("steps")
    if steps:
        lines.append(f"{'':10} steps measured; others used {100 * statistics.median(steps['outside']):.0f}% of the machine")
        for c in steps["contestants"]:
            under = "no budget" if c["budget"] is None else f"{c['budget'] / 1e6:.1f} MB" if c["name"] == "dslc" else f"share {c['budget']:g}"
            spread = " .. ".join(f"{100 * a:+.0f}" for a in c["added_spread"])
            lines.append(
                f"{'':10} {c['name']:14} {under:>10}: peak {c['peak_mb']:6.0f} MB, {c['median_ms']:8.1f} ms, {100 * c['added']:+6.1f}% [{spread}]"
            )
    return "\n".join(lines)


def plot(told: dict[str, Any], name: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, steps = told["plans"], told.get("steps")
    figure, all_axes = pyplot.subplots(1, 2 if steps else 1, figsize=(12 if steps else 6, 4), squeeze=False)
    axes = all_axes[0][0]
    x = [r["budget"] / 2**20 for r in rows]
    axes.plot(x, [100 * r["added"] for r in rows], "o-", label="plan")
    axes.plot(x, [100 * r["bound"] for r in rows], "--", label="no plan adds less")
    by_greed = [(at, 100 * r["greedy"]) for at, r in zip(x, rows) if r["greedy"] is not None]
    axes.plot([at for at, _ in by_greed], [added for _, added in by_greed], "x:", label="greedy")
    axes.set(xlabel="budget, MiB", ylabel="time added by the cost model, %", title=name)
    axes.legend()
    if steps:
        axes = all_axes[0][1]
        for kind in dict.fromkeys(c["name"] for c in steps["contestants"]):
            mine = sorted((c for c in steps["contestants"] if c["name"] == kind), key=lambda c: c["peak_mb"])
            axes.plot([c["peak_mb"] for c in mine], [c["median_ms"] for c in mine], "o-", label=kind)
        outside = 100 * statistics.median(steps["outside"])
        axes.set(
            xlabel="most resident memory, MiB", ylabel="a step, ms", title=f"measured; others used {outside:.0f}% of the machine", ylim=(0, None)
        )
        axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--rounds", type=int, default=7, help="of measured steps; 0: none are run")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    out: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    for name in options.only.split(","):
        step = ALL[name]
        told = out[name] = {"plans": (planned_with_scans if step.scans else planned)(step)}
        if step.scans and options.rounds:
            told["alone"] = measured_alone(step, told["plans"], options.rounds)
        if step.measured and options.rounds:
            told["steps"] = measured(step, told["plans"], options.rounds)
        print(table(name, told), flush=True)
        plot(told, name, options.json.with_name(f"{options.json.stem}_{name}.png"))
        options.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
