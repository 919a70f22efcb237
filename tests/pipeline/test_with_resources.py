"""Inspection, static cost, peaks and roofline put together, on real measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.errors import ChildError
from edgekd.evidence import Measurement, load_measurement, save_measurement
from edgekd.evidence.measurement import BASELINE
from edgekd.measure import Protocol, Setting, arms_of, measure, peaks
from edgekd.measure.resources import Inspection
from edgekd.models import open_reference
from edgekd.pipeline import resources
from edgekd.pipeline.resources import undisturbed_seconds, with_resources
from edgekd.report.resources import resource_lines
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.testing import write_fake

QUICK = Inspection(starts=0, settle_s=0.02, run_s=0.03, profile=True, profile_s=0.05)
SETTING = Setting(
    target=parse_target("cpu:onnxruntime"),
    runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime", "fake": "edgekd.testing:FakeRuntime"},
    timeout_s=60,
)
PROTOCOL = Protocol(
    min_restarts=1, max_restarts=1, rounds=2, block_ms=2.0, warm_s=0.02, warm_calls=20, warm_cap_s=0.3
)


def _feeds_at(batch: int) -> dict[str, Any]:
    return {"x": np.ones((batch, 256), np.float32)}


def _measured(artifact: Artifact, feeds_at: Any = _feeds_at) -> Measurement:
    return measure(
        arms_of(("m.onnx", artifact, feeds_at(3)), []),
        replace(SETTING, batch=3),
        inputs={},
        protocol=PROTOCOL,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """256 x 256 then 256 x 8: 67,584 multiply-accumulates a row."""
    folder = tmp_path_factory.mktemp("model")
    weights = {"a": np.ones((256, 256), np.float32), "b": np.ones((256, 8), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )  # fmt: skip
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    found = open_reference(str(path), weights=None, base=None, store=StageStore(folder / "cache"))
    assert isinstance(found, Artifact)
    return found


@pytest.fixture(scope="module")
def measured(model: Artifact) -> Measurement:
    return _measured(model)


@pytest.fixture(autouse=True)
def _small_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_SIDES", (64, 128))
    monkeypatch.setattr(peaks, "_BLOCK_S", 0.002)
    monkeypatch.setattr(peaks, "cache_sizes", lambda root: {2: 256 << 10, 3: 2 << 20})


def test_a_roofline_of_a_real_measurement(model: Artifact, measured: Measurement, tmp_path: Path) -> None:
    said: list[str] = []
    found = with_resources(
        measured, [("m.onnx", model, _feeds_at)], SETTING, inspection=QUICK, progress=said.append
    )
    evidence = found.resources[BASELINE]
    assert evidence["cost"]["macs"] == 3 * (256 * 256 + 256 * 8)  # at the batch that was measured
    roofline = evidence["roofline"]
    assert roofline["achieved_flops_per_s"] == pytest.approx(
        2 * evidence["cost"]["macs"] / roofline["seconds_per_call"]
    )
    assert roofline["peaks"][0]["dtype"] == "float32"
    assert [x["name"] for x in roofline["levels"]] == ["L2", "L3", "memory"]
    assert 0 < roofline["share_of_peak"] < 2
    assert "% of this machine's float32 peak" in roofline["sentence"]
    assert roofline["time_from"] in ("wall time of the race's block minima", "CPU time of the inspection")
    assert {
        "inspect m.onnx",
        "measure the machine's float32 peak",
        "measure the machine's memory rate",
    } <= set(said)
    assert said[-1] == ""
    save_measurement(found, tmp_path / "measurement.json")
    again = load_measurement(tmp_path / "measurement.json")
    assert again.resources == found.resources
    assert resource_lines(again) == resource_lines(found)
    assert found.restarts is measured.restarts


def test_without_profile_nothing_of_the_machine_is_measured(
    model: Artifact, measured: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "measure_compute_peak", lambda *a, **k: pytest.fail("measured a peak"))
    plain = replace(QUICK, profile=False)
    found = with_resources(measured, [("m.onnx", model, _feeds_at)], SETTING, inspection=plain).resources[
        BASELINE
    ]
    assert found["cost"]["parameters"] == 256 * 264
    assert (found["roofline"], found["profile"]) == (None, None)
    assert found["unavailable"]["roofline"] == "not asked for (--profile)"


def test_a_format_that_nobody_counts_is_said(tmp_path: Path) -> None:
    artifact = write_fake(tmp_path, latency_ns=(100_000,))

    def feeds_at(batch: int) -> dict[str, Any]:
        return {"x": np.zeros((batch, 4), np.float32)}

    found = with_resources(
        _measured(artifact, feeds_at), [("m", artifact, feeds_at)], SETTING, inspection=QUICK
    )
    evidence = found.resources[BASELINE]
    assert (evidence["cost"], evidence["roofline"]) == (None, None)
    assert "format fake is not counted" in evidence["unavailable"]["cost"]
    assert evidence["unavailable"]["roofline"] == evidence["unavailable"]["cost"]
    assert evidence["cpu"]["cpu_ns_per_call"] == pytest.approx(100_000, rel=0.5)


def test_a_peak_that_fails_costs_the_roofline_only(
    model: Artifact, measured: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise ChildError("measuring the peak crashed", "report it")

    monkeypatch.setattr(resources, "measure_compute_peak", fail)
    found = with_resources(measured, [("m.onnx", model, _feeds_at)], SETTING, inspection=QUICK).resources[
        BASELINE
    ]
    assert found["roofline"] is None
    assert found["unavailable"]["roofline"] == "measuring the peak crashed; report it"
    assert found["profile"]["by_op"][0]["op"] in ("MatMul", "FusedMatMul", "Gemm")


def test_the_time_of_a_call_is_the_median_of_block_minima(measured: Measurement) -> None:
    blocks = (np.array([9, 5, 7]), np.array([8, 3]), np.array([4, 100]))
    restart = replace(measured.restarts[0], blocks={BASELINE: blocks})
    made = replace(measured, restarts=(restart,))
    assert undisturbed_seconds(made, BASELINE) == pytest.approx(4e-9)
    two = replace(made, arms={BASELINE: {**made.arms[BASELINE], "calls_per_query": 2}})
    assert undisturbed_seconds(two, BASELINE) == pytest.approx(2e-9)
    assert undisturbed_seconds(replace(made, restarts=()), BASELINE) is None


def test_one_of_several_sessions_is_looked_at_with_its_part(model: Artifact, measured: Measurement) -> None:
    arms = {BASELINE: {**measured.arms[BASELINE], "batch": 6, "sessions": 3}}
    (arm,) = resources._arms(replace(measured, arms=arms), [("m.onnx", model, _feeds_at)])
    assert (arm.sessions, arm.batch, {len(v) for v in arm.feeds.values()}) == (1, 2, {2})


def test_one_thread_s_cpu_time_leaves_interruptions_out(measured: Measurement) -> None:
    cpu = {"cpu": {"cpu_ns_per_call": 1.0}, "ns_per_call": 5.0}
    assert resources._call_seconds(cpu, measured, BASELINE, 1) == (1e-9, "CPU time of the inspection")
    raced = undisturbed_seconds(measured, BASELINE)
    # Several threads' CPU time is a sum, and counts what they spin.
    assert resources._call_seconds(cpu, measured, BASELINE, 2) == (
        raced,
        "wall time of the race's block minima",
    )
    without = replace(measured, restarts=())
    assert resources._call_seconds(cpu, without, BASELINE, 2) == (5e-9, "wall time of the inspection")
    assert resources._call_seconds({}, without, BASELINE, 1) == (None, "")
