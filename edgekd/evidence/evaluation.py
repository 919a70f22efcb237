"""The Evaluation noun: one row per example of one artifact on one data split."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.files import read_json, sha256_file, write_bytes, write_json

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
        scores: float64 (n,) in [0, 1].
        predictions: (n,), decoded answers; labels: (n,), what is right.
        logits: float32 (n, classes), or None where the task has none.
        slices: slice name -> str (n,).
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

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def mean(self) -> float:
        """Mean score, a fraction in [0, 1]."""
        return float(self.scores.mean())


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
    arrays.update({f"slice_{k}": v.astype(np.str_) for k, v in evaluation.slices.items()})
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
        if sha256_file(rows) != value["rows_sha256"]:
            raise EvidenceError(f"{rows} was altered since it was written", "evaluate again")
        with np.load(rows, allow_pickle=False) as data:
            arrays = {k: data[k] for k in data.files}
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
            environment=value.get("environment", {}),
            collected_at=str(value.get("collected_at", "")),
        )
    except (KeyError, TypeError, ValueError, OSError) as e:
        raise EvidenceError(f"{path} is not a whole evaluation ({e!r})", "evaluate again") from e
    if evaluation.n != value.get("n") or any(
        len(a) != evaluation.n for a in (evaluation.scores, evaluation.predictions, evaluation.labels)
    ):
        raise EvidenceError(f"{path}: rows and document disagree on the number of examples", "evaluate again")
    return evaluation
