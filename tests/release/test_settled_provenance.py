"""Provenance at release: declared or refused, as of the day of the evidence, and each refusal with its rule and fix."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures_bundle import make_key
from fixtures_release import DECLARED, LICENCE, WAIVED, judge, make_rich_run, read, stored
from fixtures_run import POLICY, make_run

from edgekd.cli import main
from edgekd.errors import PolicyError, RecipeError, UsageError
from edgekd.release import release
from edgekd.release.verify import verify
from edgekd.schemas import load_schema


def declare(folder: Path, block: Any) -> Path:
    (folder / "LICENSE.txt").write_text(LICENCE, encoding="utf-8")
    (folder / "f.yaml").write_text(yaml.safe_dump(block))
    return folder / "f.yaml"


@pytest.fixture
def undeclared(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", n=1500, provenance={}, name="Llama-x")
    judge(tmp_path / "run")
    return tmp_path / "run"


def test_nobody_declared_anything(undeclared: Path, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="nobody declared") as caught:
        release(undeclared, tmp_path / "bundle")
    assert (caught.value.exit_code, caught.value.rule) == (5, "provenance-undeclared")
    assert not (tmp_path / "bundle").exists()
    # The fix shows a file that does it.
    shown = re.search(r"\{teacher.*\}\}$", caught.value.fix)
    assert shown is not None
    (tmp_path / "f.yaml").write_text(shown[0])
    bundle = release(undeclared, tmp_path / "bundle", provenance=tmp_path / "f.yaml")
    assert read(bundle / "provenance.json")["given_by"] == "release"
    assert verify(bundle).decision == "pass"


def test_a_free_form_block_of_old_is_no_declaration(tmp_path: Path) -> None:
    make_run(tmp_path / "run", n=1500, provenance={"teacher": {"name": "t", "licence": "own"}})
    judge(tmp_path / "run")
    with pytest.raises(PolicyError, match="nobody declared"):
        release(tmp_path / "run", tmp_path / "bundle")


def test_the_verb_declares_at_release(undeclared: Path, tmp_path: Path, capsys: Any) -> None:
    at = str(declare(tmp_path, DECLARED))
    assert main(["release", str(undeclared), "-o", str(tmp_path / "b"), "--provenance", at]) == 0
    assert "released" in capsys.readouterr().out
    document = read(tmp_path / "b/provenance.json")
    assert document["schema"] == "edgekd.provenance/1"
    assert {r["id"] for r in document["records"]} == {"llama3.1", "cc-by-4.0"}
    assert (document["as_of"], document["max_age_days"], document["decision"]) == ("2026-11-22", 180, "pass")
    assert main(["release", str(undeclared), "-o", str(tmp_path / "c")]) == 5
    assert "--provenance F.yaml" in capsys.readouterr().err


def test_what_was_judged_is_not_replaced(rich: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="declares its provenance already"):
        release(rich / "run", tmp_path / "bundle", provenance=declare(tmp_path, DECLARED))


@pytest.mark.parametrize(
    ("change", "rule", "says"),
    [
        (lambda b: b["teacher"].update(licence="no-such-licence-9"), "no-record", "no-such-licence-9"),
        (lambda b: b["data"].update(licence="none-stated"), "data-licence-unknown", "Pictures"),
        (lambda b: b.pop("teacher"), "teacher-undeclared", "No teacher"),
        (
            lambda b: b["teacher"].update(
                name="gpt-9", licence="", access="api-outputs", terms=["anthropic-usage-policy"]
            ),
            "training-forbidden",
            r"Anthropic.*record anthropic-usage-policy",
        ),
    ],
)
def test_refused_with_rule_record_and_fix(
    undeclared: Path, tmp_path: Path, change: Any, rule: str, says: str
) -> None:
    block = copy.deepcopy(DECLARED)
    change(block)
    with pytest.raises(PolicyError, match=says) as caught:
        release(undeclared, tmp_path / "bundle", provenance=declare(tmp_path, block))
    assert (caught.value.exit_code, caught.value.rule) == (5, rule)
    assert f"(rule {rule}" in caught.value.what
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


def test_records_age_to_the_day_of_the_evidence_only(tmp_path: Path) -> None:
    """Stale then is stale; what grew old since is not."""
    records = stored(DECLARED, tmp_path)
    old = copy.deepcopy(records)
    old["terms"] = {"captured": "2025-01-01", "sha256": "0" * 64}  # of another EdgeKD's table
    for record in old["records"]:
        record["captured"] = "2025-01-01"
    make_run(tmp_path / "stale", n=1500, provenance=old, name="Llama-x")
    judge(tmp_path / "stale")
    with pytest.raises(PolicyError, match=r"690 days before 2026-11-22.*rule record-stale, record "):
        release(tmp_path / "stale", tmp_path / "bundle")
    for record in old["records"]:
        record["captured"] = "2026-09-01"
    make_run(tmp_path / "fresh", n=1500, provenance=old, name="Llama-x")
    judge(tmp_path / "fresh")
    release(tmp_path / "fresh", tmp_path / "bundle")
    # The policy of the verdict says how old a record may be.
    strict = {**POLICY, "provenance": {"max_age_days": 700}}
    old["records"][0]["captured"] = "2025-01-01"
    make_run(tmp_path / "longer", n=1500, provenance=old, policy=strict, name="Llama-x")
    judge(tmp_path / "longer")
    assert read(release(tmp_path / "longer", tmp_path / "b") / "provenance.json")["max_age_days"] == 700


def test_a_waiver_is_signed_with_the_bundle(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run", WAIVED)
    with pytest.raises(UsageError, match="waiver of data-licence-unknown by Ada Example") as caught:
        release(tmp_path / "run", tmp_path / "bundle")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "bundle").exists()
    bundle = release(tmp_path / "run", tmp_path / "bundle", key=make_key(tmp_path).private)
    assert (bundle / "model.sig").is_file()
    document = read(bundle / "provenance.json")
    assert [w["by"] for w in document["waivers"]] == ["Ada Example"]
    assert [f["waived_by"]["expires"] for f in document["findings"] if f["waived_by"]] == ["2027-12-31"]
    for name in ("report.md", "report.html", "MODEL_CARD.md"):
        assert "research benchmark" in (bundle / name).read_text(encoding="utf-8")


def test_an_expired_waiver_does_not_count(tmp_path: Path) -> None:
    block = copy.deepcopy(WAIVED)
    block["waivers"][0]["expires"] = "2026-01-30"
    make_rich_run(tmp_path / "run", block, policy=POLICY)
    with pytest.raises(PolicyError, match="data-licence-unknown"):
        release(tmp_path / "run", tmp_path / "bundle", key=make_key(tmp_path).private)


def test_a_key_that_cannot_sign_is_said_before_any_work(rich: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.pem"):
        release(rich / "run", tmp_path / "bundle", key=tmp_path / "none.pem")
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_is_not_there(undeclared: Path, tmp_path: Path) -> None:
    at = declare(tmp_path, DECLARED)
    (tmp_path / "LICENSE.txt").unlink()
    with pytest.raises(RecipeError, match=r"LICENSE\.txt"):
        release(undeclared, tmp_path / "bundle", provenance=at)
    (tmp_path / "f.yaml").write_text("teacher: {nmae: x}\n")
    with pytest.raises(RecipeError, match=r"f\.yaml:1.*nmae"):
        release(undeclared, tmp_path / "bundle", provenance=at)
    at.unlink()
    with pytest.raises(UsageError, match=r"--provenance .*f\.yaml is not there.*licence: own"):
        release(undeclared, tmp_path / "bundle", provenance=at)


def test_the_document_fits_its_schema(rich: Path) -> None:
    from jsonschema import Draft202012Validator

    document = read(rich / "bundle/provenance.json")
    assert [e.message for e in Draft202012Validator(load_schema("provenance")).iter_errors(document)] == []
