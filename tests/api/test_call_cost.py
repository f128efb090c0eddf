"""What a call costs beside its kernels, as counts of Python and C calls, which no load of the machine changes; and that what is left out lets no
mistake through."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

import dslc
from dslc.core.errors import DataError
from dslc.runtime.bounded import padded
from dslc.runtime.drivers.cpu.address import address_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4)).astype(np.float32)


def calls(run: Callable[[], object]) -> int:
    """Of functions, in one run, after two that may plan."""
    run(), run()
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count - 1  # the last one is setprofile itself


def model(count: int, more: str = "", dims: str = "batch=2") -> dslc.Model:
    """`count` inputs, parameters and outputs."""
    numbers = range(count)
    lines = [
        "model M:",
        f"    dims {dims}",
        *(f"    input x{i}[batch, 4]" for i in numbers),
        *(f"    param w{i}[4] ~ normal()" for i in numbers),
        *(f"    output y{i} = x{i} * w{i}" for i in numbers),
        f"    loss total = {' + '.join(f'mean(y{i})' for i in numbers)}",
    ]
    return dslc.load("\n".join(lines) + "\n" + more)


def fed(count: int) -> dict[str, np.ndarray]:
    return {f"x{i}": X for i in range(count)}


def grows(make: Callable[[int], Callable[[], object]]) -> tuple[int, float]:
    """Calls with one of each, and by how much they grow with each more."""
    one, nine = (calls(make(count)) for count in (1, 9))
    return one, (nine - one) / 8


def test_a_call() -> None:
    def make(count: int) -> Callable[[], object]:
        program, inputs = dslc.compile(model(count)), fed(count)
        return lambda: program(**inputs)

    one, more = grows(make)
    assert one <= 30 and more <= 14  # an input: 3 to compare it, 4 for its place; a result: 3 to make it, 3 for its place


def test_a_call_with_memory_of_its_own() -> None:
    def make(count: int) -> Callable[[], object]:
        program, inputs = dslc.compile(model(count)), fed(count)
        out = {name: array for name, array in program(**inputs).items()}
        return lambda: program(out=out, **inputs)

    one, more = grows(make)
    assert one <= 34 and more <= 15


def test_a_training_step() -> None:
    train = "train:\n    optimizer adam(lr=0.1)\n    steps 10\n"

    def make(count: int) -> Callable[[], object]:
        trainer, inputs = dslc.Trainer(model(count, train)), fed(count)
        return lambda: trainer.step(**inputs)

    one, more = grows(make)
    assert one <= 73 and more <= 11  # beside an input the three values that an optimizer writes


def test_a_call_of_any_length() -> None:
    def make(count: int) -> Callable[[], object]:
        program = dslc.compile(model(count, dims="batch<=64"))
        inputs = {name: np.ones((30, 4), np.float32) for name in fed(count)}
        return lambda: program(**inputs)

    one, more = grows(make)
    assert one <= 65 and more <= 31


def test_a_step_takes_inputs_without_axes() -> None:
    text = "model M:\n    input x[2, 4], s[]\n    param w[4] ~ ones()\n    loss s * mean(x * w)\ntrain:\n    optimizer sgd(lr=0.1)\n    steps 3\n"
    trainer = dslc.Trainer(dslc.load(text))
    assert trainer.step(x=X, s=np.float32(3)) == pytest.approx(3 * X.mean(), rel=1e-5)
    with pytest.raises(DataError, match="input 's' was not given"):
        trainer.step(x=X)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_mistakes_are_told(target: str) -> None:
    program = dslc.compile(model(2), target=target)
    wrong = {
        "the program has no input 'x2'": {**fed(2), "x2": X},
        "the program has no input 'x3'": {"x0": X[:1], "x1": X, "x3": X},  # a name before a value
        "input 'x1' was not given": {"x0": X[:1]},
        r"input 'x1' is float32\[1, 4\], declared float32\[2, 4\]": {"x0": X, "x1": X[:1]},
        r"input 'x1' is complex64\[2, 4\], declared float32\[2, 4\]": {"x0": X, "x1": X.astype(np.complex64)},
        r"input 'x0' is object\[\], declared float32\[2, 4\]": {"x0": None, "x1": X},
    }
    for told, inputs in wrong.items():
        with pytest.raises(DataError, match=told):
            program(**inputs)
    same = {"x0": X.astype(">f4"), "x1": np.asfortranarray(X)}
    np.testing.assert_array_equal(program(**same)["y0"], program(**fed(2))["y0"])


def test_memory_that_does_not_fit_is_told() -> None:
    program, right = dslc.compile(model(2)), np.zeros((2, 4), np.float32)
    wrong = {
        "no result 'z'": {"y0": right, "z": right},
        r"out\['y1'\] is float64": {"y1": right.astype(np.float64)},
        r"out\['y1'\] is float32\[1, 4\]": {"y0": right, "y1": right[:1]},
        r"out\['y0'\] is NoneType": {"y0": None},
        r"out\['y0'\] must be a C-contiguous": {"y0": np.asfortranarray(right)},
    }
    for told, out in wrong.items():
        with pytest.raises(DataError, match=told):
            program(out=out, **fed(2))
    frozen = right.copy()
    frozen.flags.writeable = False
    with pytest.raises(DataError, match=r"out\['y0'\] must be .* can be written"):
        program(out={"y0": frozen}, **fed(2))

    class Other(np.ndarray):
        pass

    held = right.view(Other)
    found = program(out={"y0": held}, **fed(2))
    assert found["y0"] is held and set(found) == {"y0", "y1"}
    np.testing.assert_array_equal(np.asarray(held), program(**fed(2))["y0"])


def test_an_index_of_one_element_is_in_its_range() -> None:
    program = dslc.compile(dslc.load("model M:\n    input i[1]: int32\n    param w[5, 4] ~ normal()\n    output y[b, j] = w[i[b], j]\n"))
    assert program(i=np.array([4], np.int32))["y"].shape == (1, 4)
    for index in (-1, 5):
        with pytest.raises(DataError, match=rf"input 'i' has the value {index} at \[0\]"):
            program(i=np.array([index], np.int32))


def test_addresses() -> None:
    whole = np.zeros((3, 5), np.float32)
    for array in (whole, whole[1:, 2:], whole.T, whole[:0], np.array(2.0), np.ones(1 << 20)):
        assert address_of(array) == array.ctypes.data


def test_the_last_elements_are_repeated() -> None:
    value = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    for shape in ((2, 3, 4), (5, 3, 4), (2, 7, 9), (4, 4, 4)):
        np.testing.assert_array_equal(padded(value, shape), np.pad(value, [(0, n - m) for n, m in zip(shape, value.shape)], mode="edge"))
