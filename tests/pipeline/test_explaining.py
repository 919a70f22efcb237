"""Which quantized students of a run are explained, by which timings, and what becomes of what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixtures_run import make_artifact, make_measurement

from edgekd.artifact import Artifact
from edgekd.errors import ModelError
from edgekd.evidence.speedup import Speedup, load_speedup
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Scenario, Setting
from edgekd.pipeline import explaining
from edgekd.pipeline.candidates import Reference
from edgekd.pipeline.explaining import explain_student
from edgekd.pipeline.folder import RunFolder
from edgekd.target import parse_target

SETTING = Setting(target=parse_target("cpu:onnxruntime"), runtime_paths={})


@pytest.fixture
def models(tmp_path: Path) -> tuple[Artifact, Artifact]:
    return (
        make_artifact(tmp_path / "f", b"float", "float32"),
        make_artifact(tmp_path / "q", b"small", "int8"),
    )


def _job(folder: Path, twin: Artifact | None = None, **changes: Any) -> Any:
    measured: list[Any] = []

    def measure(pair: Any, candidates: Any, limits: Any, occasion: str, role: str, scenario: Any) -> Any:
        measured.append((pair[0], [n for n, _ in candidates], occasion, role))
        return make_measurement(ratio=1.5, baseline=pair[1].digest, candidate=candidates[0][1].digest)

    return SimpleNamespace(**{
        "explain": True, "limits": TimingLimits(max_ratio=0.9), "notes": [], "folder": RunFolder(folder),
        "setting": SETTING, "feeds": SimpleNamespace(of=lambda artifact, role, batch: {}),
        "measure": SimpleNamespace(as_scenario=Scenario()), "measure_against": measure, "measured": measured,
        "references": {} if twin is None else {"float32": Reference(label="own float32", artifact=twin)},
        **changes,
    })  # fmt: skip


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of explain_timed, which runs nothing here."""
    calls: list[Any] = []

    def explain(twin: Any, quantized: Any, setting: Any, timings: Any) -> Speedup:
        calls.append((twin.label, quantized.label, timings))
        return Speedup(
            label=quantized.label, artifact=quantized.artifact.digest, dtype="int8", twin_label=twin.label,
            twin=twin.artifact.digest, twin_dtype="float32", target="t", ratio=(1.5, 1.4, 1.6), batch=1, threads=1,
        )  # fmt: skip

    monkeypatch.setattr(explaining, "explain_timed", explain)
    return calls


def test_by_the_timings_of_the_selection(
    tmp_path: Path, models: tuple[Artifact, Artifact], seen: list[Any]
) -> None:
    twin, small = models
    timings = make_measurement(baseline=twin.digest, candidate=small.digest)
    job = _job(tmp_path)
    students = [("float", twin), ("int8", small)]
    path = explain_student(job, "int8", small, students, timings, "evidence/select.json")
    assert job.measured == []
    assert [(a, b) for a, b, _ in seen] == [("float", "int8")]
    assert load_speedup(tmp_path / path).measurement == "evidence/select.json"
    assert path == "evidence/speedup-int8.json"
    assert explain_student(job, "float", twin, students, timings, "") == ""


def test_a_twin_that_was_not_timed_is_measured_beside_it(
    tmp_path: Path, models: tuple[Artifact, Artifact]
) -> None:
    twin, small = models
    job = _job(tmp_path, twin)
    path = explain_student(job, "int8", small, [("int8", small)], None, "")
    assert job.measured == [("own float32", ["int8"], "speedup", "student")]
    named = load_speedup(tmp_path / path).measurement
    assert (tmp_path / named).is_file()


def test_nothing_is_measured_where_no_timings_are_asked(
    tmp_path: Path, models: tuple[Artifact, Artifact]
) -> None:
    twin, small = models
    for changes in ({"limits": TimingLimits()}, {"explain": False}, {"references": {}}):
        job = _job(tmp_path, twin, **changes)
        assert explain_student(job, "int8", small, [("int8", small)], None, "") == ""
        assert job.measured == []


def test_what_goes_wrong_is_a_note(
    tmp_path: Path, models: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise ModelError("the model broke", "mend it")

    twin, small = models
    monkeypatch.setattr(explaining, "explain_timed", fail)
    job = _job(tmp_path, replace(twin))
    assert explain_student(job, "int8", small, [("int8", small)], None, "") == ""
    assert len(job.notes) == 1
    assert job.notes[0].startswith("Whether int8 is faster than own float32 is not known: the model broke")
