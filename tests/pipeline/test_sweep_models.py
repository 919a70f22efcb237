"""Sweeping models in real children: found, kept with the model, and used by what comes after."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper

from edgekd.artifact import Artifact, load_artifact
from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.evidence.measurement import OFFLINE
from edgekd.measure import Protocol, Setting, ledger
from edgekd.measure import sweep as module
from edgekd.measure.scenario import Scenario
from edgekd.models import open_reference
from edgekd.pipeline import sweep as collection
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.sweep import sweep_models, tuning_of, two_sided_interval
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.pipeline.tuning import tuning_for
from edgekd.schemas import load_schema
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.testing import write_fake
from edgekd.tuned import machine_key

TESTS = Path(__file__).resolve().parents[1]
QUICK = Protocol(
    rounds=3, block_calls=3, block_ms=2.0, min_block_calls=1, warm_s=0.01, warm_calls=3, long_warm_s=0.05, warm_cap_s=0.1
)  # fmt: skip


@pytest.fixture(autouse=True)
def _few_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECOND_LOOK", 1)
    monkeypatch.setattr(module, "CONFIRMATION", 3)


def target_of(runtime: str, path: str, *formats: str) -> ResolvedTarget:
    return ResolvedTarget(target=parse_target(f"cpu:{runtime}"), runtime_paths=dict.fromkeys(formats, path))


PLANTED = target_of("fake", "fixtures_settings:PlantedRuntime", "fake")
ONNX = target_of("onnxruntime", "edgekd_onnx.runtime:OnnxRuntime", "onnx")


def setting_of(target: ResolvedTarget) -> Setting:
    return Setting(target=target.target, runtime_paths=target.runtime_paths, timeout_s=60, search=(TESTS,))


def feeds_of(artifact: Artifact) -> Any:
    return functools.partial(Feeds().of, artifact, "student")


@pytest.fixture
def planted(tmp_path: Path) -> Artifact:
    (tmp_path / "model").mkdir()
    return write_fake(tmp_path / "model", latency_ns=(1_000_000,))


def test_a_planted_setting_is_found_kept_and_used_again(planted: Artifact, tmp_path: Path) -> None:
    said: list[str] = []
    (swept,) = sweep_models(
        [("model", planted, feeds_of(planted))], PLANTED, setting_of(PLANTED), Scenario(), pinned=(),
        cache=tmp_path / "cache", protocol=QUICK, progress=said.append,
    )  # fmt: skip
    best = swept.sweep.best
    assert dict(best.settings) == {"fast": True}
    outcomes = {k: t.outcome for t in swept.sweep.trials for k in t.changes if t.stage == "settings"}
    assert outcomes == {"fast": "better", "idle": outcomes["idle"], "wrong": "other answers"}
    assert swept.sweep.confirmation is not None
    assert swept.sweep.confirmation.ratio == pytest.approx(0.5, rel=0.25)
    assert all(line.startswith("model: ") for line in said)
    # In the artifact's metadata, whose digest names the bytes and is what it was.
    assert swept.kept == planted.folder / "artifact.json"
    again = load_artifact(planted.folder)
    assert again.digest == planted.digest
    (record,) = again.tuned["cpu:fake"]
    assert (record["threads"], record["settings"], record["objective"]) == (1, {"fast": True}, "latency")
    assert record["machine"] == machine_key(ledger.machine())
    assert record["evidence"]["confirmation"]["restarts"] == 3
    assert len(record["evidence"]["trials"]) == len(swept.sweep.trials)
    document = json.loads(swept.kept.read_text())
    assert [e.message for e in Draft202012Validator(load_schema("artifact")).iter_errors(document)] == []
    # What comes after uses them, with the same words whether found just now or earlier.
    tuning = tuning_for(
        [("model", again)], target="cpu:fake", scenario=Scenario(), batch=1, machine=ledger.machine(), asked=False
    )  # fmt: skip
    assert tuning.source == "metadata"
    assert "fast=true" in tuning.note
    assert tuning.key == tuning_of([swept]).key


def test_a_runtime_without_settings_to_sweep_is_one_line(planted: Artifact, tmp_path: Path) -> None:
    plain = target_of("fake", "edgekd.testing:FakeRuntime", "fake")
    with pytest.raises(UsageError, match="the runtime 'fake' does not say which settings are worth trying"):
        sweep_models(
            [("model", planted, feeds_of(planted))], plain, setting_of(plain), Scenario(), pinned=(),
            cache=tmp_path / "cache",
        )  # fmt: skip


def test_a_setting_that_the_artifact_brings_and_the_runtime_does_not_know(
    planted: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="planted has no setting 'turbo'; it knows fast"):
        sweep_models(
            [("model", replace(planted, settings={"turbo": True}), feeds_of(planted))], PLANTED, setting_of(PLANTED),
            Scenario(), pinned=(), cache=tmp_path / "cache", protocol=QUICK,
        )  # fmt: skip


def stack_of_sigmoids(path: Path) -> Path:
    """x * sigmoid(x), several times: ONNX Runtime fuses each into one operator, from the level `extended` on."""
    nodes = []
    for i in range(6):
        nodes.append(helper.make_node("Sigmoid", [f"x{i}"], [f"s{i}"]))
        nodes.append(helper.make_node("Mul", [f"x{i}", f"s{i}"], [f"x{i + 1}"]))
    shape = ["batch", 8192]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("x6", TensorProto.FLOAT, shape)], [],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_onnx_runtime_s_own_settings_are_found_on_a_real_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd_onnx.runtime import OnnxRuntime

    def two(self: object, device: str, provider: str, cpus: int) -> Mapping[str, tuple[Any, ...]]:
        return {"graph_level": ("all", "disable"), "prepacking": (True, False)}

    monkeypatch.setattr(OnnxRuntime, "sweepable", two)
    path = stack_of_sigmoids(tmp_path / "model.onnx")
    opened = open_reference(str(path), weights=None, base=None, store=StageStore(tmp_path / "cache"))
    assert isinstance(opened, Artifact)
    slow = replace(opened, settings={"graph_level": "disable"})
    (swept,) = sweep_models(
        [("model", slow, feeds_of(slow))], ONNX, setting_of(ONNX), Scenario(), pinned=(), cache=tmp_path / "cache",
        protocol=QUICK,
    )  # fmt: skip
    assert dict(swept.sweep.best.settings) == {"graph_level": "all"}
    assert swept.sweep.best.changes_from(swept.sweep.default) == {"graph_level": "all"}
    assert swept.sweep.confirmation is not None
    assert swept.sweep.confirmation.ratio is not None
    assert swept.sweep.confirmation.ratio < 0.8
    assert swept.sweep.runtime.startswith("onnxruntime ")
    # A bare file has no metadata: a file beside it keeps the settings, and opening the model again finds them.
    assert swept.kept == tmp_path / "model.onnx.edgekd.json"
    again = open_reference(str(path), weights=None, base=None, store=StageStore(tmp_path / "cache"))
    assert isinstance(again, Artifact)
    assert again.tuned["cpu:onnxruntime"][0]["settings"] == {"graph_level": "all"}


def test_offline_the_batch_is_part_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the fake takes as long for sixteen examples as for one."""
    monkeypatch.setattr(collection, "BATCHES", (1, 16, 64))
    artifact = write_fake(tmp_path, latency_ns=(1_000_000,))
    target = target_of("fake", "fixtures_settings:PlantedRuntime", "fake")
    (swept,) = sweep_models(
        [("model", artifact, feeds_of(artifact))], target, setting_of(target), Scenario(name=OFFLINE, max_batch=16),
        pinned=("fast", "idle", "wrong"), cache=tmp_path / "cache", protocol=QUICK,
    )  # fmt: skip
    assert swept.sweep.best.batch == 16
    assert swept.record.objective == "throughput"
    assert swept.sweep.confirmation is not None
    assert swept.sweep.confirmation.ratio == pytest.approx(1 / 16, rel=0.3)


@pytest.mark.parametrize(
    ("place", "words"), [("cache/export/x", "in the cache"), ("bundle/artifacts/student", "bundle bundle")]
)
def test_files_that_must_stay_as_they_are_are_not_written_to(
    place: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "bundle").mkdir(exist_ok=True)
    (tmp_path / "bundle/manifest.json").write_text("{}")
    artifact = write_fake(tmp_path / place, latency_ns=(100_000,))
    before = {p: p.read_bytes() for p in (tmp_path / place).iterdir()}
    (swept,) = sweep_models(
        [("model", artifact, feeds_of(artifact))], PLANTED, setting_of(PLANTED), Scenario(),
        pinned=("fast", "idle", "wrong"), cache=tmp_path / "cache", protocol=QUICK,
    )  # fmt: skip
    assert swept.kept is None
    assert words in swept.why_not
    assert {p: p.read_bytes() for p in (tmp_path / place).iterdir()} == before


def test_the_interval_is_student_s() -> None:
    effects: Array = np.asarray([0.1, 0.2, 0.3])
    mean, lower, upper = two_sided_interval(effects, 0.95)
    assert mean == pytest.approx(0.2)
    assert upper - mean == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)  # t(0.975, 2)
    assert mean - lower == pytest.approx(upper - mean)
    assert two_sided_interval(np.asarray([0.1]), 0.95) == (pytest.approx(0.1), -np.inf, np.inf)


def test_the_document_beside_a_bare_file_is_whole_json(planted: Artifact, tmp_path: Path) -> None:
    (swept,) = sweep_models(
        [("model", planted, feeds_of(planted))], PLANTED, setting_of(PLANTED), Scenario(),
        pinned=("fast", "idle", "wrong"), cache=tmp_path / "cache", protocol=QUICK,
    )  # fmt: skip
    assert swept.sweep.best == swept.sweep.default  # and that is kept, too: it was swept
    document = json.loads((planted.folder / "artifact.json").read_text())
    assert document["tuned"]["cpu:fake"][0]["evidence"]["confirmation"] is None
