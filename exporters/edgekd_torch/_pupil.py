"""What is trained: the student and its projectors, called as one; loaded only when something is trained."""

# ruff: noqa: TID253
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.distill.features import Taps, answer_of


class Projector(nn.Module):  # type: ignore[misc]
    """A learned linear map of a feature's width: 1x1 convolution of maps, Linear of tokens and vectors."""

    def __init__(self, width: int, wanted: int, ndim: int) -> None:
        super().__init__()
        self.map = nn.Conv2d(width, wanted, 1) if ndim == 4 else nn.Linear(width, wanted)

    def forward(self, features: Tensor) -> Tensor:
        return self.map(features)


class Pupil(nn.Module):  # type: ignore[misc]
    """The student with what is learned beside it, so that data parallel training sees all parameters.

    Args:
        student: the network.
        taps: of its layers.
        projectors: which of the taps' features are projected, by position.
    """

    def __init__(self, student: nn.Module, taps: Taps, projectors: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.student = student
        self.projectors = nn.ModuleDict({str(k): v for k, v in projectors.items()})
        self._taps = taps

    def forward(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = answer_of(self.student(*inputs))
        features: list[Any] = self._taps.take()
        for position, projector in self.projectors.items():
            features[int(position)] = projector(features[int(position)])
        return logits, features


def build_projectors(needs: Mapping[int, tuple[int, int, int]], seed: int) -> dict[int, nn.Module]:
    """Projectors from position -> (width, wanted width, dimensions), their weights drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {position: Projector(*need) for position, need in needs.items()}
