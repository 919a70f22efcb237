"""Well-known shapes with random weights, as ``python:bench.models:NAME``: what a figure of speed needs, and no download."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS, VOCABULARY = 128, 8192


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for 1,000 classes at 224 x 224: 11,689,512 parameters, 1.81 G multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 224, 224))}
        self.stem = nn.Sequential(_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        blocks = [b for i, o, s in widths for b in (BasicBlock(i, o, s), BasicBlock(o, o, 1))]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


class InvertedResidual(nn.Module):
    """Expand, convolve each channel alone, project (Sandler et al. 2018, figure 4d)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        grow = [_conv(inputs, wide, 1), nn.ReLU6()] if expand != 1 else []
        self.body = nn.Sequential(
            *grow, _conv(wide, wide, 3, stride, wide), nn.ReLU6(), _conv(wide, outputs, 1)
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 at 224 x 224: 3,504,872 parameters, 0.30 G multiply-accumulates (Sandler et al. 2018, table 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 224, 224))}
        rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
        layers: list[nn.Module] = [_conv(3, 32, 3, 2), nn.ReLU6()]
        inputs = 32
        for expand, outputs, repeats, stride in [*rows, (6, 320, 1, 1)]:
            for i in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, expand))
                inputs = outputs
        self.layers = nn.Sequential(*layers, _conv(320, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, 1000)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image).mean((2, 3)))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, normalised after (Vaswani et al. 2017, figure 1 left)."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, self.size)).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = torch.softmax(q @ k.transpose(-1, -2) / self.size**0.5, -1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).flatten(-2)))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    """A transformer encoder that classifies 128 tokens."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.edgekd_inputs = {"tokens": ("int64", ("batch", TOKENS))}
        self.embed, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 4 * width) for _ in range(layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens) + self.places.weight)[:, 0])


def resnet18() -> nn.Module:
    return ResNet18().eval()


def mobilenet_v2() -> nn.Module:
    return MobileNetV2().eval()


def encoder() -> nn.Module:
    """12 layers of width 768: the shape of BERT-base."""
    return Encoder(12, 768, 12).eval()


def small_encoder() -> nn.Module:
    """6 layers of width 384: the shape of MiniLM-L6."""
    return Encoder(6, 384, 12).eval()
