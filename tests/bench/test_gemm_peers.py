"""The peers of the benchmark of products, and the graph of the quantized network, compute what they should."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cpu_gemm import PEERS, _peers
from benchmarks.peers.onnx_quantized import GRAPHS
from benchmarks.workloads import WORKLOADS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(("batch", "packed"), [(1, False), (1, True), (3, False)])
def test_products(name: str, batch: int, packed: bool) -> None:
    pytest.importorskip(name)
    a = RNG.standard_normal((batch, 20, 9), np.float32).swapaxes(1, 2)
    b = RNG.standard_normal((batch, 20, 33), np.float32)
    found = np.asarray(_peers([name], a, b, packed, 1)[name]()).reshape(batch, 9, 33)
    np.testing.assert_allclose(found, a.astype(np.float64) @ b, atol=1e-4)


def test_the_quantized_graph_is_the_models(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    import dslc
    from benchmarks.peers.onnxruntime_peer import prepare

    workload = WORKLOADS["mlp_int8"]
    model = dslc.load(workload.spec, batch=5)
    weights = {name: RNG.standard_normal(model.params[name].shape, np.float32) * np.float32(0.05) for name in model.params}
    for name, value in weights.items():
        model.params[name] = value
    x = RNG.standard_normal((5, 784), np.float32)
    ours = dslc.compile(model, target="cpu")(x=x)["logits"]
    graph = tmp_path / "mlp_int8.onnx"
    graph.write_bytes(GRAPHS["mlp_int8"](weights, x))
    theirs = prepare(workload, graph, {"x": x}, 1)()
    np.testing.assert_allclose(ours, theirs, atol=workload.tolerance * np.abs(theirs).max())
    floats = np.maximum(x @ weights["linear_int8.w"] + weights["linear_int8.b"], 0)
    floats = np.maximum(floats @ weights["linear_int8_2.w"] + weights["linear_int8_2.b"], 0)
    floats = floats @ weights["linear_int8_3.w"] + weights["linear_int8_3.b"]
    assert np.abs(ours - floats).max() < 0.05 * np.abs(floats).max()


def test_the_benchmark_of_products_runs(tmp_path) -> None:
    file = tmp_path / "products.json"
    command = [sys.executable, "-m", "benchmarks.cpu_gemm", "--threads", "1", "--against", "", "--only", "64,64,64", "--json", str(file)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    (row,) = json.loads(file.read_text())
    assert row["dslc"] > 0 and row["numpy"] > 0
