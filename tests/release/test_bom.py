"""The bill of materials: valid by the schema, complete, and the same whatever the library's version and the clock."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from fixtures_release import WAIVED, make_rich_run, read
from fixtures_run import AT

from edgekd.errors import MissingDependencyError
from edgekd.release import release


def invalid(document: Any) -> str:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    return "" if found is None else str(found.data)


@pytest.fixture
def bom(rich: Path) -> Any:
    return read(rich / "bundle/bom.cdx.json")


def component(bom: Any, ref: str) -> Any:
    return next(c for c in bom["components"] if c["bom-ref"] == ref)


def test_it_is_valid_by_the_schema_of_1_6(bom: Any) -> None:
    assert bom["specVersion"] == "1.6"
    assert invalid(bom) == ""
    for spoil in (
        lambda d: d["metadata"]["component"]["modelCard"].update(extra=1),
        lambda d: d["metadata"]["component"]["modelCard"]["modelParameters"]["approach"].update(
            type="taught"
        ),
        lambda d: component(d, "data:0")["data"][0].update(type="pictures"),
        lambda d: component(d, "artifact:student-int8")["hashes"][0].update(content="x"),
        lambda d: d.update(serialNumber="urn:uuid:1"),
    ):
        spoilt = copy.deepcopy(bom)
        spoil(spoilt)
        assert invalid(spoilt)


def test_the_teacher_is_the_students_ancestor(bom: Any) -> None:
    student = bom["metadata"]["component"]
    assert (student["type"], student["name"]) == ("machine-learning-model", "Llama-pictures")
    (teacher,) = student["pedigree"]["ancestors"]
    assert (teacher["type"], teacher["name"], teacher["version"]) == (
        "machine-learning-model",
        "meta-llama/Llama-3.1-8B",
        "3.1",
    )
    assert teacher["licenses"] == [{"license": {"name": "llama3.1"}}]
    assert teacher["externalReferences"][0]["url"] == "https://huggingface.co/meta-llama/Llama-3.1-8B"


def test_every_file_that_ships_is_hashed(bom: Any, rich: Path) -> None:
    shipped = sorted(p for p in (rich / "bundle/artifacts").rglob("*") if p.is_file())
    files = component(bom, "artifact:student-int8")["components"]
    assert [f["name"] for f in files] == [p.relative_to(rich / "bundle").as_posix() for p in shipped]
    for entry, path in zip(files, shipped, strict=True):
        assert entry["hashes"] == [
            {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}
        ]


def test_data_with_its_licence_and_tools_of_the_evidence(bom: Any) -> None:
    data = component(bom, "data:0")
    assert (data["type"], data["data"]) == ("data", [{"type": "dataset", "name": "Pictures"}])
    assert data["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]
    tools = {c["name"]: c["version"] for c in bom["components"] if c["type"] == "library"}
    # Not one of the releasing machine's: a library of another version gives the same bytes.
    assert tools == {"edgekd": "0.1.0", "onnx": "1.21.0", "onnxruntime": "1.31.1"}
    assert "tools" not in bom["metadata"]
    assert bom["metadata"]["timestamp"] == AT
    ties = {d["ref"]: d.get("dependsOn", []) for d in bom["dependencies"]}
    assert ties["model:Llama-pictures"] == ["artifact:student-int8"]
    assert ties["artifact:student-int8"] == ["data:0", "tool:edgekd", "tool:onnx", "tool:onnxruntime"]


def test_the_model_card_has_the_verdicts_figures_with_their_bounds(bom: Any, rich: Path) -> None:
    card = bom["metadata"]["component"]["modelCard"]
    parameters = card["modelParameters"]
    assert parameters["approach"] == {"type": "supervised"}
    assert (parameters["task"], parameters["modelArchitecture"]) == ("classification", "zoo:cifar-resnet20")
    assert parameters["datasets"] == [{"ref": "data:0"}]
    gates = {g["gate"]: g for g in read(rich / "bundle/verdict.json")["gates"]}
    metrics = {m["type"]: m for m in card["quantitativeAnalysis"]["performanceMetrics"]}
    for gate, label in (
        ("accuracy", "accuracy (top1) against teacher on cpu:onnxruntime, fraction"),
        ("latency", "latency against teacher on cpu:onnxruntime, ratio"),
    ):
        bounds = metrics[label]["confidenceInterval"]
        assert float(metrics[label]["value"]) == gates[gate]["estimate"]
        assert [float(bounds["lowerBound"]), float(bounds["upperBound"])] == gates[gate]["interval"]
    assert float(metrics["top1 on cpu:onnxruntime"]["value"]) == gates["accuracy"]["detail"]["candidate_mean"]
    assert "Judged on cpu:onnxruntime only." in card["considerations"]["technicalLimitations"]


def test_the_serial_number_names_the_evidence(bom: Any, tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run", lost=25)
    other = read(release(tmp_path / "run", tmp_path / "bundle") / "bom.cdx.json")
    assert bom["serialNumber"].startswith("urn:uuid:")
    assert bom["serialNumber"] != other["serialNumber"]


def test_licences_are_spdx_ids_only_where_they_are(tmp_path: Path) -> None:
    block = {**WAIVED, "waivers": [], "data": {"name": "D", "licence": "mit", "licence_file": "LICENSE.txt"}}
    make_rich_run(tmp_path / "run", block)
    made = read(release(tmp_path / "run", tmp_path / "bundle") / "bom.cdx.json")
    assert invalid(made) == ""
    assert component(made, "data:0")["licenses"] == [{"license": {"id": "MIT"}}]
    assert made["metadata"]["component"]["pedigree"]["ancestors"][0]["licenses"] == [
        {"license": {"name": "own work"}}
    ]


def test_without_the_library_the_extra_is_named(
    rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cyclonedx.model.bom", None)
    with pytest.raises(MissingDependencyError, match=r"bill of materials.*edgekd\[release\]") as caught:
        release(rich / "run", tmp_path / "bundle")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []
