"""A network with every kind of layer that 8-bit precision has a rule for; ``python:`` references name it."""

from __future__ import annotations

import torch
from torch import nn


class SmallNet(nn.Module):
    """3 x 3 and 1 x 1 convolutions, linear layers that fit and one that does not, and a product outside of layers."""

    edgekd_inputs = {"x": ("float32", ("batch", 16, 8, 8))}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(16, 32, 3, padding=1)
        self.pointwise = nn.Conv2d(32, 64, 1, stride=2)
        self.hidden = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pointwise(self.spatial(x).relu()).relu().flatten(2)
        x = x + torch.softmax(x @ x.transpose(1, 2), -1) @ x
        return self.head(self.hidden(x.mean(2)).relu())


def small_net() -> nn.Module:
    return SmallNet()
