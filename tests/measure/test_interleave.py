"""The interleaved protocol, run for real on small ONNX models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, DataError, ModelError
from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE, TWIN
from edgekd.gates.latency import judge_latency, should_stop
from edgekd.measure import Protocol, Setting, arms_of, ledger, measure
from edgekd.models import open_reference
from edgekd.spec import draw_feeds
from edgekd.stages import StageStore
from edgekd.target import parse_target

QUICK = Protocol(rounds=3, block_ms=2.0, warm_s=0.02, warm_calls=20, warm_cap_s=0.3)
SETTING = Setting(
    target=parse_target("cpu:onnxruntime"),
    runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime"},
    timeout_s=60,
)


def stack_of_matmuls(path: Path, layers: int, width: int = 128) -> Path:
    """``layers`` matrix products one after another: twice the layers is twice the time."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(layers):
        weights.append(
            numpy_helper.from_array((rng.standard_normal((width, width)) / width).astype(np.float32), f"w{i}")
        )
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("stacks")
    store = StageStore(folder / "cache")
    made = {}
    for name, layers in (("once", 8), ("twice", 16)):
        opened = open_reference(
            str(stack_of_matmuls(folder / f"{name}.onnx", layers)), weights=None, base=None, store=store
        )
        assert isinstance(opened, Artifact)
        made[name] = opened
    return made


def compare(a: Artifact, b: Artifact, protocol: Protocol = QUICK, **more: object) -> Measurement:
    feeds = draw_feeds(a.inputs, seed=0, shapes={})
    arms = arms_of(("a", a, feeds), [("b", b, feeds)])
    fed = {"kind": "drawn", "seed": 0, "examples": None}
    return measure(arms, SETTING, inputs={"a": fed, "b": fed}, protocol=protocol, **more)  # type: ignore[arg-type]


def test_arms_fed_from_different_sources_are_an_error_of_the_judge(models: dict[str, Artifact]) -> None:
    feeds = draw_feeds(models["once"].inputs, seed=0, shapes={})
    arms = arms_of(("a", models["once"], feeds), [("b", models["once"], feeds)])
    fed = {name: {"kind": "drawn", "seed": seed, "examples": None} for seed, name in enumerate("ab")}
    protocol = replace(QUICK, min_restarts=1, max_restarts=1, rounds=1)
    found = measure(arms, SETTING, inputs=fed, protocol=protocol)
    assert found.arms[TWIN]["inputs"] == found.arms[BASELINE]["inputs"] == fed["a"]
    gate = judge_latency(found, CANDIDATE, max_ratio=1.02)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "'candidate' was fed other inputs than the baseline (seed 1, not 0)" in gate.reason


def test_a_planted_twofold_slow_down_is_rejected_and_replays_exactly(
    models: dict[str, Artifact], tmp_path: Path
) -> None:
    found = compare(models["once"], models["twice"], stop=lambda m: should_stop(m, [(CANDIDATE, 1.02)]))
    gate = judge_latency(found, CANDIDATE, max_ratio=1.02, gate="regression", against="baseline")
    assert gate.decision == "reject"
    assert gate.estimate == pytest.approx(2.0, rel=0.4)
    assert len(found.restarts) in (4, 6, 8)
    save_measurement(found, tmp_path / "measurement.json")
    again = judge_latency(
        load_measurement(tmp_path / "measurement.json"),
        CANDIDATE,
        max_ratio=1.02,
        gate="regression",
        against="baseline",
    )
    assert again == gate


def test_every_restart_has_every_arm_in_fresh_children_and_a_full_ledger(models: dict[str, Artifact]) -> None:
    found = compare(models["once"], models["once"])
    assert list(found.arms) == [BASELINE, TWIN, CANDIDATE]
    assert found.arms[BASELINE]["artifact"] == found.arms[TWIN]["artifact"]
    assert len(found.restarts) == 4
    orders = {r.order for r in found.restarts}
    assert len(orders) > 1, "the start order is shuffled"
    for restart in found.restarts:
        assert {len(b) for b in restart.blocks.values()} == {QUICK.rounds}
        assert all(len(block) >= QUICK.block_calls for blocks in restart.blocks.values() for block in blocks)
        for child in restart.children.values():
            assert child["placement"]["provider"] == "CPUExecutionProvider"
            assert child["placement"]["threads"] == 1
            assert child["cpus"] == list(restart.cpus)
        assert set(restart.ledger) >= {"steal", "idle", "pressure_some", "throttled_us", "clock_move"}
    assert len({r.cpus for r in found.restarts}) == min(4, len(os.sched_getaffinity(0))), "the CPU is rotated"


def test_one_at_a_time_gives_the_same_evidence_in_shape(models: dict[str, Artifact]) -> None:
    protocol = replace(QUICK, min_restarts=1, max_restarts=1, rounds=2)
    found = compare(models["once"], models["twice"], protocol, one_at_a_time=True)
    assert found.environment["together"] is False
    assert {len(b) for b in found.restarts[0].blocks.values()} == {2}


def test_short_memory_opens_the_arms_one_at_a_time(
    models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "available_memory_bytes", lambda: 1 << 20)
    found = compare(models["once"], models["once"], replace(QUICK, min_restarts=2, max_restarts=2, rounds=1))
    assert found.environment["together"] is False


def test_a_noisy_ledger_redraws_at_most_eight_times_and_then_ends(
    models: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "redraw_reason", lambda entries: "steal 30.0% of CPU time (limit 5%)")
    protocol = replace(QUICK, rounds=1, block_ms=0.5, warm_s=0.0, warm_calls=1, warm_cap_s=0.01)
    found = compare(models["once"], models["once"], protocol)
    assert found.restarts == ()
    assert len(found.redrawn) == 8
    gate = judge_latency(found, CANDIDATE, max_ratio=1.02)
    assert gate.decision == "inconclusive"


def test_the_judge_is_asked_only_from_the_least_number_of_restarts_on(models: dict[str, Artifact]) -> None:
    asked: list[int] = []

    def stop(measurement: Measurement) -> bool:
        asked.append(len(measurement.restarts))
        return len(measurement.restarts) == 3

    compare(models["once"], models["once"], replace(QUICK, min_restarts=2, rounds=1), stop=stop)
    assert asked == [2, 3]


def test_feeds_that_do_not_fit_are_refused_by_name(models: dict[str, Artifact]) -> None:
    arms = arms_of(("a", models["once"], {"x0": np.zeros((1, 3), np.float32)}), [])
    with pytest.raises(DataError, match=r"input 'x0' has shape \(1, 3\), the model wants \(batch,128\)"):
        measure(arms, SETTING, inputs={}, protocol=QUICK)


def test_a_damaged_model_is_one_line(models: dict[str, Artifact], tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(models["once"].path.read_bytes()[:2000])
    artifact = replace(models["once"], folder=tmp_path, entry="bad.onnx", files=())
    arms = arms_of(("a", artifact, {"x0": np.zeros((1, 128), np.float32)}), [])
    with pytest.raises(ModelError) as caught:
        measure(arms, SETTING, inputs={}, protocol=QUICK)
    assert "bad.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_little_memory_is_said(models: dict[str, Artifact]) -> None:
    setting = replace(SETTING, memory_bytes=1 << 29)
    feeds = {"x0": np.zeros((1 << 20, 128), np.float32)}
    with pytest.raises(ChildError) as caught:
        measure(arms_of(("a", models["once"], feeds), []), setting, inputs={}, protocol=QUICK)
    assert caught.value.outcome == "out of memory"
