"""dslc: a declarative neural-network compiler. A model is one small file of equations; this package compiles, trains and runs it.

model   = dslc.load("char_gpt.dsl", batch=8)
program = dslc.compile(model, target="cpu")
logits  = program(tokens=tokens)["logits"]
trainer = dslc.Trainer(model)
loss    = trainer.step(tokens=tokens, targets=targets)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.errors import Error

if TYPE_CHECKING:
    from .compiled import Compiled, Trainer
    from .model import Model

__version__ = "0.1.0"
__all__ = ["Error", "Executable", "Model", "Trainer", "compile", "generate", "load", "tune"]

_LAZY = {  # imported when used, so that importing dslc is cheap
    "Executable": "dslc.core.executable",
    "Model": "dslc.model",
    "Trainer": "dslc.compiled",
    "generate": "dslc.compiled",
    "tune": "dslc.tuning",
}


def load(spec: Any, **overrides: Any) -> Model:
    """The model of a `.dsl`, `.yaml` or `.onnx` file, of a program's text or of an onnx.ModelProto; `overrides` replace its dims, lets and train
    keys. Raises `dslc.Error`."""
    from .model import Model

    return Model(spec, overrides)


def compile(model: Model, target: str = "cpu", program: str = "run") -> Compiled:
    """A program of a model: "run" (outputs), "eval" (losses and metrics too) or "train" (the same in training mode). Raises `dslc.Error`."""
    from .compiled import Compiled

    return Compiled(model, program, target)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dslc' has no attribute {name!r}")
