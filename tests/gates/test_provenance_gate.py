"""The provenance gate in a run's verdict: exit 5, one gate without figures, and nothing needed but the run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures_run import POLICY, make_run

import edgekd.provenance.terms
from edgekd.errors import EXIT_INCONCLUSIVE, EXIT_INPUT, EXIT_PASS, EXIT_POLICY
from edgekd.evidence.run import AbsentTarget, load_run
from edgekd.gates import exit_code, judge_run
from edgekd.gates.verdict import Verdict, load_verdict
from edgekd.provenance.declared import parse_declaration
from edgekd.provenance.storing import store_provenance
from edgekd.recipe import GatesBlock
from edgekd.report import render

ASKED = {**POLICY, "provenance": {"max_age_days": 4000}}
OWN_DATA = {"name": "rows", "licence": "own"}
LLAMA3 = {"teacher": {"name": "Llama-3", "licence": "llama3", "access": "weights"}, "data": OWN_DATA}
MIT = {"teacher": {"name": "T", "licence": "MIT", "access": "weights"}, "data": OWN_DATA}


def judged(
    folder: Path, block: dict[str, Any] | None = None, policy: dict[str, Any] = ASKED, **more: Any
) -> Verdict:
    provenance = store_provenance(None if block is None else parse_declaration(block))
    make_run(folder, policy=policy, provenance=provenance, **more)
    return judge_run(folder, load_run(folder), GatesBlock.model_validate(policy))


def gate_of(verdict: Verdict) -> Any:
    (gate,) = [g for g in verdict.gates if g.gate == "provenance"]
    return gate


def test_what_is_allowed_passes_without_figures(tmp_path: Path) -> None:
    verdict = judged(tmp_path, MIT)
    gate = gate_of(verdict)
    assert (verdict.decision, gate.decision, exit_code(verdict)) == ("pass", "pass", EXIT_PASS)
    assert (gate.estimate, gate.limit, gate.interval, gate.artifact, gate.target) == (
        None,
        None,
        None,
        "",
        "",
    )
    assert gate.reason == "the terms allow it: T: mit; rows: own work; 1 obligation to meet in the bundle"
    assert [f["rule"] for f in gate.detail["findings"]] == ["permitted", "own-work"]


def test_a_refusal_ends_in_five_and_names_record_rule_and_what_to_do(tmp_path: Path) -> None:
    verdict = judged(tmp_path, LLAMA3)
    gate = gate_of(verdict)
    assert (verdict.decision, gate.decision, exit_code(verdict)) == ("reject", "reject", EXIT_POLICY)
    assert "(rule training-forbidden, record llama3)" in gate.reason
    assert "get a permission in writing" in gate.reason
    assert ".;" not in gate.reason
    assert gate.reason.endswith("have a person waive the rule")


def test_five_wins_over_every_other_trouble(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    judged(damaged, LLAMA3)
    for path in damaged.glob("evidence/**/*.json"):
        path.write_text("{}")
    verdict = judge_run(damaged, load_run(damaged), GatesBlock.model_validate(ASKED))
    assert (verdict.decision, exit_code(verdict)) == ("error", EXIT_POLICY)
    absent = AbsentTarget(target="cuda:tensorrt", required=True, reason="no GPU")
    assert exit_code(judged(tmp_path / "absent", LLAMA3, absent=[absent])) == EXIT_POLICY
    assert exit_code(judged(tmp_path / "other", MIT, absent=[absent])) == EXIT_INCONCLUSIVE


def test_an_accuracy_reject_alone_is_still_one(tmp_path: Path) -> None:
    assert exit_code(judged(tmp_path, MIT, lost=400)) == 1


def test_what_nobody_declared_is_refused(tmp_path: Path) -> None:
    for k, block in enumerate((None, {})):
        gate = gate_of(verdict := judged(tmp_path / str(k), block))
        assert exit_code(verdict) == EXIT_POLICY
        assert "rule teacher-undeclared" in gate.reason
        assert "and 1 more: data-undeclared" in gate.reason


def test_without_the_gate_nothing_is_asked(tmp_path: Path) -> None:
    verdict = judged(tmp_path, LLAMA3, policy=POLICY)
    assert verdict.decision == "pass"
    assert [g.gate for g in verdict.gates if g.gate == "provenance"] == []


def test_ages_are_counted_to_the_day_of_the_run(tmp_path: Path) -> None:
    day = edgekd.provenance.terms.load_terms().captured
    fresh = {**POLICY, "provenance": {}}
    assert judged(tmp_path / "a", MIT, policy=fresh, collected_at=f"{day}T12:00:00Z").decision == "pass"
    late = judged(tmp_path / "b", MIT, policy=fresh, collected_at=f"{int(day[:4]) + 1}{day[4:]}T12:00:00Z")
    assert (late.decision, exit_code(late)) == ("reject", EXIT_POLICY)
    assert "rule record-stale, record mit" in gate_of(late).reason
    undated = judged(tmp_path / "c", MIT, policy=fresh, collected_at="")
    assert (gate_of(undated).decision, gate_of(undated).error_kind, exit_code(undated)) == (
        "error",
        "input",
        EXIT_INPUT,
    )


def test_a_run_from_before_its_records_is_refused(tmp_path: Path) -> None:
    early = judged(tmp_path / "a", MIT, collected_at="1970-01-01T00:00:00Z")
    assert exit_code(early) == EXIT_POLICY
    assert "rule record-later, record mit" in gate_of(early).reason
    folder = tmp_path / "b"
    make_run(
        folder, policy=ASKED, collected_at="1970-01-01T00:00:00Z",
        provenance={**store_provenance(parse_declaration(MIT)), "given_by": "release"},
    )  # fmt: skip
    late = judge_run(folder, load_run(folder), GatesBlock.model_validate(ASKED))
    assert gate_of(late).decision == "pass", "looked up at release, which is later"


def test_a_waiver_is_named_in_the_reason(tmp_path: Path) -> None:
    waiver = {
        "rule": "training-forbidden",
        "by": "Ada Lovelace",
        "reason": "permission of 2026-01-02",
        "expires": "2027-12-31",
    }
    gate = gate_of(judged(tmp_path, {**LLAMA3, "waivers": [waiver]}))
    assert gate.decision == "pass"
    assert (
        "training-forbidden waived by Ada Lovelace until 2027-12-31 (permission of 2026-01-02)" in gate.reason
    )


def test_the_same_bytes_without_any_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judged(tmp_path, MIT)
    verdict.save(tmp_path / "a.json")

    def gone() -> None:
        raise AssertionError("the judge read the terms table")

    monkeypatch.setattr("edgekd.provenance.terms.load_terms", gone)
    monkeypatch.setattr("edgekd.provenance.storing.load_terms", gone)
    judge_run(tmp_path, load_run(tmp_path), GatesBlock.model_validate(ASKED)).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert load_verdict(tmp_path / "a.json") == verdict


@pytest.mark.parametrize(
    "damage",
    [
        {"declared": {"teacher": 3}},
        {"records": [{"id": "mit"}]},
        {"declared": {"techer": {}}},
    ],
    ids=str,
)
def test_damaged_declarations_are_errors_of_input(tmp_path: Path, damage: dict[str, Any]) -> None:
    judged(tmp_path, MIT)
    index = json.loads((tmp_path / "run.json").read_text())
    index["provenance"] |= damage
    (tmp_path / "run.json").write_text(json.dumps(index))
    verdict = judge_run(tmp_path, load_run(tmp_path), GatesBlock.model_validate(ASKED))
    assert (gate_of(verdict).decision, gate_of(verdict).error_kind) == ("error", "input")
    assert exit_code(verdict) == EXIT_INPUT


def test_licences_alone_do_not_pass_a_run_in_which_nothing_was_judged(tmp_path: Path) -> None:
    make_run(tmp_path, policy=ASKED, provenance=store_provenance(parse_declaration(MIT)))
    index = json.loads((tmp_path / "run.json").read_text())
    index |= {
        "candidates": [],
        "selected": {},
        "chain": [],
        "absent": [{"target": "cuda:x", "required": False, "reason": "no"}],
    }
    (tmp_path / "run.json").write_text(json.dumps(index))
    assert (
        judge_run(tmp_path, load_run(tmp_path), GatesBlock.model_validate(ASKED)).decision == "inconclusive"
    )
    only = GatesBlock.model_validate({"provenance": {"max_age_days": 4000}})
    assert judge_run(tmp_path, load_run(tmp_path), only).decision == "pass"


@pytest.mark.parametrize("kind", ["text", "md", "html", "junit", "sarif", "openmetrics"])
def test_reports_show_a_gate_of_the_whole_run(tmp_path: Path, kind: str) -> None:
    judged(tmp_path, LLAMA3).save(tmp_path / "verdict.json")
    text = render(tmp_path, kind)
    assert "provenance" in text
    for broken in (
        "on ``",
        "  : ",
        " on :",
        "synthetic/:",
        "synthetic on &quot;&quot;",
        'name="synthetic on "',
    ):
        assert broken not in text, broken
    if kind == "sarif":
        (result,) = json.loads(text)["runs"][0]["results"]
        assert result["ruleId"] == "provenance"
        assert result["message"]["text"].startswith("synthetic: Meta Llama 3 Community License")
