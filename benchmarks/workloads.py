"""The workloads: what is computed, on which inputs, and how the weights of the model file are called in the peers.

Weights are drawn once, under the names of the model file, and handed to every contestant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DECODED = 240  # tokens of a decoding
MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Workload:
    """`mode` is "forward", "train" (one step of forward, backward and optimizer) or "decode" (`DECODED` tokens after a prompt, greedily, one row);
    `tolerance` bounds the relative difference of results."""

    name: str
    model: str  # file under models/, and the builder's name in the peers
    mode: str
    inputs: Callable[[np.random.Generator], dict[str, np.ndarray]]
    tolerance: float = 1e-4
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the model file, others than its own
    unrolled_by: tuple[str, ...] = ()  # peers that make a graph node of every turn of the network's loop, and are left out for that

    @property
    def spec(self) -> Path:
        return MODELS / f"{self.model}.dsl"


def _mlp(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((128, 784), np.float32), "y": rng.integers(0, 10, 128).astype(np.int32)}


def _chosen(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((256, 256), np.float32)}


def _gpt(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.integers(0, 65, (8, 256)).astype(np.int32) for name in ("x", "y")}


def _gpt_words(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.integers(0, 50304, (8, 256)).astype(np.int32) for name in ("x", "y")}


def _gpt_prompt(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.integers(0, 65, (1, 8)).astype(np.int32)}


def _attention(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((3, 1, 8, 2048, 64), np.float32), "y": rng.integers(0, 64, (1, 8, 2048)).astype(np.int32)}


def _lstm(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((32, 128, 256), np.float32), "y": rng.integers(0, 256, (32, 128)).astype(np.int32)}


def _rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((16384, 1024), np.float32)}


def _picture(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((1, 3, 224, 224), np.float32)}


def _pixels(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((2, 3, 128, 128), np.float32), "y": rng.integers(0, 5, (2, 128, 128)).astype(np.int32)}


def _tokens(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.integers(0, 8192, (1, 128)).astype(np.int32)}


def _features(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.integers(0, 2000, (512, 26)).astype(np.int32), "y": rng.integers(0, 2, 512).astype(np.int32)}


def _sequence(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((1, 512, 256), np.float32)}


WORKLOADS = {
    w.name: w
    for w in (
        Workload("mlp_forward", "mlp", "forward", _mlp),
        Workload("mlp_int8", "mlp_int8", "forward", _mlp, 0.02),  # where two round apart it is by a 255th of the range
        Workload("mlp_train", "mlp", "train", _mlp),
        Workload("gpt_forward", "gpt", "forward", _gpt),
        Workload("gpt_train", "gpt", "train", _gpt),
        Workload("gpt_words_train", "gpt", "train", _gpt_words, sizes={"vocab": 50304, "width": 256, "heads": 4, "depth": 2}),
        Workload("gpt_decode", "gpt", "decode", _gpt_prompt, 0.0),
        Workload("attention_forward", "attention", "forward", _attention),
        Workload("attention_train", "attention", "train", _attention),
        Workload("lstm_forward", "lstm", "forward", _lstm),
        Workload("lstm_train", "lstm", "train", _lstm),
        Workload("resnet18", "resnet18", "forward", _picture),
        Workload("resnet50", "resnet50", "forward", _picture),
        Workload("mobilenet_v2", "mobilenet_v2", "forward", _picture),
        Workload("unet_train", "unet", "train", _pixels),
        Workload("vit_small", "vit_small", "forward", _picture),
        Workload("bert_base", "bert_base", "forward", _tokens),
        Workload("mamba", "mamba", "forward", _sequence, unrolled_by=("torch.compile", "onnxruntime")),
        Workload("moe", "moe", "forward", _chosen),
        Workload("recommender_train", "recommender", "train", _features),
        Workload("layernorm", "layernorm", "forward", _rows),
        Workload("softmax", "softmax", "forward", _rows),
        Workload("gelu_add_layernorm", "gelu_add_layernorm", "forward", _rows),
    )
}


def inputs(workload: Workload) -> dict[str, np.ndarray]:
    """The inputs every contestant gets."""
    return workload.inputs(np.random.default_rng(1))


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights every contestant gets, by the model file's names: normal, filters with the fan-in's scale; vectors one for scales, else zero."""
    rng = np.random.default_rng(2)
    drawn = {}
    for name, shape in sorted(shapes.items()):
        if len(shape) == 1:
            drawn[name] = np.ones(shape, np.float32) if name.endswith(("scale", "gain", "var")) else np.zeros(shape, np.float32)
        elif "conv" in name:
            drawn[name] = (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
        else:
            drawn[name] = (rng.standard_normal(shape) * 0.05).astype(np.float32)
    return drawn
