"""The server scenario: the search for a rate, and measurements of it through real children."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE
from edgekd.gates.absolute import judge_absolute
from edgekd.measure import Protocol, Scenario, Setting, arms_of, ledger, serving
from edgekd.measure.serving import RESOLUTION, Search, measure_server
from edgekd.spec import draw_feeds
from edgekd.statistics.binomial import most_over
from edgekd.target import parse_target
from edgekd.testing import write_fake

QUICK = Protocol(min_restarts=1, max_restarts=4, block_ms=1.0, warm_s=0.02, warm_calls=10, warm_cap_s=0.2)
SETTING = Setting(
    target=parse_target("cpu:fake"), runtime_paths={"fake": "edgekd.testing:FakeRuntime"}, timeout_s=60
)


@pytest.mark.parametrize("truth", [3.0, 47.0, 100.0, 799.0, 5000.0])
@pytest.mark.parametrize(("start", "factor"), [(100.0, 2.0), (90.0, 1.15)])
def test_a_search_brackets_the_highest_valid_rate(truth: float, start: float, factor: float) -> None:
    search, tried = Search(rate=start, factor=factor, floor=1.0), []
    while not search.done:
        tried.append(search.rate)
        search.tell(valid=search.rate <= truth)
    assert search.low <= truth < search.high <= search.low * (1 + RESOLUTION)
    assert len(tried) == len(set(tried)) <= 14


def test_a_search_gives_up_at_its_floor() -> None:
    search, tried = Search(rate=100.0, factor=2.0, floor=15.0), []
    while not search.done:
        tried.append(search.rate)
        search.tell(valid=False)
    assert search.low == 0.0
    assert tried == [100.0, 50.0, 25.0, 15.0], "it halves, and the floor is the last"


def model(folder: Path, name: str, latency_ns: list[int]) -> Artifact:
    (folder / name).mkdir()
    return write_fake(folder / name, latency_ns=latency_ns)


def serve(scenario: Scenario, artifacts: list[Artifact], **more: Any) -> Measurement:
    entries = [(f"m{i}", a, draw_feeds(a.inputs, seed=0, shapes={})) for i, a in enumerate(artifacts)]
    arms = [a for a in arms_of(entries[0], entries[1:]) if a.name != "baseline_twin"]
    return measure_server(
        arms, SETTING, scenario=scenario, most_over=lambda n: most_over(n, scenario.level), inputs={},
        **{"protocol": QUICK, **more},
    )  # fmt: skip


def test_a_rate_is_kept_query_by_query_and_judged(tmp_path: Path) -> None:
    models = [model(tmp_path, "a", [2_000_000]), model(tmp_path, "b", [1_000_000])]
    scenario = Scenario(
        name="server", target_qps=100, min_count=60, min_duration_s=0.1, seed=5, percentile="p50"
    )
    found = serve(scenario, models)
    assert found.scenario == "server"
    assert {name: q.shape for name, q in found.queries.items()} == {
        "0.baseline.0": (60,), "0.candidate.0": (60,)
    }  # fmt: skip
    assert found.scenario_detail["seed"] == 5
    assert found.restarts[0].children[BASELINE]["placement"]["runtime"] == "fake 1"
    assert set(found.restarts[0].ledger) >= {"steal", "pressure_some"}
    assert found.queries["0.baseline.0"].min() >= 2_000_000
    assert found.queries["0.candidate.0"].min() >= 1_000_000
    save_measurement(found, tmp_path / "m.json")
    again = load_measurement(tmp_path / "m.json")
    gates = [judge_absolute(m, CANDIDATE, percentile="p50", max_ms=1000.0) for m in (found, again)]
    assert gates[0] == gates[1]
    assert (gates[0].decision, gates[0].n) == ("pass", 60)


def test_a_rate_that_is_too_high_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """400 queries/s of 5 ms each: twice what one server can do, on whatever machine."""
    monkeypatch.setattr(ledger, "ledger_between", lambda before, after: {"steal": 0.0, "pressure_some": 0.0})
    scenario = Scenario(name="server", target_qps=400, min_count=120, min_duration_s=0.1)
    found = serve(scenario, [model(tmp_path, "a", [5_000_000])])
    gate = judge_absolute(found, BASELINE, percentile="p50", max_ms=50.0)
    assert gate.decision == "reject"
    latencies = found.queries["0.baseline.0"]
    assert latencies[-20:].min() > 5 * latencies[:5].max(), "the queue grows to the end"


def test_the_highest_rate_is_found_and_rates_beyond_it_were_refused(tmp_path: Path) -> None:
    scenario = Scenario(name="server", bound_ms=40, percentile="p50", min_count=60, min_duration_s=0.1)
    found = serve(scenario, [model(tmp_path, "a", [4_000_000])])
    (best,) = found.scenario_detail["max_qps"][BASELINE]
    assert 0 < best < 1.5 * 250, "4 ms each is 250 a second"
    for trial in found.scenario_detail["trials"]:
        latencies = found.queries[trial["queries_of"]]
        over = int((latencies > 40e6).sum())
        assert over == trial["over"]
        assert trial["valid"] == (len(latencies) == trial["asked"] and over <= trial["most_over"])
        assert trial["most_over"] == most_over(trial["asked"], 0.5)
        assert trial["valid"] or trial["rate_qps"] > best
    assert any(not t["valid"] for t in found.scenario_detail["trials"])


def test_measuring_goes_on_until_the_judge_has_seen_enough(tmp_path: Path) -> None:
    scenario = Scenario(name="server", target_qps=500, min_count=20, min_duration_s=0.01)
    asked: list[int] = []

    def stop(measurement: Measurement) -> bool:
        asked.append(len(measurement.restarts))
        return len(measurement.calls_ns(BASELINE)) >= 60

    found = serve(scenario, [model(tmp_path, "a", [100_000])], stop=stop)
    assert asked == [1, 2, 3]
    assert len(found.calls_ns(BASELINE)) == 60


def test_a_disturbed_restart_is_drawn_again_and_its_queries_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = iter(["steal 30.0% of CPU time (limit 5%)", ""])
    monkeypatch.setattr(ledger, "redraw_reason", lambda entries: next(reasons))
    scenario = Scenario(name="server", target_qps=500, min_count=20, min_duration_s=0.01)
    found = serve(scenario, [model(tmp_path, "a", [100_000])])
    assert (len(found.restarts), len(found.redrawn), list(found.queries)) == (1, 1, ["0.baseline.0"])
    assert [t["queries_of"] for t in found.scenario_detail["trials"]] == ["0.baseline.0"]
    assert len(found.calls_ns(BASELINE)) == 20


def test_short_memory_opens_one_model_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "available_memory_bytes", lambda: 1 << 20)
    models = [model(tmp_path, "a", [100_000]), model(tmp_path, "b", [100_000])]
    scenario = Scenario(name="server", target_qps=500, min_count=20, min_duration_s=0.01)
    found = serve(scenario, models)
    assert found.environment["together"] is False
    assert {len(q) for q in found.queries.values()} == {20}


def test_too_few_queries_for_the_rule_say_how_many(tmp_path: Path) -> None:
    scenario = Scenario(name="server", bound_ms=10, min_count=100)
    with pytest.raises(UsageError, match=r"too few queries to show a p99 .*--min-count 459"):
        serve(scenario, [model(tmp_path, "a", [100_000])])
    with pytest.raises(UsageError, match="measure_scenario"):
        serve(Scenario(), [model(tmp_path, "b", [100_000])])


class Scripted:
    """Stands in for a child: keeps what it was asked, and answers in a millisecond up to 300 queries/s."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def request(self, call: str, args: dict[str, Any], **_: object) -> tuple[dict[str, Any], list[Any]]:
        if not call.endswith(":serve"):
            return {}, []
        self.asked.append(dict(args))
        slow = args["rate_qps"] > 300
        count = (args["most_over"] or 0) + 1 if slow else args["count"]
        latencies = np.full(count, 90_000_000 if slow else 1_000_000)
        return {"seconds": 1.0, "over": count if slow else 0, "waited": 0, "late_ns": None}, [latencies]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(Scripted, "asked", [])
    opened = {"peak_memory_bytes": 1, "placement": {"runtime": "scripted"}}
    monkeypatch.setattr(serving, "open_arm", lambda *_: (Scripted(), dict(opened)))
    monkeypatch.setattr(serving, "warm_up", lambda *_: {"calls": 1000, "seconds": 1.0, "steady": True})
    monkeypatch.setattr(ledger, "redraw_reason", lambda entries: "")
    return Scripted.asked


def test_arms_of_a_restart_meet_the_same_arrivals(tmp_path: Path, scripted: list[dict[str, Any]]) -> None:
    models = [model(tmp_path, "a", [0]), model(tmp_path, "b", [0])]
    scenario = Scenario(name="server", target_qps=50, min_count=80, min_duration_s=0.1, seed=9)
    serve(scenario, models, protocol=Protocol(min_restarts=2, max_restarts=2))
    assert [a["seed"] for a in scripted] == [[9, 0], [9, 0], [9, 1], [9, 1]]
    assert {(a["rate_qps"], a["count"], a["most_over"]) for a in scripted} == {(50, 40, None)}


def test_a_search_starts_at_half_the_speed_and_later_where_the_last_one_ended(
    tmp_path: Path, scripted: list[dict[str, Any]]
) -> None:
    scenario = Scenario(name="server", bound_ms=50)
    found = serve(scenario, [model(tmp_path, "a", [0])], protocol=Protocol(min_restarts=2, max_restarts=2))
    first, second = found.scenario_detail["max_qps"][BASELINE]
    assert 300 / (1 + RESOLUTION) <= first <= 300
    assert 300 / (1 + RESOLUTION) <= second <= 300
    rates = [[t["rate_qps"] for t in found.scenario_detail["trials"] if t["restart"] == i] for i in (0, 1)]
    assert rates[0][:2] == [500.0, 250.0]
    assert rates[1][0] == first
    assert len(rates[1]) < len(rates[0])
    for args in scripted:
        assert args["bound_ns"] == 50_000_000
        assert args["count"] >= max(662, args["rate_qps"] * 1.0), "twenty bounds make a second"
        assert args["most_over"] == most_over(args["count"], 0.99)
