"""Do a bundle's documents tell one story? Verdict and evidence, bill of materials, attestations. Standard library only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from edgekd.files import canonical_json
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.verify_problem import Problem

VERDICT_FILE = "verdict.json"
RUN_FILE = "run.json"
BOM_FILE = "bom.cdx.json"
ATTESTATIONS_FOLDER = "attestations/"
ATTESTATION_ENDING = ".intoto.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

#: A bundle that has one of these has them all; the first bundles had none.
SUPPLY_FILES = ("provenance.json", BOM_FILE, "MODEL_CARD.md", "NOTICES.md")


def check_verdict(
    read: Callable[[str], bytes | None], listed: Mapping[str, str], decision: str
) -> tuple[list[Problem], dict[str, Any]]:
    """The verdict must say what the manifest says, of the evidence that is here.

    Args:
        read: a file of the bundle; listed: path -> sha256; decision: the manifest's.

    Returns:
        The problems, and the verdict.
    """

    def refused(path: str, text: str) -> tuple[list[Problem], dict[str, Any]]:
        return [Problem(path, text, "bundle-verdict")], {}

    raw = read(VERDICT_FILE)
    if raw is None:
        return refused(VERDICT_FILE, f"{VERDICT_FILE} is missing")
    try:
        verdict = json.loads(raw)
        found, evidence = verdict["decision"], dict(verdict["evidence"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return refused(VERDICT_FILE, f"{VERDICT_FILE} is not a verdict")
    if found != decision:
        return refused(VERDICT_FILE, f"{VERDICT_FILE} says {found!r}, the manifest {decision!r}")
    if found != "pass":
        return refused(VERDICT_FILE, f"{VERDICT_FILE} says {found!r}: such a run is not released")
    for path, digest in sorted(evidence.items()):
        if path not in listed:
            return refused(path, f"{path} is missing, on which the verdict rests")
        if f"sha256:{listed[path]}" != digest:
            return refused(path, f"{path} is not the evidence on which the verdict rests")
    return [], verdict


def check_supply(
    read: Callable[[str], bytes | None],
    listed: Mapping[str, str],
    manifest: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> list[Problem]:
    """Bill of materials and attestations, in bundles that have them."""
    statements = sorted(p for p in listed if p.startswith(ATTESTATIONS_FOLDER))
    said = (manifest.get("attestations") or [], manifest.get("bom"))
    if not statements and said == ([], None) and not any(name in listed for name in SUPPLY_FILES):
        return []  # released before there were any
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
    return problems + _check_statements(read, listed, statements, verdict)


def _check_bom(read: Callable[[str], bytes | None], listed: Mapping[str, str]) -> list[Problem]:
    def refused(text: str) -> list[Problem]:
        return [Problem(BOM_FILE, f"{BOM_FILE} {text}", "bundle-bom")]

    try:
        bom = json.loads(read(BOM_FILE) or b"")
        if bom["bomFormat"] != "CycloneDX":
            return refused("is no CycloneDX document")
        hashed = dict(_hashed_files(bom))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return refused("is not whole")
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


def _check_statements(
    read: Callable[[str], bytes | None],
    listed: Mapping[str, str],
    statements: list[str],
    verdict: Mapping[str, Any],
) -> list[Problem]:
    problems: list[Problem] = []
    built: set[str] = set()
    results: dict[str, str] = {}
    policy = hashlib.sha256(canonical_json(verdict.get("policy", {}))).hexdigest()
    for path in statements:

        def refused(text: str, path: str = path) -> None:
            problems.append(Problem(path, f"{path} {text}", "bundle-attestation"))

        try:
            statement = json.loads(read(path) or b"")
            kinds = (statement["_type"], str(statement["predicateType"]))
            subjects = [(str(s["name"]), str(s["digest"]["sha256"])) for s in statement["subject"]]
            tested = dict(_results(statement["predicate"])) if "test-result" in kinds[1] else {}
            judged_by = (
                [str(c["digest"]["sha256"]) for c in statement["predicate"]["configuration"]]
                if tested
                else []
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            refused("is no in-toto statement")
            continue
        if kinds[0] != STATEMENT_TYPE or not subjects:
            refused("is no in-toto Statement v1 with a subject")
            continue
        for name, digest in subjects:
            if name not in listed:
                refused(f"is of {name}, which is not in the bundle")
            elif listed[name] != digest:
                refused(f"is of another {name}: its subject has another SHA-256 than the file")
            elif "slsa" in kinds[1]:
                built.add(name)
        if tested and judged_by != [policy]:
            refused("is of another policy than the verdict's")
        for name, result in tested.items():
            if results.setdefault(name, result) != result:
                refused(f"contradicts another about {name}")
    for path in sorted(listed):
        if path.startswith("artifacts/") and not path.endswith("/artifact.json") and path not in built:
            problems.append(
                Problem(path, f"{path} has no attestation of how it was made", "bundle-attestation")
            )
    shipped = [
        _digest_of(read, p)
        for p in sorted(listed)
        if p.startswith("artifacts/") and p.endswith("/artifact.json")
    ]
    return problems + _check_results(results, verdict, shipped)


def _digest_of(read: Callable[[str], bytes | None], path: str) -> str:
    try:
        return str(json.loads(read(path) or b"")["digest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _results(predicate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(gate, ``pass`` or ``fail``) of a Test Result v0.1."""
    for key, result in (("passedTests", "pass"), ("warnedTests", "pass"), ("failedTests", "fail")):
        yield from ((str(name), result) for name in predicate.get(key, ()))


def result_name(gate: Mapping[str, Any]) -> str:
    """What a gate's test result calls it: unlike any other gate's of the verdict."""
    what = ", ".join(filter(None, (gate.get("metric"), gate.get("unit"))))
    parts = (
        gate.get("gate"), gate.get("slice"), what and f"({what})", gate.get("against") and f"against {gate['against']}",
        gate.get("target") and f"on {gate['target']}",
    )  # fmt: skip
    return " ".join(str(part) for part in parts if part)


def _check_results(
    results: Mapping[str, str], verdict: Mapping[str, Any], shipped: Collection[str]
) -> list[Problem]:
    """Each gate of what ships has its test result, which says the same; what was not run has none."""
    problems = []
    for gate in verdict.get("gates", ()):
        if gate.get("decision") == "not_run" or (gate.get("artifact") and gate["artifact"] not in shipped):
            continue
        name = result_name(gate)
        said, found = results.get(name), "pass" if gate.get("decision") == "pass" else "fail"
        if said is None:
            text = f"{ATTESTATIONS_FOLDER} holds no test result of the gate {name}"
            problems.append(Problem(ATTESTATIONS_FOLDER, text, "bundle-attestation"))
        elif said != found:
            text = f"{VERDICT_FILE} says {found!r} of the gate {name}, its attestation {said!r}"
            problems.append(Problem(VERDICT_FILE, text, "bundle-attestation"))
    return problems
