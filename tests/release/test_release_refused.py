"""What a release does not let through: edited runs, and bundles that would not verify."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import make_key
from fixtures_release import DECLARED, OWN, WAIVED, judge, make_rich_run, read, stored
from fixtures_run import POLICY

from edgekd.errors import EvidenceError, PolicyError, UsageError
from edgekd.release import bundle as releasing
from edgekd.release import release
from edgekd.release.verify import verify

FORBIDDEN = {
    "teacher": {"name": "meta-llama/Llama-2-7b", "licence": "llama2", "access": "weights", "licence_file": "LICENSE.txt"},
    "data": {"name": "D", "licence": "own"},
}  # fmt: skip


def edited(folder: Path, change: Callable[[dict[str, Any]], None], block: Any = DECLARED) -> Path:
    """A run whose stored provenance somebody changed, and judged again."""
    provenance = stored(block, folder)
    change(provenance)
    make_rich_run(folder / "run", block, provenance=provenance)
    judge(folder / "run")
    return folder / "run"


def allow(provenance: dict[str, Any]) -> None:
    for record in provenance["records"]:
        record.update(train={"teacher": "yes", "data": "yes"}, obligations=[])


def allow_by_another_table(provenance: dict[str, Any]) -> None:
    allow(provenance)
    provenance["terms"] = {"captured": "2026-01-01", "sha256": "0" * 64}


def by_name_only(provenance: dict[str, Any]) -> None:
    provenance.update(records=[], terms={"captured": "2026-01-01", "sha256": "0" * 64})


@pytest.mark.parametrize(
    ("change", "block", "says"),
    [
        (allow, FORBIDDEN, "stores another terms record llama2"),
        (allow_by_another_table, FORBIDDEN, "stores another terms record llama2"),
        (
            by_name_only,
            {**OWN, "teacher": {"name": "meta-llama/Llama-3.1-8B", "licence": "own"}},
            "lacks the terms record llama3.1",
        ),
        (
            lambda p: p["records"].append({**p["records"][0], "id": "more"}),
            DECLARED,
            "stores the terms record more, which",
        ),
    ],
    ids=["edited", "edited, of another table", "none", "one too many"],
)
def test_terms_records_are_those_of_the_table(tmp_path: Path, change: Any, block: Any, says: str) -> None:
    run = edited(tmp_path, change, block)
    with pytest.raises(PolicyError, match=says) as caught:
        release(run, tmp_path / "bundle")
    assert (caught.value.exit_code, caught.value.rule) == (5, "records-altered")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("keeps", "says"), [({}, "stores none"), (OWN, "stores another")])
def test_what_the_recipe_declares_is_what_was_stored(tmp_path: Path, keeps: Any, says: str) -> None:
    make_rich_run(tmp_path / "run", provenance=stored(keeps, tmp_path) if keeps else {}, policy=POLICY)
    recipe = tmp_path / "run/recipe.json"
    recipe.write_text(json.dumps({**read(recipe), "provenance": DECLARED}))
    (tmp_path / "own.yaml").write_text(json.dumps(OWN))
    with pytest.raises(EvidenceError, match=says) as caught:
        release(tmp_path / "run", tmp_path / "bundle", provenance=None if keeps else tmp_path / "own.yaml")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "bundle").exists()


def test_a_recipe_that_declares_what_was_stored_is_released(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run")
    recipe = tmp_path / "run/recipe.json"
    recipe.write_text(json.dumps({**read(recipe), "provenance": DECLARED}))
    assert verify(release(tmp_path / "run", tmp_path / "bundle")).decision == "pass"


def test_a_bundle_that_would_not_verify_is_not_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rich_run(tmp_path / "run")
    monkeypatch.setattr(
        releasing, "write_model_card", lambda _, folder: (folder / "MODEL_CARD.md").write_text("-")
    )
    with pytest.raises(
        PolicyError, match=r"run is not released, its bundle would not verify: MODEL_CARD\.md"
    ) as caught:
        release(tmp_path / "run", tmp_path / "bundle")
    assert caught.value.rule == "bundle-unsound"
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "bundle.tar").exists()


def test_the_recipe_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to where release runs; --key goes before it; one that cannot sign is said before any work."""
    make_rich_run(tmp_path / "run", WAIVED)
    recipe = tmp_path / "run/recipe.json"
    recipe.write_text(json.dumps({**read(recipe), "release": {"formats": ["onnx"], "sign": "keys/mine.pem"}}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"keys/mine\.pem"):
        release(Path("run"), Path("bundle"))
    assert not (tmp_path / "bundle").exists()
    (tmp_path / "keys").mkdir()
    mine, other = make_key(tmp_path / "keys", "mine"), make_key(tmp_path, "other")
    signed = verify(release(Path("run"), Path("bundle"))).signature
    assert signed is not None
    assert signed.fingerprint == mine.fingerprint
    signed = verify(release(Path("run"), Path("bundle"), key=other.private)).signature
    assert signed is not None
    assert signed.fingerprint == other.fingerprint
