"""Random shifts and flips of image batches, drawn apart from being applied, so that two models see the same view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.distill.config import TrainConfig
from edgekd.errors import ModelError
from edgekd.lazy import require


def check_sizes(teacher: tuple[int, ...], student: tuple[int, ...]) -> None:
    """Raises ModelError where the (height, width) of both networks' images differ: one draw would not fit both."""
    if teacher != student:
        raise ModelError(
            f"teacher and student inputs differ in size ({teacher} and {student})",
            "augmentation needs equal sizes: remove `augment`, or give both models one size",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One draw for ``n`` images.

    Attributes:
        pad: how far an image may move, in pixels, with zeros behind it.
        dy, dx: int64 (n,) in [0, 2 pad].
        flips: bool (n,): mirrored left to right; None where flips are not asked.
    """

    pad: int
    dy: Any
    dx: Any
    flips: Any | None

    def of(self, rows: Any) -> View:
        """The draw of these rows alone."""
        return View(
            pad=self.pad,
            dy=self.dy[rows],
            dx=self.dx[rows],
            flips=None if self.flips is None else self.flips[rows],
        )

    def apply(self, images: Any, size: tuple[int, int]) -> Any:
        """The view of (n, channels, height, width) images.

        Raises:
            ModelError: their height and width are not ``size``: teacher and student would see different pixels.
        """
        torch = require("torch", extra="torch", purpose="training")
        height, width = size
        check_sizes(tuple(images.shape[2:]), size)
        if self.pad:
            padded = torch.nn.functional.pad(images, (self.pad,) * 4)
            rows = (self.dy[:, None] + torch.arange(height))[:, None, :, None]
            cols = (self.dx[:, None] + torch.arange(width))[:, None, None, :]
            examples = torch.arange(len(images))[:, None, None, None]
            channels = torch.arange(images.shape[1])[None, :, None, None]
            images = padded[examples, channels, rows, cols]
        if self.flips is not None:
            images = torch.where(self.flips[:, None, None, None], images.flip(3), images)
        return images


def draw_view(n: int, config: TrainConfig, generator: Any) -> View:
    """Draw for ``n`` images; equal generators give equal draws."""
    torch = require("torch", extra="torch", purpose="training")
    pad = next((int(a[-1]) for a in config.augment if a.startswith(("crop", "shift"))), 0)
    flips = torch.rand(n, generator=generator) < 0.5 if "flip" in config.augment else None
    # Drawn even for pad 0, so that a recipe's other draws do not depend on it.
    dy = torch.randint(0, 2 * pad + 1, (n,), generator=generator)
    dx = torch.randint(0, 2 * pad + 1, (n,), generator=generator)
    return View(pad=pad, dy=dy, dx=dx, flips=flips)


def view_of(index: int, n: int, config: TrainConfig) -> View:
    """One of a training's ``config.views`` fixed views of all ``n`` images."""
    torch = require("torch", extra="torch", purpose="training")
    # Far from the streams of the epochs, which are seed * 1_000_003 + epoch.
    return draw_view(n, config, torch.Generator().manual_seed(7_368_787 * (config.seed + 1) + index))
