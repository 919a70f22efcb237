"""Networks of the GPU suite, built here with random weights: nothing is downloaded, nothing is trained.

ResNet: K. He et al., *Deep Residual Learning for Image Recognition*, 2016. ViT: A. Dosovitskiy et al., 2021. BERT:
J. Devlin et al., 2019 (encoder without the pooler, pre-computed masks left out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class _Block(nn.Module):  # type: ignore[misc]
    """Basic (two 3 x 3) or bottleneck (1 x 1, 3 x 3, 1 x 1) residual block."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        out = channels * expansion
        if expansion == 1:
            sizes = [(channels_in, channels, 3, stride), (channels, out, 3, 1)]
        else:
            sizes = [(channels_in, channels, 1, 1), (channels, channels, 3, stride), (channels, out, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, padding=k // 2, bias=False) for a, b, k, s in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in sizes)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != out:
            self.skip = nn.Sequential(nn.Conv2d(channels_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            if i != last:
                y = F.relu(y)
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):  # type: ignore[misc]
    """A residual network on (batch, 3, side, side)."""

    def __init__(self, blocks: list[int], *, width: int, expansion: int, side: int, classes: int) -> None:
        super().__init__()
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, side, side))}
        self.stem = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for i in range(count):
                inner = width * 2**stage
                layers.append(_Block(channels, inner, 2 if stage and not i else 1, expansion))
                channels = inner * expansion
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.stem(image))), 3, 2, 1)
        return self.head(self.layers(x).mean((2, 3)))


class _Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            self.into(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class _Layer(nn.Module):  # type: ignore[misc]
    """A transformer layer; the norm before each part (ViT) or after it (BERT)."""

    def __init__(self, width: int, heads: int, *, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = _Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def _feed(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norms
        if self.norm_first:
            x = x + self.attention(first(x))
            return x + self._feed(second(x))
        x = first(x + self.attention(x))
        return second(x + self._feed(x))


class ViT(nn.Module):  # type: ignore[misc]
    """A vision transformer on (batch, 3, side, side)."""

    def __init__(self, *, side: int, patch: int, width: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, side, side))}
        tokens = (side // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, tokens + 1, width) * 0.02)
        self.layers = nn.Sequential(*[_Layer(width, heads, norm_first=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.layers(x))[:, 0])


class Bert(nn.Module):  # type: ignore[misc]
    """A BERT encoder on token ids (batch, tokens); its output is of the first token."""

    def __init__(self, *, tokens: int, vocabulary: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.edgekd_inputs = {"ids": ("int64", ("batch", tokens))}
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*[_Layer(width, heads, norm_first=False) for _ in range(depth)])

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.norm(self.words(ids) + self.places))[:, 0]


def resnet18() -> nn.Module:
    return ResNet([2, 2, 2, 2], width=64, expansion=1, side=224, classes=1000)


def resnet50() -> nn.Module:
    return ResNet([3, 4, 6, 3], width=64, expansion=4, side=224, classes=1000)


def vit_b16() -> nn.Module:
    return ViT(side=224, patch=16, width=768, depth=12, heads=12, classes=1000)


def bert_base() -> nn.Module:
    return Bert(tokens=128, vocabulary=30522, width=768, depth=12, heads=12)


def tiny_resnet() -> nn.Module:
    return ResNet([1, 1], width=16, expansion=4, side=32, classes=16)


def tiny_vit() -> nn.Module:
    return ViT(side=32, patch=8, width=32, depth=1, heads=2, classes=16)


def tiny_bert() -> nn.Module:
    return Bert(tokens=16, vocabulary=64, width=32, depth=1, heads=2)
