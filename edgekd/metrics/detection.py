"""Average precision from stored matches: COCOeval's own accumulation under any weighting of the images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.metrics.statistics import Statistics

#: The arrays that :func:`average_precision` is made of.
NAMES = (
    "detection_example", "detection_class", "detection_score", "detection_matched", "detection_ignored",
    "truth_example", "truth_class", "truth_count",
)  # fmt: skip
#: COCOeval's 101 recall levels (pycocotools/cocoeval.py, Params.setDetParams).
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
#: Weights held at once: about 32 MiB of float64, several times over.
_CELLS = 1 << 22


def average_precision(statistics: Statistics, weights: Array) -> Array:
    """Mean over classes and IoU thresholds of the precision at 101 levels of recall, under weights of the images.

    The same as ``COCOeval.accumulate`` (pycocotools): weights of one give its value, whole weights give its value on
    a data set in which each image is repeated so often. Classes without a ground truth under a weighting are left
    out, as there. Detections of one class with equal scores count in the order of their examples; those of one and the
    same repeated picture count together, where COCOeval would go round its copies.

    Args:
        statistics: what ``COCOeval.evaluateImg`` matched, for m detections, T thresholds and g pairs of example and
            class that have ground truth:
            ``detection_example`` int64 (m,), row of the example, 0 to n - 1, not decreasing within a class and score;
            ``detection_class`` int64 (m,);
            ``detection_score`` float64 (m,), finite;
            ``detection_matched`` bool (m, T), matched to a ground truth at each threshold;
            ``detection_ignored`` bool (m, T), matched to a crowd, hence neither right nor wrong;
            ``truth_example`` int64 (g,), ``truth_class`` int64 (g,), ``truth_count`` int64 (g,), ground truths that
            are no crowd, each pair once.
        weights: float64 (d, n), how often each example counts, 0 or more.

    Returns:
        float64 (d,) in [0, 1]; NaN where no class has a ground truth.

    Raises:
        EvidenceError: statistics that are not these arrays, or that name an example beyond n.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float64))
    _check(statistics, weights.shape[1])
    thresholds = statistics["detection_matched"].shape[1]
    total = np.zeros(len(weights))
    classes = np.zeros(len(weights), np.int64)
    for rows, truth, count in _by_class(statistics):
        matched = statistics["detection_matched"][rows]
        ignored = statistics["detection_ignored"][rows]
        example = statistics["detection_example"][rows]
        step = max(1, _CELLS // max(1, len(rows)))
        for start in range(0, len(weights), step):
            part = slice(start, start + step)
            positives = weights[part][:, truth] @ count
            present = positives > 0
            if present.any():
                of_class = _class_precision(
                    weights[part][present], positives[present], example, matched, ignored
                )
                total[part][present] += of_class
            classes[part] += present
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(classes > 0, total / (classes * thresholds), np.nan)


def take_images(statistics: Statistics, rows: Array) -> dict[str, Array]:
    """The statistics of some images, for a slice of the data.

    Args:
        statistics: as :func:`average_precision` takes them.
        rows: int (k,), each at most once; they become rows 0 to k - 1.
    """
    kept = np.asarray(rows, np.int64)
    order = np.argsort(kept, kind="stable")
    taken: dict[str, Array] = {}
    for kind in ("detection", "truth"):
        example = statistics[f"{kind}_example"]
        place = np.minimum(np.searchsorted(kept[order], example), max(0, len(kept) - 1))
        mine = kept[order][place] == example if len(kept) else np.zeros(len(example), bool)
        for name in NAMES:
            if name.startswith(kind):
                taken[name] = statistics[name][mine]
        taken[f"{kind}_example"] = order[place[mine]].astype(np.int64)
    return taken


def _by_class(statistics: Statistics) -> Iterator[tuple[Array, Array, Array]]:
    """Per class with ground truth: its detections, best first, and the examples and counts of its ground truths."""
    # A stable sort by class of rows already sorted by score: COCOeval's mergesort over the images in order.
    by_score = np.argsort(-statistics["detection_score"], kind="stable")
    order = by_score[np.argsort(statistics["detection_class"][by_score], kind="stable")]
    sorted_class = statistics["detection_class"][order]
    for label in np.unique(statistics["truth_class"]):
        start, stop = np.searchsorted(sorted_class, [label, label + 1])
        truth = statistics["truth_class"] == label
        yield (
            order[start:stop],
            statistics["truth_example"][truth],
            statistics["truth_count"][truth].astype(np.float64),
        )


def _class_precision(
    weights: Array, positives: Array, example: Array, matched: Array, ignored: Array
) -> Array:
    """Sum over thresholds of one class's average precision, (d,).

    Only at a true positive do recall and the envelope of precision change, so only those columns are looked at.
    """
    found = np.zeros(len(weights))
    seen = np.cumsum(weights[:, example], axis=1)
    for t in range(matched.shape[1]):
        right = np.flatnonzero(matched[:, t] & ~ignored[:, t])
        if not len(right):
            continue
        skipped = np.flatnonzero(ignored[:, t])
        counted = seen[:, right]
        if len(skipped):
            before = np.cumsum(np.pad(weights[:, example[skipped]], ((0, 0), (1, 0))), axis=1)
            counted = counted - before[:, np.searchsorted(skipped, right)]
        true = np.cumsum(weights[:, example[right]], axis=1)
        # COCOeval's own expressions, so that recall meets its levels in the same last bit.
        recall = true / positives[:, None]
        precision = true / (counted + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        levels = _levels_reached(recall)
        found += (np.diff(levels, axis=1, prepend=0) * envelope).sum(axis=1)
    return found / len(RECALL_LEVELS)


def _levels_reached(recall: Array) -> Array:
    """How many recall levels are at most ``recall``; a division's guess, corrected by comparing."""
    top = len(RECALL_LEVELS) - 1
    guess = np.clip((recall * top).astype(np.int64), 0, top)
    guess += (guess < top) & (RECALL_LEVELS[np.minimum(guess + 1, top)] <= recall)
    return guess + (RECALL_LEVELS[guess] <= recall)


def _check(statistics: Statistics, n: int) -> None:
    missing = [name for name in NAMES if name not in statistics]
    if missing:
        raise EvidenceError(f"average precision needs statistics '{missing[0]}'", "evaluate again")
    detections, truths = len(statistics["detection_score"]), len(statistics["truth_count"])
    matched = statistics["detection_matched"]
    if matched.ndim != 2 or matched.shape[1] == 0 or statistics["detection_ignored"].shape != matched.shape:
        raise EvidenceError(
            f"the statistics of average precision have shapes {matched.shape} and "
            f"{statistics['detection_ignored'].shape} (matched, ignored); expected (detections, thresholds) twice",
            "evaluate again",
        )
    for name in NAMES:
        if len(statistics[name]) != (truths if name.startswith("truth") else detections):
            raise EvidenceError(
                f"the statistics '{name}' have {len(statistics[name])} rows for {detections} detections and {truths} truths",
                "evaluate again",
            )
    for name in ("detection_example", "truth_example"):
        rows = statistics[name]
        if len(rows) and not (rows.min() >= 0 and rows.max() < n):
            raise EvidenceError(
                f"the statistics '{name}' name an example outside 0..{n - 1}", "evaluate again"
            )
    if not np.isfinite(statistics["detection_score"]).all():
        raise EvidenceError("the statistics 'detection_score' hold NaN or infinite values", "evaluate again")
