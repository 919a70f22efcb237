"""What a detector's outputs mean, by the keys of ``prepare.decode``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.tasks.boxes import FORMATS, Frame, to_corners

DECODE_KEYS = (
    "boxes", "scores", "classes", "objectness", "packed", "columns", "transposed", "format", "coordinates",
    "activation", "multi_label", "min_score", "nms_iou", "max_detections", "category_ids",
)  # fmt: skip
COORDINATES = ("pixels", "normalised", "image")
ACTIVATIONS = ("none", "sigmoid", "softmax")
COLUMNS = (["box", "scores"], ["box", "objectness", "scores"], ["box", "score", "class"])
#: Detections of a picture in full, as COCOeval counts them.
MOST = 100


def known_keys(keys: Any, known: Sequence[str], where: str) -> Mapping[str, Any]:
    """The keys, once none of them is unknown.

    Raises:
        UsageError: one is, or they are no mapping.
    """
    if not isinstance(keys, Mapping):
        raise UsageError(f"{where} is {keys!r}", f"it holds the keys {', '.join(known)}")
    if unknown := sorted(set(keys) - set(known)):
        raise UsageError(f"{where} key '{unknown[0]}' is not known", f"choose from {', '.join(known)}")
    return keys


def number(
    keys: Mapping[str, Any],
    name: str,
    default: float,
    low: float,
    high: float = np.inf,
    where: str = "prepare",
) -> float:
    """A key that holds a number within bounds.

    Raises:
        UsageError: it does not.
    """
    value = keys.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        bound = f"from {low} on" if high == np.inf else f"from {low} to {high}"
        raise UsageError(f"{where}.{name} is {value!r}", f"expected a number {bound}")
    return value


def one_of(keys: Mapping[str, Any], name: str, known: Sequence[Any], where: str = "prepare") -> Any:
    """A key that holds one of several values, by default the first.

    Raises:
        UsageError: it holds another.
    """
    value = keys.get(name, known[0])
    if value not in known:
        raise UsageError(
            f"{where}.{name} {value!r} is not known", f"choose {' or '.join(json.dumps(k) for k in known)}"
        )
    return value


def read_candidates(
    outputs: Mapping[str, Array], keys: Mapping[str, Any], role: str
) -> tuple[Array, Array, Array]:
    """Every box of one picture, with its score and class.

    Args:
        outputs: as the session gives them, batch 1.
        keys: ``prepare.decode``, already known to hold no other keys.
        role: names the model in messages.

    Returns:
        boxes float64 (k, 4) in the model's own ``format`` and ``coordinates``; scores float64 (k,) after the
        activation; classes int64 (k,), the model's own numbers.

    Raises:
        DataError: no such output, shapes that do not fit together, NaN; UsageError: a key of no known value.
    """
    if "packed" in keys:
        boxes, raw, objectness, classes = _unpack(outputs, keys, role)
    else:
        boxes = _table(_output(outputs, keys.get("boxes", "boxes"), role), keys)
        raw = _table(_output(outputs, keys.get("scores", "scores"), role), keys)
        objectness = (
            _table(_output(outputs, keys["objectness"], role), keys) if "objectness" in keys else None
        )
        classes = _output(outputs, keys["classes"], role).reshape(-1) if "classes" in keys else None
        if raw.size == len(boxes):  # one score each, however it was laid out
            raw = raw.reshape(-1, 1)
    _check(boxes, raw, objectness, classes, role)
    scores = _activate(raw, one_of(keys, "activation", ACTIVATIONS, "prepare.decode"))
    if objectness is not None:
        plain = one_of(keys, "activation", ACTIVATIONS, "prepare.decode") == "none"
        scores = scores * _activate(objectness.reshape(-1, 1), "none" if plain else "sigmoid")
    if classes is not None:
        return boxes, scores[:, 0], classes.astype(np.int64)
    k, width = scores.shape
    if keys.get("multi_label", False):
        return np.repeat(boxes, width, axis=0), scores.reshape(-1), np.tile(np.arange(width), k)
    best = scores.argmax(axis=1) if k else np.zeros(0, np.int64)
    return boxes, scores[np.arange(k), best], best


def to_pixels(boxes: Array, frame: Frame, keys: Mapping[str, Any]) -> Array:
    """Boxes float64 (k, 4) as a model answers them, as corners in the picture's own pixels.

    Raises:
        UsageError: a format or coordinates of no known name.
    """
    corners = to_corners(boxes, one_of(keys, "format", FORMATS, "prepare.decode"))
    where = one_of(keys, "coordinates", COORDINATES, "prepare.decode")
    if where == "image":
        return corners
    return frame.to_image(corners * np.asarray(frame.size * 2) if where == "normalised" else corners)


def category_ids(classes: Array, ids: Array | None, keys: Mapping[str, Any], role: str) -> list[int | None]:
    """The data's category of each of a model's classes; None for a class that the data does not count.

    Args:
        classes: int (k,).
        ids: the data's category ids in increasing order; None where it does not name them.
        keys: ``category_ids`` is ``index`` (class i is the i-th category), ``id`` (the model answers with the data's
            ids) or a list of ids by class, null for none (a background).

    Raises:
        UsageError: a key of no known value; DataError: a class beyond the categories.
    """
    given = keys.get("category_ids", "index" if ids is not None else "id")
    if given == "id":
        return [int(c) for c in classes]
    if given == "index" and ids is not None:
        given = ids.tolist()
    if not isinstance(given, list) or not all(i is None or type(i) is int for i in given):
        raise UsageError(
            f"prepare.decode.category_ids is {given!r}",
            "expected index, id, or a list of the data's category ids",
        )
    outside = classes[(classes < 0) | (classes >= len(given))]
    if len(outside):
        raise DataError(
            f"the {role} answers class {int(outside[0])}, there are {len(given)} categories",
            "say which category each class is: prepare.decode.category_ids",
        )
    return [given[int(c)] for c in classes]


def _output(outputs: Mapping[str, Array], name: Any, role: str) -> Array:
    if name not in outputs:
        raise DataError(
            f"the {role} has no output {name!r}",
            f"its outputs are {', '.join(outputs)}: name them in prepare.decode",
        )
    return np.asarray(outputs[name])


def _table(values: Array, keys: Mapping[str, Any]) -> Array:
    """(1, k, columns) or (k, columns), or their last axes swapped, as float64 (k, columns)."""
    table = values[0] if values.ndim == 3 and len(values) == 1 else values
    if keys.get("transposed", False) and table.ndim == 2:
        table = table.T
    return table.astype(np.float64)


def _unpack(
    outputs: Mapping[str, Array], keys: Mapping[str, Any], role: str
) -> tuple[Array, Array, Array | None, Array | None]:
    columns = one_of(keys, "columns", COLUMNS, "prepare.decode")
    values = _output(outputs, keys["packed"], role)
    table = _table(values, keys)
    fixed = 3 + len(columns)  # a box is four numbers
    if table.ndim != 2 or table.shape[1] < fixed or (columns[-1] == "class" and table.shape[1] != fixed):
        raise DataError(
            f"the {role}'s output {keys['packed']!r} has shape {tuple(values.shape)}, which does not hold the "
            f"columns {json.dumps(columns)}",
            "correct prepare.decode.columns, or set transposed where boxes lie along the last axis",
        )
    if columns[-1] == "class":
        return table[:, :4], table[:, 4:5], None, table[:, 5]
    if columns[1] == "objectness":
        return table[:, :4], table[:, 5:], table[:, 4], None
    return table[:, :4], table[:, 4:], None, None


def _check(boxes: Array, scores: Array, objectness: Array | None, classes: Array | None, role: str) -> None:
    fits = boxes.ndim == 2 and boxes.shape[1] == 4 and scores.ndim == 2 and len(scores) == len(boxes)
    if classes is not None:
        fits = fits and classes.shape == (len(boxes),) and scores.shape == (len(boxes), 1)
    if not fits or (objectness is not None and objectness.size != len(boxes)):
        also = "" if classes is None else f" and classes {classes.shape}"
        raise DataError(
            f"the {role} gave boxes {boxes.shape}, scores {scores.shape}{also}",
            "expected (boxes, 4), with one score and class, or one score per class, for each: see prepare.decode",
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()) or (
        objectness is not None and not np.isfinite(objectness).all()
    ):
        raise DataError(
            f"the {role}'s boxes or scores hold NaN or infinite values",
            "the model is broken for this input: compare it with its source (`edgekd compare`)",
        )


def _activate(values: Array, name: str) -> Array:
    if name == "sigmoid":
        # The tanh form does not overflow.
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
    if name == "softmax" and values.size:
        e = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    return values
