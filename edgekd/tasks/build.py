"""From a task's description, as recipes and options give it, to a Task object; also done inside children."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.files import digest_of
from edgekd.plugins import load_plugin
from edgekd.pythonpath import python_source_digest, resolve_python
from edgekd.tasks.keys import check_keys
from edgekd.tasks.task import Task, split_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """How to build a task; plain data, so that it travels to children and into digests.

    Attributes:
        kind: a task plugin's name, or ``python:module:factory`` (called with ``data`` and ``base``).
        metric: the metric's name; empty means the task's own default.
        data: split -> data reference.
        base: folder of relative references; empty means the current folder.
        cluster: slice whose values group examples that are not independent; empty where each stands alone.
    """

    kind: str = "classification"
    metric: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    base: str = ""
    cluster: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "metric": self.metric,
            "data": dict(self.data),
            "base": self.base,
            "cluster": self.cluster,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TaskSpec:
        return TaskSpec(
            kind=value["kind"],
            metric=value["metric"],
            data=value["data"],
            base=value["base"],
            cluster=value.get("cluster", ""),
        )

    @property
    def search(self) -> Path | None:
        return Path(self.base) if self.base else None

    def split_digest(self, split: str) -> str:
        """Digest of the rows of one split and of how they are scored."""
        from edgekd.data import open_source

        reference = split_of(self.data, split)
        code = python_source_digest(self.kind, self.search) if self.kind.startswith("python:") else ""
        metric = self.metric or build_task(self).metric
        return digest_of([self.kind, metric, code, open_source(reference, self.search).digest])


def check_prepare(spec: TaskSpec, prepare: Mapping[str, Any]) -> None:
    """Refuse ``prepare`` keys that a built-in task does not know, before any model runs.

    Raises:
        UsageError: names the key.
    """
    if spec.kind.startswith("python:"):
        return  # only it knows
    # Not what a plugin inherits: it may take more.
    known = vars(type(build_task(spec))).get("prepare_keys")
    if known is not None:
        check_keys(prepare, known)


def build_task(spec: TaskSpec) -> Task:
    """Build the task that ``spec`` describes.

    Raises:
        UsageError: unknown kind or metric, or a ``python:`` factory without the four methods.
    """
    if spec.kind.startswith("python:"):
        factory = resolve_python(spec.kind, spec.search)
        task = factory(data=dict(spec.data), base=spec.search)
        missing = [
            m for m in ("examples", "prepare", "decode", "score") if not callable(getattr(task, m, None))
        ]
        if missing or not isinstance(getattr(task, "metric", None), str):
            lacks = ", ".join(missing) or "metric (a string)"
            raise UsageError(f"the task {spec.kind} lacks {lacks}", "see docs/tasks.md for the four methods")
        if spec.metric and spec.metric != task.metric:
            raise UsageError(
                f"the task {spec.kind} measures '{task.metric}', not '{spec.metric}'", "drop --metric"
            )
        return task  # type: ignore[no-any-return]
    build = load_plugin("edgekd.tasks", spec.kind)
    options = {"metric": spec.metric} if spec.metric else {}
    return build(data=spec.data, base=spec.search, **options)  # type: ignore[no-any-return]
