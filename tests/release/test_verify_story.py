"""Bill of materials and attestations against the files: each wrong in one way, the manifest made again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_bundle import make_bundle, make_key, rehash, rewrite, sign_bundle
from fixtures_release import make_rich_run

from edgekd.errors import PolicyError
from edgekd.release import release
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
    seal(bundle, attestations=sorted(f"attestations/{p.name}" for p in (bundle / "attestations").iterdir()))


def seal(bundle: Path, **changes: Any) -> None:
    """Change the manifest, and its digest with it."""
    path = bundle / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), **changes}
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))


def subject(bundle: Path, path: str) -> dict[str, Any]:
    """A file of the bundle as a statement names it."""
    return {"name": path, "digest": {"sha256": hashlib.sha256((bundle / path).read_bytes()).hexdigest()}}


def data(bom: Any) -> Any:
    return next(c for c in bom["components"] if c["type"] == "data")


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
        lambda b: rewrite(b, "verdict.json", passed), "bundle-verdict", "verdict.json", "'reject' of its gate accuracy",
    ),
    "test failed": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"].update(failedTests=d["predicate"]["passedTests"], passedTests=[])),
        "bundle-attestation", TESTED, "contradicts itself: its result is 'PASSED'",
    ),
    "test failed, whole": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"].update(result="FAILED", failedTests=d["predicate"]["passedTests"], passedTests=[])),
        "bundle-attestation", TESTED, "says 'FAILED' of the gate accuracy",
    ),
    "test warned": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"].update(result="WARNED", warnedTests=d["predicate"]["passedTests"], passedTests=[])),
        "bundle-attestation", TESTED, "says 'WARNED' of the gate accuracy",
    ),
    "test of no gate": (
        lambda b: rewrite(b, tested(b), lambda d: d["predicate"].update(passedTests=["beauty"])), "bundle-attestation", TESTED, "which the verdict does not hold",
    ),
    "subject is another file of the bundle": (
        lambda b: rewrite(b, tested(b), lambda d: d.update(subject=[subject(b, "report.md")])), "bundle-attestation", TESTED, "not of the files that accuracy",
    ),
    "build of another file of the bundle": (
        lambda b: rewrite(b, BUILT, lambda d: d.update(subject=[subject(b, "report.md")])), "bundle-attestation", BUILT, "not of the files of one artifact",
    ),
    "subject left out": (
        lambda b: rewrite(b, tested(b), lambda d: d["subject"].pop()), "bundle-attestation", TESTED, "not of the files that accuracy",
    ),
    "build from nothing": (
        lambda b: rewrite(b, BUILT, lambda d: d["predicate"]["buildDefinition"].update(resolvedDependencies=[])),
        "bundle-attestation", BUILT, "does not name what provenance.json declares: data: Pictures",
    ),
    "other predicate": (
        lambda b: rewrite(b, BUILT, lambda d: d.update(predicateType="x-slsa-x")), "bundle-attestation", BUILT, "kind 'x-slsa-x', which no release writes",
    ),
    "no gates": (
        lambda b: rewrite(b, "verdict.json", lambda d: d.update(gates=[])), "bundle-verdict", "verdict.json", "none of its gates does",
    ),
    "a gate dropped": (
        lambda b: rewrite(b, "verdict.json", lambda d: d["gates"].pop(0)), "bundle-verdict", "verdict.json", "holds no gate of accuracy on cpu",
    ),
    "nothing judged": (
        lambda b: rewrite(b, "verdict.json", lambda d: [g.update(decision="not_run") for g in d["gates"] if g["target"]]),
        "bundle-verdict", "verdict.json", "none of its gates does",
    ),
    "no policy": (
        lambda b: rewrite(b, "verdict.json", lambda d: d.update(policy={})), "bundle-verdict", "verdict.json", "asks no gate",
    ),
    "no evidence": (
        lambda b: rewrite(b, "verdict.json", lambda d: d.update(evidence={})), "bundle-verdict", "evidence/test/student-int8.json", "is not in verdict.json",
    ),
    "evidence of one gate dropped": (
        lambda b: rewrite(b, "verdict.json", lambda d: d["evidence"].pop("evidence/test/latency-student-int8.json")),
        "bundle-verdict", "evidence/test/latency-student-int8.json", "of which latency on cpu:onnxruntime is judged",
    ),
    "nothing selected": (
        lambda b: [rewrite(b, n, lambda d: d.update(selected={})) for n in ("verdict.json", "run.json")], "bundle-verdict", "verdict.json", "selects no artifact",
    ),
    "selected otherwise": (
        lambda b: rewrite(b, "run.json", lambda d: d.update(selected={})), "bundle-verdict", "verdict.json", "another 'selected' than run.json",
    ),
    "target made optional": (
        lambda b: rewrite(b, "verdict.json", lambda d: d.update(optional=["cpu:onnxruntime"])), "bundle-verdict", "verdict.json", "another 'optional'",
    ),
    "run of another name": (
        lambda b: rewrite(b, "run.json", lambda d: d.update(name="other")), "bundle-manifest", "manifest.json", "run.json 'other'",
    ),
    "run gone": (lambda b: (b / "run.json").unlink(), "bundle-verdict", "run.json", "missing or damaged"),
    "artifact of another digest": (
        lambda b: rewrite(b, "artifacts/student-int8/artifact.json", lambda d: d.update(digest="sha256:" + "0" * 64)),
        "bundle-verdict", "verdict.json", "selects no artifact that is in the bundle",
    ),
    "bom without the teacher": (
        lambda b: rewrite(b, BOM, lambda d: d["metadata"]["component"].pop("pedigree")), "bundle-bom", BOM, "another teacher",
    ),
    "bom with other data": (
        lambda b: rewrite(b, BOM, lambda d: data(d).update(name="Drawings")), "bundle-bom", BOM, "another data",
    ),
    "bom with another licence": (
        lambda b: rewrite(b, BOM, lambda d: next(p for p in data(d)["properties"] if p["name"] == "edgekd:licence").update(value="mit")),
        "bundle-bom", BOM, "or other licences",
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


def strip(bundle: Path) -> None:
    """Take every document of the supply chain away, as if there had been none."""
    for name in ("provenance.json", BOM, "MODEL_CARD.md", "NOTICES.md"):
        (bundle / name).unlink()
    for folder in ("attestations", "notices"):
        shutil.rmtree(bundle / folder)
    rehash(bundle)
    seal(bundle, attestations=[], bom=None)


TRACES: dict[str, Callable[[Path], object]] = {
    "it is of EdgeKD 0.2.0": lambda b: seal(b, edgekd="0.2.0"),
    "run.json declares one": lambda b: rewrite(b, "run.json", lambda d: d.update(provenance={"declared": {}})),
    "recipe.json declares one": lambda b: [(b / "recipe.json").write_text('{"provenance": {"use": "research"}}'), rehash(b)],
}  # fmt: skip


@pytest.mark.parametrize("why", TRACES)
def test_a_stripped_bundle_leaves_traces(bundle: Path, why: str) -> None:
    strip(bundle)
    assert find_problems(bundle) == []
    TRACES[why](bundle)
    with pytest.raises(PolicyError, match=f"provenance.json is missing: {why}") as caught:
        verify(bundle)
    assert caught.value.rule == "bundle-provenance"


def test_a_policy_that_asks_for_provenance_is_a_trace(tmp_path: Path) -> None:
    make_rich_run(tmp_path / "run")
    bundle = release(tmp_path / "run", tmp_path / "bundle")
    rewrite(bundle, "run.json", lambda d: d.update(provenance={}))
    strip(bundle)
    assert find_problems(bundle) == [
        "provenance.json is missing: the policy of verdict.json asks for it",
    ]


def test_a_signed_bundle_cannot_be_stripped(bundle: Path, tmp_path: Path) -> None:
    strip(bundle)
    sign_bundle(bundle, make_key(tmp_path).private)
    for form in (bundle, tmp_path / "bundle.tar"):
        with pytest.raises(PolicyError, match=r"provenance\.json is missing: it is signed"):
            verify(form)


def test_bundles_from_before_there_were_any_stay_sound_and_are_told_of(bundle: Path) -> None:
    strip(bundle)
    found = verify(bundle)
    assert found.decision == "pass"
    assert "states no provenance" in found.warnings[0]
