"""Networks over images, written small in torch."""

import torch
from torch import nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Convolutions, batch normalization, a shortcut, global pooling."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.norm1 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.b, self.short = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm0(self.stem(x))), 3, 2, 1)
        x = F.relu(self.b(F.relu(self.norm1(self.a(x)))) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excite, hard swish."""

    def __init__(self):
        super().__init__()
        self.up, self.deep, self.down = nn.Conv2d(4, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.Conv2d(12, 4, 1)
        self.squeeze, self.excite = nn.Linear(12, 3), nn.Linear(3, 12)

    def forward(self, x):
        y = F.hardswish(self.deep(F.relu6(self.up(x))))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        return x + self.down(y * gate[:, :, None, None])


class MBConv(nn.Module):
    """EfficientNet's block: up, a depthwise convolution, squeeze and excite by convolutions, down; each with batch normalization."""

    def __init__(self, inner, outer, stride, kernel):
        super().__init__()
        wide = inner * 3
        self.up = nn.Sequential(nn.Conv2d(inner, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.SiLU())
        self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.SiLU(), nn.Conv2d(4, wide, 1), nn.Sigmoid())
        self.down = nn.Sequential(nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer))
        self.same = stride == 1 and inner == outer

    def forward(self, x):
        y = self.deep(self.up(x))
        y = self.down(y * self.excite(y))
        return x + y if self.same else y


class EfficientNet(nn.Module):
    """Two blocks of EfficientNet, dropout before the head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.SiLU())
        self.blocks = nn.Sequential(MBConv(6, 6, 1, 3), MBConv(6, 10, 2, 5))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(10, 4))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class DenseNet(nn.Module):
    """Layers that see all results before theirs, a transition, normalization before convolution."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4 + 3 * k) for k in range(3)])
        self.layers = nn.ModuleList([nn.Conv2d(4 + 3 * k, 3, 3, padding=1, bias=False) for k in range(3)])
        self.narrow, self.last, self.head = nn.Conv2d(13, 6, 1, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        found = [x]
        for norm, layer in zip(self.norms, self.layers):
            found.append(layer(F.relu(norm(torch.cat(found, 1)))))
        x = F.avg_pool2d(self.narrow(torch.cat(found, 1)), 2)
        return self.head(F.relu(self.last(x)).mean((2, 3)))


class Vision(nn.Module):
    """A ViT: patches, a class token, torch's own encoder layer."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 1, 16))
        self.layer, self.head = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True), nn.Linear(16, 3)

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.layer(torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1))[:, 0])


class ConvNeXt(nn.Module):
    """Wide depthwise convolutions, normalization over channels, a scale for each channel of a branch."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.first, self.norm, self.last = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down, self.gamma = nn.Linear(8, 32), nn.Linear(32, 8), nn.Parameter(torch.full((8,), 0.3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)
        return self.head(self.last(x.mean((-2, -1))))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation, concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(12, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x):
        a = F.gelu(self.a(x))
        b = F.group_norm(self.b(F.avg_pool2d(a, 2)), 2)
        smooth = F.interpolate(b[:, :4], scale_factor=2.0, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.c(torch.cat([a, self.up(b), smooth], 1)))


class Swin(nn.Module):
    """Attention in shifted windows with a mask and a bias by relative place, and patches that merge."""

    def __init__(self):
        super().__init__()
        self.bias, self.norm = nn.Parameter(torch.randn(2, 9) * 0.2), nn.LayerNorm(8)
        self.qkv, self.out, self.merge = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(32, 12, bias=False)
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        away = at[:, :, None] - at[:, None] + 1
        self.register_buffer("place", away[0] * 3 + away[1])
        area = torch.zeros(4, 4)
        area[3:], area[:, 3:] = 1, area[:, 3:] + 2
        ids = self.windows(area[None, :, :, None])[:, :, 0]
        self.register_buffer("mask", torch.where(ids[:, None] == ids[:, :, None], 0.0, -100.0))

    def windows(self, x):
        return x.unflatten(1, (2, 2)).unflatten(3, (2, 2)).permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2) if x.dim() == 4 else x

    def forward(self, x):
        n = x.shape[0]
        y = self.windows(torch.roll(self.norm(x), (-1, -1), (1, 2)))
        q, k, v = self.qkv(y).reshape(n * 4, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        s = q @ k.transpose(-1, -2) * 0.5 + self.bias[:, self.place]
        s = (s.reshape(n, 4, 2, 4, 4) + self.mask[None, :, None]).reshape(n * 4, 2, 4, 4)
        y = self.out((s.softmax(-1) @ v).transpose(1, 2).flatten(2))
        y = y.reshape(n, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, 8)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return self.merge(torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1))


class Suppression(torch.autograd.Function):
    """NonMaxSuppression for the exporter through TorchScript; torch itself has no such function."""

    @staticmethod
    def forward(ctx, boxes, scores):
        return torch.zeros(MOST * scores.shape[1], 3, dtype=torch.int64)

    @staticmethod
    def symbolic(g, boxes, scores):
        numbers = (torch.tensor([MOST]), torch.tensor([OVERLAP]), torch.tensor([LEAST]))
        return g.op("NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=v) for v in numbers))


def suppressed(boxes, scores):
    """Rows (image, class, box) of the boxes that are kept."""
    if not torch.compiler.is_exporting():
        return Suppression.apply(boxes, scores)
    numbers = (torch.tensor([MOST]), torch.tensor([OVERLAP]), torch.tensor([LEAST]))
    return torch.onnx.ops.symbolic("NonMaxSuppression", (boxes, scores, *numbers), dtype=torch.int64, shape=(MOST * scores.shape[1], 3))


class Detection(nn.Module):
    """A head over two scales: scores and boxes of each place, the best boxes of each class that do not overlap."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.score, self.box = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        fine = F.relu(self.fine(x))
        boxes, scores = [], []
        for step, y in ((2.0, fine), (4.0, F.relu(self.coarse(fine)))):
            away = self.box(y).flatten(2).transpose(1, 2)
            at = torch.stack(torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij"), -1).reshape(-1, 2)
            center, size = (at + 0.5 + away[..., :2].tanh()) * step, away[..., 2:].exp() * step
            boxes.append(torch.cat([center - size / 2, center + size / 2], -1))
            scores.append(self.score(y).flatten(2).sigmoid())
        boxes, scores = torch.cat(boxes, 1), torch.cat(scores, 2)
        kept = suppressed(boxes, scores)
        return kept, boxes[0, kept[:, 2]], scores[0, kept[:, 1], kept[:, 2]]


MOST, OVERLAP, LEAST = 10, 0.2, 0.5
CASES = {
    "resnet": (ResNet, lambda: (torch.randn(2, 3, 12, 12),)),
    "mobilenet": (Mobile, lambda: (torch.randn(2, 4, 6, 6),)),
    "efficientnet": (EfficientNet, lambda: (torch.randn(2, 3, 12, 12),)),
    "densenet": (DenseNet, lambda: (torch.randn(2, 4, 6, 6),)),
    "vit": (Vision, lambda: (torch.randn(2, 3, 8, 8),)),
    "convnext": (ConvNeXt, lambda: (torch.randn(2, 3, 8, 8),)),
    "unet": (UNet, lambda: (torch.randn(1, 2, 8, 8),)),
    "detection": (Detection, lambda: (torch.randn(1, 3, 12, 12),)),
    "quantized resnet": (ResNet, lambda: (torch.randn(2, 3, 12, 12),)),
    "swin": (Swin, lambda: (torch.randn(2, 4, 4, 8),)),
}
