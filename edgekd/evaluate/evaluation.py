"""Evaluate an artifact in a child and bring its rows home."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.errors import ChildError, DataError, UsageError
from edgekd.evidence.evaluation import Evaluation
from edgekd.target import Target, check_threads
from edgekd.tasks import TaskSpec
from edgekd.temporary import scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        label: what the report calls it.
        role: ``teacher`` or ``student``.
        split: which rows; data_digest: of those rows.
        output: ``NAME:kind`` parts that override the artifact's own; rename: model input -> array.
    """

    label: str
    artifact: Artifact
    target: Target
    runtime_paths: Mapping[str, str]
    task: TaskSpec
    split: str
    data_digest: str
    role: str = "student"
    output: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    batch: int = 64
    threads: int = 1
    timeout_s: float = 3600.0
    memory_bytes: int | None = None
    search: tuple[Path, ...] = ()


class OpenChildren:
    """Children that stay open between evaluations: of one runtime on one device each, and their prepared examples.

    Many evaluations of one split then start one process, and read and prepare its rows once.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Any, ...], ChildProcess] = {}

    def __enter__(self) -> OpenChildren:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def of(
        self, key: tuple[Any, ...], purpose: str, limits: Limits, search: tuple[Path, ...]
    ) -> Iterator[ChildProcess]:
        """The child of ``key``, started where there is none; one that failed is not used again."""
        if key not in self._open:
            self._open[key] = ChildProcess(purpose, limits, search)
        child = self._open[key]
        child.purpose = purpose
        try:
            yield child
        except ChildError:
            self._open.pop(key).close()
            raise

    def close(self) -> None:
        for child in self._open.values():
            child.close()
        self._open.clear()


def limits_of(request: EvaluationRequest) -> Limits:
    """What the child of an evaluation may use."""
    return Limits.on(
        request.target.device, timeout_s=request.timeout_s, memory_bytes=request.memory_bytes,
        threads=request.threads,
    )  # fmt: skip


def place_of(request: EvaluationRequest) -> tuple[Any, ...]:
    """Which of the :class:`OpenChildren` answers it."""
    runtime = request.runtime_paths[request.artifact.format]
    return (runtime, str(request.target), limits_of(request), request.search)


def evaluate(request: EvaluationRequest, children: OpenChildren | None = None) -> Evaluation:
    """Run the artifact over the split.

    Args:
        children: where the child stays open for the next one; None ends it.

    Raises:
        DataError, UsageError, ModelError: wrong data, keys or model; ChildError: the child did not deliver.
    """
    if not request.target.remote:
        check_threads(request.threads)
    artifact = request.artifact
    if artifact.format not in request.runtime_paths:
        raise DataError(
            f"{request.target} cannot open {request.label} (format {artifact.format})",
            "export it for that runtime",
        )
    limits = limits_of(request)
    with scratch("evaluate") as folder:
        rows = folder / "rows.npz"
        purpose = f"evaluating {request.label} on {request.target}"
        runtime = request.runtime_paths[artifact.format]
        with (
            ChildProcess(purpose, limits, request.search)
            if children is None
            else children.of(place_of(request), purpose, limits, request.search)
        ) as child:
            try:
                reply, _ = child.request(
                    "edgekd.evaluate.operations:evaluate_rows",
                    {
                        "runtime": runtime,
                        "path": str(artifact.path.resolve()),
                        "device": request.target.device,
                        "provider": request.target.provider,
                        "threads": request.threads,
                        "settings": dict(artifact.settings),
                        "task": request.task.to_json(),
                        "split": request.split,
                        "role": request.role,
                        "prepare": dict(artifact.prepare),
                        "output": {**artifact.output, **request.output},
                        "rename": dict(request.rename),
                        "cluster": request.task.cluster,
                        "batch": request.batch,
                        "rows": str(rows),
                        "again": children is not None,
                        "digest": artifact.digest,
                    },
                )
            except (DataError, UsageError) as e:
                raise type(e)(f"{request.label} ({artifact.path.name}): {e.what}", e.fix) from e
        with np.load(rows, allow_pickle=False) as data:
            arrays: dict[str, Any] = {k: data[k] for k in data.files}
    return Evaluation(
        name=request.label,
        artifact=artifact.digest,
        target=str(request.target),
        metric=reply["metric"],
        split=request.split,
        data=request.data_digest,
        ids=arrays["id"],
        scores=arrays["score"],
        predictions=arrays["prediction"],
        labels=arrays["label"],
        logits=arrays.get("logits"),
        slices={k.removeprefix("slice_"): v for k, v in arrays.items() if k.startswith("slice_")},
        clusters=arrays.get("cluster"),
        aggregate=reply["aggregate"],
        statistics={k.removeprefix("stat_"): v for k, v in arrays.items() if k.startswith("stat_")},
        error=reply["error"],
        unit=reply["unit"],
        environment={
            "placement": reply["placement"],
            "batch": request.batch,
            **({"notes": reply["notes"]} if reply["notes"] else {}),
        },
        collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
