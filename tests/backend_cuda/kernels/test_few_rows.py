"""Products of few rows with what joins them, and kernels beside each other in one launch: on the emulator, with every access checked, in every order
of the threads, against the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.backend_cuda import backend
from dslc.backend_cuda.beside import joins
from dslc.backend_cuda.kernels import along
from dslc.backend_cuda.nvrtc import Slow, SlowCode
from dslc.backend_cuda.stage import Function
from dslc.compiled import load_executable
from dslc.compiler import compile_anew
from dslc.core.executable import Executable
from dslc.runtime.drivers.device_program import DeviceProgram
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.runtime.drivers.emulator import ORDERS, KernelFault
from dslc.targets import TARGETS

CHECKED = "cuda-emulated:checked"
pytestmark = pytest.mark.skipif(TARGETS[CHECKED].missing() is not None, reason="needs g++ and NVIDIA's headers")
TEXT = """model M:
    input   x[{rows}, {width}]
{body}
    output  y
"""
# name: rows, width, body, launches
CASES = {
    "norm": (1, 200, "    y = linear(rmsnorm(x), 72)", 1),  # rows that no threads share evenly
    "norms of rows": (3, 128, "    y = linear(layernorm(x), 64)", 1),
    "along the matrix": (2, 128, "    param w[40, 128] ~ normal()\n    y[r, o] = sum[d](layernorm(x)[r, d] * w[o, d])", 1),
    "an odd number of rows along the matrix": (3, 96, "    param w[37, 96] ~ normal()\n    y[r, o] = sum[d](rmsnorm(x)[r, d] * w[o, d])", 1),
    "a gate": (1, 64, "    y = linear(swiglu(rmsnorm(x), 96), 8)", 3),
    "beside": (2, 64, "    n = layernorm(linear(x, 64))\n    y = concat(linear(n, 32), linear(n, 32), linear(n, 48), axis=-1)", 3),
    "heads": (2, 96, "    param w[2, 3, 96, 32] ~ normal()\n    y[k, h, r, c] = sum[d](rmsnorm(x)[r, d] * w[k, h, d, c])", 1),
    "what is read besides": (2, 64, "    n = layernorm(x)\n    y = n + linear(tanh(linear(n, 64)), 64)", 2),
}


def against_the_reference(model: dslc.Model, tolerance: float, program: str = "run", steps: int = 1) -> Executable:
    """Runs both on the same inputs, `steps` times, at growing positions."""
    executable = compile_anew(model, program, CHECKED)
    runs = {order: DeviceProgram(executable, EmulatorDriver(order=order, seed=1)) for order in ORDERS}
    wanted = load_executable(compile_anew(model, program, "reference"))
    for run in (*runs.values(), wanted):
        store = model.params.beside()
        store.extend(run.executable.ports)
        run.bind(store)
    rng = np.random.default_rng(0)
    for step in range(steps):
        given = {}
        for p in executable.ports_of("input"):
            drawn = rng.integers(*(p.bounds or (0, 2)), p.shape) if p.dtype.is_integer else rng.standard_normal(p.shape)
            given[p.name] = (np.full(p.shape, step) if p.name == "position" else drawn).astype(p.dtype.numpy)
        exact = np.array(wanted(given)["y"])
        found = {order: np.array(run(given)["y"]) for order, run in runs.items()}
        assert len({value.tobytes() for value in found.values()}) == 1
        np.testing.assert_allclose(found[ORDERS[0]], exact, atol=tolerance * np.abs(exact).max())
    return executable


@pytest.mark.parametrize("name", CASES)
def test_products(name: str) -> None:
    rows, width, body, launches = CASES[name]
    model = dslc.load(TEXT.format(rows=rows, width=width, body=body))
    executable = against_the_reference(model, 4 * width * 2.0**-24)
    assert len(executable.launches) == launches and any("product" in k.kind for k in executable.kernels)


def test_what_runs_at_once_has_workspaces_of_its_own() -> None:
    body = "    a[r] = sum[d](x[r, d])\n    b[r] = max[d](z[r, d])\n    y = concat(a, b, axis=-1)"
    model = dslc.load(f"model M:\n    input x[2, 20000], z[2, 24000]\n{body}\n    output y")
    executable = against_the_reference(model, 2.0**-16)
    assert len(executable.launches) == 3  # partial states of both, their folds, the join


DECODER = """model Decoder:
    dims    batch={batch}, time=8
    input   tokens[batch, time]: int32
    x = embedding(tokens, 40, 64)
    x = x + {layer}
    y = linear(rmsnorm(x), 40)
    output  y
"""
LAYERS = {
    "grouped": "self_attention(rmsnorm(x), 4, kv_heads=2, causal=true, rotate=true)",
    "together": "packed(layernorm(x), 4)",
}
PACKED = """layer packed(x[b, t, d], heads):
    let    c = d // heads
    param  w[d, 3, heads, c], o[heads, c, d] ~ xavier_uniform()
    z[s, b, h, t, c] = sum[d](x[b, t, d] * w[d, s, h, c])
    s[b, h, i, j] = where(j <= i, sum[c](z[0, b, h, i, c] * z[1, b, h, j, c]), -inf)
    a[b, h, i, c] = sum[j](softmax[j](s[b, h, i, j]) * z[2, b, h, j, c])
    return y[b, i, e] = sum[h, c](a[b, h, i, c] * o[h, c, e])
"""


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_caches_are_written_by_products(layer: str, batch: int) -> None:
    model = dslc.load(PACKED + DECODER.format(batch=batch, layer=LAYERS[layer]))
    executable = against_the_reference(model, 1e-5, "decode", steps=4)
    assert not any(k.kind == "copy" for k in executable.kernels)
    assert sum("put" in k.kind.split("+") for k in executable.kernels) == (layer == "grouped")  # of keys, which are turned before


@pytest.mark.slow
def test_a_function_of_fewer_threads_runs_beside_one_of_more() -> None:
    text = PACKED + DECODER.format(batch=1, layer=LAYERS["together"]).replace("time=8", "time=512")
    text = text.replace("embedding(tokens, 40, 64)", "embedding(tokens, 40, 64) + positions(time, 64)")
    executable = against_the_reference(dslc.load(text), 1e-5, "decode", steps=3)
    assert any("attention" in k.kind and "map" in k.kind for k in executable.kernels)
    assert "if (threadIdx.x >= 256u) return;" in executable.source


@pytest.mark.parametrize(
    ("text", "ahead", "shares"), [("    y[0] = 1;", "", True), ("    __syncthreads();", "", False), ("    y[0] = 1;", "    prefetch(x);", False)]
)
def test_which_functions_share_a_launch(text: str, ahead: str, shares: bool) -> None:
    more = Function("more", (), "    __syncthreads();", (3, 1, 1), (512, 1, 1))
    fewer = Function("fewer", (), text, (2, 1, 1), (256, 1, 1), ahead=ahead)
    assert joins(more, fewer) == joins(fewer, more) == shares
    assert joins(fewer, fewer)


@pytest.mark.slow
def test_runs_that_go_on_with_their_results_are_those_of_single_steps() -> None:
    model = dslc.load(PACKED + DECODER.format(batch=2, layer=LAYERS["together"]))
    executable = compile_anew(model, "decode", CHECKED)
    together, single = (DeviceProgram(executable, EmulatorDriver()) for _ in range(2))
    for run in (together, single):
        store = model.params.beside()
        store.extend(executable.ports)
        run.bind(store)
    given = {"tokens": np.array([[3], [30]], np.int32), "position": np.array([0, 0], np.int32)}
    led = [np.array([[k], [20 + k]], np.int32) for k in (1, 2)]
    found = together.again(given, 5, carried="tokens", found="y.best", counted="position", led=led)
    for turn in range(5):
        one = single(given)
        assert all(np.array_equal(found[name][turn], one[name]) for name in found)
        given = {"tokens": led[turn] if turn < len(led) else one["y.best"][:, None], "position": given["position"] + 1}
    assert sorted(found) == ["y", "y.best", "y.greatest"]


@pytest.mark.parametrize(("factor", "rows", "width"), [("rmsnorm(x)[r, d]", 1, 200), ("x[r, d]", 1, 520), ("x[r, d]", 3, 200)])
def test_warps_go_from_sum_to_sum_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch, factor: str, rows: int, width: int) -> None:
    monkeypatch.setattr(along, "SUMS", 0)  # as if it were larger
    body = f"    param w[5001, {width}] ~ normal()\n    y[r, o] = tanh(sum[d]({factor} * w[o, d])) + x[r, 0]"
    executable = against_the_reference(dslc.load(TEXT.format(rows=rows, width=width, body=body)), 4 * width * 2.0**-24)
    assert "sums behind each other" in executable.source and "load_steady(" in executable.source


def test_blocks_that_need_different_rows_do_not_go_from_sum_to_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(along, "SUMS", 0)
    body = "    param w[3501, 200] ~ normal()\n    y[r, o] = sum[d](rmsnorm(x)[r, d] * w[o, d])"
    executable = against_the_reference(dslc.load(TEXT.format(rows=2, width=200, body=body)), 4 * 200 * 2.0**-24)
    assert len(executable.launches) == 1


ROWS_OF_WEIGHTS = """model M:
    input   x[1, 64], z[64, 64]
    w[d, c] = softmax[c](z[d, c])
    y[r, c] = sum[d](x[r, d] * w[d, c]) + sum[d](x[r, d])
    output  y
"""


def test_only_what_no_launch_writes_is_loaded_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = against_the_reference(dslc.load(ROWS_OF_WEIGHTS), 2.0**-16)
    assert "load_steady(" not in executable.source  # the matrix is made by the launch before
    monkeypatch.setattr(backend._Writer, "_is_steady", lambda self, place: True)
    with pytest.raises(KernelFault, match="a wait for the launches before, behind an access"):
        against_the_reference(dslc.load(ROWS_OF_WEIGHTS), 2.0**-16)


@pytest.mark.parametrize("rows", [9000, 8192])
def test_a_matrix_that_registers_cannot_hold_is_loaded_ahead_in_part(rows: int) -> None:
    body = f"    param w[{rows}, 64] ~ normal()\n    y[r, c] = sum[d](x[r, d] * w[d, c]) + x[r, 0]"
    executable = against_the_reference(dslc.load(TEXT.format(rows=1, width=rows, body=body)), rows * 2.0**-24)
    text = executable.source
    assert text.index("load_steady(") < text.index("prefetch(") < text.index("wait_for_launches_before();\n", text.index("k00"))


def test_a_launch_of_several_is_made_apart_where_it_spills(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, width, body, launches = CASES["beside"]
    model = dslc.load(TEXT.format(rows=rows, width=width, body=body))
    real = backend.machine_code

    def spills(text, arch, slow):
        spilling = {symbol: Slow("it spills", 8) for symbol, _ in text.functions if "_beside" in symbol}
        if spilling:
            raise SlowCode(spilling)
        return real(text, arch, slow)

    monkeypatch.setattr(backend, "machine_code", spills)
    executable = compile_anew(model, "run", "cuda-emulated")
    assert len(executable.launches) == launches + 2
