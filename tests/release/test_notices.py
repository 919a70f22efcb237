"""Obligations followed into the bundle: each is met where provenance.json says, or the release is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import make_bundle, make_key
from fixtures_release import DECLARED, LICENCE, WAIVED, make_rich_run, read, stored

from edgekd.errors import PolicyError
from edgekd.provenance.declared import parse_declaration, read_texts
from edgekd.provenance.storing import store_provenance
from edgekd.release import release
from edgekd.report.provenance import AT_RELEASE


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


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_blank_licence_text_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyError, match="none is declared") as caught:
        licensed(tmp_path, {"name": "T", "licence": "mit", "licence_file": "a"}, a=text)
    assert caught.value.rule == "licence-text"


DISTILLED = {
    "name": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "licence": "mit", "access": "weights", "licence_file": ["a", "b"],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"licence_file": "a"}, {"licence_file": ["a", "copy"]}, {"licence_file": ["a", "blank"]}],
    ids=["one", "twice the same", "one is blank"],
)
def test_one_text_is_the_text_of_one_licence(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(
        PolicyError, match=r"its 2 licences have 1 texts that differ.*a file for each licence"
    ):
        licensed(tmp_path, {**DISTILLED, **change}, a="MIT\n", copy="MIT\n", blank=" ")


def test_each_licence_has_its_text_by_the_name_of_the_file(tmp_path: Path) -> None:
    names = ["LICENSE-llama3.3.txt", "LICENSE"]
    bundle = licensed(
        tmp_path, {**DISTILLED, "licence_file": names}, **{names[0]: "LLAMA\n", names[1]: "MIT\n"}
    )
    stem = "notices/deepseek-ai-DeepSeek-R1-Distill-Llama-70B"
    obligations = read(bundle / "provenance.json")["obligations"]
    assert {o["record"]: o["met_in"] for o in obligations if o["kind"] == "licence-text"} == {
        "mit": [f"{stem}/LICENSE"],
        "llama3.3": [f"{stem}/LICENSE-llama3.3.txt"],
    }


def licensed(folder: Path, teacher: dict[str, Any], **texts: str) -> Path:
    for name, text in texts.items():
        (folder / name).write_text(text)
    block = {"teacher": teacher, "data": {"name": "D", "licence": "own"}}
    make_rich_run(folder / "run", provenance=store_provenance(read_texts(parse_declaration(block), folder)))
    return release(folder / "run", folder / "bundle")


def test_names_are_words_and_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> ![t](http://x.example/i.png)"
    block = copy.deepcopy(DECLARED)
    block["data"].update(name=evil, attribution=f"{evil}\n```\n# Free")
    make_rich_run(tmp_path / "run", block)
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    text = (bundle / "NOTICES.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "![t]" not in text
    assert "\n# Free" not in text


def test_waivers_and_who_declared_are_told(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run", WAIVED)
    bundle = release(tmp_path / "run", tmp_path / "bundle", key=make_key(tmp_path).private)
    text = (bundle / "NOTICES.md").read_text(encoding="utf-8")
    assert "Ada Example waived data-licence-unknown until 2027-12-31: research benchmark" in text
    assert "when it was released" not in text
    told = {
        p["name"]: p["value"] for p in read(bundle / "bom.cdx.json")["metadata"]["component"]["properties"]
    }
    assert told["edgekd:provenance_given_by"] == "run"
    assert told["edgekd:waiver"].startswith("Ada Example waived data-licence-unknown")
    later = make_bundle(tmp_path / "later")
    said = {
        "NOTICES.md": "Declared when it was released",
        "MODEL_CARD.md": "when it was released",
        "report.md": AT_RELEASE,
    }
    for name, words in said.items():
        assert words in (later / name).read_text(encoding="utf-8"), name


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
