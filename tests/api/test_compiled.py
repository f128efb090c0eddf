"""Programs as Python callables: named values, memory of the caller's, DLPack, several programs over one set of parameters."""

import numpy as np
import pytest
import torch

import dslc
from dslc.core.errors import DataError
from dslc.runtime.stepper import Step

TEXT = """
model M:
    dims batch=2, time=4
    input x[batch, time, 8]
    repeat 2:
        x = x + self_attention(rmsnorm(x), 2, causal=true)
    output y = x
    loss mean(x ** 2)

train:
    optimizer sgd(lr=0.1)
    steps 1
"""
X = np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_any_named_value_can_be_fetched(target):
    program = dslc.compile(dslc.load(TEXT), target=target)
    found = program(x=X, fetch=["self_attention.1.p"])
    p = found["self_attention.1.p"]
    assert p.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    assert (np.triu(p[0, 0], 1) == 0).all()
    np.testing.assert_allclose(found["y"], program(x=X)["y"], rtol=1e-5)


@pytest.mark.parametrize("size", ["=3", "<=40"])
@pytest.mark.parametrize("target", ["cpu", "cuda-emulated", "reference"])
def test_outputs_may_have_the_names_of_what_is_read(target, size):
    """An input, a parameter and a state, which the program goes on to read, and the values that they have in it."""
    text = f"""model M:
    dims b{size}
    input x[b, 5], z[b]
    param w[5, 5] ~ normal()
    state seen ~ zeros()
    x[n, j] = sum[i](x[n, i] * w[i, j]) + seen
    seen <- seen + 1
    output x, w, z, seen
"""
    model = dslc.load(text)
    program = dslc.compile(model, target=target)
    x, z = X[0, :3, :5].copy(), X[1, :3, 0].copy()
    for seen in (0, 1):
        found = program(x=x, z=z)
        np.testing.assert_allclose(found["x"], x @ model.params["w"] + seen, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["w"], model.params["w"])
        np.testing.assert_array_equal(found["z"], z)
        assert found["seen"] == model.params["seen"] == seen + 1


def test_an_unknown_value_names_the_nearest():
    with pytest.raises(dslc.Error, match=r"did you mean 'self_attention\.1\.p'"):
        dslc.compile(dslc.load(TEXT), target="reference")(x=X, fetch=["self_atention.1.p"])


def test_results_belong_to_the_caller_and_out_reuses_memory():
    program = dslc.compile(dslc.load(TEXT))
    first = program(x=X)["y"]
    kept = first.copy()
    program(x=2 * X)
    np.testing.assert_array_equal(first, kept)
    memory = np.zeros_like(first)
    assert program(x=X, out={"y": memory})["y"] is memory
    np.testing.assert_array_equal(memory, kept)


def test_large_results_use_memory_again_that_nobody_holds():
    program = dslc.compile(dslc.load("model M:\n    input x[1024, 4096]\n    output y = 2 * x\n"))  # 16 MiB: written past the caches
    x = np.random.default_rng(0).standard_normal((1024, 4096), np.float32)
    held = program(x=x)["y"]
    row, address = program(x=x)["y"][5], None
    assert not np.shares_memory(row, held)
    np.testing.assert_array_equal(row, 2 * x[5])
    for _ in range(3):
        found = program(x=-x)["y"]
        assert not np.shares_memory(found, held) and not np.shares_memory(found, row)
        assert address in (None, found.ctypes.data)
        address = found.ctypes.data
        del found
    np.testing.assert_array_equal(held, 2 * x)
    crooked = np.zeros(x.size + 1, np.float32)[1:].reshape(x.shape)
    crooked = crooked if crooked.ctypes.data % 64 else np.zeros(x.size + 2, np.float32)[2:].reshape(x.shape)
    assert program(x=x, out={"y": crooked})["y"] is crooked
    np.testing.assert_array_equal(crooked, held)


def test_torch_tensors_are_taken_and_results_go_to_torch():
    program = dslc.compile(dslc.load(TEXT))
    expected = program(x=X)["y"]
    found = torch.from_dlpack(program(x=torch.from_numpy(X))["y"])
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_trainer_changes_what_programs_compute():
    model = dslc.load(TEXT)
    program = dslc.compile(model)
    before = program(x=X)["y"]
    loss = dslc.Trainer(model).step(x=X)
    assert loss == pytest.approx(float((before**2).mean()), rel=1e-5)
    assert (program(x=X)["y"] != before).any()


def test_a_step_takes_as_many_microbatches_as_the_train_block_says():
    model = dslc.load(TEXT + "    accumulate 2\n")
    trainer, before = dslc.Trainer(model, "reference"), {k: v.tobytes() for k, v in model.params.items()}
    for given in ([], [{"x": X}] * 3):
        with pytest.raises(DataError, match=rf"microbatches: {len(given) or 1} given, a step takes 2"):
            trainer.step(*given, **({} if given else {"x": X}))
    assert {k: v.tobytes() for k, v in model.params.items()} == before  # sums of gradients too
    trainer.step({"x": X}, {"x": X})
    assert trainer.steps == 1


class OnDevice:
    """An array that says it lies in a GPU's memory: there is none to read it from."""

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_leaves_arrays_on_a_device_to_the_program(count):
    trainer = dslc.Trainer(dslc.load(TEXT + f"    accumulate {count}\n"), "reference")
    there, seen = OnDevice(), []
    trainer._stepper.run = lambda batch: seen.extend(batch() for _ in range(count)) or Step(0.0, {})
    given = [{"x": there}, {"x": X.tolist()}][:count]
    trainer.step(*given) if count > 1 else trainer.step(**given[0])
    assert seen[0]["x"] is there
    assert count == 1 or seen[1]["x"].dtype == X.dtype  # what lies on the host is checked before the first microbatch runs
    if count > 1:
        with pytest.raises(DataError, match=r"input 'x' is"):
            trainer.step({"x": there}, {"x": X[:1]})
