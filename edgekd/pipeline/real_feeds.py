"""The first examples of a task's data, for checking what is made of a model before anything is measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.parity import Shapes
from edgekd.spec import stack_feeds
from edgekd.tasks import ModelIO, TaskSpec, build_task

#: Real examples that every export and conversion is compared on.
EXAMPLES = 16
#: Where they come from, the first that there is. Both models are evaluated on the first two, so that these hold the
#: arrays of either; a calibration set may hold the student's only. Nothing is chosen by these answers.
_SPLITS = ("select", "test", "calibration", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealFeeds:
    """Value of the option ``feeds`` until an exporter is called, which is given arrays.

    Attributes:
        task: has at least one split of :data:`_SPLITS`; role: of the model, ``teacher`` or ``student``.
        rename: model input -> array of the data.
        examples: how many.
    """

    task: TaskSpec
    role: str
    rename: Mapping[str, str] = field(default_factory=dict)
    examples: int = EXAMPLES

    @property
    def split(self) -> str:
        return next(s for s in _SPLITS if s in self.task.data)

    def key(self) -> dict[str, Any]:
        """What decides the arrays: the data by digest."""
        return {
            "data": self.task.split_digest(self.split),
            "role": self.role,
            "rename": dict(self.rename),
            "examples": self.examples,
        }

    def arrays(self, source: Artifact, shapes: Shapes) -> list[dict[str, Array]]:
        """Feeds of ``source``, in batches of the size that it takes or ``shapes`` says; else one by one.

        Raises:
            DataError: the data does not fit the model.
        """
        io = ModelIO(
            role=self.role,
            inputs=source.inputs,
            outputs=source.outputs,
            prepare=source.prepare,
            rename=self.rename,
        )
        built = build_task(self.task)
        usual = [shapes[s.name][1][0] for s in source.inputs if s.dynamic_batch and s.name in shapes]
        size = source.fixed_batch or min(usual, default=1)
        rows = [built.prepare(e, io) for e in islice(built.examples(self.split), self.examples)]
        return [stack_feeds(rows[i : i + size], size) for i in range(0, len(rows), size)]


def real_feeds(task: TaskSpec, role: str) -> dict[str, RealFeeds]:
    """The option of an export, where the task has data."""
    return {"feeds": RealFeeds(task=task, role=role)} if any(s in task.data for s in _SPLITS) else {}


def given(options: Mapping[str, Any], source: Artifact) -> dict[str, Any]:
    """Options as an exporter takes them: real feeds as arrays that fit ``source``."""
    feeds = options.get("feeds")
    if not isinstance(feeds, RealFeeds):
        return dict(options)
    return {**options, "feeds": feeds.arrays(source, options.get("shapes") or {})}


def keyed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as plain data, for the key of a stage: real feeds by the digest of their data."""
    return {k: v.key() if isinstance(v, RealFeeds) else v for k, v in options.items()}
