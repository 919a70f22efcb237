"""OpenMetrics, read by the parser of Prometheus's own client, which checks names, units, types and duplicates."""

from __future__ import annotations

import math
from typing import Any

import pytest
from fixtures_report import NASTY, TARGET, make_gate, make_slices, make_view
from fixtures_run import make_run
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.report import render
from edgekd.report.openmetrics import render_openmetrics


def families(text: str) -> dict[str, Any]:
    return {f.name: f for f in text_string_to_metric_families(text)}


def values(text: str, name: str) -> list[float]:
    return [s.value for s in families(text)[name].samples]


GATES = [
    make_gate(detail={"candidate_mean": 0.89, "baseline_mean": 0.9}),
    make_gate("latency_absolute", metric="p99", unit="ms", estimate=31.5, interval=(30.0, 33.0), limit=33.0),
    make_gate("memory", unit="MiB", estimate=1.5, interval=None, limit=2.0),
    make_gate("fidelity", metric="kl_mean", unit="nats", estimate=0.01, against="float32"),
    make_gate("accuracy", "reject", metric="rmse", unit="mm", against="naive", estimate=-0.5),
    make_gate(
        "tail", "inconclusive", metric="p99", unit="ratio", estimate=math.nan, interval=(-math.inf, 1.0)
    ),
    *make_slices(3, 1),
]


def test_base_units_and_no_sample_for_what_does_not_exist() -> None:
    text = render_openmetrics([make_view(GATES)])
    found = families(text)
    assert values(text, "edgekd_gate_estimate_seconds") == [0.0315]
    assert values(text, "edgekd_gate_limit_seconds") == [0.033]
    assert values(text, "edgekd_gate_estimate_bytes") == [1.5 * 2**20]
    assert values(text, "edgekd_gate_estimate_nats") == [0.01]
    assert values(text, "edgekd_gate_estimate_ratio") == [-0.0042] * 4
    assert values(text, "edgekd_artifact_size_bytes") == [600]
    assert values(text, "edgekd_metric_ratio") == [0.89, 0.9]
    assert values(text, "edgekd_collected_timestamp_seconds") == [1795348800]
    (millimetres,) = found["edgekd_gate_estimate"].samples
    assert (millimetres.value, millimetres.labels["unit"]) == (-0.5, "mm")
    tails = [s for f in found.values() for s in f.samples if s.labels.get("gate") == "tail p99"]
    assert {s.name for s in tails if "edgekd_gate" not in s.labels} == {
        "edgekd_gate_upper_bound_ratio", "edgekd_gate_limit_ratio", "edgekd_gate_samples",
    }  # fmt: skip
    for name, family in found.items():
        assert family.documentation
        assert family.unit == "" or name.endswith(f"_{family.unit}")
        assert family.type in ("gauge", "info", "stateset")


def test_states_say_which_decision_holds() -> None:
    found = families(render_openmetrics([make_view(GATES)]))
    verdict = {s.labels["edgekd_verdict"]: s.value for s in found["edgekd_verdict"].samples}
    assert verdict == {"pass": 0, "reject": 1, "inconclusive": 0, "error": 0, "not_run": 0}
    on = {s.labels["gate"]: s.labels["edgekd_gate"] for s in found["edgekd_gate"].samples if s.value}
    assert on["accuracy"] == "pass"
    assert on["accuracy against naive"] == "reject"
    assert on["tail p99"] == "inconclusive"
    assert on["slice:class=value 002"] == "reject"
    (info,) = found["edgekd_run"].samples
    assert (info.name, info.labels) == ("edgekd_run_info", {"run": "synthetic", "version": "0.1.0"})


@pytest.mark.parametrize("twice", [[make_gate()], [make_gate(), make_gate()]])
def test_labels_are_escaped_and_series_are_unique(twice) -> None:
    gates = [make_gate(slice=NASTY, metric=NASTY, against=NASTY, target=NASTY, unit='a "b"\\'), *twice]
    text = render_openmetrics([make_view(gates, name=NASTY), make_view(gates, name='b"\\')])
    found = families(text)
    series = [line.rpartition(" ")[0] for line in text.split("\n") if not line.startswith("#")]
    assert len(series) == len(set(series))
    sample = found["edgekd_run"].samples[0]
    assert '<b a="1">&amp;|`x`' in sample.labels["run"]
    assert found["edgekd_run"].samples[1].labels["run"] == 'b"\\'
    assert text.endswith("# EOF\n")


def test_a_run_without_gates_or_a_time_is_whole() -> None:
    from dataclasses import replace

    view = make_view([])
    view = replace(view, verdict=replace(view.verdict, collected_at=""))
    assert list(families(render_openmetrics([view]))) == ["edgekd_verdict", "edgekd_run"]


def test_a_real_run(tmp_path) -> None:
    run = make_run(tmp_path / "run")
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(run.policy)).save(
        tmp_path / "run/verdict.json"
    )
    text = render(tmp_path / "run", "openmetrics")
    latency = families(text)["edgekd_latency_seconds"].samples
    assert [(s.labels["model"], s.labels["percentile"]) for s in latency] == [
        (m, p) for m in ("student-float32", "student-int8") for p in ("p50", "p90", "p99")
    ]
    assert latency[3].value == pytest.approx(0.5e-3, rel=0.05)
    assert {s.labels["target"] for s in latency} == {TARGET}
