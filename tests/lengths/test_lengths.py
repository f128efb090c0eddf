"""Bounded dimensions: a program of any length does what the program of each fixed length does, forwards and in a training step."""

import numpy as np
import pytest

import dslc

from .models import BODIES, BOUND, fixed_like, inputs, part, text


def lengths(body: str) -> list[dict]:
    every = [{"time": n} for n in range(1, BOUND + 1)]
    if "words" not in body:
        return every
    return [{"time": t, "words": w} for t, w in [(1, 3), (2, 5), (3, 2), (4, 4), (5, 3), (4, 1), (5, 5)]]


@pytest.mark.parametrize("name", BODIES)
def test_any_length_is_its_fixed_length(name):
    body = BODIES[name]
    model = dslc.load(text(body))
    program = dslc.compile(model, target="reference")
    trainer = dslc.Trainer(model, target="reference")
    kept = {path: np.array(model.params[path]) for path in model.params}
    for sizes in lengths(body):
        fixed = fixed_like(model, body, **sizes)
        given = inputs(model, seed=sizes["time"], **sizes)
        got, want = program(**given), dslc.compile(fixed, target="reference")(**given)
        assert got["y"].shape == want["y"].shape
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-6, atol=1e-6, err_msg=str(sizes))
        assert trainer.step(**given) == pytest.approx(dslc.Trainer(fixed, target="reference").step(**given), rel=1e-5)
        for path in fixed.params:
            after = np.array(model.params[path])
            changed = part(after, fixed.params[path].shape)
            np.testing.assert_allclose(changed, fixed.params[path], rtol=1e-5, atol=1e-6, err_msg=f"{sizes} {path}")
            changed[...] = part(kept[path], changed.shape)
            np.testing.assert_array_equal(after, kept[path])  # what a shorter run does not reach
            model.params[path] = kept[path]
    assert len(program.programs) <= (3 if "words" not in body else 9) and len(set(program.programs)) == len(program.programs)
    assert program.programs == trainer.programs
