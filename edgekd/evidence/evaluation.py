"""The Evaluation noun: one row per example of one artifact on one data split."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError, ModelError
from edgekd.evidence.rows import load_rows
from edgekd.files import read_json, refuse_failing_disk, sha256_file, write_bytes, write_json
from edgekd.inspect import inspect_file
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.metrics import SUMS, Statistics, metric_value, take_statistics

EVALUATION_SCHEMA = "edgekd.evaluation/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Per-example results.

    Attributes:
        name: what the report calls the artifact, e.g. ``"teacher"``.
        artifact: its digest.
        target: where it ran.
        metric: what ``scores`` hold.
        split, data: which rows, by name and by digest.
        ids: str (n,); unique, in the data's order.
        scores: float64 (n,): how right each answer is; in [0, 1] where the metric is their mean.
        predictions: (n,), decoded answers; labels: (n,), what is right.
        logits: float32 (n, classes), or None where the task has none.
        slices: slice name -> str (n,).
        clusters: str (n,) where examples come in groups that are not independent (a speaker, a patient); else None.
        aggregate, statistics: how the metric is made of per-example statistics (:mod:`edgekd.metrics`).
        error: smaller values of the metric are better; unit: of its values.
        environment: placement read back, versions.
        collected_at: UTC, ``2026-01-31T12:00:00Z``.
    """

    name: str
    artifact: str
    target: str
    metric: str
    split: str
    data: str
    ids: Array
    scores: Array
    predictions: Array
    labels: Array
    logits: Array | None
    slices: Mapping[str, Array] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    collected_at: str = ""
    clusters: Array | None = None
    aggregate: str = "mean"
    statistics: Statistics = field(default_factory=dict)
    error: bool = False
    unit: str = "fraction"

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def mean(self) -> float:
        """The metric over all examples; a fraction in [0, 1] where ``unit`` says so."""
        if self.aggregate == "mean" and not self.statistics:
            return float(self.scores.mean())
        return metric_value(self.aggregate, self.statistics, self.n)

    @property
    def sufficient(self) -> Statistics:
        """The statistics; made from the scores where the metric is their mean and none are stored."""
        if self.statistics:
            return self.statistics
        return {SUMS: np.stack([np.asarray(self.scores, np.float64), np.ones(self.n)], axis=1)}


def take_rows(evaluation: Evaluation, rows: Array) -> Evaluation:
    """The evaluation of some of its examples.

    Args:
        rows: int (k,), each at most once.
    """
    return replace(
        evaluation,
        ids=evaluation.ids[rows],
        scores=evaluation.scores[rows],
        predictions=evaluation.predictions[rows],
        labels=evaluation.labels[rows],
        logits=None if evaluation.logits is None else evaluation.logits[rows],
        slices={name: values[rows] for name, values in evaluation.slices.items()},
        clusters=None if evaluation.clusters is None else evaluation.clusters[rows],
        statistics=take_statistics(evaluation.aggregate, evaluation.statistics, rows),
    )


def join_rows(first: Evaluation, second: Evaluation) -> Evaluation:
    """Two evaluations of one artifact as one: the rows of the first, then those of the second.

    Raises:
        ValueError: of different artifacts or metrics.
    """
    if (first.artifact, first.metric, first.target) != (second.artifact, second.metric, second.target):
        raise ValueError(f"rows of {first.name} and {second.name} do not belong together")
    both = (first.logits, second.logits), (first.clusters, second.clusters)
    logits, clusters = (None if a is None or b is None else np.concatenate([a, b]) for a, b in both)
    return replace(
        first,
        ids=np.concatenate([first.ids, second.ids]),
        scores=np.concatenate([first.scores, second.scores]),
        predictions=np.concatenate([first.predictions, second.predictions]),
        labels=np.concatenate([first.labels, second.labels]),
        logits=logits,
        slices={n: np.concatenate([v, second.slices[n]]) for n, v in first.slices.items()},
        clusters=clusters,
        statistics={n: np.concatenate([v, second.statistics[n]]) for n, v in first.statistics.items()},
    )


def rows_path(path: Path) -> Path:
    """Where the rows of an ``evaluation.json`` are: beside it, with the ending ``.npz``."""
    return path.with_suffix(".npz")


def rows_to_bytes(evaluation: Evaluation) -> bytes:
    """The rows as .npz bytes (uncompressed, so that they can be memory-mapped)."""
    arrays = {
        "id": evaluation.ids.astype(np.str_),
        "score": evaluation.scores,
        "prediction": evaluation.predictions,
        "label": evaluation.labels,
    }
    if evaluation.logits is not None:
        arrays["logits"] = evaluation.logits
    if evaluation.clusters is not None:
        arrays["cluster"] = evaluation.clusters.astype(np.str_)
    arrays.update({f"slice_{k}": v.astype(np.str_) for k, v in evaluation.slices.items()})
    arrays.update({f"stat_{k}": v for k, v in evaluation.statistics.items()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write ``evaluation.json`` at ``path`` and its rows beside it; the JSON, written last, makes it whole."""
    rows = rows_path(path)
    write_bytes(rows, rows_to_bytes(evaluation))
    write_json(
        path,
        {
            "schema": EVALUATION_SCHEMA,
            "name": evaluation.name,
            "artifact": evaluation.artifact,
            "target": evaluation.target,
            "metric": evaluation.metric,
            "aggregate": evaluation.aggregate,
            "error": evaluation.error,
            "unit": evaluation.unit,
            "split": evaluation.split,
            "data": evaluation.data,
            "n": evaluation.n,
            "mean": evaluation.mean,
            "rows": rows.name,
            "rows_sha256": sha256_file(rows),
            "environment": dict(evaluation.environment),
            "collected_at": evaluation.collected_at,
        },
    )


def load_evaluation(path: Path) -> Evaluation:
    """Read an evaluation back.

    Raises:
        EvidenceError: missing, altered, or rows that contradict the document.
    """
    value = read_json(path, EVALUATION_SCHEMA)
    try:
        if Path(value["rows"]).name != value["rows"]:
            raise EvidenceError(f"{path} names rows outside its folder: {value['rows']!r}", "do not use it")
        rows = path.with_name(value["rows"])
        if not rows.is_file():
            raise EvidenceError(f"{rows}, the rows of {path.name}, is missing", "evaluate again")
        refuse_pointer_file(rows, EvidenceError)
        if sha256_file(rows) != value["rows_sha256"]:
            raise EvidenceError(f"{rows} was altered since it was written", "evaluate again")
        inspect_file(rows, digest=False)
        arrays = load_rows(rows)
        mean = float(value["mean"])
        evaluation = Evaluation(
            name=str(value["name"]),
            artifact=str(value["artifact"]),
            target=str(value["target"]),
            metric=str(value["metric"]),
            split=str(value["split"]),
            data=str(value["data"]),
            ids=arrays["id"],
            scores=arrays["score"],
            predictions=arrays["prediction"],
            labels=arrays["label"],
            logits=arrays.get("logits"),
            slices={k.removeprefix("slice_"): v for k, v in arrays.items() if k.startswith("slice_")},
            clusters=arrays.get("cluster"),
            # Documents of the first version have none of these: their metric is the mean of the scores.
            aggregate=str(value.get("aggregate", "mean")),
            statistics={k.removeprefix("stat_"): v for k, v in arrays.items() if k.startswith("stat_")},
            error=bool(value.get("error", False)),
            unit=str(value.get("unit", "fraction")),
            environment=value.get("environment", {}),
            collected_at=str(value.get("collected_at", "")),
        )
    except (
        KeyError,
        TypeError,
        ValueError,
        OSError,
        EOFError,
        ModelError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        if isinstance(e, OSError):
            refuse_failing_disk(e, path)
        raise EvidenceError(f"{path} is not a whole evaluation ({e!r})", "evaluate again") from e
    _check_kinds(evaluation, path)
    rows_of = [evaluation.scores, evaluation.predictions, evaluation.labels, *evaluation.slices.values()]
    rows_of += [
        a for a in (evaluation.logits, evaluation.clusters, evaluation.statistics.get(SUMS)) if a is not None
    ]
    if evaluation.n != value.get("n") or any(len(a) != evaluation.n for a in rows_of):
        raise EvidenceError(f"{path}: rows and document disagree on the number of examples", "evaluate again")
    if evaluation.n and not math.isclose(evaluation.mean, mean, rel_tol=1e-6, abs_tol=1e-9):
        raise EvidenceError(
            f"{path} says {evaluation.metric} {value['mean']}, its rows make {evaluation.mean:.9g}",
            "evaluate again",
        )
    return evaluation


def _check_kinds(evaluation: Evaluation, path: Path) -> None:
    """Refuse arrays of kinds and shapes that no evaluation has.

    Raises:
        EvidenceError: names the array.
    """
    wanted: list[tuple[str, Array | None, str, tuple[int, ...]]] = [
        ("id", evaluation.ids, "U", (1,)),
        ("score", evaluation.scores, "fiub", (1,)),
        ("prediction", evaluation.predictions, "fiubU", (1,)),
        ("label", evaluation.labels, "fiubU", (1, 2, 3)),
        ("logits", evaluation.logits, "fiu", (2, 3)),
        ("cluster", evaluation.clusters, "U", (1,)),
        *((f"slice_{name}", values, "U", (1,)) for name, values in evaluation.slices.items()),
        *((f"stat_{name}", values, "fiub", (1, 2)) for name, values in evaluation.statistics.items()),
    ]
    for name, array, kinds, dims in wanted:
        if array is not None and (array.dtype.kind not in kinds or array.ndim not in dims):
            raise EvidenceError(
                f"{path}: '{name}' holds {array.dtype} of {array.ndim} dimensions, which no evaluation has",
                "evaluate again",
            )
