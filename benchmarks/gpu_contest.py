"""What the groups of GPU benchmarks share: where contestants run, torch's modes, and rounds in which all take turns.

A group's file says how dslc and its peers do a piece of work; their results are compared here, before anything is timed. A peer that cannot be
compiled or run is told in the row and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dslc.core.errors import TargetError
from dslc.runtime.drivers.choice import gpu_driver

from .gpu_children import DEAD, measure_all, tell, tell_to

# name: torch.compile's mode, None for eager torch; "max-autotune" measures kernels as it compiles and runs them as CUDA graphs
TORCH = {"torch": None, "torch.compile": "default", "torch.max-autotune": "max-autotune"}
PEERS = (*TORCH, "jax")
ROUNDS, ROUND_SECONDS = 7, 0.2

Timer = Callable[[int], float]
"""Seconds of a call, from so many behind each other."""


@dataclass(frozen=True)
class Entrant:
    """One way to do the work. `result` gives what is compared: an array, or a tuple of them; `timers`: what is timed, by its name, "" where there is
    nothing to tell apart."""

    result: Callable[[], Any]
    timers: Mapping[str, Timer]


@dataclass(frozen=True)
class Place:
    """dslc's target, torch's device and what torch.compile compiles with; jax must have a device of the same kind."""

    target: str = "cuda"
    device: str = "cuda"
    backend: str = "inductor"

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    def missing(self) -> str | None:
        """What there is not to run benchmarks here, or None."""
        try:
            gpu_driver()
        except TargetError as error:
            return error.message
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed, and results are compared with it"
        import torch

        return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.gpu:
            import torch

            torch.cuda.synchronize()

    def dead(self) -> bool:
        """Whether no call succeeds on the device any more in this process, as after a kernel's wrong access."""
        try:
            self.wait()
        except Exception:
            return True
        return False

    def wall(self, run: Callable[[], Any]) -> Timer:
        """Of the wall, until the device has done everything."""

        def seconds(turns: int) -> float:
            self.wait()
            start = time.perf_counter()
            for _ in range(turns):
                run()
            self.wait()
            return (time.perf_counter() - start) / turns

        return seconds

    def events(self, run: Callable[[], Any]) -> Timer:
        """Of the device, between events in torch's stream, behind a call that is not counted; where there is no GPU, of the wall."""
        if not self.gpu:
            return self.wall(run)
        import torch

        def seconds(turns: int) -> float:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            run()
            first.record()
            for _ in range(turns):
                run()
            last.record()
            last.synchronize()
            return first.elapsed_time(last) / turns / 1e3

        return seconds

    def compiled(self, run: Callable[..., Any], peer: str, modes: Mapping[str, str | None] = TORCH) -> Callable[..., Any]:
        """A function as one of torch's modes has it."""
        import torch

        mode = modes[peer]
        options = {"mode": mode} if mode and self.backend == "inductor" else {}
        return torch.compile(run, backend=self.backend, dynamic=False, **options) if mode else run

    def jax(self) -> Any:
        """jax, which multiplies float32 in float32 and takes memory as it needs it. RuntimeError where it has no device of this kind."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        if (jax.default_backend() == "gpu") != self.gpu:
            raise RuntimeError(f"jax runs on {jax.default_backend()} here")
        return jax

    def words(self) -> dict[str, str]:
        import torch

        return {"device": torch.cuda.get_device_name() if self.gpu else "cpu", "torch": torch.__version__}


def launched(program: Any) -> Timer:
    """The sum of a program's launches, each measured on its own."""
    return lambda turns: sum(program.times(turns))


def jax_calls(jax: Any, run: Callable[..., Any], *given: Any) -> tuple[Callable[[], Any], Timer]:
    """(a call of the jitted `run`, its times: calls behind each other are queued as torch's are, and the last one is waited for)"""
    jitted = jax.jit(run)

    def seconds(turns: int) -> float:
        jax.block_until_ready(jitted(*given))
        start = time.perf_counter()
        jax.block_until_ready([jitted(*given) for _ in range(turns)][-1])
        return (time.perf_counter() - start) / turns

    return lambda: jitted(*given), seconds


def present(peers: Iterable[str]) -> list[str]:
    """Those that are installed."""
    return [p for p in peers if p in TORCH or importlib.util.find_spec(p)]


def array(x: Any) -> np.ndarray:
    """A tensor's values, those of 16 bits as float32."""
    return x.detach().float().cpu().numpy() if x.is_floating_point() else x.cpu().numpy()


def difference(found: Any, expected: Any) -> float:
    """|found - expected| / |expected|, of several results the greatest; infinite where shapes differ or something is no number."""
    if isinstance(found, tuple):
        return max(difference(a, b) for a, b in zip(found, expected, strict=True))
    import torch

    a, b = (x.detach().double() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, np.float64)) for x in (found, expected))
    if a.shape != b.shape:
        return float("inf")
    error = float((a.to(b.device) - b).norm() / max(float(b.norm()), 1e-30))
    return error if np.isfinite(error) else float("inf")


def said(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def contest(timers: Mapping[str, Timer], rounds: int = ROUNDS, seconds: float = ROUND_SECONDS) -> dict[str, Any]:
    """Milliseconds of a call of each, `NAME_ms` the median of rounds and `NAME_spread` the least and the most: all take turns in each round, and run
    behind each other for so long. The first two rounds are not counted: compilers that record graphs do it at a second call. Whoever fails is left
    out, and `failed` has the words."""
    turns = dict.fromkeys(timers, 2)
    found: dict[str, list[float]] = {name: [] for name in timers}
    failed: dict[str, str] = {}
    for turn in range(2 + rounds):
        for name, timer in timers.items():
            if name in failed:
                continue
            tell(contestant=name)
            try:
                took = timer(turns[name])
            except Exception as error:
                failed[name] = said(error)
                continue
            if turn >= 2:
                found[name].append(took * 1e3)
            elif turn == 1:
                turns[name] = max(1, int(seconds / max(took, 1e-7)))
    row: dict[str, Any] = {"failed": failed} if failed else {}
    for name in [name for name in timers if name not in failed]:
        row |= {f"{name}_ms": statistics.median(found[name]), f"{name}_spread": [min(found[name]), max(found[name])]}
    return row


def measured(
    row: Mapping[str, Any],
    build: Callable[[str], Entrant],
    peers: Iterable[str],
    place: Place,
    tolerance: float,
    rounds: int = ROUNDS,
    seconds: float = ROUND_SECONDS,
) -> dict[str, Any]:
    """The row of a piece of work, which `build(NAME)` has dslc and its peers do.

    `first_s`: seconds until a first result, `errors`: how far dslc's is from each peer's, `different`: those of more than `tolerance`, `failed`:
    peers that raised, with what they said, `peak_bytes`: what torch's allocator held at most beyond what it held before; then the times of dslc and
    of all peers that agree. Where peers gave results and none agrees nothing is timed. What dslc raises is raised.
    """
    timers: dict[str, Timer] = {}
    first, errors, failed, peaks = {}, {}, {}, {}
    ours: Any = None
    for name in ("dslc", *peers):
        tell(contestant=name)
        start, before = time.perf_counter(), _memory(place)
        try:
            entrant = build(name)
            result = entrant.result()
            place.wait()
            first[name] = time.perf_counter() - start
            if name != "dslc":
                errors[name] = difference(ours, result)
        except Exception as error:
            if name == "dslc":
                raise
            failed[name] = said(error)
            if place.dead():
                tell(contestant=name, died=failed[name])
                raise SystemExit(DEAD) from None
            continue
        if name == "dslc":
            ours = result
        elif name in TORCH and place.gpu:
            peaks[name] = _memory(place, most=True) - before
        if name == "dslc" or errors[name] <= tolerance:
            timers |= {f"{name}_{part}" if part else name: timer for part, timer in entrant.timers.items()}
    different = {name: error for name, error in errors.items() if not error <= tolerance}
    told = {"errors": errors, "different": different, "failed": failed, "peak_bytes": peaks}
    out = {**row, "first_s": first} | {k: v for k, v in told.items() if v}
    if different and len(different) == len(errors):
        return out
    times = contest(timers, rounds, seconds)
    return out | times | ({"failed": failed | times.get("failed", {})} if failed else {})


def _memory(place: Place, most: bool = False) -> int:
    """Bytes that torch's allocator has given away, now or at most since the last question."""
    if not place.gpu:
        return 0
    import torch

    if most:
        return torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def copy_bandwidth(place: Place) -> float:
    """Bytes read and written a second by torch's copy."""
    import torch

    source = torch.empty(1 << 29, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    timer = place.events(lambda: target.copy_(source))
    return 2 * source.numel() / statistics.median(timer(20) for _ in range(5))


def of_copy(row: Mapping[str, Any], moved: float, place: Place) -> dict[str, float]:
    """On a GPU: the share of the copy bandwidth at which so many bytes go in dslc's time."""
    if not place.gpu or "dslc_ms" not in row:
        return {}
    tell(contestant="copy")
    copied = copy_bandwidth(place)
    return {"copy_bytes_s": copied, "of_copy": moved / (row["dslc_ms"] * 1e-3) / copied}


def launches(program: Any) -> dict[str, Any]:
    """Milliseconds of each of dslc's launches on its own: the sum, by kind and the slowest; nothing of the CPU's programs, which have none."""
    executable = program.executable
    if executable.target == "cpu":
        return {}
    tell(contestant="dslc")
    single = [s * 1e3 for s in program.times(3)]
    kinds: dict[str, float] = defaultdict(float)
    symbols: dict[str, list[float]] = defaultdict(list)
    for ms, launch in zip(single, executable.launches, strict=True):
        kernel = executable.kernels[launch.kernel]
        kinds[kernel.kind] += ms
        symbols[kernel.symbol].append(ms)
    slowest = sorted(symbols.items(), key=lambda item: -sum(item[1]))[:40]
    return {"launches": len(single), "launches_ms": sum(single), "by_kind_ms": dict(kinds), "arena_bytes": executable.arena_bytes,
            "slowest": [{"kernel": k, "runs": len(v), "ms": sum(v)} for k, v in slowest]}  # fmt: skip


def main(
    about: str,
    program: str,
    known: Mapping[str, Any],
    measure: Callable[..., dict[str, Any]],
    peers: Iterable[str] = PEERS,
    place: Place | None = None,
) -> int:
    """The command of a group: its exit status, 2 where there is no GPU and 1 where dslc failed. Rows are printed as they come, and all so far are
    written, so that what is cut off keeps what was measured. On a GPU the work is done by child processes (`gpu_children`)."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}", description=about)
    parser.add_argument("--only", default=",".join(known), help="of " + ", ".join(known))
    parser.add_argument("--against", default=",".join(p for p in peers if p != "torch.max-autotune"), help="of " + ", ".join(peers))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)  # of a child
    options = parser.parse_args()
    if unknown := [name for name in options.only.split(",") if name not in known]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    asked = [p for p in options.against.split(",") if p]
    if unknown := [p for p in asked if p not in peers]:
        parser.error(f"no peer {', '.join(unknown)}; there are {', '.join(peers)}")
    place = place or Place()
    if lacking := place.missing():
        print(f"{parser.prog} needs a GPU: {lacking}", file=sys.stderr)
        return 2
    names = options.only.split(",")
    if options.lines is not None:
        tell_to(options.lines)
        return _rows_of(names, known, measure, present(asked), place, lambda row: tell(row=row))
    out: dict[str, Any] = {**place.words(), "not_installed": [p for p in asked if p not in present(asked)], "rows": []}

    def write(rows: list[dict[str, Any]]) -> None:
        out["rows"] = rows
        if options.json:
            options.json.write_text(json.dumps(out, indent=1) + "\n")

    if not place.gpu:
        rows: list[dict[str, Any]] = []
        return _rows_of(names, known, measure, present(asked), place, lambda row: (rows.append(row), write(rows)))

    def command(names: Sequence[str], peers: Sequence[str], lines: Path) -> list[str]:
        words = ["--only", ",".join(names), "--against", ",".join(peers), "--lines", str(lines)]
        return [sys.executable, "-m", f"benchmarks.{program}", *words]

    rows = measure_all(names, present(asked), command, write)
    for row in rows:
        if "failed" in row:
            print(f"{row['workload']}: failed: {row['failed']}", flush=True)
    return int(any(name in row.get("failed", {}) for row in rows for name in ("dslc", "all")))


def _rows_of(
    names: Sequence[str],
    known: Mapping[str, Any],
    measure: Callable[..., dict[str, Any]],
    peers: list[str],
    place: Place,
    done: Callable[[dict[str, Any]], Any],
) -> int:
    """Measures in this process; `done` is given each row. 1 where dslc failed."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is float32 for everyone
    failed = 0
    for name in names:
        try:
            row = measure(known[name], place, peers)
        except Exception as error:
            traceback.print_exc()
            row, failed = {"workload": name, "failed": {"dslc": said(error)}}, 1
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "slowest"), flush=True)
        print(*(f"    {k}" for k in row.get("slowest", [])), sep="\n", end="\n" if "slowest" in row else "", flush=True)
        done(row)
        if failed and place.dead():
            return DEAD
    return failed
