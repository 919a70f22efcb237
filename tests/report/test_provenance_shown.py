"""Provenance in the reports: findings, waivers that nobody can miss, obligations and where they are met."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_pages import make_page_run
from fixtures_release import WAIVED, make_rich_run
from fixtures_run import make_run

from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.release import release
from edgekd.report import load_view, render


@pytest.mark.parametrize("form", ["md", "html"])
def test_findings_and_obligations(tmp_path: Path, form: str) -> None:
    make_rich_run(tmp_path / "run")
    text = render(tmp_path / "run", form)
    for said in ("permitted-with-conditions", "Llama 3.1 Community License", "Built with Llama", "Asked of those who pass the model on"):  # fmt: skip
        assert said in text
    assert "met in" not in text
    assert "met in" in render(release(tmp_path / "run", tmp_path / "bundle"), form)


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_waiver_is_printed_with_name_reason_and_day(tmp_path: Path, form: str) -> None:
    make_rich_run(tmp_path / "run", WAIVED)
    text = render(tmp_path / "run", form)
    assert "Ada Example waived data-licence-unknown until 2027-12-31: research benchmark" in text
    # In plain sight, not folded away.
    assert text.index("Ada Example waived") < text.index(
        "<summary>" + ("Provenance" if form == "md" else "The lineage")
    )
    (finding,) = [
        f for f in (load_view(tmp_path / "run").provenance or pytest.fail("none")).findings if f.waived_by
    ]
    assert finding.rule == "data-licence-unknown"


def test_nobody_declared_anything(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", provenance={})
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(run.policy)).save(
        tmp_path / "run/verdict.json"
    )
    assert load_view(tmp_path / "run").provenance is None
    assert "Nobody declared whose knowledge is in the student." in render(tmp_path / "run", "html")
    assert "<summary>Provenance</summary>" not in render(tmp_path / "run", "md")


def test_a_damaged_declaration_is_said_not_hidden(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", provenance={"declared": {"teacher": 3}, "records": []})
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(run.policy)).save(
        tmp_path / "run/verdict.json"
    )
    for form in ("md", "html"):
        assert "Provenance and lineage are not shown whole" in render(tmp_path / "run", form)


def test_what_derives_from_what_is_told(tmp_path: Path) -> None:
    page = render(make_page_run(tmp_path / "run", candidates=3, n=200, calls=8), "html")
    assert "from which deepseek-ai/DeepSeek-R1-Distill-Llama-8B derives" in page
