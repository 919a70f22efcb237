"""Changes after which the manifest was made again, as an attacker would: documents contradict each other, no key is asked."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
sys.path.append(str(Path(__file__).resolve().parent))

from bundle_base import Base, Change, flip
from fixtures_bundle import rehash, rewrite

from edgekd.release.manifest import manifest_bytes, manifest_digest
from edgekd.release.trust import Trust


def _unsigned(bundle: Path) -> None:
    (bundle / "model.sig").unlink()
    rehash(bundle)


def _statement(bundle: Path, random: random.Random) -> str:
    return f"attestations/{random.choice(sorted(p.name for p in (bundle / 'attestations').iterdir()))}"


def subject_swapped(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    name = _statement(bundle, random)

    def change(document: Any) -> None:
        subject = random.choice(document["subject"])
        if random.random() < 0.5:
            subject["digest"]["sha256"] = random.randbytes(32).hex()
        else:
            subject["name"] = random.choice(["report.md", "evidence/../x", "run.json"])

    rewrite(bundle, name, change)
    _unsigned(bundle)
    return {name}, base.trust()


def bom_hash(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    def change(bom: Any) -> None:
        artifact = next(c for c in bom["components"] if c.get("components"))
        entry = random.choice(artifact["components"])
        entry["hashes"][0]["content"] = random.randbytes(32).hex()

    rewrite(bundle, "bom.cdx.json", change)
    _unsigned(bundle)
    return {"bom.cdx.json"}, base.trust()


def obligation_dropped(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    def change(document: Any) -> None:
        document["obligations"].pop(random.randrange(len(document["obligations"])))

    rewrite(bundle, "provenance.json", change)
    _unsigned(bundle)
    return {"provenance.json"}, base.trust()


def obligation_unmet(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    document = json.loads((bundle / "provenance.json").read_bytes())
    name = random.choice([p for o in document["obligations"] for p in o["met_in"]])
    (bundle / name).write_text(random.choice(["", "\n", "nothing to see here\n", "Licensed under terms.\n"]))
    _unsigned(bundle)
    return {name}, base.trust()


def record_expired(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    def change(document: Any) -> None:
        year = random.randrange(2015, 2025)
        random.choice(document["records"])["captured"] = f"{year}-{random.randrange(1, 13):02}-01"

    rewrite(bundle, "provenance.json", change)
    _unsigned(bundle)
    return {"provenance.json"}, base.trust()


def decision_changed(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    def change(verdict: Any) -> None:
        wrong = random.choice(["reject", "inconclusive", "error"])
        if random.random() < 0.5:
            verdict["decision"] = wrong
        else:
            random.choice(verdict["gates"])["decision"] = wrong

    rewrite(bundle, "verdict.json", change)
    _unsigned(bundle)
    return {"verdict.json"}, base.trust()


def evidence_changed(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    verdict = json.loads((bundle / "verdict.json").read_bytes())
    name = random.choice(sorted(verdict["evidence"]))
    flip(bundle / name, random)
    _unsigned(bundle)
    return {name}, base.trust()


def waiver_unsigned(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    shutil.rmtree(bundle)
    shutil.copytree(base.waived, bundle)
    (bundle / "model.sig").unlink()
    return {"model.sig"}, base.trust()


def _take(bundle: Path, other: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(other, bundle)


def subject_elsewhere(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """Another file of the bundle in place of what was built or judged, with its right hash."""
    name = _statement(bundle, random)
    path = random.choice(["report.md", "run.json", "NOTICES.md", "evidence/test/teacher.json"])
    digest = hashlib.sha256((bundle / path).read_bytes()).hexdigest()

    def change(document: Any) -> None:
        document["subject"][random.randrange(len(document["subject"]))] = {
            "name": path,
            "digest": {"sha256": digest},
        }

    rewrite(bundle, name, change)
    _unsigned(bundle)
    return {name}, base.trust()


def statement_contradicts(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """A result beside another list, a build from nothing, a kind that is none."""
    name = _statement(bundle, random)

    def change(document: Any) -> None:
        predicate = document["predicate"]
        if random.random() < 0.3:
            document["predicateType"] = random.choice(
                ["x-slsa-x", "https://slsa.dev/provenance/v0.2", "test-result", ""]
            )
        elif "result" in predicate:
            predicate["result"] = random.choice(["FAILED", "WARNED", "", "passed", None])
        else:
            predicate["buildDefinition"]["resolvedDependencies"] = []

    rewrite(bundle, name, change)
    _unsigned(bundle)
    return {name}, base.trust()


def verdict_emptied(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """A verdict that passes on less than was asked, or on nothing."""
    names = {"verdict.json"}

    def change(verdict: Any) -> None:
        kind = random.randrange(6)
        if kind == 0:
            verdict["gates"] = []
        elif kind == 1:
            verdict["gates"].pop(random.randrange(len(verdict["gates"])))
        elif kind == 2:
            names.update(verdict["evidence"])
            verdict["evidence"] = {}
        elif kind == 3:
            gone = random.choice([p for p in verdict["evidence"] if p.startswith("evidence/test/")])
            names.add(gone)
            del verdict["evidence"][gone]
        elif kind == 4:
            verdict["selected"] = random.choice(
                [{}, {"cpu:onnxruntime": "sha256:" + random.randbytes(32).hex()}]
            )
        else:
            verdict["optional"] = [random.choice(verdict["gates"])["target"]]

    rewrite(bundle, "verdict.json", change)
    _unsigned(bundle)
    return names, base.trust()


def bom_subject(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """Teacher or data dropped from the bill of materials, or under another name or licence."""

    def change(bom: Any) -> None:
        student = bom["metadata"]["component"]
        data = [c for c in bom["components"] if c["type"] == "data"]
        kind = random.randrange(4)
        if kind == 0:
            student.pop("pedigree")
        elif kind == 1:
            bom["components"].remove(data[0])
        else:
            subject = random.choice([student["pedigree"]["ancestors"][0], data[0]])
            if kind == 2:
                subject["name"] = f"another {random.randrange(100)}"
            else:
                next(p for p in subject["properties"] if p["name"] == "edgekd:licence")["value"] = "own"

    rewrite(bundle, "bom.cdx.json", change)
    _unsigned(bundle)
    return {"bom.cdx.json"}, base.trust()


def met_elsewhere(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """An obligation that some other document says is met there, its own place emptied."""
    place = random.choice(["provenance.json", "report.md", "report.html", "run.json"])
    emptied: list[str] = []

    def change(document: Any) -> None:
        obligation = random.choice(document["obligations"])
        emptied.extend(obligation["met_in"])
        obligation["met_in"] = [place]

    rewrite(bundle, "provenance.json", change)
    for name in emptied if random.random() < 0.5 else ():
        (bundle / name).write_text("")
    _unsigned(bundle)
    return {"provenance.json", place, *emptied}, base.trust()


def declared_again(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """provenance.json says otherwise than the run, or says that somebody else gave it."""
    _take(bundle, base.declared)

    def own(document: Any) -> None:
        own = [{"name": "ours", "licence": "own"}]
        document.update(given_by="release", records=[], obligations=[], findings=[])
        document["declared"] = {"teacher": own, "data": own, "use": "commercial", "waivers": []}

    kind = random.randrange(4)
    if kind == 0:
        rewrite(bundle, "provenance.json", own)
    elif kind == 1:
        rewrite(
            bundle, "provenance.json", lambda d: d.update(given_by=random.choice(["release", "nobody", None]))
        )
    elif kind == 2:
        rewrite(bundle, "run.json", lambda d: d.update(provenance={}))
    else:
        rewrite(bundle, "run.json", lambda d: d["provenance"]["declared"]["teacher"][0].update(version="9"))
    _unsigned(bundle)
    return {"provenance.json"}, base.trust()


def run_renamed(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    rewrite(bundle, "run.json", lambda d: d.update(name=f"other-{random.randrange(1000)}"))
    _unsigned(bundle)
    return {"run.json"}, base.trust()


def supply_stripped(base: Base, bundle: Path, random: random.Random) -> tuple[set[str], Trust]:
    """Every document of the supply chain taken away, as if the bundle were older than they are; the run tells."""
    _take(bundle, base.declared)
    for name in ("provenance.json", "bom.cdx.json", "MODEL_CARD.md", "NOTICES.md"):
        (bundle / name).unlink()
    for folder in ("attestations", "notices"):
        shutil.rmtree(bundle / folder)
    if random.random() < 0.5:
        rewrite(bundle, "run.json", lambda d: d.update(provenance={}))
    _unsigned(bundle)
    path = bundle / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), "attestations": [], "bom": None}
    manifest["digest"] = manifest_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))
    return {"provenance.json"}, base.trust()


#: Changes that are one each, whatever is drawn.
WHOLE_STORIES: dict[str, Change] = {
    "re-hashed, waiver without signature": waiver_unsigned,
    "re-hashed, run of another name": run_renamed,
    "re-hashed, every supply document stripped": supply_stripped,
}
STORIES: dict[str, Change] = {
    "re-hashed, subject of an attestation": subject_swapped,
    "re-hashed, subject is another file of the bundle": subject_elsewhere,
    "re-hashed, statement contradicts itself": statement_contradicts,
    "re-hashed, hash in the BOM": bom_hash,
    "re-hashed, teacher or data in the BOM": bom_subject,
    "re-hashed, obligation dropped": obligation_dropped,
    "re-hashed, obligation not met": obligation_unmet,
    "re-hashed, obligation met elsewhere": met_elsewhere,
    "re-hashed, record expired": record_expired,
    "re-hashed, provenance other than the run's": declared_again,
    "re-hashed, decision changed": decision_changed,
    "re-hashed, verdict on less than was asked": verdict_emptied,
    "re-hashed, evidence changed": evidence_changed,
}
