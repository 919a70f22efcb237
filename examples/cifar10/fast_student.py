"""Plain convolutional students whose every layer is one INT8 kernel: no branches, no additions between layers."""

from __future__ import annotations

from torch import Tensor, nn


class PlainNet(nn.Sequential):
    """Convolution, batch norm, ReLU; a stem at 32 x 32, then two or three layers at each of 16, 8 and 4 pixels.

    Args:
        widths: channels of the stem and of the three stages.
        depths: layers of each stage; the first halves the image.
    """

    def __init__(
        self, widths: tuple[int, int, int, int], depths: tuple[int, int, int], classes: int = 10
    ) -> None:
        layers: list[nn.Module] = [*_layer(3, widths[0], 1)]
        channels = widths[0]
        for width, depth in zip(widths[1:], depths, strict=True):
            for k in range(depth):
                layers += _layer(channels, width, 2 if k == 0 else 1)
                channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 32, 32))}

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


def _layer(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def plain18() -> PlainNet:
    """18.9 million multiply-accumulates, 0.58 million parameters."""
    return PlainNet((16, 32, 96, 192), (2, 2, 2))


def plain35() -> PlainNet:
    """34.7 million multiply-accumulates, 1.06 million parameters."""
    return PlainNet((16, 48, 128, 256), (2, 2, 2))
