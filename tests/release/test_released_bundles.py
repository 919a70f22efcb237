"""Bundles of every released version: they verify, run and are judged by this version as they were by theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures_models import examples

from edgekd.cli import main
from edgekd.errors import PolicyError
from edgekd.release.trust import Trust, read_public_key
from edgekd.release.verify import verify

FOLDER = Path(__file__).parent / "bundles"
BUNDLES = sorted(FOLDER.glob("*.tar"))


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKD_TRUSTED_KEYS", "")
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_none_was_taken_away() -> None:
    """Add a bundle with every release (make.py there); never remove one."""
    assert {"edgekd-0.1.0.tar", "edgekd-0.1.0-b3168cb.tar"} <= {p.name for p in BUNDLES}
    assert all(p.stat().st_size < 200_000 for p in BUNDLES)


@pytest.mark.parametrize("archive", BUNDLES, ids=lambda p: p.stem)
def test_it_verifies_runs_and_is_judged_again(archive: Path, tmp_path: Path) -> None:
    key = archive.with_suffix(".pub")
    keys = (read_public_key(key),) if key.is_file() else ()
    found = verify(archive, trust=Trust(keys=keys))
    assert (found.decision, found.trusted) == ("pass", bool(keys))
    shutil.copyfile(archive, tmp_path / "bundle.tar")
    assert main(["gate", "bundle.tar", "--out", "again"]) == 0
    (folder,) = (tmp_path / "cache/bundles").iterdir()
    said = [json.loads((f / "verdict.json").read_bytes()) for f in (folder, tmp_path / "again")]
    for key_ in ("decision", "selected", "evidence", "collected_at"):
        assert said[0][key_] == said[1][key_]
    first, second = ([(g["gate"], g["decision"], g["estimate"]) for g in s["gates"]] for s in said)
    assert set(first) <= set(second)
    assert main(["report", "again"]) == 0
    np.savez(tmp_path / "test.npz", **examples(150))
    assert main(["eval", "bundle.tar", "--data", "test.npz"]) == 0
    assert main(["bench", "bundle.tar", "--restarts", "1", "--no-resources"]) == 0


@pytest.mark.parametrize("archive", BUNDLES, ids=lambda p: p.stem)
def test_it_is_checked_as_strictly_as_a_new_one(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    for at in range(700, len(whole), 9973):
        (tmp_path / "b.tar").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(PolicyError):
            verify(tmp_path / "b.tar")
