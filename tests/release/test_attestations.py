"""Attestations: in-toto Statements of the published shapes, about every file that ships and every gate."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fixtures_bundle import make_key
from fixtures_release import OWN, WAIVED, judge, make_rich_run, read
from fixtures_run import AT, POLICY
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as ResultMessage
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from edgekd.evidence.evaluation import load_evaluation, save_evaluation
from edgekd.evidence.run import AbsentTarget
from edgekd.files import canonical_json
from edgekd.release import release
from edgekd.release.verify import verify

KINDS = {
    "https://slsa.dev/provenance/v1": Provenance,
    "https://in-toto.io/attestation/test-result/v0.1": ResultMessage,
}


def statements(bundle: Path) -> dict[str, Any]:
    return {p.name: read(p) for p in sorted((bundle / "attestations").iterdir())}


def results(bundle: Path) -> dict[str, str]:
    """Test name -> result."""
    found = {}
    for value in statements(bundle).values():
        predicate = value["predicate"]
        for key in ("passedTests", "warnedTests", "failedTests"):
            found |= dict.fromkeys(predicate.get(key, ()), predicate.get("result"))
    return found


def test_they_have_the_published_shapes(rich: Path) -> None:
    found = statements(rich / "bundle")
    assert sorted(found) == read_names(rich / "bundle")
    for value in found.values():
        Statement.copy_from_pb(ParseDict(value, StatementMessage())).validate()
        assert value["_type"] == "https://in-toto.io/Statement/v1"
        # Unknown keys and wrong types raise.
        ParseDict(value["predicate"], KINDS[value["predicateType"]]())


def read_names(bundle: Path) -> list[str]:
    return [p.removeprefix("attestations/") for p in read(bundle / "manifest.json")["attestations"]]


def test_subjects_are_every_file_of_the_artifact(rich: Path) -> None:
    shipped = {
        p.relative_to(rich / "bundle").as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (rich / "bundle/artifacts").rglob("*")
        if p.is_file()
    }
    for value in statements(rich / "bundle").values():
        assert {s["name"]: s["digest"]["sha256"] for s in value["subject"]} == shipped


def test_provenance_names_what_went_in(rich: Path) -> None:
    predicate = statements(rich / "bundle")["provenance-student-int8.intoto.json"]["predicate"]
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == read(rich / "bundle/recipe.json")
    went_in = {d["name"]: d for d in definition["resolvedDependencies"]}
    teacher = went_in["teacher: meta-llama/Llama-3.1-8B"]
    assert teacher["uri"] == "https://huggingface.co/meta-llama/Llama-3.1-8B"
    assert teacher["annotations"] == {"licence": "llama3.1", "version": "3.1", "access": "weights"}
    own = {
        name: d["digest"]["edgekd_sha256"][0]
        for name, d in went_in.items()
        if "edgekd_sha256" in d.get("digest", {})
    }
    assert {name: own[name] for name in ("calibration data", "training data", "student as it was trained", "test split")} == {
        "calibration data": "c", "training data": "7", "student as it was trained": "5", "test split": "d",
    }  # fmt: skip
    model = (rich / "run/artifacts/teacher/model.onnx").read_bytes()
    assert went_in["teacher/model.onnx"]["digest"]["sha256"] == hashlib.sha256(model).hexdigest()
    assert went_in["tool: onnx"]["uri"] == "pkg:pypi/onnx@1.21.0"
    assert "tool: stage" not in went_in
    details = predicate["runDetails"]
    assert details["builder"] == {"id": "urn:edgekd:builder:local", "version": {"edgekd": "0.1.0"}}
    assert details["metadata"]["finishedOn"] == AT
    opset = definition["internalParameters"]["lineage"]["opset"]
    assert (opset, type(opset)) == (18, int)


def test_a_test_result_for_each_gate_by_the_policy(rich: Path) -> None:
    assert results(rich / "bundle") == {
        "accuracy (top1, fraction) against teacher on cpu:onnxruntime": "PASSED",
        "latency (latency, ratio) against teacher on cpu:onnxruntime": "PASSED",
        "size (size, MiB) on cpu:onnxruntime": "PASSED",
        "provenance (terms)": "PASSED",
    }
    policy = canonical_json(read(rich / "bundle/verdict.json")["policy"])
    for name, value in statements(rich / "bundle").items():
        if name.startswith("test-"):
            (configuration,) = value["predicate"]["configuration"]
            assert configuration["digest"] == {"sha256": hashlib.sha256(policy).hexdigest()}
            assert base64.b64decode(configuration["content"]) == policy


def test_what_a_person_waived_is_warned_of(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run", WAIVED)
    bundle = release(tmp_path / "run", tmp_path / "bundle", key=make_key(tmp_path).private)
    found = results(bundle)
    assert found["provenance (terms)"] == "WARNED"
    assert set(found.values()) == {"PASSED", "WARNED"}


def test_provenance_has_a_result_where_no_gate_asked(tmp_path: Path) -> None:
    for name, block, result in (("own", OWN, "PASSED"), ("waived", WAIVED, "WARNED")):
        make_rich_run(tmp_path / name, block, policy=POLICY)
        bundle = release(tmp_path / name, tmp_path / f"{name}-bundle", key=make_key(tmp_path).private)
        assert not [g for g in read(bundle / "verdict.json")["gates"] if g["gate"] == "provenance"]
        assert results(bundle)["provenance (terms)"] == result


def test_a_gate_that_was_not_run_has_no_result(tmp_path: Path) -> None:
    policy = {**POLICY, "regression": {"baseline": "last.onnx", "max_regression": 0.05}}
    make_rich_run(tmp_path / "run", policy=policy, regression_baseline="first-run")
    decisions = {g["gate"]: g["decision"] for g in read(tmp_path / "run/verdict.json")["gates"]}
    assert decisions["regression"] == "not_run"
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    assert not [name for name in results(bundle) if name.startswith("regression")]
    assert verify(bundle).decision == "pass"


def test_gates_of_absent_targets_have_none(tmp_path: Path) -> None:
    absent = AbsentTarget(target="cuda:tensorrt", required=False, reason="no GPU")
    make_rich_run(tmp_path / "run", absent=[absent])
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    assert not [name for name in results(bundle) if "tensorrt" in name]
    assert verify(bundle).decision == "pass"


def test_long_and_equal_names_of_slices_make_file_names(tmp_path: Path) -> None:
    policy = {**POLICY, "slices": {"names": ["site"], "max_drop": 0.3}}
    run = make_rich_run(tmp_path / "run", policy=policy)
    for path in (tmp_path / "run/evidence").rglob("*.json"):
        if path.stem in ("teacher", "student-int8"):
            found = load_evaluation(path)
            names = np.asarray([f"{'x' * 300}-{i % 3}" for i in range(found.n)])
            save_evaluation(replace(found, slices={"site": names}), path)
    judge(tmp_path / "run")
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    slices = [g for g in read(bundle / "verdict.json")["gates"] if g["gate"] == "slice:site"]
    assert len(slices) == 3 and run.name
    assert len([n for n in results(bundle) if n.startswith("slice:site")]) == 3
    assert max(len(n.encode()) for n in statements(bundle)) < 200
    assert verify(bundle).decision == "pass"


def test_they_are_canonical_json(rich: Path) -> None:
    for path in (rich / "bundle/attestations").iterdir():
        text = json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        assert path.read_text(encoding="utf-8") == text
