"""A group of GPU benchmarks in child processes: who crashes or hangs is told in its row and left out there, and all others are measured.

A child writes a line of JSON for each contestant that it turns to and for each row that it has. Where it ends without all of its rows, or writes
nothing for a while, the contestant of its last line is to blame: that row is measured again without it, by another child, and then those behind it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STALLED = 200.0  # seconds that a contestant may take to compile, to give its first result, or to run once
GROUP_SECONDS = 450.0
NO_TIME = "no time was left"
DEAD = 3  # exit status of a child whose device no call succeeds on any more

Row = dict[str, Any]
Command = Callable[[Sequence[str], Sequence[str], Path], list[str]]
"""The command of a child, from names of rows, peers, and the file that it writes its lines to."""

_lines: Path | None = None


def tell_to(file: Path) -> None:
    """This process is a child: `tell` appends to a file from now on, and it does not outlive its parent."""
    global _lines
    _lines = file
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(DEAD)

    threading.Thread(target=watch, daemon=True).start()


def tell(**said: Any) -> None:
    """A line for the parent: `contestant`, whose turn it is, or `row`; nothing where this process is no child."""
    if _lines is not None:
        with _lines.open("a") as file:
            file.write(json.dumps(said) + "\n")


def measure_all(
    names: Sequence[str],
    peers: Sequence[str],
    command: Command,
    done: Callable[[list[Row]], None],
    seconds: float = GROUP_SECONDS,
    stalled: float = STALLED,
) -> list[Row]:
    """The rows of a group, in order. `done` is given all so far with each that comes."""
    end = time.monotonic() + seconds
    rows: list[Row] = []
    jobs = [(list(names), list(peers))]
    failed: dict[str, str] = {}  # who was left out of the row in work

    def heard(row: Row) -> None:
        rows.append({**row, "failed": {**row.get("failed", {}), **failed}} if failed else row)
        failed.clear()
        done(rows)

    while jobs:
        asked, against = jobs.pop(0)
        before = len(rows)
        at, why = _child(command, asked, against, end, stalled, heard) if time.monotonic() < end else (None, NO_TIME)
        found = len(rows) - before
        rest = asked[found:]
        if rest and found and at is None:  # it ended between rows
            jobs.insert(0, (rest, list(peers)))
        elif rest:
            blamed = next((name for name in ("dslc", *against) if at is not None and (at == name or at.startswith(f"{name}_"))), at or "all")
            failed[blamed] = why
            if rest[1:]:
                jobs.insert(0, (rest[1:], list(peers)))
            if blamed in against:
                jobs.insert(0, (rest[:1], [p for p in against if p != blamed]))
            else:
                heard({"workload": rest[0]})
    return rows


def _child(
    command: Command, names: Sequence[str], peers: Sequence[str], end: float, stalled: float, heard: Callable[[Row], None]
) -> tuple[str | None, str]:
    """(at which contestant a child ended, why); `heard` is given each of its rows as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "lines"
        lines.touch()
        process = subprocess.Popen(command(names, peers, lines), start_new_session=True)
        said: list[dict[str, Any]] = []

        def read() -> bool:
            """Whether it has said more."""
            found = [json.loads(line) for line in lines.read_text().split("\n")[:-1]]
            new = found[len(said) :]
            said.extend(new)
            for line in new:
                if "row" in line:
                    heard(line["row"])
            return bool(new)

        since, why = time.monotonic(), ""
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if read():
                    since = time.monotonic()
                if time.monotonic() > min(since + stalled, end):
                    why = f"nothing for {stalled:.0f} s" if time.monotonic() < end else NO_TIME
                    break
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        read()
    told = next((line["died"] for line in reversed(said) if "died" in line), "")
    at = said[-1].get("contestant") if said else None
    return at, told or why or _ending(process.returncode)


def _ending(status: int) -> str:
    if status >= 0:
        return f"the process ended with status {status}"
    try:
        return f"the process ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"the process ended by signal {-status}"
