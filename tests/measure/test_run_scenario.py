"""Whole measurements under a scenario, through real children and small ONNX models."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from fixtures_models import classifier

from edgekd.artifact import Artifact
from edgekd.errors import DataError, ModelError, UsageError
from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN
from edgekd.gates.latency import judge_latency
from edgekd.gates.tail import judge_tail
from edgekd.measure import Protocol, Scenario, Setting, ledger, measure_scenario
from edgekd.measure.operations import bind_side_by_side
from edgekd.models import open_reference
from edgekd.pipeline.collect import Feeds
from edgekd.spec import TensorSpec
from edgekd.stages import StageStore
from edgekd.statistics.binomial import most_over
from edgekd.target import parse_target, usable_cpus
from edgekd.testing import write_fake

QUICK = Protocol(
    min_restarts=1, max_restarts=1, rounds=2, block_ms=1.0, warm_s=0.02, warm_calls=10, warm_cap_s=0.2
)
SETTING = Setting(
    target=parse_target("cpu:onnxruntime"),
    runtime_paths={
        "onnx": "edgekd_onnx.runtime:OnnxRuntime", "fake": "edgekd.testing:FakeRuntime",
    },
    timeout_s=60,
)  # fmt: skip
SHORT: dict[str, Any] = {"min_count": 10, "min_duration_s": 0.001}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("scenario-models")
    store = StageStore(folder / "cache")
    classifier(folder / "free.onnx")
    for batch in (1, 4):
        model = onnx.load(folder / "free.onnx")
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
        onnx.save(model, folder / f"fixed{batch}.onnx")
    made = {}
    for name in ("free", "fixed1", "fixed4"):
        opened = open_reference(str(folder / f"{name}.onnx"), weights=None, base=None, store=store)
        assert isinstance(opened, Artifact)
        made[name] = opened
    return made


def run(scenario: Scenario, *artifacts: Artifact, **more: Any) -> Measurement:
    feeds = Feeds(shapes={})
    entries = [(f"m{i}", a, feeds.maker(scenario, a, "student")) for i, a in enumerate(artifacts)]
    return measure_scenario(
        scenario, entries[0], entries[1:], more.pop("setting", SETTING), record=feeds.record,
        most_over=functools.partial(most_over, level=scenario.level), **{"protocol": QUICK, **more},
    )  # fmt: skip


def test_one_stream(models: dict[str, Artifact]) -> None:
    found = run(Scenario(**SHORT), models["free"])
    assert (found.scenario, found.batch, list(found.arms)) == ("single-stream", 1, [BASELINE])
    assert found.scenario_detail == {
        "min_count": 10,
        "min_duration_s": 0.001,
        "percentile": "p90",
        "held": True,
    }
    assert found.inputs["m0"]["shapes"] == {"x": [1, 10]}


def test_several_streams_are_one_call_or_several(models: dict[str, Artifact], tmp_path: Path) -> None:
    scenario = Scenario(name="multi-stream", **SHORT)
    found = run(scenario, models["free"], models["fixed1"], models["fixed4"])
    assert {name: a["calls_per_query"] for name, a in found.arms.items()} == {
        BASELINE: 1, TWIN: 1, CANDIDATE: 8, "candidate_2": 2,
    }  # fmt: skip
    assert {a["batch"] for a in found.arms.values()} == {8}
    assert {tuple(i["shapes"]["x"]) for i in found.inputs.values()} == {(8, 10)}
    p50 = {name: np.median(found.calls_ns(name)) for name in found.arms}
    assert p50[CANDIDATE] > 2 * p50["candidate_2"], "eight calls of one are slower than two of four"
    save_measurement(found, tmp_path / "m.json")
    assert load_measurement(tmp_path / "m.json").scenario_detail == found.scenario_detail


def test_a_query_that_a_fixed_batch_cannot_make_up(models: dict[str, Artifact]) -> None:
    with pytest.raises(
        DataError, match=r"batches of 4 only, .* a query of 6 samples; .*--samples-per-query 8"
    ):
        run(Scenario(name="multi-stream", samples_per_query=6), models["fixed4"])


def test_each_example_of_a_query_is_fed_in_turn(models: dict[str, Artifact], tmp_path: Path) -> None:
    """Every call of a query has its own rows: as many examples are timed as with one call of all."""
    from edgekd.child.sessions import open_session
    from edgekd.measure.operations import bind_query

    session, _ = open_session(
        {
            "runtime": "edgekd_onnx.runtime:OnnxRuntime", "path": str(models["fixed1"].path), "device": "cpu",
            "provider": "", "threads": 1, "settings": {},
        }
    )  # fmt: skip
    seen: list[np.ndarray] = []
    bind = session.bind

    def recording(feeds: dict[str, np.ndarray]) -> Any:
        call = bind(feeds)
        return lambda: (seen.append(feeds["x"]), call())

    session.bind = recording  # type: ignore[method-assign]
    rows = np.arange(30, dtype=np.float32).reshape(3, 10)
    bind_query(session, {"x": rows}, 3, "model")()
    np.testing.assert_array_equal(np.concatenate(seen), rows)
    with pytest.raises(DataError, match="shape"):
        bind_query(session, {"x": rows}, 1, "model")


def test_offline_races_each_arm_at_its_own_batch(models: dict[str, Artifact]) -> None:
    scenario = Scenario(name="offline", max_batch=2, **SHORT)
    found = run(scenario, models["free"], models["fixed4"])
    sweeps = found.scenario_detail["sweep"]
    assert [r["batch"] for r in sweeps[BASELINE]["rows"]] == [1, 2]
    assert [r["batch"] for r in sweeps[CANDIDATE]["rows"]] == [4]
    assert TWIN not in sweeps
    assert found.arms[TWIN]["batch"] == found.arms[BASELINE]["batch"] == sweeps[BASELINE]["best"]
    assert found.arms[CANDIDATE]["batch"] == 4
    assert found.inputs["m1"]["shapes"] == {"x": [4, 10]}


@pytest.mark.skipif(usable_cpus() < 2, reason="sessions side by side need two CPUs")
def test_offline_divides_a_batch_among_sessions(models: dict[str, Artifact]) -> None:
    found = run(Scenario(name="offline", sessions=2, max_batch=8, **SHORT), models["free"], models["fixed1"])
    sweeps = found.scenario_detail["sweep"]
    assert {r["batch"] for r in sweeps[BASELINE]["rows"]} <= {2, 4, 8}
    assert [r["batch"] for r in sweeps[CANDIDATE]["rows"]] == [2], "each takes its one example"
    assert sweeps[CANDIDATE]["ended"] == "the model takes batches of 1 only in each session"
    assert found.scenario_detail["sessions"] == 2
    for arm in (BASELINE, TWIN, CANDIDATE):
        assert (found.arms[arm]["sessions"], found.arms[arm]["threads"]) == (2, 1)
        assert len(found.restarts[0].children[arm]["cpus"]) == 2


def test_sessions_work_at_the_same_time_each_on_its_part() -> None:
    class Other:
        """Its call ends once the other one's has begun."""

        inputs: ClassVar[list[TensorSpec]] = [TensorSpec(name="x", dtype="float32", shape=("batch", 2))]

        def __init__(self, own: threading.Event, other: threading.Event) -> None:
            self.own, self.other, self.fed = own, other, []

        def bind(self, feeds: Any) -> Any:
            def call() -> None:
                self.own.set()
                assert self.other.wait(20), "the other session was not run beside this one"
                self.fed.append(feeds["x"])

            return call

    a, b = threading.Event(), threading.Event()
    sessions: Any = [Other(a, b), Other(b, a)]
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    query = bind_side_by_side(sessions, {"x": rows}, 1, "model")
    query()
    query()
    for session, part in zip(sessions, (rows[:3], rows[3:]), strict=True):
        assert [f.tolist() for f in session.fed] == [part.tolist()] * 2


def test_what_has_no_rows_to_divide_goes_to_each_session_whole() -> None:
    class Noted:
        inputs: ClassVar[list[TensorSpec]] = [
            TensorSpec(name="x", dtype="float32", shape=("batch", 2)),
            TensorSpec(name="scale", dtype="float32", shape=(1,)),
            TensorSpec(name="level", dtype="float32", shape=()),
        ]

        def __init__(self) -> None:
            self.fed: dict[str, Any] = {}

        def bind(self, feeds: Any) -> Any:
            self.fed = feeds
            return lambda: None

    sessions: Any = [Noted(), Noted()]
    side = {"scale": np.ones(1, np.float32), "level": np.float32(3.0).reshape(())}
    bind_side_by_side(sessions, {"x": np.zeros((4, 2), np.float32), **side}, 1, "model")()
    for session in sessions:
        assert {name: v.shape for name, v in session.fed.items()} == {"x": (2, 2), "scale": (1,), "level": ()}
    with pytest.raises(DataError, match="'x' of model has 3 rows, which 2 sessions cannot divide"):
        bind_side_by_side(sessions, {"x": np.zeros((3, 2), np.float32), **side}, 1, "model")


def test_sessions_that_would_wait_for_each_other_are_refused(models: dict[str, Artifact]) -> None:
    scenario = Scenario(name="offline", sessions=usable_cpus() + 1, **SHORT)
    with pytest.raises(
        UsageError, match=rf"of 1 thread\(s\) were asked for, this process has {usable_cpus()} CPUs"
    ):
        run(scenario, models["free"])
    elsewhere = replace(SETTING, target=parse_target("cuda:onnxruntime"))
    with pytest.raises(UsageError, match=r"2 sessions .--sessions. were asked for on cuda:onnxruntime"):
        run(Scenario(name="offline", sessions=2), models["free"], setting=elsewhere)


def test_a_session_that_fails_fails_the_query(models: dict[str, Artifact]) -> None:
    def broken() -> None:
        raise ModelError("it broke", "mend it")

    class Half:
        inputs: ClassVar[list[TensorSpec]] = []

        def __init__(self, run: Any) -> None:
            self.bind = lambda feeds: run

    sessions: Any = [Half(lambda: None), Half(broken)]
    with pytest.raises(ModelError, match="it broke"):
        bind_side_by_side(sessions, {}, 1, "model")()


def test_tuned_arms_keep_their_settings_and_their_batch(models: dict[str, Artifact]) -> None:
    found = run(
        Scenario(name="offline", **SHORT), models["free"],
        tune=lambda arm, label: replace(arm, settings={"graph_level": "basic"}, batch=8),
    )  # fmt: skip
    assert (found.arms[BASELINE]["batch"], found.arms[BASELINE]["settings"]) == (8, {"graph_level": "basic"})
    assert "sweep" not in found.scenario_detail


def test_a_run_goes_on_until_duration_and_count_hold(models: dict[str, Artifact]) -> None:
    protocol = replace(QUICK, max_restarts=5)
    calls = len(run(Scenario(**SHORT), models["free"]).calls_ns(BASELINE))
    more = run(Scenario(min_count=2 * calls, min_duration_s=0.001), models["free"], protocol=protocol)
    assert more.scenario_detail["held"] is True
    assert len(more.calls_ns(BASELINE)) >= 2 * calls
    assert 2 <= len(more.restarts) <= 5
    never = run(Scenario(min_count=10**9, min_duration_s=0.001), models["free"])
    assert never.scenario_detail["held"] is False


def test_the_judge_is_asked_as_well(models: dict[str, Artifact]) -> None:
    asked = []

    def stop(measurement: Measurement) -> bool:
        asked.append((measurement.scenario, len(measurement.restarts)))
        return len(measurement.restarts) == 2

    found = run(
        Scenario(name="multi-stream", **SHORT),
        models["free"],
        stop=stop,
        protocol=replace(QUICK, max_restarts=4),
    )
    assert asked == [("multi-stream", 1), ("multi-stream", 2)]
    assert len(found.restarts) == 2


def test_a_planted_stall_is_caught_by_the_tail_and_not_by_the_code_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 50th call of the student stalls for 60 ms; the others take as long as the teacher's."""
    entries = {"steal": 0.0, "pressure_some": 0.0, "throttled_us": 0}
    monkeypatch.setattr(ledger, "ledger_between", lambda before, after: dict(entries))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    teacher = write_fake(tmp_path / "a", latency_ns=[300_000])
    student = write_fake(tmp_path / "b", latency_ns=[*[300_000] * 49, 60_000_000])
    protocol = replace(
        QUICK, min_restarts=4, max_restarts=4, rounds=3, block_calls=50, min_block_calls=50, block_ms=1.0
    )
    found = run(Scenario(**SHORT), teacher, student, protocol=protocol)
    tail = judge_tail(found, CANDIDATE, percentile="p99", max_ratio=1.2)
    assert (tail.decision, tail.n) == ("reject", 4)
    speed = judge_latency(found, CANDIDATE, max_ratio=2.0)
    assert speed.decision == "pass"
    assert speed.estimate == pytest.approx(1.0, abs=0.3)
