"""dslc as a contestant, given the model file or the graph that onnxruntime is given, and the source of the weights' names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..workloads import DECODED, Workload
from .onnx_graph import graph_input


def libraries() -> None:
    """Imports what dslc imports when it first compiles."""
    import dslc.compiler
    import dslc.ir.mlir  # noqa: F401


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


def prepare_graph(workload: Workload, graph: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """A function that runs an imported ONNX graph."""
    import dslc

    try:
        program = dslc.compile(dslc.load(graph), target="cpu")
    except dslc.Error.UnsupportedOp as error:
        raise NotImplementedError(error.message) from error
    x = graph_input(inputs["x"])
    return lambda: program(x=x)["y"]
