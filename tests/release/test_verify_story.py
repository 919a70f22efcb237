"""Bill of materials and attestations against the files: each wrong in one way, the manifest made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import make_bundle, rehash, rewrite

from edgekd.errors import PolicyError
from edgekd.release.manifest import manifest_bytes, manifest_digest
from edgekd.release.verify import find_problems, verify


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("story"))


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(released, tmp_path / "bundle"))


MODEL = "artifacts/student-int8/model.onnx"
BOM = "bom.cdx.json"
BUILT = "attestations/provenance-student-int8.intoto.json"
TESTED = "attestations/test-student-int8-accuracy"


def tested(bundle: Path) -> str:
    """The statement of the accuracy gate."""
    (found,) = (bundle / "attestations").glob("test-student-int8-accuracy-*")
    return f"attestations/{found.name}"


def artifact(bom: Any) -> Any:
    return next(c for c in bom["components"] if c.get("components"))


def file_entry(bom: Any, path: str) -> Any:
    return next(c for c in artifact(bom)["components"] if c["name"] == path)


def relist(bundle: Path) -> None:
    """The manifest's list of attestations follows the folder, as an attacker would have it."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["attestations"] = sorted(f"attestations/{p.name}" for p in (bundle / "attestations").iterdir())
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))


def passed(verdict: Any) -> None:
    verdict["gates"][0]["decision"] = "reject"


WRONG: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "bom hash": (
        lambda b: rewrite(b, BOM, lambda d: file_entry(d, MODEL)["hashes"][0].update(content="0" * 64)), "bundle-bom", BOM, "not whole",
    ),
    "bom file hash alone": (
        lambda b: rewrite(b, BOM, lambda d: file_entry(d, "artifacts/student-int8/artifact.json")["hashes"][0].update(content="0" * 64)),
        "bundle-bom", BOM, "another SHA-256 of artifacts/student-int8/artifact.json",
    ),
    "bom hash of the artifact": (
        lambda b: rewrite(b, BOM, lambda d: artifact(d)["hashes"][0].update(content="0" * 64)), "bundle-bom", BOM, "not whole",
    ),
    "bom names another file": (
        lambda b: rewrite(b, BOM, lambda d: file_entry(d, MODEL).update(name="artifacts/x.onnx")), "bundle-bom", BOM, "artifacts/x.onnx, which is not in",
    ),
    "bom without the artifact": (
        lambda b: rewrite(b, BOM, lambda d: d["components"].remove(artifact(d))), "bundle-bom", BOM, "does not list artifacts/",
    ),
    "bom of another kind": (lambda b: rewrite(b, BOM, lambda d: d.update(bomFormat="SPDX")), "bundle-bom", BOM, "no CycloneDX"),
    "bom not json": (lambda b: (b / BOM).write_text("x"), "bundle-bom", BOM, "not whole"),
    "bom dropped": (lambda b: (b / BOM).unlink(), "bundle-file", BOM, "has its companions"),
    "card dropped": (lambda b: (b / "MODEL_CARD.md").unlink(), "bundle-file", "MODEL_CARD.md", "has its companions"),
    "provenance dropped": (lambda b: (b / "provenance.json").unlink(), "bundle-file", "provenance.json", "has its companions"),
    "subject swapped": (
        lambda b: rewrite(b, BUILT, lambda d: d["subject"][0]["digest"].update(sha256="0" * 64)), "bundle-attestation", BUILT, "another SHA-256",
    ),
    "subjects exchanged": (
        lambda b: rewrite(b, BUILT, lambda d: d["subject"].__setitem__(0, {**d["subject"][0], "name": d["subject"][1]["name"]})),
        "bundle-attestation", BUILT, "another SHA-256",
    ),
    "subject elsewhere": (
        lambda b: rewrite(b, tested(b), lambda d: d["subject"][0].update(name="../model.onnx")), "bundle-attestation", TESTED, "not in the bundle",
    ),
    "no subject": (lambda b: rewrite(b, tested(b), lambda d: d.update(subject=[])), "bundle-attestation", TESTED, "no in-toto"),
    "not a statement": (lambda b: (b / tested(b)).write_text("[]"), "bundle-attestation", TESTED, "no in-toto"),
    "other statement": (lambda b: rewrite(b, tested(b), lambda d: d.update(_type="x")), "bundle-attestation", TESTED, "no in-toto"),
    "other policy": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"]["configuration"][0]["digest"].update(sha256="0" * 64)),
        "bundle-attestation", TESTED, "another policy",
    ),
    "attestation of a gate dropped": (
        lambda b: [(b / tested(b)).unlink(), relist(b)], "bundle-attestation", "attestations/", "no test result of the gate accuracy",
    ),
    "attestation of the build dropped": (
        lambda b: [(b / BUILT).unlink(), relist(b)], "bundle-attestation", MODEL, "no attestation of how it was made",
    ),
    "attestation dropped, still listed": (lambda b: (b / tested(b)).unlink(), "bundle-manifest", "manifest.json", "names other"),
    "gate decided otherwise": (
        lambda b: rewrite(b, "verdict.json", passed), "bundle-attestation", "verdict.json", "says 'fail' of the gate accuracy",
    ),
    "test failed": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"].update(failedTests=d["predicate"]["passedTests"], passedTests=[])),
        "bundle-attestation", "verdict.json", "its attestation 'fail'",
    ),
    "policy loosened": (
        lambda b: rewrite(b, "verdict.json", lambda d: d["policy"]["accuracy"].update(max_drop=0.9)), "bundle-attestation", TESTED, "another policy",
    ),
    "decision changed": (
        lambda b: rewrite(b, "verdict.json", lambda d: d.update(decision="reject")), "bundle-verdict", "verdict.json", "the manifest 'pass'",
    ),
}  # fmt: skip


def test_the_bundle_is_sound(bundle: Path) -> None:
    assert find_problems(bundle) == []


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_bundle_is_caught_without_a_key(bundle: Path, name: str) -> None:
    spoil, rule, path, says = WRONG[name]
    spoil(bundle)
    rehash(bundle)
    with pytest.raises(PolicyError) as caught:
        verify(bundle)
    found = find_problems(bundle)
    assert any(path in p and says in p for p in found), found
    assert caught.value.rule == rule
    assert "\n" not in str(caught.value)


def test_bundles_from_before_there_were_any_stay_sound(bundle: Path) -> None:
    for name in ("provenance.json", BOM, "MODEL_CARD.md", "NOTICES.md"):
        (bundle / name).unlink()
    for folder in ("attestations", "notices"):
        shutil.rmtree(bundle / folder)
    rehash(bundle)
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest.update(attestations=[], bom=None)
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))
    assert verify(bundle).decision == "pass"
