"""Classification of arrays and of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data import open_source
from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.lazy import require
from edgekd.spec import TensorSpec
from edgekd.tasks.task import ModelIO, Prediction

METRICS = ("top1", "top5")
PREPARE_KEYS = ("scale", "mean", "std", "layout", "size")


def bind_inputs(example: Example, model: ModelIO) -> dict[str, Array]:
    """The example's array for each model input: renamed, by role, by name, else by position for a single one.

    Raises:
        DataError: an input has no array.
    """
    role = f"{model.role}."
    plain = [n for n in example.inputs if not n.startswith(("teacher.", "student."))]
    own = [n for n in example.inputs if n.startswith(role)]
    bound: dict[str, Array] = {}
    for spec in model.inputs:
        for name in (model.rename.get(spec.name), role + spec.name, spec.name):
            if name is not None and name in example.inputs:
                bound[spec.name] = example.inputs[name]
                break
        else:
            single = own if len(own) == 1 else plain
            if len(model.inputs) != 1 or len(single) != 1:
                have = ", ".join(example.inputs) or "none"
                raise DataError(
                    f"the data has no array for the {model.role}'s input '{spec.name}' (arrays: {have})",
                    f"rename an array, or map it: --map {model.role}:{spec.name}=ARRAY",
                )
            bound[spec.name] = example.inputs[single[0]]
    return bound


def answer_of(outputs: Mapping[str, Array], model: ModelIO) -> Array:
    """The (classes,) scores of one example, as logits (log of the values where the output holds probabilities).

    Raises:
        DataError: no such output, several to choose from, not (1, classes), or not finite.
    """
    name = model.output.get("name")
    if name is None:
        if len(outputs) != 1:
            raise DataError(
                f"the {model.role} has {len(outputs)} outputs ({', '.join(outputs)})",
                "choose one: --output NAME:logits",
            )
        name = next(iter(outputs))
    if name not in outputs:
        raise DataError(f"the {model.role} has no output '{name}'", f"its outputs are {', '.join(outputs)}")
    values = outputs[name]
    if values.ndim < 2 or values.shape[0] != 1 or values.size != values.shape[1]:
        raise DataError(
            f"the {model.role}'s output '{name}' has shape {tuple(values.shape)} per example; classification "
            "compares (1, classes)",
            "choose another --output, or bring your own --task python:module:factory",
        )
    scores = np.asarray(values, dtype=np.float32).reshape(-1)
    if scores.size < 2:
        raise DataError(
            f"the {model.role}'s output '{name}' has one class only", "classification needs two or more"
        )
    if not np.isfinite(scores).all():
        raise DataError(
            f"the {model.role}'s output '{name}' holds NaN or infinite values",
            "the model is broken for this input: compare it with its source (`edgekd compare`)",
        )
    if model.output.get("kind") == "probs":
        scores = np.log(np.maximum(scores, np.float32(1e-12)))
    return scores


@dataclass(frozen=True)
class Classification:
    """Arrays in, a class index out.

    Args:
        data: split -> data reference.
        metric: ``top1`` or ``top5``.
        base: folder of relative references.
    """

    data: Mapping[str, str]
    metric: str = "top1"
    base: Path | None = None
    kind: str = field(default="classification", init=False)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(
                f"metric '{self.metric}' is not known for {self.kind}", f"choose {' or '.join(METRICS)}"
            )

    def examples(self, split: str) -> Iterator[Example]:
        if split not in self.data:
            raise UsageError(
                f"the task has no data for '{split}'", f"it has {', '.join(self.data) or 'none'}"
            )
        return iter(open_source(self.data[split], self.base))

    def prepare(self, example: Example, model: ModelIO) -> dict[str, Array]:
        feeds = {}
        for spec in model.inputs:
            array = self._prepare_one(bind_inputs(example, model)[spec.name], spec, model)
            batch = np.ascontiguousarray(array)[None]
            spec.check(batch, where=f"example {example.id}")
            feeds[spec.name] = batch
        return feeds

    def _prepare_one(self, array: Array, spec: TensorSpec, model: ModelIO) -> Array:
        return np.asarray(array)

    def decode(self, outputs: Mapping[str, Array], model: ModelIO) -> Prediction:
        logits = answer_of(outputs, model)
        return Prediction(value=int(logits.argmax()), logits=logits)

    def score(self, predictions: Sequence[Prediction], labels: Sequence[Any]) -> Array:
        scores = np.zeros(len(predictions), dtype=np.float64)
        for i, (prediction, label) in enumerate(zip(predictions, labels, strict=True)):
            if prediction.logits is None:
                raise DataError(f"row {i} has no class scores", "decode() must return logits")
            classes = prediction.logits.size
            if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
                raise DataError(
                    f"row {i} has the label {label!r}",
                    "classification needs whole numbers from 0 in an array `label`",
                )
            if not 0 <= label < classes:
                raise DataError(
                    f"row {i} has the label {label}, the model has {classes} classes (0..{classes - 1})",
                    "check that data and model use the same classes",
                )
            if self.metric == "top5":
                scores[i] = float(label in np.argsort(-prediction.logits, kind="stable")[:5])
            else:
                scores[i] = float(prediction.value == label)
        return scores


class ImageClassification(Classification):
    """Images in, a class index out.

    A uint8 image (height, width, channels) is resized to ``size``, divided by ``scale``, normalised with ``mean``
    and ``std`` and laid out as ``layout`` (``NCHW`` or ``NHWC``), by the model's own ``prepare`` keys. An array
    that already has the model's dtype is fed as it is.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", "image-classification")
        super().__post_init__()

    def _prepare_one(self, array: Array, spec: TensorSpec, model: ModelIO) -> Array:
        unknown = set(model.prepare) - set(PREPARE_KEYS)
        if unknown:
            raise UsageError(
                f"prepare key '{sorted(unknown)[0]}' is not known", f"choose from {', '.join(PREPARE_KEYS)}"
            )
        if array.dtype != np.uint8 or not spec.dtype.startswith("float") or array.ndim != 3:
            return np.asarray(array)
        keys = model.prepare
        if "size" in keys:
            height, width = (keys["size"],) * 2 if isinstance(keys["size"], int) else keys["size"]
            if array.shape[:2] != (height, width):
                image = require("PIL.Image", extra="data", purpose="resizing images")
                array = np.asarray(image.fromarray(array).resize((width, height), image.Resampling.BILINEAR))
        out: Array = array.astype(np.float32) / np.float32(keys.get("scale", 1.0))
        out = (out - np.asarray(keys.get("mean", 0.0), np.float32)) / np.asarray(
            keys.get("std", 1.0), np.float32
        )
        if keys.get("layout", "NCHW") == "NCHW":
            out = out.transpose(2, 0, 1)
        return out.astype(spec.dtype)
