"""Techniques written as their equations, against the same in torch in float64: what they compute, the loss, the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

import dslc

Tensors = Mapping[str, torch.Tensor]
RATE = 4096.0  # of one step of plain gradient descent: what it moves a parameter by is its gradient, exact to float32's rounding
END = "\n    output y\n    loss 10 * mean(y ** 2)\n\ntrain:\n    optimizer sgd(lr=4096.0)\n    steps 1\n"


@dataclass(frozen=True)
class Case:
    """`text`: layers, and the model up to a value y; `oracle(params, inputs)`: the same y. Parameters start at their initializer plus normal draws
    times `spread`; `tolerance`: beside the largest magnitude of what is compared; `drawn`: inputs that are not just any."""

    name: str
    text: str
    oracle: Callable[[Tensors, Tensors], torch.Tensor]
    spread: float = 0.5
    tolerance: float = 2e-5
    drawn: Mapping[str, np.ndarray] | None = None

    def __str__(self) -> str:
        return self.name


def case(into: list[Case], text: str, **options: object) -> Callable:
    """Adds a function, the oracle, to a list of cases under its name."""

    def add(oracle: Callable[[Tensors, Tensors], torch.Tensor]) -> Callable:
        into.append(Case(oracle.__name__, text, oracle, **options))  # type: ignore[arg-type]
        return oracle

    return add


def check(one: Case, target: str = "cpu") -> None:
    model = dslc.load(one.text.rstrip() + END)
    rng = np.random.default_rng(0)
    paths = [e.path for e in model.params.entries("param")]
    model.params.assign({p: (w := model.params[p]) + one.spread * rng.standard_normal(w.shape) for p in paths})
    program = dslc.compile(model, target=target)
    inputs = {port.name: _drawn(one, port, rng) for port in program.executable.ports if port.role == "input"}
    params = {path: _tensor(model.params[path]).requires_grad_(path in paths) for path in model.params}
    wanted = one.oracle(params, {name: _tensor(value) for name, value in inputs.items()})
    loss = 10 * (wanted**2).mean()
    gradients = torch.autograd.grad(loss, [params[p] for p in paths], allow_unused=True)

    _same("y", program(**inputs)["y"], wanted.detach(), one.tolerance)
    before = {path: np.array(model.params[path], np.float64) for path in paths}
    _same("loss", dslc.Trainer(model, target=target).step(**inputs), loss.detach(), one.tolerance)
    for path, gradient in zip(paths, gradients):
        found = (before[path] - np.asarray(model.params[path], np.float64)) / RATE
        _same(path, found, torch.zeros(found.shape) if gradient is None else gradient, 5 * one.tolerance)


def _drawn(one: Case, port: dslc.core.executable.Port, rng: np.random.Generator) -> np.ndarray:
    if one.drawn and port.name in one.drawn:
        value = one.drawn[port.name]
    else:
        value = rng.standard_normal(port.shape) if port.dtype.is_float else rng.integers(*(port.bounds or (0, 2)), port.shape)
    return value.astype(port.dtype.numpy)


def _tensor(value: object) -> torch.Tensor:
    made = torch.tensor(np.asarray(value))
    return made.double() if made.is_floating_point() else made.long() if made.dtype != torch.bool else made


def _same(name: str, found: object, wanted: torch.Tensor, tolerance: float) -> None:
    scale = max(1e-3, float(wanted.abs().max()))
    np.testing.assert_allclose(np.asarray(found, np.float64) / scale, wanted.numpy() / scale, atol=tolerance, rtol=0, err_msg=name)
