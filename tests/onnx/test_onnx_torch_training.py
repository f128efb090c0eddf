"""Graphs that torch exports, trained as torch trains the model."""

from copy import deepcopy

import numpy as np
import onnx
import pytest
import torch
from torch_models import exported

import dslc

SPEC = """
model Fit:
{inputs}
    input   t[{target}]
    net = import "net.onnx"
    y = net({names})
    output  y
    loss    mean((y - t)**2)

train:
    steps      20
    optimizer  sgd(lr=0.05)
"""


# Tensors that are only added or multiplied: no weights of an operator, so constants unless `train=` names them.
CONSTANT = {
    "gpt2": {"place"}, "vit": {"token"}, "llama": {"norm.weight"}, "convnext": {"gamma"}, "t5": {f"norms.{k}.weight" for k in range(4)},
}  # fmt: skip
EXPORTER = {
    "resnet": "script", "mobilenet": "script", "densenet": "script", "unet": "script", "vit": "script", "convnext": "graph", "gpt2": "script",
    "llama": "graph", "t5": "graph", "lstm": "script", "wavenet": "graph", "moe": "script",
}  # fmt: skip


def spec_of(xs, t):
    """The model file for inputs of these shapes."""
    lines = [f"    input   x{k}[{', '.join(map(str, x.shape))}]: {str(x.dtype).split('.')[1]}" for k, x in enumerate(xs)]
    return SPEC.format(inputs="\n".join(lines), target=", ".join(map(str, t.shape)), names=", ".join(f"x{k}" for k in range(len(xs))))


@pytest.mark.parametrize(("name", "exporter"), EXPORTER.items())
def test_trains_as_torch(name, exporter, tmp_path):
    net, xs, proto = exported(name, exporter, training=True)
    onnx.save(proto, tmp_path / "net.onnx")
    t = torch.randn(deepcopy(net)(*xs).shape)  # of a copy: it changes running statistics
    (tmp_path / "fit.dsl").write_text(spec_of(xs, t))
    loaded = dslc.load(tmp_path / "fit.dsl")
    trainer = dslc.Trainer(loaded, "cpu")
    trained = {p.path.removeprefix("net.") for p in loaded.checked.parameters}
    assert {path for path, _ in net.named_parameters()} - trained == CONSTANT.get(name, set())
    optimizer = torch.optim.SGD([value for path, value in net.named_parameters() if path in trained], lr=0.05)
    given = {f"x{k}": x.numpy() for k, x in enumerate(xs)}
    for _ in range(2):
        optimizer.zero_grad()
        loss = ((net(*xs) - t) ** 2).mean()
        loss.backward()
        optimizer.step()
        assert trainer.step(**given, t=t.numpy()) == pytest.approx(loss.item(), rel=1e-4)
    kept = {path.removeprefix("net."): np.asarray(loaded.params[path]) for path in loaded.params}
    for path, value in [*net.named_parameters(), *net.named_buffers()]:
        if path in kept:
            np.testing.assert_allclose(kept[path], value.detach().numpy(), rtol=1e-3, atol=1e-5, err_msg=path)
