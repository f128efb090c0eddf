"""A training step that fails on the way leaves parameters and states as they were, and the next one goes on as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dslc
from dslc.core.errors import TargetError
from dslc.runtime.drivers import emulated_device
from dslc.runtime.drivers.emulated_device import EmulatorDriver
from dslc.targets import TARGETS

pytestmark = pytest.mark.skipif(TARGETS["cuda-emulated"].missing() is not None, reason="needs g++ and NVIDIA's headers")
FEED = {"x": np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), "y": np.array([0, 1, 1, 0], np.float32)}


class Failing(EmulatorDriver):
    """The emulator, whose launch of that number fails, counted from when the number is set."""

    left: int | None = None

    def _launch(self, launch, known):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise TargetError(f"failed in {launch.label}")
        super()._launch(launch, known)


def trainer() -> dslc.Trainer:
    return dslc.Trainer(dslc.load(str(Path(__file__).parents[2] / "examples" / "xor.dsl")), target="cuda-emulated")


def values(of: dslc.Trainer) -> dict[str, np.ndarray]:
    return {k: np.array(v) for k, v in of.model.params.items()}


def test_a_failed_launch_leaves_the_parameters(monkeypatch):
    """Whichever of the step's launches it is, in the first step and in a later one, whose parameters lie on the device alone."""
    driver = Failing()
    monkeypatch.setattr(emulated_device, "emulator_driver", lambda: driver)
    sound, failing = trainer(), trainer()
    launches = len(failing._stepper.fed.executable.launches)
    assert launches > 2
    for number in range(launches):
        driver.left = number
        with pytest.raises(TargetError, match=r"failed in k\d\d_.*xor.dsl:\d"):
            failing.step(**FEED)
        assert driver.left is None
        before = values(sound)
        for path, value in values(failing).items():
            assert value.tobytes() == before[path].tobytes(), f"{path} after launch {number}"
        assert failing.step(**FEED) == sound.step(**FEED) and failing.steps == sound.steps
