"""Object detection: pictures in, boxes with classes and scores out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgekd.data import open_source
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.spec import TensorSpec
from edgekd.tasks.boxes import frame_of, place, suppress
from edgekd.tasks.detector import (
    DECODE_KEYS,
    MOST,
    category_ids,
    known_keys,
    number,
    one_of,
    read_candidates,
    to_pixels,
)
from edgekd.tasks.keys import check_feed, check_keys
from edgekd.tasks.matching import THRESHOLDS, match, precision_per_example, read_answer, read_label
from edgekd.tasks.task import ModelIO, Prediction, Scores, split_of

LAYOUTS = ("NCHW", "NHWC")
CHANNELS = ("RGB", "BGR")
PREPARE_KEYS = (
    "size", "resize", "align", "fill", "channels", "scale", "mean", "std", "layout", "decode",
)  # fmt: skip


@dataclass(frozen=True)
class Detection:
    """Pictures in, boxes out.

    A uint8 picture (height, width, channels) is resized and normalised by the model's own ``prepare`` keys, and its
    outputs are read as ``prepare.decode`` says; boxes come back in the picture's own pixels, so that models of other
    sizes compare. A task of one's own overrides :meth:`candidates` for outputs that the keys cannot describe.

    Args:
        data: split -> data reference; labels as :class:`edgekd.data.coco.CocoSource` gives them.
        metric: ``map`` (COCO's, IoU thresholds 0.5 to 0.95) or ``map50``.
        base: folder of relative references.
    """

    prepare_keys: ClassVar[tuple[str, ...]] = PREPARE_KEYS
    data: Mapping[str, str]
    metric: str = "map"
    base: Path | None = None
    kind: str = field(default="detection", init=False)

    def __post_init__(self) -> None:
        if self.metric not in THRESHOLDS:
            raise UsageError(
                f"metric '{self.metric}' is not known for {self.kind}", f"choose {' or '.join(THRESHOLDS)}"
            )

    def examples(self, split: str) -> Iterator[Example]:
        return iter(open_source(split_of(self.data, split), self.base))

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        spec = _image_input(model)
        image = _image_of(example, spec, model)
        keys = model.prepare
        check_keys(keys, PREPARE_KEYS)
        fill = int(number(keys, "fill", 114, 0, 255))
        layout = one_of(keys, "layout", LAYOUTS)
        pixels = _normalise(place(image, frame_of(image.shape, spec, keys), fill), keys)
        feed = np.ascontiguousarray(pixels.transpose(2, 0, 1) if layout == "NCHW" else pixels)[None]
        if spec.dtype.startswith("float"):
            feed = feed.astype(spec.dtype)
        check_feed(feed, spec, example, model, PREPARE_KEYS)
        return {spec.name: feed}

    def candidates(self, outputs: Mapping[str, Array], model: ModelIO) -> tuple[Array, Array, Array]:
        """Every box that a model answers for one picture, before thresholds and suppression.

        Returns:
            boxes float (k, 4) in the ``format`` and ``coordinates`` of ``prepare.decode``, scores float (k,),
            classes int (k,).
        """
        return read_candidates(outputs, _decode_keys(model), model.role)

    def decode_for(self, example: Example, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """One picture's detections, best first, as JSON text ``[[category_id, score, x, y, width, height], ...]``.

        Boxes are cut at the picture's edges and rounded to hundredths of a pixel, scores to millionths.
        """
        spec = _image_input(model)
        keys = _decode_keys(model)
        image = _image_of(example, spec, model)
        boxes, scores, classes = self.candidates(outputs, model)
        sure = scores >= number(keys, "min_score", 0.001, -np.inf, where="prepare.decode")
        ids = category_ids(classes[sure], example.inputs.get("category_ids"), keys, model.role)
        # A background takes no place among the detections.
        rows = np.flatnonzero(sure)[[i is not None for i in ids]]
        categories = np.asarray([i for i in ids if i is not None], np.int64)
        corners = to_pixels(boxes[rows], frame_of(image.shape, spec, model.prepare), keys)
        height, width = image.shape[:2]
        corners = np.clip(corners, 0, np.asarray([width, height, width, height]))
        most = int(number(keys, "max_detections", MOST, 1, where="prepare.decode"))
        if "nms_iou" in keys:
            iou = number(keys, "nms_iou", 0.5, 0, 1, where="prepare.decode")
            kept = suppress(corners, scores[rows], categories, iou, most)
        else:
            kept = np.argsort(-scores[rows], kind="stable")[:most]
        return Prediction(value=_text(categories[kept], scores[rows][kept], corners[kept]))

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        """Refused: boxes are told in the picture's own pixels, so the picture is needed.

        Raises:
            UsageError: always.
        """
        raise UsageError("detections cannot be decoded without their picture", "call decode_for()")

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Scores:
        answers = [read_answer(p.value, i) for i, p in enumerate(predictions)]
        truths = [read_label(label, i) for i, label in enumerate(labels)]
        value, statistics = match(self.metric, answers, truths)
        return Scores(
            per_example=precision_per_example(statistics, len(labels)),
            value=value,
            aggregate="average_precision",
            statistics=statistics,
        )


def _decode_keys(model: ModelIO) -> Mapping[str, Any]:
    return known_keys(model.prepare.get("decode", {}), DECODE_KEYS, "prepare.decode")


def _image_input(model: ModelIO) -> TensorSpec:
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
        raise DataError(
            f"the {model.role} takes {', '.join(map(str, model.inputs))}",
            "detection feeds one picture of 4 dimensions: export the model with that input only",
        )
    return model.inputs[0]


def _image_of(example: Example, spec: TensorSpec, model: ModelIO) -> Array:
    names = (model.rename.get(spec.name), f"{model.role}.{spec.name}", spec.name, "image")
    name = next((n for n in names if n in example.inputs), None)
    if name is None:
        raise DataError(
            f"the data has no array for the {model.role}'s input '{spec.name}' "
            f"(arrays: {', '.join(example.inputs) or 'none'})",
            f"call it image, or map it: --map {model.role}:{spec.name}=ARRAY",
        )
    image = example.inputs[name]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise DataError(
            f"example {example.id}: the array '{name}' is {image.dtype} {tuple(image.shape)}",
            "detection takes pictures as uint8 (height, width, 1 or 3 channels)",
        )
    return image


def _normalise(image: Array, keys: Mapping[str, Any]) -> Array:
    if one_of(keys, "channels", CHANNELS) == "BGR":
        image = image[:, :, ::-1]
    if not {"scale", "mean", "std"} & set(keys):
        return image
    try:
        out = image.astype(np.float32) / np.float32(keys.get("scale", 1.0))
        return (out - np.asarray(keys.get("mean", 0.0), np.float32)) / np.asarray(
            keys.get("std", 1.0), np.float32
        )
    except (TypeError, ValueError) as e:
        raise UsageError(
            f"prepare's scale, mean and std do not fit a picture of shape {image.shape} ({e})",
            "give one number, or one per channel; pictures are (height, width, channels)",
        ) from e


def _text(categories: Array, scores: Array, corners: Array) -> str:
    rows = []
    for category, score, (x0, y0, x1, y1) in zip(
        categories.tolist(), scores.tolist(), corners.tolist(), strict=True
    ):
        box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
        if min(box[2:]) > 0:  # else wholly outside the picture
            rows.append([category, round(score, 6), *box])
    rows.sort(key=lambda row: (-row[1], *row))
    return json.dumps(rows, separators=(",", ":"))
