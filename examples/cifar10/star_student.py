"""A small depthwise network whose blocks multiply two of their own products (StarNet, Ma et al. 2024, *Rewrite the Stars*).

A product of two linear maps has heavy tails: most values are small, and a few set the range of the whole tensor.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Channels and blocks of each stage; every stage halves the image.
_STAGES = ((16, 2), (32, 3), (64, 2))
_EXPANSION = 3


class _Block(nn.Module):
    """3x3 depthwise, two 1x1 expansions multiplied, 1x1 back, 3x3 depthwise; added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _EXPANSION * channels
        self.first = _depthwise(channels)
        self.left = nn.Conv2d(channels, inner, 1)
        self.right = nn.Conv2d(channels, inner, 1)
        self.act = nn.ReLU6()
        self.back = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.last = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        made: Tensor = self.last(self.back(self.act(self.left(y)) * self.right(y)))
        return x + made


class StarNet(nn.Sequential):
    """Three stages at 16, 8 and 4 pixels, and a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = []
        before = 3
        for channels, blocks in _STAGES:
            layers += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)]
            layers += [_Block(channels) for _ in range(blocks)]
            before = channels
        super().__init__(
            *layers, nn.BatchNorm2d(before), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)
        )
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 32, 32))}

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


def _depthwise(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)
    )


def star() -> StarNet:
    """5.1 million multiply-accumulates, 0.14 million parameters."""
    return StarNet()
