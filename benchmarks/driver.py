"""Runs contestants side by side: prepares each, compares results, then times them in shuffled rounds, throwing away rounds with outside load."""

from __future__ import annotations

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
TRIES = 4


@dataclass
class Contestant:
    """A process and what was measured in it. Times are medians of rounds, in seconds."""

    name: str
    process: subprocess.Popen
    first: float = 0.0
    peak: int = 0
    result: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    loaded_rounds: int = 0

    def ask(self, request: dict) -> dict:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"skip": "the process died"}


def start(name: str, threads: int) -> Contestant:
    env = {**os.environ, **{k: str(threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DSLC_THREADS")}}
    command = [sys.executable, "-m", "benchmarks.contestant", name, str(threads)]
    return Contestant(name, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env))


def _busy_ticks() -> int:
    fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:8]
    user, nice, system, _, _, irq, soft = map(int, fields)
    return user + nice + system + irq + soft


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

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/weights.npz"
        np.savez(file, **weights(shapes(workload)))
        players = []
        for name in names:
            player = start(name, threads)
            reply = player.ask({"prepare": workload.name, "weights": file})
            if "skip" in reply:
                print(f"  {name}: left out ({reply['skip']})", file=sys.stderr)
                player.process.kill()
                continue
            player.first, player.peak, player.result = reply["first"], reply["peak"], reply["result"]
            players.append(player)
    try:
        _compare(workload, players)
        _time(players, rounds, seconds)
        return _row(workload, players, threads)
    finally:
        for player in players:
            player.process.kill()


def _compare(workload: Workload, players: list[Contestant]) -> None:
    first = np.array(players[0].result)
    for player in players[1:]:
        worst = np.abs(np.array(player.result) - first).max() / max(np.abs(first).max(), 1e-9)
        if not worst <= workload.tolerance:
            raise SystemExit(f"{workload.name}: {player.name} differs from {players[0].name} by {worst:.2e} (allowed {workload.tolerance:.0e})")


def _time(players: list[Contestant], rounds: int, seconds: float) -> None:
    pids = [os.getpid(), *(p.process.pid for p in players)]
    order = random.Random(0)
    for _ in range(rounds):
        for player in order.sample(players, len(players)):
            for attempt in range(TRIES):
                mark = (_busy_ticks(), _own_ticks(pids), time.time())
                times = player.ask({"run": seconds})["times"]
                if _others(pids, mark) < QUIET or attempt == TRIES - 1:
                    player.rounds.append(statistics.median(times))
                    break
                player.loaded_rounds += 1


def _row(workload: Workload, players: list[Contestant], threads: int) -> dict:
    ours = next((statistics.median(p.rounds) for p in players if p.name == "dslc"), None)
    return {
        "workload": workload.name,
        "threads": threads,
        "contestants": {
            p.name: {
                "median_ms": statistics.median(p.rounds) * 1e3,
                "lowest_ms": min(p.rounds) * 1e3,
                "highest_ms": max(p.rounds) * 1e3,
                "against_dslc": statistics.median(p.rounds) / ours if ours else None,
                "first_call_s": p.first,
                "peak_mb": p.peak / 2**20,
                "rounds_thrown_away": p.loaded_rounds,
            }
            for p in players
        },
    }


def table(row: dict) -> str:
    lines = [f"{row['workload']} ({row['threads']} threads)"]
    for name, r in sorted(row["contestants"].items(), key=lambda item: item[1]["median_ms"]):
        ratio = f"{r['against_dslc']:.2f}" if r["against_dslc"] else "-"
        spread = f"[{r['lowest_ms']:.2f} .. {r['highest_ms']:.2f}]"
        lines.append(
            f"  {name:14} {r['median_ms']:9.3f} ms {spread:24} {ratio:>6} of dslc's time   first {r['first_call_s']:6.2f} s   {r['peak_mb']:7.0f} MB"
        )
    return "\n".join(lines)


def all_workloads() -> list[str]:
    return list(WORKLOADS)
