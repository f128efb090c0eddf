"""Runs contestants side by side: prepares each, compares results, then times them in shuffled rounds.

A round times every contestant once and counts as a whole: where others used the machine meanwhile, all of it is thrown away, so that
ratios are always of times taken side by side. Where too few rounds are quiet there are no figures, and the row says so.
"""

from __future__ import annotations

import compileall
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .workloads import WORKLOADS, Workload, weights

TICK = os.sysconf("SC_CLK_TCK")
QUIET = 0.08  # share of the machine that others may use during a measurement
TRIES = 4  # rounds run for one that is asked for, at most


@dataclass
class Contestant:
    """A process and what was measured in it. Times are medians of rounds, in seconds."""

    name: str
    process: subprocess.Popen
    first: float = 0.0
    peak: int = 0
    result: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)

    def ask(self, request: dict) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"skip": "the process died"}


def start(name: str, threads: int, caches: str) -> Contestant:
    """`caches`: a folder for what contestants keep from process to process; an empty one makes first calls cold."""
    env = {**os.environ, **{k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DSLC_THREADS")}}
    env |= {"DSLC_CACHE": f"{caches}/dslc", "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor"}
    command = [sys.executable, "-m", "benchmarks.contestant", name, str(threads)]
    return Contestant(name, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))


def as_installed() -> None:
    """Python's bytecode of dslc, which installing the peers has made of theirs: else a first call would compile the compiler."""
    import dslc

    compileall.compile_dir(Path(dslc.__file__).parent, quiet=1)


def _busy_ticks() -> int:
    """Ticks in which the machine worked, for this guest or (stolen) for another."""
    fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    user, nice, system, _, _, irq, soft, stolen = map(int, fields)
    return user + nice + system + irq + soft + stolen


def _own_ticks(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        try:
            parts = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(parts[11]) + int(parts[12])
        except OSError:
            continue
    return total


def _others(pids: list[int], mark: tuple[int, int, float]) -> float:
    """The share of the machine that other processes used since `mark`."""
    busy, own, since = mark
    used = (_busy_ticks() - busy) - (_own_ticks(pids) - own)
    return max(0, used) / TICK / max(time.time() - since, 1e-3) / (os.cpu_count() or 1)


def measure(workload: Workload, names: list[str], threads: int, rounds: int, seconds: float) -> dict:
    """One row of the table: every contestant's first call, peak memory, median, spread, and its ratio to dslc."""
    from .peers.dslc_peer import shapes

    left_out: dict[str, str] = {}
    players: list[Contestant] = []
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = f"{folder}/weights.npz"
            np.savez(file, **weights(shapes(workload)))
            for name in names:
                if name in workload.unrolled_by:
                    left_out[name] = "it unrolls the loop"
                    continue
                player = start(name, threads, folder)
                reply = player.ask({"prepare": workload.name, "weights": file})
                if "skip" in reply:
                    left_out[name] = reply["skip"]
                    player.process.kill()
                    continue
                player.first, player.peak, player.result = reply["first"], reply["peak"], reply["result"]
                players.append(player)
        same, differs = compare(workload.tolerance, players)
        loads = time_rounds(same, rounds, seconds)
        return row(workload.name, threads, same, loads) | {"left_out": left_out, "differs": differs}
    finally:
        for player in players:
            player.process.kill()


def compare(tolerance: float, players: list[Contestant]) -> tuple[list[Contestant], dict[str, float | None]]:
    """The contestants whose result is the first one's, and by how much (relative to its largest number) each other differs; None: no number says."""
    same, differs = players[:1], {}
    for player in players[1:]:
        expected, given = np.array(players[0].result), np.array(player.result)
        worst = np.abs(given - expected).max() / max(np.abs(expected).max(), 1e-9) if given.shape == expected.shape else np.nan
        if worst <= tolerance:
            same.append(player)
        else:
            differs[player.name] = float(worst) if np.isfinite(worst) else None
    return same, differs


def time_rounds(players: list[Contestant], rounds: int, seconds: float) -> list[float]:
    """Runs until `rounds` rounds were quiet or TRIES times as many are over; the outside load of each, as a share of the machine."""
    pids = [os.getpid(), *(p.process.pid for p in players)]
    order = random.Random(0)
    loads: list[float] = []
    while sum(load < QUIET for load in loads) < rounds and len(loads) < TRIES * rounds:
        mark = (_busy_ticks(), _own_ticks(pids), time.time())
        times = {p.name: statistics.median(p.ask({"run": seconds})["times"]) for p in order.sample(players, len(players))}
        loads.append(_others(pids, mark))
        if loads[-1] < QUIET:
            for player in players:
                player.rounds.append(times[player.name])
    return loads


def row(name: str, threads: int, players: list[Contestant], loads: list[float]) -> dict:
    """The figures of one workload: none where fewer than half of the rounds asked for (TRIES times as many were run) were quiet."""
    quiet = sum(load < QUIET for load in loads)
    told = {"workload": name, "threads": threads, "rounds": quiet, "rounds_thrown_away": len(loads) - quiet, "contestants": {}}
    if not quiet or quiet < len(loads) / (2 * TRIES):
        return told | {"too_loaded": statistics.median(loads)}
    ours = next((p.rounds for p in players if p.name == "dslc"), None)
    return told | {"contestants": {p.name: _figures(p, ours) for p in players}}


def _figures(player: Contestant, ours: list[float] | None) -> dict:
    ratios = [theirs / mine for theirs, mine in zip(player.rounds, ours, strict=True)] if ours else []
    return {
        "median_ms": statistics.median(player.rounds) * 1e3,
        "lowest_ms": min(player.rounds) * 1e3,
        "highest_ms": max(player.rounds) * 1e3,
        "against_dslc": statistics.median(ratios) if ratios else None,
        "against_dslc_spread": [min(ratios), max(ratios)] if ratios else None,
        "first_call_s": player.first,
        "peak_mb": player.peak / 2**20,
    }


def table(row: dict) -> str:
    """The row as text: contestants from the fastest, then who has no figure and why."""
    lines = [f"{row['workload']} ({row['threads']} threads, {row['rounds']} rounds, {row['rounds_thrown_away']} thrown away)"]
    if "too_loaded" in row:
        lines.append(f"  not measured: others used {row['too_loaded']:.0%} of the machine (median of the rounds), at most {QUIET:.0%} is allowed")
    for name, r in sorted(row["contestants"].items(), key=lambda item: item[1]["median_ms"]):
        ratio = "{:.2f} [{:.2f} .. {:.2f}]".format(r["against_dslc"], *r["against_dslc_spread"]) if r["against_dslc"] else "-"
        spread = f"[{r['lowest_ms']:.2f} .. {r['highest_ms']:.2f}]"
        times = f"{r['median_ms']:9.3f} ms {spread:24} {ratio:>22} of dslc's time"
        lines.append(f"  {name:14} {times}   first {r['first_call_s']:6.2f} s   {r['peak_mb']:7.0f} MB")
    lines += [f"  {name:14} differs by {'a non-number' if worst is None else f'{worst:.1e}'}: not timed" for name, worst in row["differs"].items()]
    lines += [f"  {name:14} left out: {why}" for name, why in row["left_out"].items()]
    return "\n".join(lines)


def all_workloads() -> list[str]:
    return list(WORKLOADS)
