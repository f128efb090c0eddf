"""Run folders: usable anywhere, resumed to the bit, and clear about damage."""

import errno
import json
import os
import shutil

import numpy as np
import pytest

from dslc.core.dtypes import BY_NAME
from dslc.runtime import checkpoint, tensorfile
from dslc.runtime.store import Entry, ParameterStore

from .conftest import MODEL, losses


def tensors(folder, name="checkpoint.safetensors"):
    stored = checkpoint.load(folder / name)
    return {k: v.tobytes() for group in (stored.params, stored.states) for k, v in group.items()}


def test_resuming_keeps_the_data_folder(cli, small, tmp_path):
    cli("train", small, "--run", "run", "--steps", 5)
    before = json.loads((tmp_path / "run" / "run.json").read_text())
    for steps in (6, 7):  # the second one reads what the first one wrote
        outcome = cli("train", "run", "--resume", "--set", f"steps={steps}")
        assert outcome.status == 0, outcome.err
    after = json.loads((tmp_path / "run" / "run.json").read_text())
    assert after["folder"] == before["folder"] == str(small.parent) and after["overrides"] == {"steps": "7"} and after["steps"] == 7
    assert cli("eval", "run").status == 0


def test_a_longer_run_is_the_same_run(cli, small, tmp_path):
    cli("train", small, "--run", "whole", "--steps", 20)
    cli("train", small, "--run", "part", "--steps", 9)
    cli("train", "part", "--resume", "--set", "steps=20")
    assert losses(tmp_path / "part") == losses(tmp_path / "whole") and len(losses(tmp_path / "part")) == 20
    assert tensors(tmp_path / "part") == tensors(tmp_path / "whole")


def test_the_folder_moves(cli, trained, small, tmp_path):
    expected = cli("eval", trained, "--json").events
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    trained.rename(moved)
    small.unlink()  # the run has its own copy
    assert cli("eval", moved, "--json").events == expected


def test_imports_go_with_the_run(cli, tmp_path):
    (tmp_path / "a" / "models").mkdir(parents=True)
    (tmp_path / "a" / "parts").mkdir()
    (tmp_path / "a" / "parts" / "head.dsl").write_text("layer head(x[..., i], n):\n    y = linear(x, n)\n    return y\n")
    (tmp_path / "a" / "models" / "data.csv").write_text("a,b,c,d,label\n" + "1,2,3,4,0\n2,1,0,1,1\n" * 20)
    text = 'from "../parts/head.dsl" import head\n' + MODEL.replace("logits = linear(h, classes)", "logits = head(h, classes)")
    (tmp_path / "a" / "models" / "m.dsl").write_text(text)
    outcome = cli("train", "a/models/m.dsl", "--run", "run", "--steps", 3)
    assert outcome.status == 0, outcome.err
    shutil.rmtree(tmp_path / "a" / "parts")
    assert cli("eval", "run").status == 0
    assert cli("train", "run", "--resume", "--set", "steps=4").status == 0
    assert cli("inspect", "run").status == 0


def test_a_run_is_not_trained_over(cli, trained, small):
    before = (trained / "checkpoint.safetensors").read_bytes()
    outcome = cli("train", small, "--run", trained)
    assert outcome.status == 2 and f"dslc train {trained} --resume" in outcome.err
    outcome = cli("train", trained)
    assert outcome.status == 2 and f"dslc train {trained} --resume" in outcome.err
    assert (trained / "checkpoint.safetensors").read_bytes() == before


def test_no_run_to_resume(cli, small):
    outcome = cli("train", small, "--resume")
    assert outcome.status == 2 and "there is no run to resume in runs/small" in outcome.err


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", b"", "run.json is damaged"),
        ("run.json", b"{", "run.json is damaged"),
        ("run.json", b"[1, 2]", "run.json is damaged"),
        ("run.json", bytes(range(256)), "run.json is damaged"),
        ("run.json", b'{"spec": 3, "overrides": {}, "target": "cpu"}', "run.json is damaged"),
        ("run.json", b'{"spec": "small.dsl", "overrides": 3}', "run.json is damaged"),
        ("run.json", b'{"spec": "gone.dsl", "overrides": {}}', "there is no file"),
        ("run.json", None, "without a run"),
        ("checkpoint.safetensors", None, "has no checkpoint.safetensors"),
        ("checkpoint.safetensors", b"", "not a safetensors file"),
        ("checkpoint.safetensors", bytes(range(256)) * 9, "not a safetensors file"),
        ("checkpoint.safetensors", "cut", "checkpoint.safetensors"),
        ("checkpoint.safetensors", "foreign", "no checkpoint of dslc"),
        ("source/small.dsl", b"model M:\n    what\n", "small.dsl:2:"),
    ],
)
def test_damage(cli, trained, file, content, message):
    path = trained / file
    if content is None:
        path.unlink()
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif content == "foreign":
        tensorfile.write_safetensors(path, {"w": np.zeros(3, np.float32)}, {})
    else:
        path.write_bytes(content)
    for words in (["eval", trained], ["train", trained, "--resume", "--steps", 40]):
        outcome = cli(*words)
        wanted = "no run to resume" if words[0] == "train" and message == "without a run" else message
        assert outcome.status == 2 and wanted in outcome.err, outcome.err


def test_a_damaged_log_does_not_matter(cli, trained):
    (trained / "log.jsonl").write_bytes(b'\xff\x00{"step": 3, "lo')
    assert cli("train", trained, "--resume", "--steps", 33).status == 0


def test_a_checkpoint_of_another_model(cli, small, trained, tmp_path):
    other = tmp_path / "other.dsl"
    other.write_text(MODEL.replace("linear(h, classes)", "linear(linear(h, 5), classes)").replace('"data.csv"', '"model/data.csv"'))
    outcome = cli("eval", other, "--weights", trained / "checkpoint.safetensors")
    assert outcome.status == 2 and "do not fit the model" in outcome.err
    for part in ("'linear_2.w' is float32[12, 3]", "'linear_3.w', float32[5, 3]", "'linear_3.b', float32[3]"):
        assert part in outcome.err, outcome.err
    (trained / "source" / "small.dsl").write_text(small.read_text().replace("width=12", "width=9"))
    for words in (["eval", trained], ["train", trained, "--resume", "--steps", 40]):
        outcome = cli(*words)
        assert outcome.status == 2 and "is the checkpoint of another model ('Small')" in outcome.err
        assert "param 'linear.w' is float32[4, 9], in the checkpoint float32[4, 12]" in outcome.err


def test_training_from_a_run(cli, small, trained):
    """`--weights` of a checkpoint, and `start` in the train block: without the optimizer's states, from step 0."""
    first = cli("train", small, "--run", "a", "--weights", trained / "checkpoint.safetensors", "--steps", 4)
    assert first.status == 0, first.err
    again = small.parent / "again.dsl"
    again.write_text(small.read_text() + f'    start "{trained}/checkpoint.safetensors"\n')
    assert cli("train", again, "--run", "b", "--steps", 4).status == 0
    fresh = cli("train", small, "--run", "c", "--steps", 4)
    runs = [losses(trained.parent / name) for name in "abc"]
    assert runs[0] == runs[1] != runs[2] and fresh.status == 0
    shutil.rmtree(trained)  # a run that is resumed does not start over
    assert cli("train", "b", "--resume", "--steps", 5).status == 0


def test_weights_by_rules(cli, small, trained, tmp_path):
    renamed = tmp_path / "renamed.dsl"
    text = MODEL.replace("logits = linear(h, classes)", "head = use linear(classes)\n    logits = head(h)")
    renamed.write_text(text.replace('"data.csv"', '"model/data.csv"'))
    (tmp_path / "rules.txt").write_text("linear_2.* -> head.*\n")
    expected = cli("eval", small, "--weights", trained / "checkpoint.safetensors", "--json").events
    outcome = cli("eval", renamed, "--weights", trained / "checkpoint.safetensors", "--map", "rules.txt", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.events == expected


def test_running_statistics_come_with_weights(tmp_path):
    """Of a checkpoint: its parameters or their average, and the states that the store has."""
    entries = [Entry("w", "param", BY_NAME["float32"], (2,), 1), Entry("bn.mean", "state", BY_NAME["float32"], (2,), 2)]
    full = ParameterStore([*entries, Entry("w.optimizer.m", "state", BY_NAME["float32"], (2,), 3)])
    full.assign({"w": np.ones(2, np.float32), "bn.mean": np.full(2, 5, np.float32), "w.optimizer.m": np.ones(2, np.float32)})
    average = {"w": np.full(2, 7, np.float32)}
    checkpoint.save(tmp_path / "c.safetensors", full, checkpoint.Progress(), model="M", signature="", average=average)
    store = ParameterStore(entries)
    store.load_weights(tmp_path / "c.safetensors")
    assert store["w"].tolist() == [7, 7] and store["bn.mean"].tolist() == [5, 5]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_full_disk(cli, small, tmp_path, monkeypatch, resumed):
    """The earlier checkpoint is intact, the run goes on from it when there is room again, to the same losses."""
    cli("train", small, "--run", "whole")
    if resumed:
        cli("train", small, "--run", "run", "--steps", 6)
    saves = 0

    def full(descriptor, piece):
        nonlocal saves
        saves += 1
        if saves > (3 if resumed else 60):  # in the middle of a file
            os.write(descriptor, piece[: len(piece) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(descriptor, piece)

    with monkeypatch.context() as patch:
        patch.setattr(tensorfile, "_write_all", full)
        outcome = cli("train", "run", "--resume", "--set", "steps=30") if resumed else cli("train", small, "--run", "run")
    assert outcome.status == 2 and "cannot be saved: No space left on device" in outcome.err and "is intact" in outcome.err
    run = tmp_path / "run"
    assert 0 <= checkpoint.load(run / "checkpoint.safetensors").progress.step < 30
    assert not [p for p in run.iterdir() if p.name.endswith(".part")]
    assert cli("train", "run", "--resume", "--set", "steps=30").status == 0
    assert losses(run) == losses(tmp_path / "whole") and tensors(run) == tensors(tmp_path / "whole")


def test_a_loss_that_is_not_finite(cli, small, tmp_path):
    outcome = cli("train", small, "--run", "run", "--set", "optimizer=sgd(lr=1e38)")
    assert outcome.status == 2 and "training error: the loss is" in outcome.err and "the last good state" in outcome.err
    assert cli("eval", "run").status == 0  # the last good checkpoint
