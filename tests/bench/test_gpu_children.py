"""Children of the GPU benchmarks that crash, hang or end: who is to blame is told in the row, and all else is measured. The child is a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_contest
from benchmarks.gpu_children import measure_all

# Rows "a", "b", "c" by dslc and peers; what happens where, by argument: {"b torch": "crash"}.
CHILD = """
import json, os, signal, sys, time
names, peers, file, planted = sys.argv[1].split(","), [p for p in sys.argv[2].split(",") if p], sys.argv[3], json.loads(sys.argv[4])
def tell(**said):
    with open(file, "a") as out:
        out.write(json.dumps(said) + "\\n")
for name in names:
    for who in ["dslc", *peers]:
        tell(contestant=who)
        happens = planted.get(f"{name} {who}")
        if happens == "crash": os.kill(os.getpid(), signal.SIGSEGV)
        if happens == "hang": time.sleep(60)
        if happens == "dead": tell(contestant=who, died="RuntimeError: an illegal access"); sys.exit(3)
        if happens == "timed":
            tell(contestant=who + "_forward")
            os.kill(os.getpid(), signal.SIGSEGV)
    tell(row={"workload": name, "timed": ["dslc", *peers]})
    if planted.get(name) == "leave": sys.exit(3)
"""


def outcome(planted: dict[str, str], tmp_path: Path, **limits: float) -> dict[str, tuple[list[str], dict[str, str]]]:
    """By row: who was timed, who failed."""
    script, seen = tmp_path / "child.py", []
    script.write_text(CHILD)

    def command(names, peers, lines):
        return [sys.executable, str(script), ",".join(names), ",".join(peers), str(lines), json.dumps(planted)]

    rows = measure_all(["a", "b", "c"], ["torch", "torch.compile", "jax"], command, lambda so_far: seen.append(list(so_far)), **limits)
    assert seen[-1] == rows and [row["workload"] for row in rows] == ["a", "b", "c"]
    return {row["workload"]: (row.get("timed", []), row.get("failed", {})) for row in rows}


ALL = ["dslc", "torch", "torch.compile", "jax"]


def test_nothing_happens(tmp_path):
    assert outcome({}, tmp_path) == {name: (ALL, {}) for name in "abc"}


@pytest.mark.parametrize(
    ("happens", "said"), [("crash", "by SIGSEGV"), ("timed", "by SIGSEGV"), ("dead", "an illegal access"), ("hang", "nothing for 1 s")]
)
def test_a_peer_is_left_out_of_the_row(happens, said, tmp_path):
    found = outcome({"b torch.compile": happens}, tmp_path, stalled=1.0)
    assert found["a"] == found["c"] == (ALL, {})
    timed, failed = found["b"]
    assert timed == ["dslc", "torch", "jax"] and list(failed) == ["torch.compile"] and said in failed["torch.compile"]


def test_two_peers_are_left_out(tmp_path):
    timed, failed = outcome({"b torch.compile": "crash", "b torch": "dead"}, tmp_path)["b"]
    assert timed == ["dslc", "jax"] and set(failed) == {"torch", "torch.compile"}


def test_where_dslc_crashes_the_row_has_no_figures(tmp_path):
    found = outcome({"a dslc": "crash", "c dslc": "crash"}, tmp_path)
    assert found["b"] == (ALL, {}) and found["a"] == found["c"] == ([], {"dslc": "the process ended by SIGSEGV"})


def test_each_row_is_given_as_it_comes(tmp_path):
    """So that a group that is ended from outside keeps what it has measured."""
    script, when = tmp_path / "child.py", []
    script.write_text(CHILD.replace('if planted.get(name) == "leave"', 'time.sleep(0.4)\n    if planted.get(name) == "leave"'))
    command = lambda names, peers, lines: [sys.executable, str(script), ",".join(names), "", str(lines), "{}"]  # noqa: E731
    measure_all(["a", "b"], [], command, lambda so_far: when.append((len(so_far), time.monotonic())))
    first = {count: next(t for n, t in when if n == count) for count in (1, 2)}
    assert first[2] - first[1] > 0.2


def test_a_child_that_leaves_after_a_row_has_a_successor(tmp_path):
    assert outcome({"a": "leave", "b": "leave"}, tmp_path) == {name: (ALL, {}) for name in "abc"}


def test_rows_behind_the_time_are_told(tmp_path):
    found = outcome({"b torch": "hang"}, tmp_path, seconds=2.0)
    assert found["a"] == (ALL, {}) and found["b"][1].keys() == {"torch", "all"} and found["c"] == ([], {"all": "no time was left"})


def test_a_dead_device_ends_the_child(monkeypatch, tmp_path):
    """A peer's error after which nothing works on the device is no reason for the next peer to fail."""
    monkeypatch.setattr(gpu_contest.Place, "dead", lambda self: True)
    monkeypatch.setattr(sys.modules["benchmarks.gpu_children"], "_lines", None)
    lines = tmp_path / "lines"
    gpu_contest.tell_to(lines)

    def build(name):
        if name == "torch":
            raise RuntimeError("CUDA error: an illegal access")
        return gpu_contest.Entrant(lambda: [1.0], {"": lambda turns: 0.001})

    with pytest.raises(SystemExit) as ended:
        gpu_contest.measured({}, build, ["torch", "jax"], gpu_contest.Place("cpu", "cpu", backend="eager"), 0.1)
    assert ended.value.code == gpu_contest.DEAD
    assert json.loads(lines.read_text().splitlines()[-1]) == {"contestant": "torch", "died": "RuntimeError: CUDA error: an illegal access"}


def test_a_child_does_not_outlive_its_parent(tmp_path):
    """As where a group is ended from outside, or by Ctrl-C."""
    lines = str(tmp_path / "lines")
    child = f"import pathlib, time, benchmarks.gpu_children as c; c.tell_to(pathlib.Path({lines!r})); print('begun', flush=True); time.sleep(40)"
    begun = f"c = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); c.stdout.readline()"
    parent = f"import subprocess, sys; {begun}; print(c.pid, flush=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=30)
    pid = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("it lives on")
