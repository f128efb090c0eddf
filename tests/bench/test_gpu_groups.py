"""The groups of the GPU benchmarks at tiny sizes on the CPU: models compile, contestants agree, times are taken, wrong results are told and not
timed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu_attention, gpu_contest, gpu_decode, gpu_gemm, gpu_losses, gpu_networks, gpu_rows, gpu_train
from benchmarks.gpu_contest import Entrant, Place, contest, difference, measured, present

CPU = Place("cpu", "cpu", backend="eager")
EMULATED = Place("cuda-emulated", "cpu", backend="eager")
TINY = {
    "resnet18": {"batch": 2, "size": 32},
    "lstm": {"batch": 2, "time": 5, "width": 8},
    "losses": {"rows": 6, "classes": 40},
    "updates": {"vocab": 12, "blocks": 2, "width": 8, "fan": 24},
    "gpt": {"batch": 1, "time": 16, "vocab": 20, "width": 16, "heads": 2, "depth": 1},
    "rows": {"rows": 6, "columns": 40},
}
GROUPS = {
    "gpu_attention": gpu_attention.WORKLOADS,
    "gpu_decode": gpu_decode.WORKLOADS,
    "gpu_gemm": gpu_gemm.WORKLOADS,
    "gpu_losses": gpu_losses.WORKLOADS,
    "gpu_networks": gpu_networks.NETWORKS,
    "gpu_rows": gpu_rows.WORKLOADS,
    "gpu_train": gpu_train.WORKLOADS,
}
TORCH = list(gpu_contest.TORCH)


def check(row, peers, part=""):
    """A row with no difference and no failure, and a time of everybody."""
    assert "different" not in row and "failed" not in row and set(row["errors"]) == set(peers)
    for name in ("dslc", *peers):
        assert row[f"{name}{part}_ms"] > 0 and np.isfinite(row[f"{name}{part}_ms"]) and row["first_s"][name] > 0


@pytest.mark.parametrize("name", [pytest.param("resnet50_run", marks=pytest.mark.slow), "lstm_train", "lstm_run"])
def test_networks_agree(name):
    """A smaller network stands for ResNet-50; how its training is measured is that of the LSTM."""
    network = gpu_networks.NETWORKS[name]
    few = replace(network, model=network.model.replace("50", "18"), precision="float32", tolerance=1e-4)
    few = replace(few, sizes=TINY[few.model], classes=8 if few.model == "lstm" else 1000)
    peers = [p for p in present(gpu_contest.PEERS) if p in network.peers]
    check(gpu_networks.measure(few, CPU, peers, rounds=1, seconds=0.0), peers)


@pytest.mark.parametrize("name", gpu_losses.WORKLOADS)
def test_losses_and_updates_agree(name):
    """On the emulator, whose launches have times as a GPU's have."""
    workload = gpu_losses.WORKLOADS[name]
    few = replace(workload, sizes=TINY[workload.build.__name__])
    peers = present(gpu_contest.PEERS)
    check(gpu_losses.measure(few, EMULATED, peers, rounds=1, seconds=0.0), peers)
    assert workload.moved(workload.sizes) > 1e9


@pytest.mark.parametrize("name", gpu_rows.WORKLOADS)
def test_functions_of_rows_agree(name):
    few = replace(gpu_rows.WORKLOADS[name], sizes=TINY["rows"])
    feed = {k: np.random.default_rng(0).standard_normal(few.shape, np.float32) for k in few.inputs}
    ours, *theirs = (gpu_rows.entrant(few, CPU, feed, peer).result() for peer in ("dslc", *present(["torch", "jax"])))
    assert max(difference(ours, x) for x in theirs) < gpu_rows.TOLERANCE


def test_rows_and_attention_have_the_launches_times():
    peers = present(gpu_contest.PEERS)
    few = replace(gpu_rows.WORKLOADS["gelu_add_layernorm"], sizes=TINY["rows"])
    check(gpu_rows.measure(few, EMULATED, peers, rounds=1, seconds=0.0), peers)
    row = gpu_attention.measure(gpu_attention.Workload(32, 16, 1, 2), EMULATED, peers, rounds=1, seconds=0.0)
    for part in ("_forward", "_both"):
        check(row, peers, part)
    assert row["dslc_forward_tflops"] == pytest.approx(2 * 2 * 32**2 * 16 * 2 / 2 / row["dslc_forward_ms"] / 1e9)
    assert row["launches"] == sum(s["runs"] for s in row["slowest"]) and row["by_kind_ms"].keys() >= {"attention"}
    assert row["launches_ms"] == pytest.approx(sum(row["by_kind_ms"].values()))


@pytest.mark.parametrize("name", ["qkv_nn", "fc2_dx_nt", "fc_dw_tn", "fc_dw_tn_tf32", "square_4096_nn_float32"])
def test_products_agree(name):
    """torch's on the CPU have no tf32: the two rounded factors of each term are what differs."""
    few = replace(gpu_gemm.WORKLOADS[name], rows=40, columns=24, terms=56)
    peers = present(["torch", "torch.compile", "jax"])
    row = gpu_gemm.measure(few, EMULATED, peers, rounds=1, seconds=0.0)
    check(row, peers)
    assert row["dslc_tflops"] == pytest.approx(2 * 40 * 24 * 56 / row["dslc_ms"] / 1e9) and row["launches"] == 1
    assert len(row["made"]) == 1 and ("tensor cores" in row["made"][0]) == (few.precision != "float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_steps_agree(precision):
    few = replace(gpu_train.WORKLOADS["gpt2_124m"], precision=precision, sizes=TINY["gpt"], tolerance=1e-5 if precision == "float32" else 2e-3)
    row = gpu_train.measure(few, CPU, TORCH, rounds=1, seconds=0.0)
    check(row, TORCH)
    assert row["tokens_s"] == pytest.approx(16 / row["dslc_ms"] * 1e3) and {len(v) for v in row["losses"].values()} == {gpu_train.STEPS}


def test_decoders_agree():
    """Times are those of a token."""
    few = replace(gpu_decode.WORKLOADS["float32"], sizes=TINY["gpt"], count=4)
    row = gpu_decode.measure(few, CPU, TORCH, rounds=1, seconds=0.0)
    check(row, TORCH)
    assert set(row["tokens_that_agree"].values()) == {4} and row["torch_spread"] == [row["torch_ms"]] * 2


def test_a_networks_row_tells_where_the_time_goes():
    few = replace(gpu_networks.NETWORKS["lstm_run"], sizes=TINY["lstm"], classes=8)
    row = gpu_networks.measure(few, EMULATED, [], rounds=1, seconds=0.0)
    assert row["launches"] == sum(s["runs"] for s in row["slowest"]) > 0 and row["launches_ms"] > 0


def test_what_differs_is_told_and_not_timed():
    network = replace(gpu_networks.NETWORKS["lstm_run"], sizes=TINY["lstm"], classes=8, tolerance=0.0)
    row = gpu_networks.measure(network, CPU, ["torch"], rounds=1, seconds=0.0)
    assert row["different"] == row["errors"] and row["different"]["torch"] > 0 and not any(k.endswith("_ms") for k in row)


def given(results, breaks=()):
    """Makers of contestants with these results; those of `breaks` raise when they are made or when they are timed."""

    def timed(turns):
        raise MemoryError("no room\nfor it")

    def build(name):
        if name in breaks and breaks[name] == "made":
            raise RuntimeError("no kernel\nsays a long text")
        return Entrant(lambda: results[name], {"": timed if name in breaks else lambda turns: 0.001})

    return build


def test_a_peer_that_fails_is_told_and_the_others_are_timed():
    results = {"dslc": [1.0], "torch": [1.0], "torch.compile": [1.0], "torch.max-autotune": [1.0], "jax": [9.0]}
    build = given(results, {"torch.compile": "made", "torch.max-autotune": "timed"})
    row = measured({"workload": "w"}, build, gpu_contest.PEERS, CPU, 0.1, rounds=2, seconds=0.0)
    assert row["failed"] == {"torch.compile": "RuntimeError: no kernel", "torch.max-autotune": "MemoryError: no room"}
    assert row["different"] == {"jax": row["errors"]["jax"]} and row["errors"]["torch"] == 0
    assert {k for k in row if k.endswith("_ms")} == {"dslc_ms", "torch_ms"}


def test_where_no_peer_agrees_nothing_is_timed():
    row = measured({}, given({"dslc": [1.0], "torch": [np.nan]}), ["torch"], CPU, 0.1, rounds=1, seconds=0.0)
    assert row["different"] == {"torch": np.inf} and "dslc_ms" not in row
    assert "dslc_ms" in measured({}, given({"dslc": [1.0]}, {"torch": "made"}), ["torch"], CPU, 0.1, rounds=1, seconds=0.0)
    with pytest.raises(RuntimeError):
        measured({}, given({}, {"dslc": "made"}), ["torch"], CPU, 0.1)


def test_differences():
    assert difference([3.0, 4.0], [3.0, 4.0]) == 0 and difference([3.0, 9.0], [3.0, 4.0]) == 1
    assert difference([np.nan, 1.0], [0.0, 1.0]) == difference([1.0], [np.nan]) == difference([1.0], [1.0, 2.0]) == np.inf
    assert difference((np.full(3, 1e6), np.zeros(9)), (np.full(3, 1e6), np.full(9, 1e-6))) == 1


def test_contestants_take_turns():
    said = []
    row = contest({name: CPU.wall(lambda name=name: said.append(name)) for name in "ab"}, rounds=3, seconds=0.0)
    assert "".join(said) == "aabb" * 2 + "ab" * 3 and set(row) == {"a_ms", "a_spread", "b_ms", "b_spread"}


class Anywhere(Place):
    """A place that lacks nothing."""

    def missing(self):
        return None


@pytest.mark.parametrize("group", GROUPS)
def test_a_groups_command(group, monkeypatch, tmp_path, capsys):
    """What it is asked for is measured against whom it is asked to; a row that fails is told, and those after it are measured."""
    names = list(GROUPS[group])[:2]
    module = sys.modules[f"benchmarks.{group}"]
    peers = gpu_contest.PEERS if group in ("gpu_attention", "gpu_gemm", "gpu_losses", "gpu_networks", "gpu_rows") else gpu_contest.TORCH
    seen = []

    def measure(workload, place, asked):
        seen.append((workload, asked))
        if len(seen) == 1:
            raise RuntimeError("broken")
        return {"workload": names[1], "dslc_ms": 1.0, "slowest": [{"kernel": "k"}]}

    monkeypatch.setattr(sys, "argv", ["program", "--only", ",".join(names), "--against", "torch", "--json", str(tmp_path / "rows.json")])
    assert gpu_contest.main(module.__doc__, group, GROUPS[group], measure, peers, Anywhere("cpu", "cpu")) == 1
    assert seen == [(GROUPS[group][name], ["torch"]) for name in names]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert rows[0] == {"workload": names[0], "failed": {"dslc": "RuntimeError: broken"}} and rows[1]["dslc_ms"] == 1
    assert "RuntimeError: broken" in capsys.readouterr().out


@pytest.mark.skipif(Place().missing() is None, reason="there is a GPU")
@pytest.mark.parametrize("words", [*([f"benchmarks.{group}"] for group in GROUPS), ["benchmarks", "gpu"]])
def test_without_a_gpu_a_line_says_so(words, monkeypatch):
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    name = " ".join(words) if words[0] == "benchmarks" else words[0]
    assert done.stderr == f"python -m {name} needs a GPU: {Place().missing()}\n"


def test_every_group_is_a_module_with_a_command_of_its_own():
    for group in command.GPU_GROUPS:
        module, *_ = command.group_command(group, "out.json")
        assert importlib.util.find_spec(module), group


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_takes_part():
    assert "jax" in present(gpu_contest.PEERS)
