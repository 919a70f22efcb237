"""Networks for fake quantization: what it places, and what it refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


def _small(module: Any) -> Any:
    module.edgekd_inputs = {"image": ("float32", ("batch", 1, 8, 8))}
    return module


class Residual(nn.Module):
    """Depthwise and residual, a dropout, a linear layer with a batch norm, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.Dropout(0.1))
        self.twice = nn.Conv2d(8, 8, 1)
        self.pool = nn.AvgPool2d(2)
        self.hidden, self.norm, self.head = nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, image: Any) -> Any:
        x = self.first(image)
        x = torch.relu(self.depthwise(x) + x)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        x = torch.relu(self.norm(self.hidden(torch.flatten(self.pool(x), 1))))
        return self.head(x)


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(144, 4)
        self.gain = nn.Parameter(torch.full((4, 1, 1), 2.0))

    def between(self, x: Any) -> Any:
        raise NotImplementedError

    def forward(self, image: Any) -> Any:
        return self.head(torch.flatten(self.between(self.conv(image)), 1))


class Composite(_Plain):
    """One torch operation that is several of ONNX."""

    def between(self, x: Any) -> Any:
        return functional.silu(x)


class Constant(_Plain):
    """A quantized constant that is no layer's weight."""

    def between(self, x: Any) -> Any:
        return torch.relu(x) * self.gain


class Branching(_Plain):
    """Control flow that depends on values."""

    def between(self, x: Any) -> Any:
        return x if x.sum() > 0 else -x


class Moody(_Plain):
    """Asks whether it is training outside of a layer."""

    def between(self, x: Any) -> Any:
        return functional.dropout(torch.relu(x), 0.1, self.training)


class Named(_Plain):
    """Answers with a mapping."""

    def forward(self, image: Any) -> Any:
        return {"logits": self.head(torch.flatten(torch.relu(self.conv(image)), 1))}


class Listed(_Plain):
    """Answers with a tuple."""

    def forward(self, image: Any) -> Any:
        return (self.head(torch.flatten(torch.relu(self.conv(image)), 1)),)


def named() -> Any:
    return _small(Named())


def listed() -> Any:
    return _small(Listed())


def residual() -> Any:
    return _small(Residual())


def composite() -> Any:
    return _small(Composite())


def constant() -> Any:
    return _small(Constant())


def branching() -> Any:
    return _small(Branching())


def moody() -> Any:
    return _small(Moody())
