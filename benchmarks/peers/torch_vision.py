"""The convolution networks in torch, with weights taken from the model files' arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Weights = Mapping[str, np.ndarray]


class Scope:
    """The names of one call of a layer: its calls are numbered per layer in the order of the file, turns of a repeat behind a point."""

    def __init__(self, weights: Weights, prefix: str = ""):
        self.weights, self.prefix = weights, prefix
        self._count: Counter[str] = Counter()

    def call(self, layer: str) -> Scope:
        self._count[layer] += 1
        number = self._count[layer]
        return Scope(self.weights, f"{self.prefix}{layer}{f'_{number}' if number > 1 else ''}.")

    def repeat(self, layer: str, turns: int) -> list[Scope]:
        first = self.call(layer)
        return [Scope(self.weights, f"{first.prefix}{turn}.") for turn in range(turns)]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.weights[self.prefix + name].copy())


def _conv(w: torch.Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution whose padding keeps the size at stride 1."""
    out, per, kernel, _ = w.shape
    layer = nn.Conv2d(per * groups, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    layer.weight = nn.Parameter(w)
    return layer


def _batchnorm(s: Scope) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(s["gain"]))
    layer.load_state_dict({"weight": s["gain"], "bias": s["bias"], "running_mean": s["mean"], "running_var": s["var"]}, strict=False)
    return layer


def conv_norm(s: Scope, stride: int = 1, act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(_conv(s.call("conv2d")["w"], stride), _batchnorm(s.call("batchnorm")), *([act] if act else []))


class Residual(nn.Module):
    """relu(body(x) + short(x))."""

    def __init__(self, body: nn.Module, short: nn.Module | None):
        super().__init__()
        self.body, self.short = body, short or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.short(x))


def _block(s: Scope, strides: tuple[int, ...]) -> Residual:
    """Convolutions, with a relu between them, and a projection where the model file's block has one."""
    last = len(strides) - 1
    body = nn.Sequential(*(conv_norm(s.call("conv_norm"), stride, nn.ReLU() if k < last else None) for k, stride in enumerate(strides)))
    projected = f"{s.prefix}conv_norm_{len(strides) + 1}.conv2d.w" in s.weights
    return Residual(body, conv_norm(s.call("conv_norm"), max(strides)) if projected else None)


class Classifier(nn.Module):
    """Features, their means, and a linear head."""

    def __init__(self, s: Scope, features: nn.Module):
        super().__init__()
        self.features = features
        self.head, self.bias = nn.Parameter(s["head"]), nn.Parameter(s["bias"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x).mean((2, 3)) @ self.head + self.bias


def _stem(s: Scope) -> list[nn.Module]:
    return [conv_norm(s.call("conv_norm"), 2, nn.ReLU()), nn.MaxPool2d(3, 2, 1)]


def resnet50(w: Weights) -> nn.Module:
    s = Scope(w)
    layers = _stem(s)
    for stride, more in ((1, 2), (2, 3), (2, 5), (2, 2)):
        layers.append(_block(s.call("bottleneck"), (1, stride, 1)))
        layers += [_block(turn, (1, 1, 1)) for turn in s.repeat("bottleneck", more)]
    return Classifier(s, nn.Sequential(*layers))


def resnet18(w: Weights) -> nn.Module:
    s = Scope(w)
    layers = _stem(s)
    for stride in (1, 1, 2, 1, 2, 1, 2, 1):
        layers.append(_block(s.call("basic_block"), (stride, 1)))
    return Classifier(s, nn.Sequential(*layers))


class Inverted(nn.Module):
    def __init__(self, s: Scope, stride: int, expands: bool):
        super().__init__()
        wide = [conv_norm(s.call("conv_norm"), 1, nn.ReLU6())] if expands else []
        w = s.call("depthwise_conv2d")["w"][:, None]
        self.body = nn.Sequential(*wide, _conv(w, stride, len(w)), _batchnorm(s.call("batchnorm")), nn.ReLU6(), conv_norm(s.call("conv_norm")))
        first, last = (m for m in self.body.modules() if isinstance(m, nn.Conv2d) and m.groups == 1) if expands else (None, None)
        self.adds = stride == 1 and expands and first.in_channels == last.out_channels  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2(w: Weights) -> nn.Module:
    s = Scope(w)
    layers: list[nn.Module] = [conv_norm(s.call("conv_norm"), 2, nn.ReLU6()), Inverted(s.call("inverted"), 1, False)]
    for stride, more in ((2, 1), (1, 0), (2, 0), (1, 2), (2, 0), (1, 3), (1, 3), (2, 0), (1, 2), (1, 1)):
        layers += [Inverted(turn, stride, True) for turn in (s.repeat("inverted", more) if more > 1 else [s.call("inverted")])]
    layers.append(conv_norm(s.call("conv_norm"), 1, nn.ReLU6()))
    return Classifier(s, nn.Sequential(*layers))


class UNet(nn.Module):
    """Pairs of convolutions on the way down and up, joined at each size."""

    LEVELS = 3

    def __init__(self, w: Weights):
        super().__init__()
        s = Scope(w)
        self.down = nn.ModuleList(self._pair(s) for _ in range(self.LEVELS))
        self.middle = self._pair(s)
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        for _ in range(self.LEVELS):
            spread = s.call("conv_transpose2d")["w"]
            layer = nn.ConvTranspose2d(spread.shape[0], spread.shape[1], 2, 2, bias=False)
            layer.weight = nn.Parameter(spread)
            self.up.append(layer)
            self.join.append(self._pair(s))
        self.last = _conv(s.call("conv2d")["w"])

    @staticmethod
    def _pair(s: Scope) -> nn.Sequential:
        inner = s.call("pair")
        return nn.Sequential(*(conv_norm(inner.call("conv_norm"), 1, nn.ReLU()) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for layer in self.down:
            kept.append(layer(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.middle(x)
        for up, join in zip(self.up, self.join):
            x = join(torch.cat([up(x), kept.pop()], 1))
        return self.last(x).permute(0, 2, 3, 1)


NETWORKS: dict[str, Callable[[Weights], nn.Module]] = {"resnet18": resnet18, "resnet50": resnet50, "mobilenet_v2": mobilenet_v2, "unet": UNet}
