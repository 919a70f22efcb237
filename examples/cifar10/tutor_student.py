"""A wide residual network: too slow to ship, and a better teacher of small students than the one that it learns from."""

from __future__ import annotations

import sys

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgekd_torch.zoo import zoo_entry


class Residual(nn.Module):
    """Two layers that are added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_layer(channels, channels, 1), *_layer(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.inner(x)
        return made


class TutorNet(nn.Sequential):
    """A stem at 32 x 32, then at each of 16, 8 and 4 pixels a layer that halves the image and a residual pair."""

    def __init__(self, widths: tuple[int, int, int, int], classes: int = 10) -> None:
        layers: list[nn.Module] = [*_layer(3, widths[0], 1)]
        channels = widths[0]
        for width in widths[1:]:
            layers += [*_layer(channels, width, 2), Residual(width)]
            channels = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        self.edgekd_inputs = {"image": ("float32", ("batch", 3, 32, 32))}

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image)


def _layer(channels_in: int, channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight)
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def tutor() -> TutorNet:
    """160 million multiply-accumulates, 4.4 million parameters."""
    return TutorNet((48, 96, 192, 384))


class Committee(nn.Module):
    """The teacher and the tutor: the mean of their logits."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = zoo_entry("cifar-resnet44").build()
        self.tutor = tutor()
        self.edgekd_inputs = self.tutor.edgekd_inputs

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = (self.teacher(image) + self.tutor(image)) / 2
        return answer


def committee() -> Committee:
    """Weights: those of both in one file, see :func:`main`."""
    return Committee()


def main() -> None:
    """``python tutor_student.py TEACHER.safetensors TUTOR.safetensors OUT.safetensors``: two files of weights in one."""
    teacher, tutored, out = sys.argv[1:]
    parts = {"teacher": load_file(teacher), "tutor": load_file(tutored)}
    save_file({f"{part}.{name}": v for part, found in parts.items() for name, v in found.items()}, out)


if __name__ == "__main__":
    main()
