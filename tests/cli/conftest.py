"""A model with a table of data in a folder of its own, and the command line called in this process."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dslc.cli import main
from dslc.commands.train import train

MODEL = """
model Small:
    dims batch=8
    let width=12, classes=3
    input x[batch, 4], label[batch]: int32

    h = dropout(tanh(linear(x, width)), 0.2)
    logits = linear(h, classes)

    output logits
    loss cross_entropy(logits, label)
    metric accuracy[b] = argmax[k](logits[b, k]) == label[b]

train:
    data table("data.csv", x=[0, 4], label=4, split=0.2)
    steps 30
    optimizer adam(lr=0.01)
    seed 3
"""


def table(rows: int = 60) -> str:
    """A csv of four features and a class that follows from them."""
    x = np.random.default_rng(0).normal(size=(rows, 4)).round(3)
    lines = [",".join(map(str, [*row, int(row.argmax() % 3)])) for row in x.tolist() for row in [np.array(row)]]
    return "a,b,c,d,label\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and both outputs."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict]:
        """Standard output as JSON objects; fails where a line is none."""
        found = [json.loads(line, parse_constant=_no_constant) for line in self.out.splitlines()]
        assert all(isinstance(e, dict) and isinstance(e["event"], str) for e in found)
        return found


def _no_constant(name: str):
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def cli(capsys, tmp_path, monkeypatch):
    """`cli("train", ...)` in an empty folder. Never a traceback, and nothing that is called a bug."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DSLC_TRACEBACK", raising=False)

    def call(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err and "internal error" not in captured.err, captured.err
        return Outcome(ended.value.code, captured.out, captured.err)

    return call


def written(folder: Path) -> Path:
    """The model file in a new folder, its data beside it."""
    folder.mkdir()
    (folder / "data.csv").write_text(table())
    (folder / "small.dsl").write_text(MODEL)
    return folder / "small.dsl"


@pytest.fixture
def small(tmp_path) -> Path:
    """The model file."""
    return written(tmp_path / "model")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run of the model. No test changes it."""
    folder = tmp_path_factory.mktemp("finished")
    train(written(folder / "model"), run=folder / "run")
    return folder / "run"


@pytest.fixture
def trained(finished, tmp_path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def losses(folder: Path) -> list[tuple[int, float]]:
    """The loss of every step, from the log."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]
