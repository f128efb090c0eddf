"""dslc as a contestant, and the source of the weights' names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..workloads import DECODED, Workload


def shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """The parameters of the model file."""
    import dslc

    model = dslc.load(workload.spec, **workload.sizes)
    return {name: tuple(model.params[name].shape) for name in model.params}


def prepare(
    workload: Workload, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray], threads: int, memory: str = ""
) -> Callable[[], np.ndarray]:
    """A function that runs the workload once and gives its result in fresh memory. `memory`: a training step's budget of bytes."""
    import dslc

    others = {"batch": 1} if workload.mode == "decode" else {"memory": f"{memory} B"} if memory else {}
    model = dslc.load(workload.spec, **workload.sizes, **others)
    for name, value in weights.items():
        model.params[name] = value
    if workload.mode == "forward":
        program = dslc.compile(model, target="cpu")
        x = inputs["x"]
        return lambda: program(x=x)["logits"]
    if workload.mode == "decode":
        from dslc.compiled import decoder_of
        from dslc.runtime.generation import generate
        from dslc.runtime.sampling import Sampling

        decoder, prompt = decoder_of(model, "cpu"), inputs["x"].tolist()
        return lambda: np.array(generate(decoder, prompt, DECODED, Sampling("greedy"))[0])
    trainer = dslc.Trainer(model, target="cpu")
    return lambda: np.float32(trainer.step(**inputs))
