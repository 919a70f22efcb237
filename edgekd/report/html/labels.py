"""Where labels go, so that none covers another or a mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Box) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: Box) -> bool:
        return self.x0 >= other.x0 and self.y0 >= other.y0 and self.x1 <= other.x1 and self.y1 <= other.y1


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A text that belongs to the point at (x, y)."""

    text: str
    x: float
    y: float
    width: float
    height: float
    key: str = ""


#: Right of the mark first, then left, above and below, then between: where a reader looks for it.
_ANGLES = tuple(
    math.radians(a) for a in (0, 180, 270, 90, 315, 225, 45, 135, 292, 248, 68, 112, 338, 202, 22, 158)
)
_DISTANCES = (9.0, 14.0, 22.0, 32.0, 44.0, 58.0, 74.0, 92.0, 120.0, 150.0)


def place_labels(
    labels: Sequence[Label], obstacles: Sequence[Box], area: Box, *, reach: float = math.inf
) -> list[Box | None]:
    """A place for each label, nearest first; earlier labels choose before later ones.

    Args:
        labels: in order of importance.
        obstacles: what no label may cover.
        area: what no label may leave.
        reach: how far from its point a label may stand, pixels.

    Returns:
        A box per label; None where there is no room within reach.
    """
    taken = list(obstacles)
    placed: list[Box | None] = []
    for label in labels:
        box = _place(label, taken, area, reach)
        placed.append(box)
        if box is not None:
            taken.append(box)
    return placed


def _place(label: Label, taken: Sequence[Box], area: Box, reach: float) -> Box | None:
    for distance in (d for d in _DISTANCES if d <= reach):
        for angle in _ANGLES:
            across, down = math.cos(angle), math.sin(angle)
            # The side of the box that faces the mark is at the distance, wherever the label stands.
            x = label.x + distance * across + across * label.width / 2
            y = label.y + distance * down + down * label.height / 2
            box = Box(
                x0=x - label.width / 2,
                x1=x + label.width / 2,
                y0=y - label.height / 2,
                y1=y + label.height / 2,
            )
            if box.within(area) and not any(box.overlaps(other) for other in taken):
                return box
    return None
