"""The inspection after the race: memory, loading, processor time, profile; and a second opinion from time(1)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_memory import skip_in_memory
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.evidence.measurement import BASELINE, TWIN
from edgekd.measure import resources
from edgekd.measure.arm import Arm, Setting, arms_of
from edgekd.measure.resources import Inspection, feeds_of_one_call, inspect_resources, profile_json
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.testing import FakeMeter, write_fake
from edgekd.workload import NodeTime, Profile

QUICK = Inspection(starts=1, settle_s=0.02, run_s=0.03, energy_s=0.05, profile=True, profile_s=0.05)
SETTING = Setting(
    target=parse_target("cpu:onnxruntime"),
    runtime_paths={"onnx": "edgekd_onnx.runtime:OnnxRuntime", "fake": "edgekd.testing:FakeRuntime"},
    timeout_s=60,
)
_MIB = 1 << 20
_TIME = Path("/usr/bin/time")


def heavy(path: Path, width: int = 2000) -> Path:
    """A product with a weight of ``width`` x ``width`` floats: 16 MB at 2,000."""
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("heavy")
    path = heavy(folder / "model.onnx")
    found = open_reference(str(path), weights=None, base=None, store=StageStore(folder / "cache"))
    assert isinstance(found, Artifact)
    return found


def feeds(batch: int = 1) -> dict[str, Any]:
    return {"x": np.ones((batch, 2000), np.float32)}


def one(model: Artifact, *, inspection: Inspection = QUICK, **more: Any) -> dict[str, Any]:
    arms = arms_of(("a", model, feeds()), [])
    return inspect_resources(arms, SETTING, inspection=inspection, **more)[BASELINE]


@pytest.fixture(scope="module")
def evidence(model: Artifact) -> dict[str, Any]:
    meter = FakeMeter(watts=40.0)
    return one(model, meters=[meter], meters_absent={"other": "is not here; buy one"})


def test_memory_grows_from_step_to_step(evidence: dict[str, Any], model: Artifact) -> None:
    memory = evidence["memory"]
    assert 10 * _MIB < memory["after_import_bytes"] < memory["after_load_bytes"] <= memory["after_run_bytes"]
    assert memory["after_load_bytes"] - memory["after_import_bytes"] > 15 * _MIB  # the weight, at least once
    assert memory["resident_bytes"] <= memory["after_run_bytes"] <= memory["peak_bytes"]
    assert memory["peak_bytes"] == max(memory["peak_bytes_values"])
    assert len(memory["peak_bytes_values"]) == 1 + 2 * QUICK.starts
    assert memory["feeds_bytes"] == 8000
    assert evidence["size_bytes"] == model.size_bytes > 15 * _MIB


def test_cold_and_warm_starts(evidence: dict[str, Any], model: Artifact) -> None:
    load = evidence["load"]
    warm = load["warm"]
    assert warm["load_ns"]["median"] > 0
    assert len(warm["load_ns"]["values"]) == QUICK.starts
    assert warm["read_bytes"][0] in (0, None)
    skip_in_memory(model.path)
    cold = load["cold"]
    assert (cold["resident_pages"], cold["verified_by"]) == ([0], "mincore")
    assert cold["pages"] == warm["pages"] > 3000
    assert cold["read_bytes"][0] is None or cold["read_bytes"][0] > 15 * _MIB
    assert evidence["first_call_ns"]["median"] > 0
    assert evidence["start"]["process_ns"]["median"] > 1e6
    assert len(evidence["start"]["runtime_import_ns"]["values"]) == 2 * QUICK.starts


def test_processor_time_of_one_thread_is_at_most_its_wall_time(evidence: dict[str, Any]) -> None:
    cpu = evidence["cpu"]
    assert cpu["calls"] >= 3
    assert 0 < cpu["cpu_ns_per_call"] <= 1.1 * cpu["wall_ns_per_call"]
    assert cpu["parallelism"] == pytest.approx(cpu["cpu_ns_per_call"] / cpu["wall_ns_per_call"])
    assert cpu["involuntary_switches"] >= 0
    assert evidence["ns_per_call"] > 0


def test_energy_and_what_there_is_no_reading_of(evidence: dict[str, Any]) -> None:
    energy = evidence["energy"]["fake"]
    assert energy["busy_watts"] == pytest.approx(40.0, rel=0.1)
    assert energy["joules_per_call"] == pytest.approx(
        40.0 * sum(energy["block_seconds"]) / 3 / energy["calls_per_block"], rel=0.5
    )
    assert evidence["unavailable"]["energy.other"] == "is not here; buy one"
    assert evidence["device_memory"] is None
    assert evidence["unavailable"]["device_memory"] == "device 'cpu' has no memory of its own"


def test_the_profile_names_the_product(evidence: dict[str, Any]) -> None:
    profile = evidence["profile"]
    assert profile["by_op"][0]["op"] == profile["top"][0]["op"] == "MatMul"
    assert sum(row["share"] for row in profile["by_op"]) == pytest.approx(1.0)
    assert profile["top"][0]["output_shapes"] == ["float32[1,2000]"]
    assert profile["calls"] >= 5
    assert "profile" not in evidence["unavailable"]


def test_evidence_is_plain_json(evidence: dict[str, Any]) -> None:
    assert json.loads(json.dumps(evidence, allow_nan=False)) == evidence


def test_without_meter_energy_is_absent_and_never_zero(model: Artifact) -> None:
    quick = replace(QUICK, starts=0, profile=False)
    found = one(model, inspection=quick, meters_absent={"rapl": "no counters; a fix"})
    assert found["energy"] is None
    assert found["unavailable"]["energy"] == "rapl: no counters"
    assert found["unavailable"]["energy.rapl"] == "no counters; a fix"
    for name in ("start", "load", "first_call_ns", "profile"):
        assert found[name] is None
        assert "not asked for" in found["unavailable"][name]


def test_a_runtime_without_profiler_says_so(tmp_path: Path) -> None:
    artifact = write_fake(tmp_path)
    arms = arms_of(("a", artifact, {"x": np.zeros((1, 4), np.float32)}), [])
    found = inspect_resources(arms, SETTING, inspection=replace(QUICK, starts=0))[BASELINE]
    assert found["profile"] is None
    assert "has no profiler" in found["unavailable"]["profile"]
    assert found["memory"]["after_run_bytes"] > 0


def test_the_twin_is_not_looked_at_again(model: Artifact) -> None:
    arms = arms_of(("a", model, feeds()), [("b", model, feeds())])
    said: list[str] = []
    quick = replace(QUICK, starts=0, profile=False)
    found = inspect_resources(arms, SETTING, inspection=quick, progress=said.append)
    assert TWIN in {a.name for a in arms}
    assert list(found) == [BASELINE, "candidate"]
    assert said == ["a", "b"]


def test_a_failure_costs_its_own_readings_and_no_others(
    model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"junk")
    lost = replace(model, folder=tmp_path)
    found = one(lost, inspection=replace(QUICK, starts=0, profile=False))
    assert found["memory"] is None
    assert "model.onnx" in found["unavailable"]["memory"]
    assert found["size_bytes"] == model.size_bytes
    monkeypatch.setattr(resources, "drop_from_cache", lambda paths: resources.Residency(pages=9, resident=4))
    found = one(model, inspection=replace(QUICK, profile=False))
    assert found["load"]["cold"] is None
    assert found["load"]["warm"]["load_ns"]["median"] > 0
    assert "4 of 9 pages of its files stayed in memory" in found["unavailable"]["load.cold"]


def test_the_page_cache_is_emptied_after_the_imports_and_right_before_loading(
    model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    ask, drop = resources._Look._ask, resources.drop_from_cache

    def asked(look: Any, child: Any, call: str, **more: Any) -> Any:
        order.append(call)
        return ask(look, child, call, **more)

    def dropped(paths: Any) -> Any:
        order.append("drop")
        return drop(paths)

    monkeypatch.setattr(resources._Look, "_ask", asked)
    monkeypatch.setattr(resources, "drop_from_cache", dropped)
    one(model, inspection=replace(QUICK, profile=False))
    where = order.index("drop")
    assert order[where - 1 : where + 2] == ["import_runtime", "drop", "load"]
    assert order.count("drop") == QUICK.starts


def test_a_query_of_several_calls_is_inspected_by_the_call(model: Artifact) -> None:
    arm = Arm(name=BASELINE, label="a", artifact=model, feeds=feeds(6), calls_per_query=3)
    assert feeds_of_one_call(arm)["x"].shape == (2, 2000)
    assert feeds_of_one_call(replace(arm, calls_per_query=1))["x"].shape == (6, 2000)


def test_device_memory_is_asked_of_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        name, uuid = "A GPU", "GPU-1"

        def __init__(self, own: bool) -> None:
            self.own, self.used = own, 700 << 20

        def used_bytes(self, pid: int) -> tuple[int, str]:
            return (100 << 20, "the process alone") if self.own else (self.used, "the whole device")

    for own, counted in ((True, 100 << 20), (False, 50 << 20)):
        gpu = Gpu(own)
        monkeypatch.setattr(resources, "find_gpu", lambda gpu=gpu: gpu)
        memory = resources._DeviceMemory("cuda")
        gpu.used += 50 << 20
        findings = resources._Findings()
        memory.record(findings, 1)
        assert findings.values["device_memory"]["used_bytes"] == counted
        assert findings.values["device_memory"]["device"] == "A GPU"


def test_profile_shares() -> None:
    nodes = (
        NodeTime(name="a", op="Conv", ns_per_call=600.0),
        NodeTime(name="b", op="Relu", ns_per_call=100.0),
        NodeTime(name="c", op="Conv", ns_per_call=300.0),
    )
    profile = Profile(source="s", calls=4, ns_per_call=1200.0, resolution_ns=1, nodes=nodes)
    found = profile_json(profile, top=2)
    assert [(r["op"], r["nodes"], r["share"]) for r in found["by_op"]] == [("Conv", 2, 0.9), ("Relu", 1, 0.1)]
    assert [n["name"] for n in found["top"]] == ["a", "c"]
    assert (found["ns_per_call"], found["node_ns_per_call"]) == (1200.0, 1000.0)


_SAME_STEPS = """
import json, sys
import numpy as np
from edgekd.measure import inspection
args = json.loads(sys.argv[1])
state = {}
inspection.import_runtime(state, args, [])
inspection.load(state, args, [np.ones((1, 2000), np.float32)])
inspection.settle(state, {"seconds": 0.02}, [])
inspection.run_calls(state, {"count": 20}, [])
print(json.dumps(inspection.report_memory(state, {}, [])[0]))
"""


@pytest.mark.skipif(not _TIME.exists(), reason="/usr/bin/time is not here (Debian package time)")
def test_peak_memory_agrees_with_time_v(model: Artifact, evidence: dict[str, Any]) -> None:
    """The same steps under time(1): "Maximum resident set size" is the kernel's ru_maxrss of that process."""
    args = {
        "runtime": SETTING.runtime_paths["onnx"], "path": str(model.path), "device": "cpu", "provider": "",
        "threads": 1, "settings": {}, "feeds": ["x"],
    }  # fmt: skip
    done = subprocess.run(
        [str(_TIME), "-v", sys.executable, "-c", _SAME_STEPS, json.dumps(args)],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    match = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    assert match is not None, done.stderr
    outside = int(match[1]) * 1024
    inside = json.loads(done.stdout)["peak_bytes"]
    assert inside == pytest.approx(outside, rel=0.03)
    assert evidence["memory"]["after_run_bytes"] == pytest.approx(outside, rel=0.05)
