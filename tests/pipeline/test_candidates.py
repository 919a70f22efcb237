"""What is refused before the first model of a target runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.pipeline.candidates import Job, Reference, collect_select
from edgekd.tasks import TaskSpec


def artifact(folder: Path, **prepare: Any) -> Artifact:
    return Artifact(
        folder=folder, entry="model.onnx", format="onnx", dtype="float32", files=(), inputs=(), outputs=(),
        prepare=prepare,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "student", "baseline", "message"),
    [
        (
            {"meen": 1},
            {"mean": 1},
            {},
            r"^T \(model\.onnx\): prepare key 'meen' is not known; choose from scale",
        ),
        ({"mean": 1}, {"meen": 1}, {}, r"^int8 \(model\.onnx\): prepare key 'meen' is not known"),
        ({}, {}, {"meen": 1}, r"^R \(model\.onnx\): prepare key 'meen' is not known"),
        ({"std": 0}, {"mean": 1}, {}, r"^T \(model\.onnx\): prepare\.std is 0; expected numbers above 0"),
    ],
)
def test_a_wrong_prepare_key_is_told_before_any_model_runs(
    tmp_path: Path, teacher: dict[str, Any], student: dict[str, Any], baseline: dict[str, Any], message: str
) -> None:
    # It has nothing that could run a model, or keep what one answers.
    job: Job = SimpleNamespace(  # type: ignore[assignment]
        task=TaskSpec(kind="image-classification", data={"test": "d.npz"}),
        teacher=None,
        regression=("R", artifact(tmp_path, **baseline)),
        references={"teacher": Reference(label="T", artifact=artifact(tmp_path, **teacher), role="teacher")},
    )
    with pytest.raises(UsageError, match=message):
        collect_select(job, [("float32", artifact(tmp_path)), ("int8", artifact(tmp_path, **student))])
