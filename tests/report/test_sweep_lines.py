"""A sweep for the terminal."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekd.evidence.measurement import Measurement
from edgekd.measure.configuration import Configuration, Sweep, Trial
from edgekd.pipeline.sweep import Swept
from edgekd.report.sweep import command_for, settings_lines, sweep_lines
from edgekd.tuned import Tuned

DEFAULT = Configuration(threads=1, batch=4, settings={})
BEST = Configuration(threads=2, batch=4, settings={"arena": False})


def trial(**changes: Any) -> Trial:
    values: dict[str, Any] = {
        "stage": "settings", "changes": {"arena": False}, "time_ns": 500_000.0, "ratio": 0.5, "lower": 0.4, "upper": 0.6,
        "restarts": 3, "clock": "wall", "outcome": "better",
    }  # fmt: skip
    return Trial(**{**values, **changes})


def swept(best: Configuration = BEST, confirmed: Trial | None = None, **changes: Any) -> Swept:
    sweep = Sweep(
        default=DEFAULT, best=best, default_time_ns=1_000_000.0,
        trials=(
            trial(),
            trial(changes={"level": "less"}, ratio=1.01, outcome="tie"),
            trial(changes={"x": 1}, outcome="failed", ratio=None, lower=None, upper=None, time_ns=None, reason="it broke; fix it"),
        ),
        confirmation=confirmed, difference=1e-6, runtime="fake 1", seconds=12.0,
    )  # fmt: skip
    record = Tuned(
        objective="latency", batch=4, threads=best.threads, settings=dict(best.settings), machine={}, evidence={}
    )  # fmt: skip
    made = Swept(label="my model.onnx", sweep=sweep, record=record, kept=None, why_not="it is in the cache")
    return replace(made, **changes)


def test_a_table_of_all_that_raced_and_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    confirmed = trial(stage="confirmation", changes={"arena": False, "threads": 2}, ratio=0.45, restarts=6)
    lines = sweep_lines(swept(confirmed=confirmed, kept=tmp_path / "m.json"), "cpu:fake")
    assert lines[0] == (
        "sweep of my model.onnx for cpu:fake: time per call, from threads=1 batch=4 (4.000 ms, fake 1, 12 s)"
    )
    rows = [" ".join(line.split()) for line in lines]
    assert "arena=false 2.000 0.500 [0.400, 0.600] 3 better" in rows
    assert "level=less 2.000 1.010 [0.400, 0.600] 3 not shown faster" in rows
    assert "x=1 – – 3 failed" in rows
    assert "* arena=false threads=2 2.000 0.450 [0.400, 0.600] 6 confirmed" in rows
    assert "  x=1: it broke; fix it" in lines
    assert lines[-2] == (
        "  chosen: arena=false threads=2: 0.450 [0.400, 0.600] of the default's time in 6 fresh restarts; answers "
        "differ by 1e-06 of the largest"
    )
    assert lines[-1] == "  kept in m.json"


def test_the_default_says_why_it_stays() -> None:
    assert (
        sweep_lines(swept(best=DEFAULT), "cpu:fake")[-2]
        == "  chosen: the default; nothing was faster beyond noise"
    )
    unsure = trial(stage="confirmation", outcome="tie", restarts=6)
    lines = sweep_lines(swept(best=DEFAULT, confirmed=unsure), "cpu:fake")
    assert lines[-2] == (
        "  chosen: the default; arena=false was faster in the search, and not beyond noise in 6 fresh restarts"
    )


def test_what_was_not_kept_comes_with_the_command_that_uses_it() -> None:
    found = swept(confirmed=trial(stage="confirmation"))
    assert sweep_lines(found, "cpu:fake")[-1].startswith(
        "  not kept: it is in the cache. To use them: edgekd bench "
    )
    assert shlex.split(command_for(found, "cpu:fake")) == [
        "edgekd", "bench", "my model.onnx", "--target", "cpu:fake", "--threads", "2", "--batch", "4", "--setting",
        "arena=false",
    ]  # fmt: skip


def test_nothing_to_choose_from_says_so() -> None:
    found = swept(best=DEFAULT)
    assert "  nothing to choose from: one CPU, or every setting was given" in sweep_lines(
        replace(found, sweep=replace(found.sweep, trials=())), "cpu:fake"
    )


def measured(source: str, note: str = "", **settings: Any) -> Measurement:
    arm = {"name": "m", "threads": 2, "settings": settings, "settings_from": source}
    return Measurement(
        arms={"baseline": arm, "baseline_twin": {**arm, "name": "m (twin)"}}, target="cpu:fake", scenario="single-stream",
        batch=1, threads=1, inputs={}, protocol={}, restarts=(), redrawn=(), environment={"settings_note": note},
        parent_cpu=0.0, collected_at="",
    )  # fmt: skip


def test_settings_of_a_measurement_name_their_source() -> None:
    assert settings_lines(measured("default")) == []
    assert settings_lines(measured("default", note="Swept settings are not used (…).")) == [
        "  Swept settings are not used (…)."
    ]
    assert settings_lines(measured("asked")) == []
    assert settings_lines(measured("asked", arena=False)) == [
        "  settings asked for: m: threads=2 arena=false"
    ]
    assert settings_lines(measured("sweep")) == ["  settings found by this sweep: m: threads=2"]
    assert settings_lines(measured("metadata", arena=True)) == [
        "  settings from the models' metadata: m: threads=2 arena=true"
    ]
