"""The groups of the GPU benchmarks at tiny sizes on the CPU: models compile, contestants agree, times are taken, wrong results are told and not
timed."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu_contest, gpu_losses, gpu_networks
from benchmarks.gpu_contest import Place, contest, difference, matching, present

CPU = Place("cpu", "cpu", backend="eager")
EMULATED = Place("cuda-emulated", "cpu", backend="eager")
TINY = {
    "resnet18": {"batch": 2, "size": 32},
    "lstm": {"batch": 2, "time": 5, "width": 8},
    "losses": {"rows": 6, "classes": 40},
    "updates": {"vocab": 12, "blocks": 2, "width": 8, "fan": 24},
}


def check(row, peers):
    """A row with no difference and a time of everybody."""
    assert "different" not in row and {k.removeprefix("from ") for k in row if k.startswith("from ")} == set(peers)
    for name in ("dslc", *peers):
        assert row[f"{name}_ms"] > 0 and np.isfinite(row[f"{name}_ms"])


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


def test_what_differs_is_told_and_not_timed():
    network = replace(gpu_networks.NETWORKS["lstm_run"], sizes=TINY["lstm"], classes=8, tolerance=0.0)
    row = gpu_networks.measure(network, CPU, ["torch"], rounds=1, seconds=0.0)
    assert row["different"] == row["from torch"] > 0 and not any(k.endswith("_ms") for k in row)


def test_differences():
    assert difference([3.0, 4.0], [3.0, 4.0]) == 0 and difference([3.0, 9.0], [3.0, 4.0]) == 1
    assert difference([np.nan, 1.0], [0.0, 1.0]) == difference([1.0], [1.0, 2.0]) == np.inf
    assert difference((np.full(3, 1e6), np.zeros(9)), (np.full(3, 1e6), np.full(9, 1e-6))) == 1
    assert matching({"dslc": [1.0], "a": [1.0], "b": [2.0]}, 0.1) == {"a": 0.0, "b": 0.5, "different": 0.5}


def test_contestants_take_turns():
    said = []
    row = contest({name: lambda name=name: said.append(name) for name in "ab"}, CPU, rounds=3, seconds=0.0)
    assert "".join(said) == "aabb" + "ab" * 3 and set(row) == {"a_ms", "a_spread", "b_ms", "b_spread"}


def test_every_group_is_a_module_with_a_command_of_its_own():
    for group in command.GPU_GROUPS:
        module, *_ = command.group_command(group, "out.json")
        assert importlib.util.find_spec(module), group


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_jax_takes_part():
    assert "jax" in present(gpu_contest.PEERS)
