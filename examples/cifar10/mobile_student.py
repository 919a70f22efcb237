"""MobileNetV2 (Sandler et al. 2018, table 2) for 32 x 32 pixels, with ReLU: 16 inverted residuals."""

from __future__ import annotations

from torch import Tensor, nn

#: Of each group of blocks: expansion, channels, blocks, stride of the first. The stem halves the image already.
_GROUPS = ((1, 16, 1, 1), (4, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 3, 2), (6, 160, 3, 1))
_STEM = 24
_LAST = 320


class Block(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 without activation; added to its input where shapes agree."""

    def __init__(self, before: int, expansion: int, channels: int, stride: int) -> None:
        super().__init__()
        inner = before * expansion
        layers = _layer(before, inner, 1) if expansion > 1 else []
        layers += _layer(inner, inner, 3, stride=stride, groups=inner)
        layers += [nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.inner = nn.Sequential(*layers)
        self.adds = stride == 1 and before == channels

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        return x + made if self.adds else made


class MobileNet(nn.Sequential):
    """A stem, 16 blocks, a 1x1 convolution and a linear layer."""

    def __init__(self, classes: int = 10) -> None:
        layers = _layer(3, _STEM, 3, stride=2)
        channels = _STEM
        for expansion, width, blocks, stride in _GROUPS:
            for k in range(blocks):
                layers.append(Block(channels, expansion, width, stride if k == 0 else 1))
                channels = width
        layers += _layer(channels, _LAST, 1)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_LAST, classes))
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 32, 32))}

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


def _layer(before: int, channels: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, channels, size, stride, size // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def mobile() -> MobileNet:
    """36.3 million multiply-accumulates, 1.39 million parameters."""
    return MobileNet()
