"""Obligations followed into the bundle: each is met where provenance.json says, or the release is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from fixtures_release import DECLARED, LICENCE, make_rich_run, read, stored

from edgekd.errors import PolicyError
from edgekd.release import release


def test_every_obligation_is_met_where_it_says(rich: Path) -> None:
    bundle = rich / "bundle"
    obligations = {o["kind"] + "/" + o["record"]: o for o in read(bundle / "provenance.json")["obligations"]}
    assert set(obligations) == {
        "name-prefix/llama3.1", "display-text/llama3.1", "licence-text/llama3.1", "notice-file/llama3.1",
        "pass-on-terms/llama3.1", "notice-file/cc-by-4.0",
    }  # fmt: skip
    for key, obligation in obligations.items():
        assert obligation["met_in"], key
        for path in obligation["met_in"]:
            text = (bundle / path).read_text(encoding="utf-8")
            assert obligation["value"] in text or obligation["kind"] == "licence-text", (key, path)
    assert read(bundle / "run.json")["name"].startswith(obligations["name-prefix/llama3.1"]["value"])
    (licence,) = obligations["licence-text/llama3.1"]["met_in"]
    assert licence == "notices/meta-llama-Llama-3.1-8B/LICENSE.txt"
    assert (bundle / licence).read_bytes() == LICENCE.encode()
    assert (
        "Ada Example, https://example.org/d"
        in (bundle / obligations["notice-file/cc-by-4.0"]["met_in"][0]).read_text()
    )


def test_notices_lists_texts_terms_and_sources(rich: Path) -> None:
    text = (rich / "bundle/NOTICES.md").read_text(encoding="utf-8")
    assert "> Built with Llama\n" in text
    assert "> the Llama 3.1 acceptable use policy\n" in text
    assert "[notices/meta-llama-Llama-3.1-8B/LICENSE.txt]" in text
    assert text.count("no legal advice") == 1


def test_a_name_without_its_prefix_is_refused(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run", name="tiny")
    with pytest.raises(
        PolicyError, match=r"name 'tiny' does not begin with 'Llama'.*call it 'Llama-tiny'"
    ) as caught:
        release(tmp_path / "run", tmp_path / "bundle")
    assert (caught.value.exit_code, caught.value.rule) == (5, "name-prefix")


def test_a_licence_text_that_nobody_gave_is_refused(tmp_path: Path) -> None:
    block = copy.deepcopy(DECLARED)
    del block["teacher"]["licence_file"]
    make_rich_run(tmp_path / "run", block)
    with pytest.raises(PolicyError, match=r"the text of Llama 3.1 Community License.*licence_file") as caught:
        release(tmp_path / "run", tmp_path / "bundle")
    assert caught.value.rule == "licence-text"
    assert not (tmp_path / "bundle").exists()


def test_a_notice_that_came_along_is_used(tmp_path: Path) -> None:
    """A text that already holds the asked words meets the obligation; no second one is written."""
    block: dict[str, Any] = copy.deepcopy(DECLARED)
    block["teacher"]["notice_file"] = "LICENSE.txt"
    provenance = stored(block, tmp_path)
    words = next(
        o["value"] for r in provenance["records"] for o in r["obligations"] if o["kind"] == "notice-file"
    )
    (entry,) = provenance["declared"]["teacher"][0]["notice_file"]
    import hashlib

    entry["text"] = f"NOTICE\n{words}\n"
    entry["sha256"] = hashlib.sha256(entry["text"].encode()).hexdigest()
    make_rich_run(tmp_path / "run", provenance=provenance)
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    notices = sorted(p.name for p in (bundle / "notices").rglob("*") if p.is_file())
    # Two texts of one name from one subject: both are kept.
    assert notices == ["2-LICENSE.txt", "LICENSE.txt", "data-cc-by-4.0-notice-file.txt"]


def test_own_work_asks_nothing(tmp_path: Path) -> None:
    own = {"teacher": {"name": "T", "licence": "own"}, "data": {"name": "D", "licence": "own"}}
    make_rich_run(tmp_path / "run", own)
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    assert read(bundle / "provenance.json")["obligations"] == []
    assert not (bundle / "notices").exists()
    assert "No record that applies asks for a notice." in (bundle / "NOTICES.md").read_text()
