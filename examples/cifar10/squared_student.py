"""A small depthwise network of inverted residuals (Sandler et al. 2018) with squared ReLUs (So et al. 2021, *Primer*).

Batch norm stands behind each block alone, so that nothing evens out the channels inside; squares make the tails of what
they see heavier.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Channels and blocks of each stage; every stage halves the image.
_STAGES = ((16, 2), (32, 3), (64, 2))
_EXPANSION = 3


class _Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        return y * y


class _Block(nn.Module):
    """1x1 expansion, 3x3 depthwise, each with a squared ReLU, 1x1 back; added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _EXPANSION * channels
        self.inner = nn.Sequential(
            nn.Conv2d(channels, inner, 1), _Squared(),
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner), _Squared(),
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        return x + made


class SquaredNet(nn.Sequential):
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


def squared() -> SquaredNet:
    """Seven blocks."""
    return SquaredNet()
