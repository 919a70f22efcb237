"""A thin depthwise network in the manner of MobileNetV3 (Howard et al. 2019, sections 5.2 and 5.3).

Inverted residuals with linear bottlenecks, hard swish and squeeze-and-excitation: every block multiplies its channels by
learned gates, and nothing bounds what a bottleneck adds to the next, so that channels of one tensor differ widely.
"""

from __future__ import annotations

from torch import Tensor, nn

#: Of each block: expansion, channels, stride.
_BLOCKS = (
    (1, 16, 2),
    (4, 24, 1), (3, 24, 1), (3, 24, 1),
    (4, 32, 2), (4, 32, 1), (4, 32, 1), (4, 32, 1),
    (4, 48, 2), (4, 48, 1), (4, 48, 1),
)  # fmt: skip
_STEM = 16
_LAST = 224
#: The gates of a block come from this share of its channels (section 5.3).
_SQUEEZE = 4


class _Gates(nn.Module):
    """Squeeze-and-excitation with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(8, channels // _SQUEEZE)
        self.make = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1),
            nn.Hardsigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.make(x)


class _Block(nn.Module):
    """1x1 expansion, 3x3 depthwise, gates, 1x1 without activation; added to its input where shapes agree."""

    def __init__(self, before: int, expansion: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        layers = [*_layer(before, inner, 1)] if expansion > 1 else []
        layers += [*_layer(inner, inner, 3, stride=stride, groups=inner), _Gates(inner)]
        layers += [nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.inner = nn.Sequential(*layers)
        self.adds = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        return x + made if self.adds else made


class DepthwiseNet(nn.Sequential):
    """A stem at 32 x 32, eleven blocks down to 4 x 4, and a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        layers: list[nn.Module] = [*_layer(3, _STEM, 3)]
        channels = _STEM
        for expansion, width, stride in _BLOCKS:
            layers.append(_Block(channels, expansion, width, stride))
            channels = width
        layers += _layer(channels, _LAST, 1)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_LAST, classes))
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 32, 32))}

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


def _layer(before: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, channels, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(channels), nn.Hardswish()]


def depthwise() -> DepthwiseNet:
    """7.4 million multiply-accumulates, 0.20 million parameters."""
    return DepthwiseNet()
