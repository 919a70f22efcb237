"""Convolutional networks over log-mel spectrograms, one with depthwise layers as keyword spotters have them."""

from __future__ import annotations

from torch import Tensor, nn

#: Mel bands and frames that the recipe's ``prepare`` keys give.
MELS, FRAMES = 32, 36


class Spotter(nn.Sequential):
    """A strided convolution, then ``depth`` layers, then the mean."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.edgekd_inputs = {"features": ("float32", ("batch", 1, MELS, FRAMES))}

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)


def _conv(channels_in: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def teacher() -> Spotter:
    """Four convolutions of 64 channels."""
    layers = [*_conv(1, 64, 3, 2)]
    for _ in range(3):
        layers += _conv(64, 64, 3)
    return Spotter(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def student() -> Spotter:
    """DS-CNN (Zhang et al. 2017, "Hello Edge", section 4): three depthwise-separable layers of 48 channels."""
    layers = [*_conv(1, 48, 3, 2)]
    for _ in range(3):
        layers += [*_conv(48, 48, 3, groups=48), *_conv(48, 48, 1)]
    return Spotter(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
