"""What follows from parameters alone is made once, and anew when a parameter has changed."""

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program, lower
from dslc.core.executable import PIECES, from_bytes
from dslc.ir.mlir import func
from dslc.targets import target_of

NORM = """
model M:
    input   x[4, 6]
    param   w[6, 5] ~ normal(std=0.5)
    param   g[5], v[5] ~ ones()
    state   mean[5] = 0.5
    z[b, k] = sum[d](x[b, d] * w[d, k] ** 3)
    y[b, k] = (z[b, k] - mean[k]) * g[k] * rsqrt(v[k] + 1) + exp(z[b, k])
    output  y
    loss    mean(y)
train:
    optimizer  sgd(lr=0.1)
    steps      2
"""
TIED = "model M:\n    input x[3, 4]\n    param w[4, 4] ~ normal()\n    y[b, k] = sum[d](x[b, d] * w[k, d])\n    output y\n"
X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def functions(text: str, program: str = "run") -> dict[str, list[str]]:
    """The ops of each function after the pass."""
    elaborated = lower(dslc.load(text), program, target_of("cpu"), after="prepare")
    with elaborated.context:
        found = [op for op in elaborated.module.body.operations if isinstance(op, func.FuncOp)]
        return {op.name.value: [o.operation.name for o in op.entry_block.operations] for op in found}


def test_powers_and_factors_leave_the_program() -> None:
    found = functions(NORM)
    assert "nn.pow" not in found["run"] and "nn.rsqrt" not in found["run"]
    assert "nn.exp" in found["run"] and "nn.exp" not in found["prepare"]
    assert "nn.rsqrt" in found["prepare"]


def test_views_of_parameters_stay_where_they_are() -> None:
    assert list(functions(TIED)) == ["run"]
    assert compile_program(dslc.load(TIED), "run", "cpu").prepare == b""


def test_a_broadcast_is_not_kept() -> None:
    """An outer product of two vectors is far larger than they are."""
    text = "model M:\n    input x[64, 64]\n    param a[64], b[64] ~ ones()\n    y[i, j] = x[i, j] * (a[i] * b[j])\n    output y\n"
    assert list(functions(text)) == ["run"]


@pytest.mark.parametrize("target", ["cpu", "cuda-emulated:checked"])
def test_results_follow_the_parameters(target: str) -> None:
    model = dslc.load(NORM)
    program, oracle = dslc.compile(model, target=target), dslc.compile(model, target="reference")
    assert program.executable.prepare and {p.role for p in from_bytes(program.executable.prepare).ports if p.name != PIECES} == {"param", "state"}

    def same() -> None:
        np.testing.assert_allclose(program(x=X)["y"], oracle(x=X)["y"], rtol=2e-5, atol=2e-5)

    same()
    model.params["w"] = 0.5 * model.params["w"]
    same()
    model.params["mean"] = np.full(5, -2, np.float32)
    same()
    dslc.Trainer(model, target=target).step(x=X)
    same()
    assert "prepared.0" not in model.params


def test_a_decoder_casts_its_weights_once_and_its_caches_are_not_fixed() -> None:
    text = (
        "model M:\n    dims batch=1, time=8\n    input x[batch, time]: int32\n    param e[7, 16], w[16, 7] ~ normal()\n"
        "    h[b, t, d] = e[x[b, t], d]\n    s[b, t, d] = cumsum[t](h[b, t, d])\n"
        "    z[b, t, v] = sum[d](s[b, t, d] * w[d, v])\n    output z\n    loss mean(z)\n"
        "train:\n    optimizer sgd(lr=0.1)\n    steps 1\n    precision bfloat16\n"
    )
    executable = compile_program(dslc.load(text), "decode", "cpu")
    assert any(p.name.startswith("cache.") for p in executable.ports_of("state"))
    assert {p.dtype.name for p in executable.ports_of("prepared")} == {"bfloat16"}
    assert {p.name for p in from_bytes(executable.prepare).ports_of("param", "state")} <= {"w", "prepared.0"}


def test_a_run_leaves_the_versions_of_parameters_and_a_step_does_not() -> None:
    """What is prepared is made anew when a version has changed: a program that says it wrote everything would have it made at every run."""
    model = dslc.load(NORM)
    program, trainer = dslc.compile(model), dslc.Trainer(model)
    before = {path: model.params.version(path) for path in model.params}
    program(x=X)
    assert {path: model.params.version(path) for path in before} == before
    trainer.step(x=X)
    assert model.params.version("w") > before["w"]
