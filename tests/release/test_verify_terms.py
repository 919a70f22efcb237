"""Provenance in a bundle: obligations, expiry and waivers, each wrong in one way, the manifest made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import OWN, WAIVED, Pair, make_bundle, make_key, pack, rehash, rewrite
from fixtures_release import DECLARED, make_rich_run
from fixtures_run import AT

from edgekd.errors import EvidenceError, PolicyError, UsageError
from edgekd.release import release
from edgekd.release.trust import Trust, read_public_key
from edgekd.release.verify import find_problems, verify


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def licensed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("licensed"))


@pytest.fixture(scope="module")
def waived(tmp_path_factory: pytest.TempPathFactory, key: Pair) -> Path:
    return make_bundle(tmp_path_factory.mktemp("waived"), WAIVED, key=key.private)


@pytest.fixture
def bundle(licensed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(licensed, tmp_path / "bundle"))


@pytest.fixture
def with_waiver(waived: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(waived, tmp_path / "waived"))


def drop(name: str) -> Callable[[Any], object]:
    def change(document: Any) -> None:
        document["obligations"] = [o for o in document["obligations"] if o["id"] != name]

    return change


def obligation(document: Any, end: str) -> Any:
    return next(o for o in document["obligations"] if o["id"].endswith(end))


def aged(document: Any) -> None:
    for record in document["records"]:
        record["captured"] = "2025-01-31"


LICENCE, NOTICE = "notices/A-Teacher/LICENSE", "notices/data-cc-by-4.0-notice-file.txt"
WRONG: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "licence text gone": (lambda b: shutil.rmtree((b / LICENCE).parent), "bundle-obligation", LICENCE, "is missing, which meets"),
    "licence text empty": (lambda b: (b / LICENCE).write_text(" \n"), "bundle-obligation", LICENCE, "is empty"),
    "licence text other": (lambda b: (b / LICENCE).write_text("Free beer.\n"), "bundle-obligation", LICENCE, "not the licence text"),
    "notice other": (lambda b: (b / NOTICE).write_text("Thanks.\n"), "bundle-obligation", NOTICE, "does not hold the words"),
    "card without the change": (
        lambda b: (b / "MODEL_CARD.md").write_text("# A card\n"), "bundle-obligation", "MODEL_CARD.md", "does not hold the words",
    ),
    "obligation dropped": (
        lambda b: rewrite(b, "provenance.json", drop("data/cc-by-4.0/notice-file")),
        "bundle-obligation", "provenance.json", "lacks the obligation data/cc-by-4.0/notice-file",
    ),
    "all obligations dropped": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(obligations=[])),
        "bundle-obligation", "provenance.json", "lacks the obligation",
    ),
    "no list of obligations": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.pop("obligations")), "bundle-obligation", "provenance.json", "lists no obligations",
    ),
    "obligation made easier": (
        lambda b: rewrite(b, "provenance.json", lambda d: obligation(d, "notice-file").update(value="x")),
        "bundle-obligation", "provenance.json", "which its records do not ask so",
    ),
    "met nowhere": (
        lambda b: rewrite(b, "provenance.json", lambda d: obligation(d, "licence-text").update(met_in=[])),
        "bundle-obligation", "provenance.json", "nowhere",
    ),
    "met elsewhere": (
        lambda b: rewrite(b, "provenance.json", lambda d: obligation(d, "licence-text").update(met_in=["report.md"])),
        "bundle-obligation", "provenance.json", "and not in notices/",
    ),
    "met in itself": (
        lambda b: [
            rewrite(b, "provenance.json", lambda d: [o.update(met_in=["provenance.json"]) for o in d["obligations"]]),
            (b / "NOTICES.md").write_text(""), (b / "MODEL_CARD.md").write_text(""),
        ],
        "bundle-obligation", "provenance.json", "and not in",
    ),
    "met here and there": (
        lambda b: rewrite(b, "provenance.json", lambda d: obligation(d, "licence-text")["met_in"].append("report.md")),
        "bundle-obligation", "report.md", "no place to meet",
    ),
    "given by nobody": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(given_by="nobody")), "bundle-provenance", "provenance.json", "is given by 'nobody'",
    ),
    "given by the run": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(given_by="run")), "bundle-provenance", "provenance.json", "by the release",
    ),
    "recipe declares otherwise": (
        lambda b: (b / "recipe.json").write_text('{"provenance": {"teacher": {"name": "Llama-3", "licence": "llama3"}}}'),
        "bundle-provenance", "provenance.json", r"declares otherwise than recipe\.json",
    ),
    "record expired": (
        lambda b: rewrite(b, "provenance.json", aged), "bundle-record", "provenance.json", "record-stale for A/Teacher",
    ),
    "record dropped": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(records=[])), "bundle-provenance", "provenance.json", "no-record",
    ),
    "record not whole": (
        lambda b: rewrite(b, "provenance.json", lambda d: d["records"][0].pop("train")), "bundle-provenance", "provenance.json", "not whole",
    ),
    "nobody declared": (
        lambda b: rewrite(b, "provenance.json", lambda d: d["declared"].update(teacher=[])), "bundle-provenance", "provenance.json", "teacher-undeclared",
    ),
    "declared otherwise": (
        lambda b: rewrite(b, "provenance.json", lambda d: d["declared"]["teacher"][0].update(bad=1)),
        "bundle-provenance", "provenance.json", "does not declare what it should",
    ),
    "older records allowed": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(max_age_days="any")), "bundle-provenance", "provenance.json", "max_age_days",
    ),
    "another day": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(as_of="2020-01-31")), "bundle-provenance", "provenance.json", "is as of 2020-01-31",
    ),
    "no schema": (
        lambda b: rewrite(b, "provenance.json", lambda d: d.update(schema="x/1")), "bundle-provenance", "provenance.json", "has schema 'x/1'",
    ),
    "waiver without signature": (
        lambda b: rewrite(b, "provenance.json", lambda d: [
            d["declared"]["data"][0].update(licence="none-stated"),
            d["declared"].update(waivers=[{"rule": "data-licence-unknown", "by": "Mallory", "reason": "why not", "expires": "2099-12-31"}]),
            d.update(obligations=[o for o in d["obligations"] if o["id"].startswith("teacher")]),
        ]),
        "bundle-waiver", "provenance.json", "waives data-licence-unknown by Mallory, and there is no model.sig",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_bundle_is_caught_without_a_key(bundle: Path, name: str) -> None:
    spoil, rule, path, says = WRONG[name]
    spoil(bundle)
    rehash(bundle)
    for form in (bundle, pack(bundle, "synthetic")):
        with pytest.raises(PolicyError, match=says) as caught:
            verify(form)
        assert caught.value.rule == rule
        assert path in caught.value.what


def test_the_bundles_are_sound(bundle: Path, with_waiver: Path, key: Pair) -> None:
    assert find_problems(bundle) == []
    trust = Trust(keys=(read_public_key(key.public),))
    assert verify(with_waiver, trust=trust).trusted


def test_own_work_needs_no_record(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, OWN)
    assert json.loads((bundle / "provenance.json").read_bytes())["records"] == []
    assert verify(bundle, today=date(2099, 1, 1)).warnings == ()


def test_what_expires_later_is_a_warning_unless_it_is_asked(bundle: Path) -> None:
    captured = date.fromisoformat(
        json.loads((bundle / "provenance.json").read_bytes())["records"][0]["captured"]
    )
    late = date(captured.year + 1, captured.month, captured.day)
    assert verify(bundle, today=captured + timedelta(days=30)).warnings == ()
    warnings = verify(bundle, today=late).warnings
    assert len(warnings) == 2
    assert "the terms record apache-2.0 is 365 days old today (limit 180)" in warnings[0]
    for form in (bundle, pack(bundle, "synthetic")):
        with pytest.raises(PolicyError, match=f"as of {late}: record-stale") as caught:
            verify(form, as_of=late)
        assert (caught.value.rule, caught.value.exit_code) == ("bundle-record", 5)
    assert verify(bundle, as_of=captured, today=late).warnings == ()


def test_waivers_expire_likewise(with_waiver: Path) -> None:
    after = date(2028, 1, 1)
    assert find_problems(with_waiver) == []
    assert any("waiver of data-licence-unknown by Ada Example expired on 2027-12-31" in w for w in verify(with_waiver, today=after).warnings)  # fmt: skip
    with pytest.raises(PolicyError, match="data-licence-unknown"):
        verify(with_waiver, as_of=after)


def test_a_waiver_is_not_stripped_of_its_signature(with_waiver: Path) -> None:
    (with_waiver / "model.sig").unlink()
    with pytest.raises(PolicyError, match=r"there is no model\.sig") as caught:
        verify(with_waiver)
    assert caught.value.rule == "bundle-waiver"


def test_a_waiver_is_released_signed_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="signed with the bundle; name a private key: --key"):
        make_bundle(tmp_path, WAIVED)
    assert not (tmp_path / "bundle").exists()


def test_a_newer_provenance_is_not_called_a_forgery(bundle: Path) -> None:
    rewrite(bundle, "provenance.json", lambda d: d.update(schema="edgekd.provenance/2"))
    for form in (bundle, pack(bundle, "synthetic")):
        with pytest.raises(EvidenceError, match="verify it with the EdgeKD that released it") as caught:
            verify(form)
        assert caught.value.exit_code == 2


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rich")
    make_rich_run(folder / "run")
    return release(folder / "run", folder / "bundle")


OTHER: dict[str, tuple[Callable[[Any], object], str]] = {
    "declared again at release": (lambda d: d.update(given_by="release"), "is given by 'release', and by run.json it is by the run"),
    "another declaration": (lambda d: d["declared"]["teacher"][0].update(version="4"), "has other declared than run.json"),
    "other records": (lambda d: d["records"].reverse(), "has other records than run.json"),
    "another table": (lambda d: d["terms"].update(captured="2020-01-01"), "has other terms than run.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_what_the_run_declared_is_what_the_bundle_says(rich: Path, tmp_path: Path, name: str) -> None:
    bundle = Path(shutil.copytree(rich, tmp_path / "bundle"))
    assert find_problems(bundle) == []
    change, says = OTHER[name]
    rewrite(bundle, "provenance.json", change)
    assert any(says in p for p in find_problems(bundle))


def test_a_run_without_its_declaration_is_not_the_one(rich: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(rich, tmp_path / "bundle"))
    rewrite(bundle, "run.json", lambda d: d.update(provenance={}))
    assert any("is given by 'run'" in p for p in find_problems(bundle))


def test_a_recipe_says_the_same_without_its_texts(rich: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(rich, tmp_path / "bundle"))
    rewrite(bundle, "recipe.json", lambda d: d.update(provenance={**DECLARED, "use": "commercial"}))
    assert find_problems(bundle) == []
    rewrite(bundle, "recipe.json", lambda d: d["provenance"].update(use="research"))
    assert any("declares otherwise than recipe.json" in p for p in find_problems(bundle))


def test_a_waiver_whose_signature_nobody_checked_is_told_of(with_waiver: Path, key: Pair) -> None:
    (said,) = (w for w in verify(with_waiver).warnings if "waiver" in w)
    assert "by Ada Example: the signature was not checked; give --key" in said
    trust = Trust(keys=(read_public_key(key.public),))
    assert not any("not checked" in w for w in verify(with_waiver, trust=trust).warnings)


def test_days_that_have_not_come_are_told_of(bundle: Path) -> None:
    said = verify(bundle, today=date(2026, 1, 1)).warnings
    assert f"provenance.json: the evidence is of {AT[:10]}, which is not yet" in said
    assert sum("the terms record" in w and "which is not yet" in w for w in said) == 2
    assert not any("not yet" in w for w in verify(bundle, today=date(2099, 1, 1)).warnings)
