"""What is prepared from parameters is prepared a few of them at a time, and those that come from a file leave the memory."""

import json

import numpy as np
import pytest

import dslc
from dslc.compiler import compile_program, lower
from dslc.core.executable import PIECES, from_bytes
from dslc.ir.mlir import ir
from dslc.passes import pieces
from dslc.passes.pieces import PIECE, Pieces
from dslc.passes.prepare import split
from dslc.runtime.tensorfile import write_safetensors
from dslc.targets import target_of

NET = """
model M:
    input   x[64, 128]
    y = linear(relu(linear(relu(linear(x, 256)), 256)), 32)
    output  y
    loss    mean(y)
train:
    optimizer  sgd(lr=0.1)
    steps      2
"""
X = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Each matrix is a piece, which the cache does not know."""
    monkeypatch.setattr(pieces, "BYTES", 1 << 10)
    monkeypatch.setenv("DSLC_CACHE", str(tmp_path / "cache"))


def net(seed: int = 0):
    return dslc.load(NET, seed=seed)


@pytest.fixture
def stored(tmp_path):
    """A file of weights and the values in it."""
    values = {name: np.array(value) for name, value in net(5).params.items()}
    file = tmp_path / "w.safetensors"
    write_safetensors(file, values, {})
    return file, values


def parts_of(model) -> list[list[str]]:
    return json.loads(from_bytes(compile_program(model, "run", "cpu").prepare).notes[PIECES])


def absent(model) -> set[str]:
    """Parameters whose values are not in memory."""
    return {name for name in model.params if model.params.value(name).fetch is not None}


def test_each_piece_reads_its_own_parameters(small):
    assert parts_of(net()) == [["linear.w"], ["linear_2.w"], ["linear_3.w"]]


def test_small_parameters_share_a_piece():
    assert parts_of(net()) == [["linear.w", "linear_2.w", "linear_3.w"]]


def test_kernels_that_need_each_other_stay_together_in_one_stretch():
    """An interleaved program is put in order: in each piece a kernel comes behind those that it reads."""
    text = "model M:\n    input x[4, 6]\n    param w0[6, 6], w1[6, 6], w2[6, 6] ~ normal()\n"
    text += "".join(f"    s{k}[i, j] = sum[m](w{k}[i, m] * w{k}[m, j])\n" for k in range(3))
    text += "".join(f"    v{k}[i, j] = softmax[j](s{k}[i, j])\n" for k in range(3))
    text += "    y[b, i] = " + " + ".join(f"sum[j](x[b, j] * v{k}[j, i])" for k in range(3)) + "\n    output y\n"
    elaborated = lower(dslc.load(text), "run", target_of("cpu"))
    with elaborated.context, elaborated.location:
        second = split(elaborated.module)
        Pieces(bytes=1).run(second)
        assert second.operation.verify()
        block = second.body.operations[0].entry_block
        numbers = [ir.IntegerAttr(op.operation.attributes[PIECE]).value for op in list(block.operations)[:-1]]
        assert numbers == sorted(numbers) and set(numbers) == {0, 1, 2} and len(numbers) > 3


def test_values_that_come_from_a_file_leave_when_they_are_prepared(small, stored):
    file, values = stored
    model, plain = net(), net()
    model.params.load_weights(file)
    plain.params.assign(values)
    assert not absent(model)
    program, other = dslc.compile(model, target="cpu"), dslc.compile(plain, target="cpu")
    np.testing.assert_array_equal(program(x=X)["y"], other(x=X)["y"])
    assert absent(model) == {"linear.w", "linear_2.w", "linear_3.w"} and not absent(plain)
    np.testing.assert_array_equal(program(x=X)["y"], other(x=X)["y"])
    assert len(absent(model)) == 3  # a call brings nothing back
    for name, value in values.items():
        np.testing.assert_array_equal(model.params[name], value)
    assert not absent(model)


def test_a_changed_parameter_is_prepared_alone(small, stored, monkeypatch):
    file, values = stored
    model, plain = net(), net()
    model.params.load_weights(file)
    plain.params.assign(values)
    program, other = dslc.compile(model, target="cpu"), dslc.compile(plain, target="cpu")
    program(x=X)
    runs = []
    prepare = program.program._prepare
    monkeypatch.setattr(program.program, "_prepare", lambda inputs: (runs.append(inputs[PIECES].tolist()), prepare(inputs)))
    for changed in (model, plain):
        changed.params["linear_2.w"] = 2 * values["linear_2.w"]
    np.testing.assert_array_equal(program(x=X)["y"], other(x=X)["y"])
    assert runs == [[False, True, False]] and absent(model) == {"linear.w", "linear_3.w"}


def test_training_after_a_run_goes_on_from_the_file(small, stored):
    file, values = stored
    results = []
    for given in (lambda m: m.params.load_weights(file), lambda m: m.params.assign(values)):
        model = net()
        given(model)
        program = dslc.compile(model, target="cpu")
        first = program(x=X)["y"]
        trainer = dslc.Trainer(model, target="cpu")
        losses = [trainer.step(x=X) for _ in range(2)]
        results.append((first, losses, program(x=X)["y"], {name: np.array(v) for name, v in model.params.items()}))
    (a, b, c, d), (e, f, g, h) = results
    assert b == f and d.keys() == h.keys()
    for one, two in ((a, e), (c, g), *((d[name], h[name]) for name in d)):
        np.testing.assert_array_equal(one, two)


def test_two_programs_of_one_model(small, stored):
    """One that reads the parameters themselves has them at every call, whatever another one dropped before."""
    file, values = stored
    model, plain = net(), net()
    model.params.load_weights(file)
    plain.params.assign(values)
    program, trained = dslc.compile(model, target="cpu"), dslc.compile(model, target="cpu", program="train")
    program(x=X)
    assert "linear.w" not in absent(model)
    expected = dslc.compile(plain, target="cpu", program="train")(x=X)["y"]
    np.testing.assert_array_equal(trained(x=X)["y"], expected)


def test_a_program_that_is_made_when_values_are_gone(small, stored):
    file, _ = stored
    model = net()
    model.params.load_weights(file)
    first = dslc.compile(model, target="cpu")(x=X)["y"]
    assert len(absent(model)) == 3
    np.testing.assert_array_equal(dslc.compile(model, target="cpu")(x=X)["y"], first)
    assert len(absent(model)) == 3
    np.testing.assert_allclose(dslc.compile(model, target="cpu", program="train")(x=X)["y"], first, rtol=1e-5, atol=1e-5)


def test_a_file_that_changes_is_told(small, stored):
    file, values = stored
    model = net()
    model.params.load_weights(file)
    dslc.compile(model, target="cpu")(x=X)
    file.write_bytes(b"x" + file.read_bytes())
    with pytest.raises(dslc.Error.DataError, match=r"has changed since it was opened, and 'linear\.w' is read from it again"):
        _ = model.params["linear.w"]
    model.params["linear.w"] = values["linear.w"]
    np.testing.assert_array_equal(model.params["linear.w"], values["linear.w"])
