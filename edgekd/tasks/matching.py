"""Detections and ground truths through COCOeval: the metric's value, and the matches that it is made of."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError
from edgekd.lazy import require
from edgekd.metrics.detection import average_precision

#: COCO's thresholds of intersection over union, by metric (Params.setDetParams).
THRESHOLDS = {"map": np.linspace(0.5, 0.95, 10), "map50": np.asarray([0.5])}
_LABEL = '{"annotations": [{"category_id": 3, "bbox": [x, y, width, height]}]}'
_ANSWER = "[[category_id, score, x, y, width, height], ...]"


def read_label(label: Any, row: int) -> list[dict[str, Any]]:
    """The annotations of one ground truth.

    Raises:
        DataError: not the JSON text that a COCO source gives.
    """
    try:
        notes = json.loads(label)["annotations"]
        return [
            {
                "category_id": int(n["category_id"]),
                "bbox": [float(v) for v in _four(n["bbox"])],
                "iscrowd": int(bool(n.get("iscrowd", 0))),
            }
            for n in notes
        ]
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise DataError(
            f"row {row} has the label {str(label)[:60]!r}, which is no ground truth of boxes ({e!r})",
            f"expected JSON text: {_LABEL}",
        ) from e


def read_answer(value: Any, row: int) -> list[dict[str, Any]]:
    """The detections of one answer.

    Raises:
        DataError: not the JSON text that :meth:`Detection.decode_for` gives.
    """
    try:
        return [
            {"category_id": int(c), "score": _finite(s), "bbox": [_finite(v) for v in _four(box)]}
            for c, s, *box in json.loads(value)
        ]
    except (TypeError, ValueError, KeyError) as e:
        raise DataError(
            f"row {row} has the answer {str(value)[:60]!r}, which holds no detections ({e!r})",
            f"expected JSON text: {_ANSWER}",
        ) from e


def _four(box: Sequence[Any]) -> Sequence[Any]:
    if len(box) != 4:
        raise ValueError(f"a box of {len(box)} numbers")
    return box


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the number {value}")
    return float(value)


def _coco(images: int, categories: Sequence[int], notes: Sequence[Mapping[str, Any]]) -> Any:
    coco = require("pycocotools.coco", extra="detection", purpose="scoring detections").COCO()
    # Ids start at 1: COCOeval takes a match with id 0 for none.
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": c} for c in categories],
        "annotations": [{"id": k, **n} for k, n in enumerate(notes, 1)],
    }
    coco.createIndex()
    return coco


def match(
    metric: str, answers: Sequence[Sequence[Mapping[str, Any]]], truths: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[float, dict[str, Array]]:
    """COCOeval's value of ``metric``, and the statistics of :func:`edgekd.metrics.detection.average_precision`.

    Args:
        metric: ``map`` (thresholds 0.5 to 0.95) or ``map50``.
        answers: per example its detections; truths: per example its annotations.

    Raises:
        DataError: no example has an object that is no crowd.
        MissingDependencyError: pycocotools is not installed.
    """
    if not any(not t["iscrowd"] for truth in truths for t in truth):
        raise DataError(
            f"none of the {len(truths)} examples has an object, so there is no average precision",
            "give data with annotations that are not all crowds",
        )
    module = require("pycocotools.cocoeval", extra="detection", purpose="scoring detections")
    notes = [
        {"image_id": i, "area": t["bbox"][2] * t["bbox"][3], **t}
        for i, truth in enumerate(truths)
        for t in truth
    ]
    found = [
        {"image_id": i, "area": d["bbox"][2] * d["bbox"][3], "iscrowd": 0, **d}
        for i, answer in enumerate(answers)
        for d in answer
    ]
    categories = sorted({n["category_id"] for n in (*notes, *found)})
    with redirect_stdout(io.StringIO()):  # it reports its progress
        truth_set = _coco(len(truths), categories, notes)
        answer_set = _coco(len(answers), categories, found)
        judge = module.COCOeval(truth_set, answer_set, "bbox")
        judge.params.iouThrs = THRESHOLDS[metric]
        # The metric is of all sizes together and of 100 detections; the other cuts would only cost time.
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [100]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"]
    return float(precision[precision > -1].mean()), _statistics(judge.evalImgs, len(THRESHOLDS[metric]))


def _statistics(images: Sequence[Mapping[str, Any] | None], thresholds: int) -> dict[str, Array]:
    """Flat arrays of what evaluateImg found, class by class and example by example."""
    cells = [c for c in images if c is not None]
    sizes = [len(c["dtScores"]) for c in cells]
    examples = np.asarray([c["image_id"] for c in cells], np.int64)
    classes = np.asarray([c["category_id"] for c in cells], np.int64)
    counts = np.asarray([np.count_nonzero(np.asarray(c["gtIgnore"]) == 0) for c in cells], np.int64)
    return {
        "detection_example": np.repeat(examples, sizes),
        "detection_class": np.repeat(classes, sizes),
        "detection_score": np.asarray([s for c in cells for s in c["dtScores"]], np.float64),
        "detection_matched": np.concatenate([c["dtMatches"].T.reshape(-1, thresholds) > 0 for c in cells]),
        "detection_ignored": np.concatenate([c["dtIgnore"].T.reshape(-1, thresholds) > 0 for c in cells]),
        "truth_example": examples[counts > 0],
        "truth_class": classes[counts > 0],
        "truth_count": counts[counts > 0],
    }


def precision_per_example(statistics: Mapping[str, Array], n: int) -> Array:
    """How right each picture is, float64 (n,) in [0, 1]: average precision at IoU 0.5, its classes in one ranking.

    A picture without objects is as right as its best detection is unsure: 1 minus its score, 1 without any.
    """
    order = np.argsort(statistics["detection_example"], kind="stable")
    bounds = np.searchsorted(statistics["detection_example"][order], np.arange(n + 1))
    objects = np.bincount(statistics["truth_example"], statistics["truth_count"], minlength=n)
    right = np.zeros(n)
    one = np.ones((1, 1))
    zero = np.zeros(1, np.int64)
    for i in range(n):
        rows = order[bounds[i] : bounds[i + 1]]
        ignored = statistics["detection_ignored"][rows, :1]
        scores = statistics["detection_score"][rows]
        if objects[i] == 0:
            right[i] = 1.0 - np.clip(scores[~ignored[:, 0]], 0, 1).max(initial=0)
            continue
        nothing = np.zeros(len(rows), np.int64)
        alone = {
            "detection_example": nothing,
            "detection_class": nothing,
            "detection_score": scores,
            "detection_matched": statistics["detection_matched"][rows, :1],
            "detection_ignored": ignored,
            "truth_example": zero,
            "truth_class": zero,
            "truth_count": objects[i : i + 1],
        }
        right[i] = average_precision(alone, one)[0]
    return right
