"""Boxes: from a model's frame to the picture's own pixels, and the suppression of doubles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.lazy import require
from edgekd.spec import TensorSpec

FORMATS = ("xyxy", "xywh", "cxcywh")
RESIZES = ("stretch", "letterbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """How a picture lies in a model's input; all in pixels.

    Attributes:
        image: the picture's (width, height).
        size: the input's (width, height).
        inner: (width, height) that the picture takes in it.
        offset: (x, y) of its upper left corner there.
    """

    image: tuple[int, int]
    size: tuple[int, int]
    inner: tuple[int, int]
    offset: tuple[int, int]

    def to_image(self, boxes: Array) -> Array:
        """Boxes float (k, 4), corners in the input's pixels, in the picture's pixels."""
        scale = np.asarray([self.image[0] / self.inner[0], self.image[1] / self.inner[1]] * 2)
        return np.asarray((boxes - np.asarray(self.offset * 2)) * scale)


def frame_of(shape: tuple[int, ...], spec: TensorSpec, keys: Mapping[str, Any]) -> Frame:
    """Where a picture of ``shape`` (height, width, channels) lies in the input, by the model's ``prepare`` keys.

    Without a ``size`` the input's own fixed height and width count; where they vary, the picture's.

    Raises:
        UsageError: a key of no known value.
    """
    height, width = shape[:2]
    own = spec.shape[2:4] if keys.get("layout", "NCHW") == "NCHW" else spec.shape[1:3]
    size = keys.get("size")
    if size is None:
        fixed = [d for d in own if isinstance(d, int)]
        tall, wide = fixed if len(fixed) == 2 else (height, width)
    else:
        pair = [size, size] if type(size) is int else size
        if (
            not isinstance(pair, (list, tuple))
            or len(pair) != 2
            or not all(type(d) is int and d > 0 for d in pair)
        ):
            raise UsageError(f"prepare.size {size!r} is not a size", "give one number, or [height, width]")
        tall, wide = pair
    resize = keys.get("resize", "stretch")
    if resize not in RESIZES:
        raise UsageError(f"prepare.resize {resize!r} is not known", f"choose {' or '.join(RESIZES)}")
    if resize == "stretch":
        return Frame(image=(width, height), size=(wide, tall), inner=(wide, tall), offset=(0, 0))
    align = keys.get("align", "centre")
    if align not in ("centre", "start"):
        raise UsageError(f"prepare.align {align!r} is not known", "choose centre or start")
    ratio = min(wide / width, tall / height)
    inner = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    offset = ((wide - inner[0]) // 2, (tall - inner[1]) // 2) if align == "centre" else (0, 0)
    return Frame(image=(width, height), size=(wide, tall), inner=inner, offset=offset)


def place(image: Array, frame: Frame, fill: int) -> Array:
    """A uint8 picture (height, width, channels) as the frame says; what it leaves free is ``fill``."""
    if frame.inner != frame.image:
        pillow = require("PIL.Image", extra="data", purpose="resizing images")
        pixels = pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        image = np.asarray(pixels.resize(frame.inner, pillow.Resampling.BILINEAR))
        image = image.reshape(frame.inner[1], frame.inner[0], -1)
    if frame.inner == frame.size:
        return image
    whole = np.full((frame.size[1], frame.size[0], image.shape[2]), fill, np.uint8)
    x, y = frame.offset
    whole[y : y + frame.inner[1], x : x + frame.inner[0]] = image
    return whole


def to_corners(boxes: Array, form: str) -> Array:
    """Boxes (k, 4) of the form ``xyxy``, ``xywh`` (corner, size) or ``cxcywh`` (centre, size) as ``xyxy``.

    >>> to_corners(np.asarray([[5.0, 5.0, 4.0, 2.0]]), "cxcywh").tolist()
    [[3.0, 4.0, 7.0, 6.0]]
    """
    if form == "xyxy":
        return boxes
    size = boxes[:, 2:]
    start = boxes[:, :2] - size / 2 if form == "cxcywh" else boxes[:, :2]
    return np.concatenate([start, start + size], axis=1)


def suppress(boxes: Array, scores: Array, classes: Array, iou: float, most: int) -> Array:
    """Rows kept by greedy non-maximum suppression within each class, best first, ``most`` at most.

    Args:
        boxes: float (k, 4), corners.
        scores: float (k,); classes: int (k,).
        iou: a box that overlaps a better one of its class by more than this is dropped.

    >>> boxes = np.asarray([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]], float)
    >>> suppress(boxes, np.asarray([0.8, 0.9, 0.5]), np.zeros(3, int), 0.5, 100).tolist()
    [1, 2]
    """
    order = np.argsort(-scores, kind="stable")
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        union = area[best] + area[rest] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        order = rest[(overlap <= iou) | (classes[rest] != classes[best])]
    return np.asarray(kept, np.int64)
