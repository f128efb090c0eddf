"""Programs in numpy for tests of the runtime: linear regression with momentum, its evaluation, and a causal counter of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dslc.core import dtypes, philox
from dslc.core.executable import Executable, Port
from dslc.runtime import data
from dslc.runtime.store import ParameterStore

F32 = dtypes.FLOAT32
FEATURES = 3


def executable(program: str, ports: list[tuple[str, str, Any, tuple[int, ...]]]) -> Executable:
    made = tuple(Port(name, role, dtype, shape, slot, line=slot + 1) for slot, (name, role, dtype, shape) in enumerate(ports))
    return Executable("fake", program, "Linear", "sig", made, (), (), 0, 0, b"", b"")


class Linear:
    """y = x w + b. `mode`: "train" (a momentum step), "accumulate", "apply" (no data), or "eval". Dropout-like noise uses seed and step."""

    def __init__(self, mode: str, batch: int = 4, lr: float = 0.1, microbatches: int = 1):
        self.mode, self.lr, self.microbatches = mode, lr, microbatches
        ports = [("w", "param", F32, (FEATURES,)), ("b", "param", F32, ())]
        if mode in ("train", "apply"):
            ports += [("opt.w", "state", F32, (FEATURES,)), ("opt.b", "state", F32, ())]
        if mode in ("accumulate", "apply") or (mode == "train" and microbatches > 1):
            ports += [("sum.w", "state", F32, (FEATURES,)), ("sum.b", "state", F32, ())]
        if mode != "apply":
            ports += [("x", "input", F32, (batch, FEATURES)), ("y", "input", F32, (batch,))]
            ports += [("loss", "loss", F32, ()), ("error", "metric", F32, ())]
        self.executable = executable(mode, ports)
        self.calls: list[tuple[int, int, int]] = []

    def bind(self, store: ParameterStore) -> None:
        self.store = store

    def __call__(self, inputs: Mapping[str, Any], *, seed=0, step=0, microbatch=0, out=None) -> dict[str, np.ndarray]:
        self.calls.append((seed, step, microbatch))
        results = {}
        if self.mode != "apply":
            results, gradients = self._gradients(inputs, seed, step, microbatch)
            if self.mode == "accumulate" or self.microbatches > 1:
                self._add(gradients)
        if self.mode in ("train", "apply"):
            self._update(gradients if self.mode == "train" and self.microbatches == 1 else None)
        for name, value in results.items():
            if out is not None and name in out:
                out[name][...] = value
        return {n: out[n] if out is not None and n in out else v for n, v in results.items()}

    def _gradients(self, inputs, seed, step, microbatch):
        x, y = inputs["x"], inputs["y"]
        if self.mode != "eval":
            x = x + np.float32(0.01) * philox.normal(seed, 1, step, microbatch, 0, x.size).astype(np.float32).reshape(x.shape)
        difference = x @ self.store.array("w") + self.store.array("b") - y
        loss = np.asarray((difference**2).mean(), np.float32)
        gradients = {"w": 2 * difference @ x / np.float32(len(y)), "b": 2 * difference.mean()}
        return {"loss": loss, "error": np.asarray(np.abs(difference).mean(), np.float32)}, gradients

    def _add(self, gradients):
        for name, gradient in gradients.items():
            self.store.array(f"sum.{name}")[...] += np.asarray(gradient / np.float32(self.microbatches), np.float32)

    def _update(self, gradients):
        for name in ("w", "b"):
            gradient = gradients[name] if gradients is not None else self.store.array(f"sum.{name}").copy()
            momentum = self.store.array(f"opt.{name}")
            momentum[...] = np.float32(0.9) * momentum + gradient
            self.store.array(name)[...] -= np.float32(self.lr) * momentum
            self.store.touch(name, f"opt.{name}")
            if gradients is None:
                self.store.array(f"sum.{name}")[...] = 0


def linear_data(rows: int = 40) -> data.Dataset:
    x = philox.normal(0, 5, 0, 0, 0, rows * FEATURES).reshape(rows, FEATURES)
    return data.arrays(x=x, y=x @ [1.0, -2.0, 0.5] + 0.25)


class Counting:
    """`run` program of a causal model over [batch, time] tokens: the favourite next token is (sum of the tokens so far) mod vocab."""

    def __init__(self, batch: int = 2, time: int = 5, vocab: int = 7, extra: bool = False):
        self.shape, self.vocab = (batch, time), vocab
        ports: list[Any] = [("tokens", "input", dtypes.INT32, (batch, time)), ("logits", "output", F32, (batch, time, vocab))]
        if extra:
            ports.insert(1, ("targets", "input", dtypes.INT32, (batch, time)))
        self.executable = executable("run", ports)
        self.windows: list[np.ndarray] = []

    def bind(self, store: ParameterStore) -> None: ...

    def __call__(self, inputs, *, seed=0, step=0, microbatch=0, out=None):
        tokens = np.asarray(inputs["tokens"])
        assert tokens.shape == self.shape and tokens.dtype == np.int32
        self.windows.append(tokens.copy())
        favourite = np.cumsum(tokens, axis=1) % self.vocab
        distance = (np.arange(self.vocab) - favourite[..., None]) % self.vocab
        return {"logits": -distance.astype(np.float32)}
