"""Runs in processes of their own: Ctrl-C, a kill, threads, memory. What a process prints paces it, so nothing here depends on time: it cannot
be further ahead of its reader than a pipe is long, and the runs are much longer than that."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dslc.commands.train import train
from dslc.compiler import compile_program
from dslc.core import measured
from dslc.model import Model
from dslc.runtime import checkpoint
from dslc.targets import TARGETS

from .conftest import losses, written

SUMS = """
model Sums:
    input a[60, 70], b[70, 80], c[300, 4000]
    y[i, j] = sum[k](a[i, k] * b[k, j])
    z[i] = sum[k](tanh(c[i, k]))
    output y, z
"""
STEPS = 3000  # a pipe holds about 500


def started(*words: object, **environment: str) -> subprocess.Popen:
    """The command line in a process; its outputs are pipes. Ctrl-C reaches it even where whoever started the tests ignores it."""
    command = [sys.executable, "-m", "dslc.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env={**os.environ, **environment}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def events(process: subprocess.Popen) -> Iterator[dict]:
    assert process.stdout is not None
    yield from map(json.loads, process.stdout)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    train(written(folder / "model"), run=folder / "run", overrides={"steps": STEPS})
    return folder / "run"


def same_run(a: Path, b: Path) -> None:
    """The same losses and the same last state, bit for bit."""
    assert losses(a) == losses(b) and len(losses(a)) == STEPS
    one, two = (checkpoint.load(folder / "checkpoint.safetensors") for folder in (a, b))
    for group in ("params", "states"):
        x, y = getattr(one, group), getattr(two, group)
        assert x.keys() == y.keys() and all(x[path].tobytes() == y[path].tobytes() for path in x)
    assert one.progress == two.progress


def ended_at(run: Path) -> int:
    return checkpoint.load(run / "checkpoint.safetensors").progress.step


def test_ctrl_c(cli, small, whole, tmp_path):
    run = tmp_path / "run"
    process = started("train", small, "--run", run, "--steps", STEPS, "--json")
    for event in events(process):
        if event["event"] == "stepped" and event["step"] == 40:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    saved = ended_at(run)
    assert last["event"] == "interrupted" and 40 <= last["step"] == last["saved_step"] == saved < STEPS
    assert err.endswith(f"interrupted: saved at step {saved} of {STEPS} in {run}; to go on: dslc train {run} --resume\n")
    outcome = cli("train", run, "--resume")  # as it says
    assert outcome.status == 0, outcome.err
    same_run(run, whole)


def test_kill(cli, small, whole, tmp_path):
    run = tmp_path / "run"
    process = started("train", small, "--run", run, "--steps", STEPS, "--json")
    for event in events(process):
        if event["event"] == "stepped" and event["step"] == STEPS // 10 + 50:  # past the first checkpoint
            process.kill()
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    saved = ended_at(run)
    assert saved and saved % (STEPS // 10) == 0 and saved < STEPS and len(losses(run)) > saved
    outcome = cli("train", run, "--resume", "--json")
    assert outcome.status == 0 and outcome.events[0]["step"] == saved
    same_run(run, whole)


def test_ctrl_c_outside_of_training(cli, monkeypatch):
    """There is nothing to save: a word, and the same exit status."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("dslc.commands.doctor.examine", interrupted)
    outcome = cli("doctor", "--json")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "interrupted\n")


def test_a_reader_that_goes_away(small, tmp_path):
    process = started("train", small, "--run", tmp_path / "run", "--steps", STEPS, "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in err and "internal error" not in err and "Exception ignored" not in err


def test_threads_do_not_change_bits(small, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    wide = ["--set", "width=200", "--steps", 20]
    processes = [started("train", small, "--run", run, *wide, DSLC_THREADS=str(n)) for n, run in enumerate(runs, 1)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    one, two = (checkpoint.load(run / "checkpoint.safetensors") for run in runs)
    assert losses(runs[0]) == losses(runs[1])
    assert all(one.params[path].tobytes() == two.params[path].tobytes() for path in one.params)


RESIDENT = """
import os, sys
from dslc.commands.train import train

page = os.sysconf("SC_PAGE_SIZE")
seen = []

def listener(event):
    if type(event).__name__ == "Stepped" and event.step >= 10:
        with open("/proc/self/statm") as file:
            seen.append(int(file.read().split()[1]) * page)

train(sys.argv[1], run=sys.argv[2], overrides={"steps": 1000}, listener=listener)
assert len(seen) == 991
print(seen[0], max(seen))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_stays_flat(small, tmp_path):
    """1,000 steps, validations and checkpoints among them, keep resident memory within 1 MB of what it is at the tenth step."""
    command = [sys.executable, "-c", RESIDENT, str(small), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, most = map(int, done.stdout.split())
    assert most - first <= 1 << 20, f"{(most - first) / 2**20:.2f} MB more"


@pytest.mark.parametrize("how, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["ctrl_c", "kill"])
def test_an_interrupted_tune_keeps_what_it_measured(tmp_path, monkeypatch, how, status):
    """The kernel in flight is lost, those before it are kept, and the next compile uses them."""
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "sums.dsl"
    file.write_text(SUMS)
    process = started("compile", file, "-o", tmp_path / "out", "--tune", "1h", "--json")
    first = next(events(process))
    process.send_signal(how)
    process.communicate()
    assert first["event"] == "tuned" and process.returncode == status and not (tmp_path / "out").exists()
    device = TARGETS["cpu"].device()
    kept = measured.read(device)
    assert first["tried"] in {entry.tried for entry in kept.values()} and first["schedule"] in {entry.schedule for entry in kept.values()}
    kernels = compile_program(Model(file), "run", "cpu").kernels
    assert {k.key: k.schedule for k in kernels if k.schedule} == measured.schedules(device)
