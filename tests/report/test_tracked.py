"""Figures that other tools follow, and the two JSON formats made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from fixtures_report import NASTY, TARGET, make_gate, make_slices, make_view
from fixtures_run import make_run
from jsonschema import Draft7Validator

from edgekd.errors import UsageError
from edgekd.gates import judge_run
from edgekd.gates.verdict import Gate
from edgekd.recipe import GatesBlock
from edgekd.report import load_view
from edgekd.report.bmf import render_bmf
from edgekd.report.github_benchmark import render_github_benchmark
from edgekd.report.tracked import check_names, is_error_metric, slug, tracked_figures
from edgekd.report.view import View

#: What bencher.dev documents of its format, and its limits of names.
BMF = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 1024},
    "additionalProperties": {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": "^[a-z0-9][a-z0-9-]{0,63}$"},
        "additionalProperties": {
            "type": "object",
            "properties": {k: {"type": "number"} for k in ("value", "lower_value", "upper_value")},
            "required": ["value"],
            "additionalProperties": False,
        },
    },
}
#: ``BenchmarkResult`` in the action's extract.ts.
ACTION = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "unit": {"type": "string", "minLength": 1},
            "value": {"type": "number", "minimum": 0},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> View:
    folder = tmp_path_factory.mktemp("run") / "run"
    run = make_run(folder)
    judge_run(folder, run, GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return load_view(folder)


def figures(*gates: Gate, **changes) -> dict[str, float]:
    return {f"{f.benchmark}: {f.measure}": f.value for f in tracked_figures(make_view(gates, **changes))}


def ones(unit: str, **changes) -> Gate:
    return make_gate(**{"estimate": 0.5, "interval": (0.4, 0.6), "unit": unit, "detail": {}, **changes})


def test_a_real_run(view: View) -> None:
    found = {f.measure: f for f in tracked_figures(view) if f.benchmark.endswith("student-int8")}
    assert list(found) == [
        "file-size", "accuracy", "accuracy-difference-teacher", "latency-ratio", "latency", "latency-p90", "latency-p99",
    ]  # fmt: skip
    assert found["file-size"].value == 600
    assert found["accuracy"].value == pytest.approx(0.895)
    latency = found["latency"]
    assert latency.unit == "ns"
    assert latency.lower is not None and latency.upper is not None
    assert 495_000 < latency.lower < latency.value < latency.upper < 515_000
    assert found["latency-ratio"].value == pytest.approx(0.5, rel=0.02)
    assert {f.benchmark for f in tracked_figures(view)} == {
        "synthetic/cpu:onnxruntime/student-int8",
        "synthetic/cpu:onnxruntime/student-float32 (selection split)",
    }


@pytest.mark.parametrize(
    ("gate", "measure", "value"),
    [
        (ones("ratio", gate="regression", metric="latency", against="baseline"), "regression-ratio", 0.5),
        (ones("ratio", gate="tail", metric="p99"), "tail-p99-ratio", 0.5),
        (ones("ms", gate="latency_absolute", metric="p99", against=""), "latency-p99", 0.5e6),
        (ones("MiB", gate="memory", metric="memory", against=""), "memory", 0.5 * 2**20),
        (ones("ratio", gate="size", metric="size"), "size-ratio", 0.5),
        (ones("fraction", gate="fidelity", metric="flips", against="float32"), "flips-float32", 0.5),
        (ones("nats", gate="fidelity", metric="kl_p99", against="float32"), "kl-p99-float32", 0.5),
        (ones("ratio", gate="cost", metric="cost"), "cost-ratio", 0.5),
        (ones("fraction", detail={"min_ratio": 0.99}), "accuracy-difference-teacher-99pct", 0.5),
    ],
)
def test_every_kind_of_gate(gate: Gate, measure: str, value: float) -> None:
    assert figures(gate)[f"synthetic/{TARGET}/student-int8: {measure}"] == pytest.approx(value)


def test_slices_are_benchmarks_of_their_own() -> None:
    names = [n for n in figures(*make_slices(3)) if "class=" in n]
    assert names[0] == f"synthetic/{TARGET}/student-int8/class=value 000: accuracy-difference-teacher"
    assert len(names) == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(bad: float) -> None:
    gate = make_gate(
        "latency", estimate=bad, interval=(bad, bad), unit="ratio", detail={"candidate_mean": bad}
    )
    assert list(figures(gate)) == [f"synthetic/{TARGET}/student-int8: file-size"]
    half = replace(gate, estimate=0.5, interval=(0.4, bad))
    (figure,) = [f for f in tracked_figures(make_view([half])) if f.measure == "latency-ratio"]
    assert (figure.lower, figure.upper) == (0.4, None)
    document = json.loads(render_bmf([make_view([half])]))
    assert document[f"synthetic/{TARGET}/student-int8"]["latency-ratio"] == {"value": 0.5, "lower_value": 0.4}
    entry = json.loads(render_github_benchmark([make_view([half])]))[1]
    assert entry["range"] == "[0.4, …]"
    none = replace(gate, estimate=None, interval=None)
    assert "range" not in json.loads(render_github_benchmark([make_view([none])]))[0]


def test_which_metrics_are_errors() -> None:
    def gate(mine: float, theirs: float, estimate: float | None, unit: str) -> Gate:
        return make_gate(
            estimate=estimate, unit=unit, detail={"candidate_mean": mine, "baseline_mean": theirs}
        )

    assert not is_error_metric(gate(0.8, 0.9, -0.1, "fraction"))
    assert is_error_metric(gate(1.2, 1.0, -0.2, "mm"))
    assert is_error_metric(gate(0.2, 0.1, -0.1, "fraction"))
    assert is_error_metric(gate(1.0, 1.0, 0.0, "mm"))
    assert not is_error_metric(gate(0.9, 0.9, 0.0, "fraction"))
    # A gate that says so is believed: with equal values, or a share asked, the signs tell nothing.
    same = {"candidate_mean": 0.1, "baseline_mean": 0.1}
    assert is_error_metric(make_gate(estimate=0.0, detail={**same, "error": True}))
    assert is_error_metric(make_gate(estimate=-0.1, detail={**same, "min_ratio": 0.9, "error": True}))
    assert not is_error_metric(make_gate(estimate=0.0, unit="mm", detail={**same, "error": False}))


@pytest.mark.parametrize("render", [render_bmf, render_github_benchmark])
@pytest.mark.parametrize(
    "gates", [[], [make_gate(reason=NASTY, slice=NASTY, target=NASTY, metric=NASTY)], make_slices(3, 1)]
)
def test_both_formats_are_of_their_schema(view: View, gates, render) -> None:
    views = [view, make_view(gates, name=NASTY)]
    text = render(views)
    schema = BMF if render is render_bmf else ACTION
    assert [e.message for e in Draft7Validator(schema).iter_errors(json.loads(text))] == []
    assert text == render(views)
    assert json.loads(text)


def test_the_action_gets_what_grows_when_it_gets_worse() -> None:
    gates = [
        make_gate(detail={"candidate_mean": 0.9, "baseline_mean": 0.91}, estimate=-0.01),
        make_gate(against="naive", metric="rmse", unit="mm", estimate=-0.5,
                  detail={"candidate_mean": 2.5, "baseline_mean": 2.0}),
        make_gate(against="baseline", metric="pearson", unit="", estimate=0.1,
                  detail={"candidate_mean": 0.9, "baseline_mean": 0.8}),
        make_gate("fidelity", metric="flips", against="float32", estimate=0.04, interval=(0.03, 0.05)),
    ]  # fmt: skip
    entries = json.loads(render_github_benchmark([make_view(gates)]))
    assert {e["name"].partition(": ")[2]: (e["value"], e["unit"]) for e in entries} == {
        "file-size": (600, "bytes"),
        "accuracy error rate": (10, "%"),
        "rmse": (2.5, "mm"),
        "flips-float32": (4, "%"),
    }
    assert entries[-1]["range"] == "[3, 5]"
    assert entries[1]["extra"] == "PASS: the reason of accuracy"


def test_two_candidates_of_one_name_are_told_apart(view: View) -> None:
    same = replace(view, candidates=tuple(replace(c, name="student", selected=True) for c in view.candidates))
    names = {f.benchmark for f in tracked_figures(same)}
    assert len(names) == 2
    assert all("/student@" in n for n in names)


def test_two_runs_of_one_name_are_refused(view: View) -> None:
    check_names([view, make_view([], name="another")])
    with pytest.raises(UsageError, match="two of the runs are called 'synthetic'"):
        check_names([view, make_view([])])


def test_slugs() -> None:
    assert slug("latency_absolute p99") == "latency-absolute-p99"
    assert slug("日本") == "unnamed"
    assert len(slug("x" * 100)) == 64
