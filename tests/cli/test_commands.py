"""Every command on a small model: what it prints, what it writes, `--json`."""

import json
import sys

import numpy as np
import pytest

import dslc
from dslc.commands.train import train
from dslc.core.executable import from_bytes

from .conftest import losses


def test_train_writes_a_run_folder(cli, small, tmp_path):
    outcome = cli("train", small)
    assert (outcome.status, outcome.out) == (0, "") and "finished after 30 steps" in outcome.err
    folder = tmp_path / "runs" / "small"
    names = {p.name for p in folder.iterdir()}
    assert names == {"checkpoint.safetensors", "best.safetensors", "log.jsonl", "loss.png", "report.html", "run.json", "source"}
    assert [step for step, _ in losses(folder)] == list(range(1, 31))
    assert cli("train", small).err.rstrip().endswith("in runs/small-2")  # never into a run that is there


def test_train_tells_events(cli, small):
    outcome = cli("train", small, "--json", "--steps", 12)
    events = outcome.events
    assert outcome.status == 0 and [e["event"] for e in events[:3]] == ["started", "saved", "stepped"]
    assert events[0]["steps"] == 12 and events[0]["rows"] == 48 and events[0]["held_out_rows"] == 12
    assert [e["step"] for e in events if e["event"] == "stepped"] == list(range(1, 13))
    assert events[-1]["event"] == "finished" and events[-1]["step"] == 12


def test_numbers_that_are_not_finite_are_null(cli, trained):
    outcome = cli("train", trained, "--resume", "--json")  # nothing left to do, so there is no loss
    assert outcome.status == 0 and outcome.events[-1]["loss"] is None
    assert "nothing was left to do" in outcome.err


def test_set_changes_the_model(cli, small):
    first = cli("inspect", small, "--json").events[0]
    second = cli("inspect", small, "--json", "--set", "width=5", "--set", "classes=width - 1").events[0]
    assert (first["parameter_count"], second["parameter_count"]) == (4 * 12 + 12 + 12 * 3 + 3, 4 * 5 + 5 + 5 * 4 + 4)
    cli("train", small, "--run", "run", "--set", "width=5", "--steps", 3)
    assert cli("inspect", "run", "--json").events[0]["parameter_count"] == 4 * 5 + 5 + 5 * 3 + 3


def test_eval_of_a_run_a_file_and_weights(cli, small, trained):
    of_run = cli("eval", trained, "--json").events
    assert of_run[0].keys() == {"event", "rows", "loss", "accuracy"} and of_run[0]["rows"] == 12
    for weights in (trained / "checkpoint.safetensors", trained / "best.safetensors", trained):
        assert cli("eval", small, "--weights", weights, "--json").status == 0
    assert cli("eval", small, "--weights", trained / "checkpoint.safetensors", "--json").events == of_run
    best = cli("eval", trained, "--best", "--json").events
    for weights in (trained, trained / "best.safetensors"):
        assert cli("eval", small, "--weights", weights, "--json").events == best
    assert cli("eval", small, "--json").events != of_run
    outcome = cli("eval", trained)
    assert outcome.err == "" and outcome.out.endswith("(12 rows)\n")
    assert cli("eval", trained, "--best", "--weights", trained).status == 2


def test_targets_agree(cli, small, trained):
    cpu, reference = (cli("eval", trained, "--target", t, "--json").events[0] for t in ("cpu", "reference"))
    assert np.isclose(cpu["loss"], reference["loss"], rtol=1e-5) and cpu["accuracy"] == reference["accuracy"]
    cli("train", small, "--run", "slow", "--target", "reference", "--steps", 2)
    assert json.loads((small.parent.parent / "slow" / "run.json").read_text())["target"] == "reference"
    assert cli("train", "slow", "--resume", "--set", "steps=3").status == 0  # on its own target, not on the default
    assert json.loads((small.parent.parent / "slow" / "run.json").read_text())["target"] == "reference"


def test_run_gives_outputs(cli, trained, tmp_path):
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, label=np.zeros(8, np.int32))  # a label that the outputs do not need
    (event,) = cli("run", trained, "--input", "in.npz", "--json", "--output", "out.npz").events
    logits = np.load(tmp_path / "out.npz")["logits"]
    assert (event["name"], event["shape"], event["dtype"]) == ("logits", [8, 3], "float32")
    assert np.array_equal(np.array(event["values"], np.float32), logits)
    outcome = cli("run", trained, "--input", "in.npz")
    assert (outcome.status, outcome.out) == (0, "logits float32[8, 3]\n")
    np.savez(tmp_path / "two.npz", x=x[:2])
    cli("run", trained, "--input", "two.npz", "--set", "batch=2", "--output", "two_out.npz")
    assert np.allclose(np.load(tmp_path / "two_out.npz")["logits"], logits[:2], atol=1e-6)


def test_a_model_without_weights_is_noted(cli, small, trained, tmp_path):
    np.savez(tmp_path / "in.npz", x=np.zeros((8, 4), np.float32))
    for words in (["eval", small], ["run", small, "--input", "in.npz"], ["export", small, "-o", "small.onnx"]):
        assert "comes without weights, so its parameters are as they start" in cli(*words).err
        assert "without weights" not in cli(*words, "--weights", trained).err
    assert cli("eval", trained).err == ""


@pytest.mark.parametrize("spec", ["small", "trained"])
def test_inspect(cli, request, spec):
    spec = request.getfixturevalue(spec)
    outcome = cli("inspect", spec)
    assert outcome.err == "" and outcome.out.startswith("Small: 99 parameters\n") and "linear_2" in outcome.out
    (event,) = cli("inspect", spec, "--json", "--program", "step").events
    assert event["program"] == "step" and {p["path"] for p in event["parameters"]} == {"linear.w", "linear.b", "linear_2.w", "linear_2.b"}
    assert all(k["runs"] >= 1 and k["lines"] for k in event["kernels"])


def test_inspect_after_a_pass(cli, small):
    outcome = cli("inspect", small, "--after", "simplify")
    assert outcome.err == "" and "module {" in outcome.out and "small.dsl" in outcome.out and "nn.kernel" not in outcome.out
    assert "nn.kernel" in cli("inspect", small, "--after", "fuse").out
    (event,) = cli("inspect", small, "--after", "fuse", "--json").events
    assert event["event"] == "module" and "nn.kernel" in event["text"]
    wrong = cli("inspect", small, "--after", "fuze")
    assert wrong.status == 2 and "no pass 'fuze'; did you mean 'fuse'?" in wrong.err
    wrong = cli("inspect", small, "--program", "stepp")
    assert wrong.status == 2 and "no program 'stepp'; did you mean 'step'?" in wrong.err


def test_inspect_traces(cli, small, tmp_path):
    outcome = cli("inspect", small, "--trace", "passes", "--html", "pages/report.html", "--program", "step")
    assert (outcome.status, outcome.out) == (0, "")
    names = sorted(p.name for p in (tmp_path / "passes").iterdir())
    assert names[0] == "00_elaborate.mlir" and names[-2].endswith("_tile.mlir") and names[-1] == "index.html"
    assert "differentiate" in (tmp_path / "passes" / "index.html").read_text()
    assert "Kernels" in (tmp_path / "pages" / "report.html").read_text()
    assert [e["event"] for e in cli("inspect", small, "--trace", "passes", "--html", "r.html", "--json").events] == ["written", "written"]


@pytest.mark.parametrize("spec", ["small", "trained"])
def test_compile(cli, request, tmp_path, spec):
    outcome = cli("compile", request.getfixturevalue(spec), "-o", "out/step", "--program", "step")
    assert (outcome.status, outcome.out) == (0, "")
    out = tmp_path / "out" / "step"
    executable = from_bytes((out / "program.dslx").read_bytes())
    plan = json.loads((out / "plan.json").read_text())
    assert len(plan["launches"]) == len(executable.launches) and plan["arena_bytes"] == executable.arena_bytes
    assert {p.name for p in executable.ports} == {p["name"] for p in plan["ports"]}
    assert executable.program == "step" and "<td>step on cpu</td>" in (out / "report.html").read_text()
    (event,) = cli("compile", request.getfixturevalue(spec), "--out", "again", "--json").events
    weights = ["weights.safetensors"] if spec == "trained" else []
    assert [name.rsplit("/")[-1] for name in event["files"]] == ["program.dslx", "plan.json", "report.html", *weights]


@pytest.mark.parametrize("source", ["run", "graph"])
def test_what_has_weights_compiles_to_a_package(cli, trained, tmp_path, source):
    """Of a run its own, of an ONNX file its initializers."""
    if source == "graph":
        assert cli("export", trained, "-o", "net.onnx").status == 0
    assert cli("compile", trained if source == "run" else "net.onnx", "-o", "pack").status == 0
    packaged = dslc.runtime.load(tmp_path / "pack")
    (port,) = packaged.executable.ports_of("input")
    x = np.random.default_rng(0).standard_normal(port.shape).astype(np.float32)
    np.savez(tmp_path / "in.npz", **{port.name: x})
    assert cli("run", trained, "--input", "in.npz", "--output", "out.npz").status == 0
    with np.load(tmp_path / "out.npz") as expected:
        np.testing.assert_allclose(packaged(**{port.name: x})["logits"], expected["logits"], rtol=1e-5, atol=1e-6)


TEXT_MODEL = """
model Letters:
    dims batch=4, time=8, vocab=3
    input tokens[batch, time]: int32, targets[batch, time]: int32
    x = embedding(tokens, vocab, 8)
    logits = linear(x, vocab)
    output logits
    loss cross_entropy(logits, targets)

train:
    data text("letters.txt", window=time)
    steps 60
    optimizer adam(lr=0.1)

generate:
    over time from logits sample(temperature=9)
    length 10
    seed 7
"""


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """A run that learnt that b follows a, and c follows b. No test changes it."""
    folder = tmp_path_factory.mktemp("letters")
    (folder / "letters.txt").write_text("abc" * 100)
    (folder / "letters.dsl").write_text(TEXT_MODEL)
    train(folder / "letters.dsl", run=folder / "run")
    return folder / "run"


def test_generate(cli, writer):
    outcome = cli("generate", writer, "--prompt", "a", "--length", 5, "--greedy")
    assert (outcome.status, outcome.out, outcome.err) == (0, "abcabc\n", "")
    assert len(cli("generate", writer, "--prompt", "a").out) == 12  # the file's length, the prompt, a line end
    assert cli("generate", writer).out == cli("generate", writer, "--seed", 7).out != cli("generate", writer, "--seed", 0).out  # and its seed
    (event,) = cli("generate", writer, "--prompt", "b", "--length", 3, "--greedy", "--json").events
    assert event == {"event": "generated", "prompt": "b", "text": "cab"}
    hot = ["generate", writer, "--length", 30, "--temperature", 9]
    assert cli(*hot, "--seed", 1).out == cli(*hot, "--seed", 1).out != cli(*hot, "--seed", 2).out
    assert cli(*hot, "--top-k", 1, "--prompt", "a").out == "a" + "bca" * 10 + "\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x"], "'x'"),
        (["--length", 0], "--length 0 must be at least 1"),
        (["--temperature", -1], "temperature=-1 must not be negative"),
        (["--top-k", 0], "top_k=0 must be at least 1"),
        (["--top-p", 2], "top_p=2"),
        (["--greedy", "--top-p", 0.5], "--greedy takes the most probable token, --top-p would draw one"),
        (["--target", "gpu"], "unknown target 'gpu'; did you mean 'cuda'?"),
    ],
)
def test_generate_refuses(cli, writer, words, message):
    outcome = cli("generate", writer, *words)
    assert (outcome.status, outcome.out) == (2, "") and message in outcome.err


def test_generate_needs_text(cli, trained):
    outcome = cli("generate", trained)
    assert outcome.status == 2 and "keeps no vocabulary" in outcome.err


def test_doctor(cli):
    (event,) = cli("doctor", "--json").events
    assert event["targets"]["reference"] == "works" and event["packages"]["numpy"] == np.__version__
    outcome = cli("doctor")
    assert outcome.status == 0 and f"{sys.version_info.major}.{sys.version_info.minor}" in outcome.out


def test_doctor_tells_of_a_bad_number_of_threads(cli, monkeypatch):
    monkeypatch.setattr("dslc.commands.doctor._works", lambda name: "works")
    monkeypatch.setenv("DSLC_THREADS", "many")
    (event,) = cli("doctor", "--json").events
    assert event["threads"] == "DSLC_THREADS is 'many', which is not a number of threads from 1 to 1024"
