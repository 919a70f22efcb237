"""Do a bundle's documents tell one story? Verdict and evidence, bill of materials, attestations. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.paths import portable
from edgekd.release.verify_decision import RUN_FILE, check_decision
from edgekd.release.verify_problem import Problem
from edgekd.release.verify_statements import (
    ATTESTATIONS_FOLDER,
    PROVENANCE_FILE,
    VERDICT_FILE,
    check_statements,
    shipped_files,
)

BOM_FILE = "bom.cdx.json"

#: A bundle that has one of these has them all; the first bundles had none.
SUPPLY_FILES = (PROVENANCE_FILE, BOM_FILE, "MODEL_CARD.md", "NOTICES.md")


def check_verdict(
    read: Callable[[str], bytes | None],
    listed: Mapping[str, str],
    manifest: Mapping[str, Any],
    run: Mapping[str, Any],
) -> tuple[list[Problem], dict[str, Any]]:
    """The verdict must say what the manifest says, of this run, of what ships, and of the evidence that is here.

    Args:
        read: a file of the bundle; listed: path -> sha256; run: ``run.json``.

    Returns:
        The problems, and the verdict where there are none.
    """
    raw, decision = read(VERDICT_FILE), manifest["decision"]
    if raw is None:
        return [_wrong(VERDICT_FILE, f"{VERDICT_FILE} is missing")], {}
    try:
        verdict = dict(json.loads(raw))
        found, evidence = verdict["decision"], dict(verdict["evidence"])
        if found != decision:
            said = f"{VERDICT_FILE} says {found!r}, the manifest {decision!r}"
            return [_wrong(VERDICT_FILE, said)], {}
        if found != "pass":
            return [_wrong(VERDICT_FILE, f"{VERDICT_FILE} says {found!r}: such a run is not released")], {}
        for path, digest in sorted(evidence.items()):
            if path not in listed:
                return [_wrong(path, f"{path} is missing, on which the verdict rests")], {}
            if f"sha256:{listed[path]}" != digest:
                return [_wrong(path, f"{path} is not the evidence on which the verdict rests")], {}
        problems = check_decision(verdict, run, list(shipped_files(read, listed)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [_wrong(VERDICT_FILE, f"{VERDICT_FILE} is not a verdict of {RUN_FILE}")], {}
    if run["name"] != manifest["name"]:
        text = f"{MANIFEST_FILE} calls it {manifest['name'][:80]!r}, {RUN_FILE} {str(run['name'])[:80]!r}"
        return [Problem(MANIFEST_FILE, text, "bundle-manifest")], {}
    return problems, {} if problems else verdict


def _wrong(path: str, text: str) -> Problem:
    return Problem(path, text, "bundle-verdict")


def check_supply(
    read: Callable[[str], bytes | None],
    listed: Mapping[str, str],
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> list[Problem]:
    """Bill of materials and attestations, in bundles that have them."""
    statements = sorted(p for p in listed if p.startswith(ATTESTATIONS_FOLDER))
    said = (manifest.get("attestations") or [], manifest.get("bom"))
    if not has_supply(listed) and said == ([], None):
        return []  # released before there were any, if check_downgrade finds no trace of them
    if said != (statements, BOM_FILE):
        text = f"{MANIFEST_FILE} names other attestations or another bill of materials than it lists"
        return [Problem(MANIFEST_FILE, text, "bundle-manifest")]
    problems = [
        Problem(name, f"{name} is missing: the bundle has its companions", "bundle-file")
        for name in SUPPLY_FILES
        if name not in listed
    ]
    if BOM_FILE in listed:
        problems += _check_bom(read, listed)
    return problems + check_statements(read, listed, verdict)


def has_supply(paths: Collection[str]) -> bool:
    """Whether files of a bundle hold one of the documents that came after the first bundles."""
    return any(p in SUPPLY_FILES or p.startswith((ATTESTATIONS_FOLDER, "notices/")) for p in paths)


def check_downgrade(
    edgekd: str, run: Mapping[str, Any], verdict: Mapping[str, Any], recipe: object, *, signed: bool
) -> list[Problem]:
    """A bundle without provenance must be of the one version that wrote none, and must not have had it.

    Whoever removes every trace makes such a bundle: without a key that is a warning, with one it is refused.

    Args:
        edgekd: version of the manifest; recipe: ``recipe.json``, None where there is none; signed: it has a ``model.sig``.
    """
    traces = {
        f"it is of EdgeKD {edgekd}, whose bundles have it": not _is_first(edgekd),
        "it is signed, and signed bundles have it": signed,
        f"{RUN_FILE} declares one": bool(run.get("provenance")),
        f"the policy of {VERDICT_FILE} asks for it": "provenance" in verdict.get("policy", {}),
        "recipe.json declares one": isinstance(recipe, Mapping) and bool(recipe.get("provenance")),
    }
    return [
        Problem(PROVENANCE_FILE, f"{PROVENANCE_FILE} is missing: {why}", "bundle-provenance")
        for why, there in traces.items()
        if there
    ]


def _is_first(version: str) -> bool:
    """0.1.0, or what was developed before it."""
    numbers = version.split("+")[0].split(".")[:3]
    return len(numbers) == 3 and numbers[:2] in (["0", "0"], ["0", "1"]) and numbers[2].startswith("0")


def _check_bom(read: Callable[[str], bytes | None], listed: Mapping[str, str]) -> list[Problem]:
    def refused(text: str) -> list[Problem]:
        return [Problem(BOM_FILE, f"{BOM_FILE} {text}", "bundle-bom")]

    try:
        bom = json.loads(read(BOM_FILE) or b"")
        if bom["bomFormat"] != "CycloneDX":
            return refused("is no CycloneDX document")
        hashed = dict(_hashed_files(bom))
        said = _subjects_of(bom)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return refused("is not whole")
    for role, declared in _declared_subjects(read(PROVENANCE_FILE)).items():
        if said[role] != declared:
            return refused(f"names another {role}, or other licences, than {PROVENANCE_FILE} declares")
    for path, digest in sorted(hashed.items()):
        if path not in listed:
            return refused(f"lists {path}, which is not in the bundle")
        if listed[path] != digest:
            return refused(f"has another SHA-256 of {path} than the file")
    for path in sorted(listed):
        if path.startswith("artifacts/") and path not in hashed:
            return refused(f"does not list {path}")
    return []


def _hashed_files(node: Any) -> Iterator[tuple[str, str]]:
    """(path, sha256) of every ``file`` component, however deep: a path of the bundle is its name."""
    if isinstance(node, list):
        for item in node:
            yield from _hashed_files(item)
    elif isinstance(node, dict):
        own = [str(h["content"]) for h in node.get("hashes", []) if h["alg"] == "SHA-256"]
        if node.get("type") == "file":
            yield from ((str(node["name"]), digest) for digest in own)
        elif own and node.get("components"):
            # An artifact is hashed as the one of its files that a runtime opens.
            inside = {digest for _, digest in _hashed_files(node["components"])}
            if not inside.issuperset(own):
                raise ValueError("an artifact with the hash of none of its files")
        for value in node.values():
            if isinstance(value, (list, dict)):
                yield from _hashed_files(value)


def _subjects_of(bom: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Role -> (name, licence, what it derives from) of the teachers and data sets in a bill of materials."""
    student = bom["metadata"]["component"]
    return {
        "teacher": _ancestry((student.get("pedigree") or {}).get("ancestors") or []),
        "data": _ancestry([c for c in bom.get("components") or [] if c["type"] == "data"]),
    }


def _ancestry(components: list[Mapping[str, Any]]) -> list[Any]:
    found = []
    for component in components:
        licences = [p["value"] for p in component.get("properties") or [] if p["name"] == "edgekd:licence"]
        above = (component.get("pedigree") or {}).get("ancestors") or []
        found.append((_plain(component["name"]), _plain("".join(licences)), _ancestry(above)))
    return sorted(found)


def _plain(text: object) -> str:
    return str(portable(text))


def _declared_subjects(raw: bytes | None) -> dict[str, list[Any]]:
    """The same of ``provenance.json``; nothing where it is damaged, which is said elsewhere."""

    def tree(subjects: list[Mapping[str, Any]]) -> list[Any]:
        return sorted(
            (_plain(s["name"]), _plain(s.get("licence", "")), tree(s.get("derived_from", [])))
            for s in subjects
        )

    try:
        declared = json.loads(raw or b"")["declared"]
        return {role: tree(declared[role]) for role in ("teacher", "data")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
