"""Starting values are drawn when somebody asks for them, and not where others were given first."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dslc
from dslc.core import philox
from dslc.frontend import initializers

SPEC = """
model Two:
    dims   batch=2
    input  x[batch, 4]
    param  w[4, 3] ~ normal(std=0.5)
    param  v[3] ~ uniform(-1, 1)
    param  b[3] ~ constant(2)
    output y[n, o] = sum[k](x[n, k] * w[k, o]) + v[o] + b[o]
"""


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "two.dsl"
    file.write_text(SPEC)
    return dslc.load(file)


@pytest.fixture
def drawn(monkeypatch):
    """The paths that were made, in order."""
    made: list[str] = []
    make = initializers.Initializer.make
    monkeypatch.setattr(initializers.Initializer, "make", lambda self, path, *rest: (made.append(path), make(self, path, *rest))[1])
    return made


def test_what_is_given_first_is_never_drawn(model, drawn):
    given = np.arange(12, dtype=np.float32).reshape(4, 3)
    model.params["w"] = given
    program = dslc.compile(model, target="cpu")
    assert sorted(drawn) == ["b", "v"]
    np.testing.assert_array_equal(model.params["w"], given)
    v = philox.uniform(0, philox.stream_hash("v"), 0, 0, 0, 3) * 2 - 1
    y = program(x=np.ones((2, 4), np.float32))["y"]
    np.testing.assert_allclose(y, np.tile(given.sum(0) + v + 2, (2, 1)), rtol=1e-6)
    assert sorted(drawn) == ["b", "v"]


def test_values_are_drawn_once_and_by_path(model, drawn):
    expected = philox.normal(0, philox.stream_hash("w"), 0, 0, 0, 12).reshape(4, 3) * 0.5
    for _ in range(2):
        np.testing.assert_array_equal(model.params["w"], expected.astype(np.float32))
    assert drawn == ["w"]
    before = model.params.copy()
    np.testing.assert_array_equal(before["w"], expected.astype(np.float32))
    assert sorted(drawn) == ["b", "v", "w"]


def test_who_asks_meanwhile_waits(model, drawn, monkeypatch):
    entered, go = threading.Event(), threading.Event()
    make = initializers.Initializer.make

    def slow(self, path, *rest):
        entered.set()
        assert go.wait(10)
        return make(self, path, *rest)

    monkeypatch.setattr(initializers.Initializer, "make", slow)
    seen: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: seen.append(model.params["w"].copy())) for _ in range(2)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 2 and drawn == ["w"]
    np.testing.assert_array_equal(seen[0], seen[1])


def test_large_draws_are_those_of_their_parts():
    count = 3 * philox._MANY * philox._BLOCK // 2 + 5
    some = np.array([0, philox._BLOCK - 1, philox._BLOCK, count - 1])
    for draw in (philox.normal, philox.uniform):
        np.testing.assert_array_equal(draw(3, 4, 5, 6, 7, count)[some], draw(3, 4, 5, 6, 7, some))
