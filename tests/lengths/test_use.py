"""Bounded dimensions in use: which programs are made and how that is told, draws, options of a call, training, the command line, mistakes."""

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import dslc
from dslc.cli import app
from dslc.compiler import Member, compile_program, family_of
from dslc.runtime.drivers import emulated_device
from dslc.runtime.drivers.emulated_device import EmulatorDriver

from .models import BODIES, inputs, text


def loaded(body: str, time: str = "<=40") -> dslc.Model:
    return dslc.load(text(body, time))


def sizes_made(model: dslc.Model, lengths: list[int]) -> list[str]:
    program = dslc.compile(model, target="reference")
    for n in lengths:
        program(**inputs(model, time=n))
    return program.programs


def test_lengths_share_programs():
    assert sizes_made(loaded(BODIES["mean"]), [3, 16, 2, 17, 30, 39, 33, 40, 1, 3]) == ["time<=16", "time<=32", "time<=40", "time=40", "time=1"]


def test_nothing_is_compiled_before_a_length_needs_it():
    model = loaded(BODIES["mean"])
    assert dslc.compile(model, target="reference").programs == []
    trainer = dslc.Trainer(model, target="reference")
    trainer.step(**inputs(model, time=9))
    assert trainer.programs == ["time<=16"]


def test_lengths_too_short_to_be_like_the_others_have_programs_of_their_own():
    model = loaded("\n    input x[batch, time]\n    output y[b, t] = x[b, t] * min(time, 4)\n")
    program = dslc.compile(model, target="reference")
    for n in (2, 3, 4, 5, 20):
        x = np.ones((2, n), np.float32)
        np.testing.assert_array_equal(program(x=x)["y"], x * min(n, 4))
    assert program.programs == ["time=2", "time=3", "time=4", "time<=16", "time<=32"]


def test_an_input_may_be_empty():
    model = dslc.load("model M:\n    dims time<=40\n    input x[time], z[time - 2]\n    output y = sum[t](x[t]) + sum[t](z[t])\n")
    program = dslc.compile(model, target="reference")
    assert [float(program(x=np.ones(n, np.float32), z=np.ones(n - 2, np.float32))["y"]) for n in (9, 2)] == [16, 2]
    assert program.programs == ["time<=16"]


def test_a_bound_that_alone_is_long_enough():
    program = dslc.compile(dslc.load("model M:\n    dims time<=2\n    input x[time]\n    v, i = topk(x, 2)\n    output v\n"), target="reference")
    assert program(x=np.array([1, 2], np.float32))["v"].tolist() == [2, 1]
    with pytest.raises(dslc.Error.ShapeError, match="topk"):
        program(x=np.ones(1, np.float32))


def test_windows_need_a_length_that_holds_one():
    model = loaded("\n    input x[batch, 3, time]\n    output y = conv1d(x, 2, kernel=4)\n")
    program = dslc.compile(model, target="reference")
    assert program(x=np.ones((2, 3, 4), np.float32))["y"].shape == (2, 2, 1)
    assert program(x=np.ones((2, 3, 9), np.float32))["y"].shape == (2, 2, 6)
    with pytest.raises(dslc.Error.ShapeError, match="a size must not be negative"):
        program(x=np.ones((2, 3, 2), np.float32))


def test_an_element_draws_the_same_at_every_length():
    model = loaded("\n    input x[batch, time]\n    output y[b, t] = x[b, t] + uniform()\n")
    program = dslc.compile(model, target="reference")
    whole = program(x=np.zeros((2, 40), np.float32))["y"]
    for n in (9, 16, 20, 39):
        np.testing.assert_array_equal(program(x=np.zeros((2, n), np.float32))["y"], whole[:, :n])


@pytest.mark.parametrize("growing", ["exp(60 * t * w)", "(1e30 * w) ** t", "cumprod[t](1e20 * x[b, t] * w)"])
def test_what_grows_with_the_length_is_not_infinite_before_it(growing):
    body = f"""
    input x[batch, time], v[batch, time]
    param w ~ ones()
    g[b < batch, t < time] = {growing}
    output y[b] = sum[t](v[b, t] * g[b, t]) / 1e30
    loss mean(tanh(y))
"""
    ones = {"x": np.ones((2, 3), np.float32), "v": np.ones((2, 3), np.float32)}
    steps = [dslc.Trainer(model, target="reference") for model in (loaded(body), loaded(body, "=3"))]
    assert steps[0].step(**ones) == steps[1].step(**ones)
    np.testing.assert_allclose(steps[0].model.params["w"], steps[1].model.params["w"], rtol=1e-6)
    program, exact = (dslc.compile(loaded(body, time), target="reference") for time in ("<=40", "=3"))
    np.testing.assert_allclose(program(**ones)["y"], exact(**ones)["y"], rtol=1e-6)


def test_no_length_is_compared_with_itself():
    model = dslc.load("model M:\n    dims time<=20\n    input x[time]\n    z[t, s < time] = x[t] - x[s]\n    output y = mean(z ** 2)\n")
    with pytest.raises(dslc.Error.ShapeError, match="the length of 'time' cannot vary here: a number follows"):
        dslc.compile(model, target="reference")


def test_results_may_have_memory_of_their_own_and_values_may_be_fetched():
    model = loaded(BODIES["reversed"])
    program = dslc.compile(model, target="reference")
    given, out = inputs(model, time=5), np.zeros((2, 5, 3), np.float32)
    want = program(**given)["y"]
    assert program(**given, out={"y": out})["y"] is out
    np.testing.assert_array_equal(out, want)
    assert program(**given, fetch=["z"])["z"].shape == (2, 5, 3)
    with pytest.raises(dslc.Error.DataError, match=r"out\['y'\] is float32\[2, 40, 3\], the result is float32\[2, 5, 3\]"):
        program(**given, out={"y": np.zeros((2, 40, 3), np.float32)})


def test_microbatches_may_differ_in_length():
    body = BODIES["positions"]
    model = dslc.load(text(body, "<=40").replace("    optimizer", "    accumulate 2\n    optimizer"))
    other = dslc.load(text(body, "<=40").replace("    optimizer", "    accumulate 2\n    optimizer"))
    short, long = inputs(model, 0, time=5), inputs(model, 1, time=40)
    padded = dslc.load(text(body, "=5").replace("    optimizer", "    accumulate 2\n    optimizer"))
    loss = dslc.Trainer(model, target="reference").step(short, long)
    first = dslc.Trainer(other, target="reference").step(long, long)
    for path in padded.params:
        padded.params[path] = np.array(dslc.load(text(body, "<=40")).params[path])[tuple(slice(0, n) for n in padded.params[path].shape)]
    second = dslc.Trainer(padded, target="reference").step(short, short)
    assert loss == pytest.approx((first + second) / 2, rel=1e-5)
    table = "embedding.table"
    np.testing.assert_allclose(model.params[table], (np.array(other.params[table]) + padded.params[table]) / 2, rtol=1e-5, atol=1e-6)


def test_an_imported_graph_takes_any_length(tmp_path):
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", "n"]) for name in "xy"]
    axis = onnx.helper.make_tensor("axis", onnx.TensorProto.INT64, [], [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("CumSum", ["x", "axis"], ["y"], reverse=1)], "g", ports[:1], ports[1:], [axis])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), tmp_path / "g.onnx")
    (tmp_path / "m.dsl").write_text(
        'model M:\n    dims batch=2, time<=8\n    input x[batch, time]\n    net = import "g.onnx"\n    output y = net(x)\n'
    )
    program = dslc.compile(dslc.load(str(tmp_path / "m.dsl")), target="reference")
    for n in (3, 7):
        x = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
        np.testing.assert_allclose(program(x=x)["y"], np.cumsum(x[:, ::-1], axis=1)[:, ::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["attention", "causal"])
@pytest.mark.parametrize("program", ["run", "step"])
def test_attention_of_any_length_is_the_same_kernels(name, program):
    model = loaded(BODIES[name], "<=128")
    family = family_of(model, program)
    fixed = compile_program(model, program, "cpu")
    free = compile_program(model, program, "cpu", sized=Member(family, family.sizes_for({"time": 100})))
    assert [k.kind for k in free.kernels] == [k.kind for k in fixed.kernels] and "attention" in {k.kind for k in free.kernels}
    assert len(free.launches) == len(fixed.launches)


@pytest.mark.parametrize("name", ["attention", "lstm", "order", "two"])
def test_the_cpu_agrees(name):
    model, oracle = loaded(BODIES[name], "<=20"), loaded(BODIES[name], "<=20")
    program, other = dslc.compile(model), dslc.compile(oracle, target="reference")
    trainer, teacher = dslc.Trainer(model), dslc.Trainer(oracle, target="reference")
    for n in (3, 11):
        given = inputs(model, time=n, words=3) if "words" in BODIES[name] else inputs(model, time=n)
        np.testing.assert_allclose(program(**given)["y"], other(**given)["y"], rtol=2e-4, atol=2e-5)
        assert trainer.step(**given) == pytest.approx(teacher.step(**given), rel=1e-3)
        for path in model.params:
            np.testing.assert_allclose(model.params[path], oracle.params[path], rtol=2e-3, atol=2e-4)
            oracle.params[path] = model.params[path]


def test_narrow_types_agree():
    body = BODIES["causal"]
    model = dslc.load(text(body, "<=20").replace("    optimizer", "    precision bfloat16\n    optimizer"))
    oracle = loaded(body, "<=20")
    given = inputs(model, time=7)
    np.testing.assert_allclose(dslc.compile(model)(**given)["y"], dslc.compile(oracle, target="reference")(**given)["y"], rtol=0.05, atol=0.05)


def test_emulated_kernels_agree():
    model, oracle = loaded(BODIES["attention"], "<=20"), loaded(BODIES["attention"], "<=20")
    program, other = dslc.compile(model, target="cuda-emulated"), dslc.compile(oracle, target="reference")
    for n in (13, 6):
        given = inputs(model, time=n)
        np.testing.assert_allclose(program(**given)["y"], other(**given)["y"], rtol=1e-3, atol=1e-4)
    assert program.programs == ["time<=16"]


class Torch:
    """An array in the memory of a device that is a stand-in for a GPU; reading it on the host is an error."""

    __cuda_array_interface__ = None  # the protocol is looked for on the class

    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape
        told = array.__array_interface__
        self.__dict__["__cuda_array_interface__"] = {**{k: told[k] for k in ("shape", "typestr", "data", "strides")}, "version": 3}

    def __array__(self, *_, **__):
        raise TypeError("it lies on a device")


@pytest.fixture
def device(monkeypatch):
    """The emulator as a device whose memory is its own: nothing is downloaded but results."""
    driver = EmulatorDriver()
    driver.kind = 2
    monkeypatch.setattr(emulated_device, "emulator_driver", lambda: driver)
    return driver


@pytest.mark.parametrize("name", ["attention", "both"])
def test_device_arrays_are_padded_on_the_device(name, device, monkeypatch):
    text_of = {"attention": text(BODIES["attention"], "<=20"), "both": text(BODIES["mean"], "<=20").replace("batch=2", "batch<=6")}[name]
    found = []
    for place in (np.asarray, Torch):
        model = dslc.load(text_of)
        program, trainer = dslc.compile(model, target="cuda-emulated"), dslc.Trainer(model, target="cuda-emulated")
        for n in (13, 6):
            given = {k: place(v) for k, v in inputs(model, time=n).items()}
            found.append((program(**given)["y"], trainer.step(**given), {k: np.array(v) for k, v in model.params.items()}))
    assert program.programs and all("<=" in made for made in program.programs)
    for mine, theirs in zip(found[:2], found[2:]):
        np.testing.assert_equal(mine, theirs)


def test_device_arrays_for_a_program_on_the_host_are_refused():
    model = loaded(BODIES["mean"], "<=20")
    given = {k: Torch(v) for k, v in inputs(model, time=13).items()}
    with pytest.raises(dslc.Error.DataError, match="input 'x'"):
        dslc.compile(model, target="cpu")(**given)
    with pytest.raises(dslc.Error.DataError, match="lies on a CUDA device, the program runs on the CUDA emulator"):
        dslc.compile(model, target="cuda-emulated")(**given)


# --- the command line


RUN = """
model M:
    dims batch=4, time<=12
    input x[batch, time], target[batch]
    param w ~ constant(2.0)
    h[b, t] = x[b, t] * w
    output y[b] = mean[t](h[b, t])
    loss mean((y - target) ** 2)
train:
    data table("rows.npz")
    steps 2
    optimizer sgd(lr=0.1)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.dsl").write_text(RUN)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=rng.standard_normal((10, 5)).astype(np.float32), target=np.zeros(10, np.float32))
    return tmp_path


def test_the_command_line_takes_any_length(folder):
    x = np.arange(28, dtype=np.float32).reshape(4, 7)
    np.savez(folder / "in.npz", x=x)
    found = CliRunner().invoke(app, ["run", "m.dsl", "--input", "in.npz", "--output", "out.npz", "--target", "reference"])
    assert found.exit_code == 0 and "1 program for the lengths so far: time<=12" in found.stderr
    np.testing.assert_allclose(np.load(folder / "out.npz")["y"], 2 * x.mean(1), rtol=1e-6)
    np.savez(folder / "in.npz", x=np.zeros((4, 13), np.float32))
    found = CliRunner().invoke(app, ["run", "m.dsl", "--input", "in.npz", "--target", "reference"])
    assert str(found.exception).startswith("data error: 'time' is 13, and must be at most 12")


@pytest.mark.parametrize("batch", ["batch=4", "batch<=4"])
def test_evaluation_and_training_take_the_data_at_its_length(folder, batch):
    (folder / "m.dsl").write_text(RUN.replace("batch=4", batch))
    found = CliRunner().invoke(app, ["eval", "m.dsl", "--target", "reference"])
    assert found.exit_code == 0 and "(10 rows)" in found.stdout and "time<=12" in found.stderr
    x = np.load(folder / "rows.npz")["x"]
    assert f"loss {np.mean((2 * x.mean(1)) ** 2):.4g}" in found.stdout
    assert CliRunner().invoke(app, ["train", "m.dsl", "--target", "reference", "--run", "out"]).exit_code == 0


def test_inspect_tells_the_programs(folder):
    found = CliRunner().invoke(app, ["inspect", "m.dsl", "--target", "reference"])
    assert "time: any length up to 12, in at most 3 programs: time=1, time<=12, time=12" in found.stdout


def test_a_package_takes_any_length(folder):
    model = dslc.load(str(folder / "m.dsl"))
    assert CliRunner().invoke(app, ["train", "m.dsl", "--target", "reference", "--run", "out"]).exit_code == 0
    model.params.load_weights(folder / "out" / "checkpoint.safetensors")
    assert CliRunner().invoke(app, ["compile", "m.dsl", "-o", "pack", "--weights", "out"]).exit_code == 0
    package = dslc.runtime.load(folder / "pack")
    for n in (2, 7, 12):
        x = np.arange(4 * n, dtype=np.float32).reshape(4, n)
        np.testing.assert_allclose(package(x=x)["y"], dslc.compile(model, target="reference")(x=x)["y"], rtol=1e-5)
    assert package.executable.ports_of("input")[0].shape == (4, 12) and len(package.executable.ports_of("input")) == 1
    with pytest.raises(dslc.Error.DataError, match="'time' is 1, and must be at least 2"):
        package(x=np.zeros((4, 1), np.float32))


# --- mistakes


HEAD = "model M:\n    dims batch=2, time<=16\n    input x[batch, time]\n"


@pytest.mark.parametrize(
    "body, place, message",
    [
        ("    output y[b, i < time * time] = x[b, i // time]\n", 4, "the length of 'time' cannot vary here"),
        ("    output y[b, t] = x[b, t] * randint(0, time)\n", 4, "the length of 'time' cannot vary here: 'high' of this random follows"),
        ("    output y[b, t] = x[b, t] * sin(time)\n", 4, "the length of 'time' cannot vary here: a number follows"),
        ("    let odd = time // 4 % 2\n    output y[b, t] = x[b, t] * (odd + 1)\n", 5, "the length of 'time' cannot vary here: a number follows"),
        ("    param w[16] ~ zeros()\n    output y[b] = sum[t](x[b, t] * w[t])\n", 5, "index 't' is 15 in x"),
    ],
)
def test_what_a_fixed_length_needs_is_an_error_with_its_line(body, place, message):
    model = dslc.load(HEAD + body)
    with pytest.raises(dslc.Error, match=message) as found:
        dslc.compile(model, target="reference")
    assert found.value.spans[0].line == place


def test_a_length_that_no_input_tells():
    model = dslc.load("model M:\n    dims time<=8\n    param w[time] ~ zeros()\n    output y = sum(w)\n")
    with pytest.raises(dslc.Error.ShapeError, match="no input has an axis that says how long 'time' is"):
        dslc.compile(model, target="reference")


MISFITS = {
    "beyond": ({"x": (2, 17, 3), "m": (2, 17)}, "'time' is 17, and must be at most 16"),
    "empty": ({"x": (2, 0, 3), "m": (2, 0)}, "'time' is 0, and must be at least 1"),
    "differ": ({"x": (2, 5, 3), "m": (2, 6)}, "'time' is 5 in 'x' and 6 in 'm'"),
    "missing": ({"x": (2, 5, 3)}, "input 'm' was not given"),
    "nothing": ({}, "nothing says how long 'time' is"),
    "width": ({"x": (2, 5, 4), "m": (2, 5)}, r"input 'x' is float32\[2, 5, 4\], declared float32\[2, 5, 3\]"),
    "rank": ({"x": (2, 5), "m": (2, 5)}, r"input 'x' is float32\[2, 5\], declared float32\[2, 5, 3\]"),
    "unknown": ({"x": (2, 5, 3), "m": (2, 5), "q": (2,)}, "the program has no input 'q'"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_inputs_that_do_not_fit(name):
    shapes, message = MISFITS[name]
    model = dslc.load(
        "model M:\n    dims batch=2, time<=16\n    input x[batch, time, 3], m[batch, time]\n    output y[b] = sum[t, d](x[b, t, d] * m[b, t])\n"
    )
    program = dslc.compile(model, target="reference")
    with pytest.raises(dslc.Error.DataError, match=message):
        program(**{k: np.zeros(shape, np.float32) for k, shape in shapes.items()})


def test_an_index_beyond_the_length_is_refused():
    model = dslc.load("model M:\n    dims time<=16\n    input x[time], at[3]: int32\n    output y[i] = x[at[i]]\n")
    program = dslc.compile(model, target="reference")
    x, at = np.arange(5, dtype=np.float32), np.array([0, 4, 2], np.int32)
    np.testing.assert_array_equal(program(x=x, at=at)["y"], [0, 4, 2])
    with pytest.raises(dslc.Error.DataError, match=r"must be in \[0, 5\)"):
        program(x=x, at=at + 1)


def test_a_bound_can_be_set():
    model = dslc.load(HEAD + "    output y[b] = mean[t](x[b, t])\n", time=20)
    assert dslc.compile(model, target="reference")(x=np.ones((2, 19), np.float32))["y"].tolist() == [1, 1]


def test_a_bound_is_at_least_one():
    text = "model M:\n    dims time<=1\n    input x[2, time]\n    param w ~ ones()\n    output y[b, t] = x[b, t] * w\n"
    assert dslc.compile(dslc.load(text), target="reference")(x=np.ones((2, 1), np.float32))["y"].tolist() == [[1], [1]]
    with pytest.raises(dslc.Error.ShapeError, match="no length is up to 'time' <= 0") as found:
        dslc.load(text, time=0)
    assert found.value.spans[0].line == 2
