"""dslc as a contestant, given the model file and one of weights, the graph that onnxruntime is given or a package; and the source of the weights'
names and shapes."""

from __future__ import annotations

import subprocess
import sys
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


def stored(workload: Workload, weights: str) -> Path:
    """The weights in a file of the form that dslc reads, beside the one given."""
    file = Path(weights).with_name(f"{workload.name}.safetensors")
    if not file.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.peers.stored_weights", weights, str(file)], check=True)
    return file


def prepare(workload: Workload, weights: Path, inputs: Mapping[str, np.ndarray], threads: int, memory: str = "") -> Callable[[], np.ndarray]:
    """A function that runs the workload once and gives its result in fresh memory. `memory`: a training step's budget of bytes."""
    import dslc

    others = {"batch": 1} if workload.mode == "decode" else {"memory": f"{memory} B"} if memory else {}
    model = dslc.load(workload.spec, **workload.sizes, **others)
    model.params.load_weights(weights)
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


def package(workload: Workload, weights: str) -> Path:
    """A package of the workload, beside the file of weights, compiled by a process of its own."""
    folder = Path(weights).with_name(f"{workload.name}.package")
    if not folder.exists():
        sizes = [part for name, n in workload.sizes.items() for part in ("--set", f"{name}={n}")]
        command = ["compile", str(workload.spec), "--program", "run", "--target", "cpu", "--weights", weights, "-o", str(folder), *sizes]
        subprocess.run([sys.executable, "-m", "dslc.cli", *command], check=True)
    return folder


def prepare_package(workload: Workload, folder: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], np.ndarray]:
    """A function that runs a package, without the compiler."""
    from dslc.runtime import load

    program, x = load(folder), inputs["x"]
    return lambda: program(x=x)["logits"]
