"""Which precisions of the student a run goes on with where some cannot be written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.artifact import Artifact
from edgekd.errors import DataError, EdgeKDError, ModelError, UsageError
from edgekd.pipeline import students
from edgekd.quantize.precision import Precision, precision_of
from edgekd.tasks import TaskSpec

TASK = TaskSpec(kind="classification", data={"select": "d.npz"})


def candidates(
    monkeypatch: pytest.MonkeyPatch, failing: dict[str, EdgeKDError], *words: str
) -> tuple[list[str], list[str], Any]:
    """Labels made and notes, where making a precision of ``failing`` fails."""

    def make(precision: Precision, *rest: Any) -> Artifact:
        if precision.name in failing:
            raise failing[precision.name]
        return Artifact(
            folder=Path(), entry="m", format="openvino", dtype="float32", files=(), inputs=(), outputs=()
        )

    monkeypatch.setattr(students, "_make", make)
    recipe: Any = SimpleNamespace(export=["openvino"], precisions=tuple(map(precision_of, words)))
    notes: list[str] = []
    nothing: Any = None
    made = students.make_candidates(recipe, nothing, TASK, nothing, notes=notes)
    return [label for label, _ in made], notes, (recipe, made)


@pytest.mark.parametrize("kind", [ModelError, UsageError])
def test_a_quantization_that_fails_is_a_note(
    monkeypatch: pytest.MonkeyPatch, kind: type[EdgeKDError]
) -> None:
    failing = {"int4": kind("size 10 is no multiple of 32", "")}
    labels, notes, (recipe, made) = candidates(monkeypatch, failing, "float32", "int8", "int4")
    assert labels == ["student float32", "student int8"]
    assert notes == ["There is no student in int4: size 10 is no multiple of 32."]
    with pytest.raises(
        UsageError, match=r"none of the formats openvino was written in int4 .*multiple of 32"
    ):
        students.check_all_written(recipe, made, notes)


@pytest.mark.parametrize("word", ["float32", "float16"])
def test_a_float_export_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    with pytest.raises(ModelError, match="it answers otherwise"):
        candidates(monkeypatch, {word: ModelError("it answers otherwise", "")}, "float32", word, "int8")


def test_nothing_written_is_the_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="broken"):
        candidates(
            monkeypatch,
            {"int8": ModelError("broken", ""), "int4": UsageError("not here", "")},
            "int8",
            "int4",
        )
    with pytest.raises(DataError):
        candidates(monkeypatch, {"int8": DataError("the calibration data is empty", "")}, "float32", "int8")


def test_a_quantizer_that_writes_something_else_makes_kept_files_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd.pipeline.artifacts import _calibration_key
    from edgekd.quantize import QuantConfig
    from edgekd_onnx.exporter import OnnxExporter

    task = TaskSpec(kind="classification", data={}, base=str(tmp_path))
    config = QuantConfig(dtype="int4", mode="weight-only", granularity="block")
    before = _calibration_key(OnnxExporter(), config, task, None)
    monkeypatch.setattr(OnnxExporter, "QUANTIZER", OnnxExporter.QUANTIZER + 1)
    assert _calibration_key(OnnxExporter(), config, task, None) != before


def test_a_search_that_ends_at_another_entry_is_one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    same: Any = SimpleNamespace(digest="sha256:same")
    monkeypatch.setattr(students, "_make", lambda *rest: same)
    monkeypatch.setattr(students, "_search", lambda *rest: ("int8 of 3", same))
    entries = (precision_of({"search": {"max_drop": 0.01}}), precision_of("int8"))
    recipe: Any = SimpleNamespace(export=["onnx"], precisions=entries)
    anything: Any = object()
    notes: list[str] = []
    made = students.make_candidates(recipe, anything, TASK, anything, notes=notes, target=anything)
    assert [label for label, _ in made] == ["student int8"]
    assert notes == ["student searched: int8 of 3"]
    made = students.make_candidates(recipe, anything, TASK, anything, notes=notes)
    assert notes[1:] == ["student searched was left out: it is searched where a run measures."]
