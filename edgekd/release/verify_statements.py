"""Attestations against the files and the verdict: each of the right kind, of the right files, with the right answer.

Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from edgekd.files import canonical_json
from edgekd.release.paths import portable
from edgekd.release.verify_problem import Problem

VERDICT_FILE = "verdict.json"
PROVENANCE_FILE = "provenance.json"
ATTESTATIONS_FOLDER = "attestations/"
ARTIFACTS_FOLDER = "artifacts/"

_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
#: SLSA provenance v1 and in-toto Test Result v0.1: the two that a bundle holds.
_BUILT = "https://slsa.dev/provenance/v1"
_TESTED = "https://in-toto.io/attestation/test-result/v0.1"
#: Result of a Test Result v0.1 -> the list in which its test stands.
_LISTS = {"PASSED": "passedTests", "WARNED": "warnedTests", "FAILED": "failedTests"}
#: The gate that a person may waive, and whose result may stand in a bundle whose policy did not ask it.
_PROVENANCE = "provenance"


def result_name(gate: Mapping[str, Any]) -> str:
    """What a gate's test result calls it: unlike any other gate's of the verdict."""
    what = ", ".join(filter(None, (gate.get("metric"), gate.get("unit"))))
    parts = (
        gate.get("gate"), gate.get("slice"), what and f"({what})", gate.get("against") and f"against {gate['against']}",
        gate.get("target") and f"on {gate['target']}",
    )  # fmt: skip
    return " ".join(str(part) for part in parts if part)


def check_statements(
    read: Callable[[str], bytes | None], listed: Mapping[str, str], verdict: Mapping[str, Any]
) -> list[Problem]:
    """Every statement of a bundle.

    Args:
        read: a file of the bundle; listed: path -> sha256; verdict: ``verdict.json``, which was found whole.
    """
    shipped = shipped_files(read, listed)
    everything = {p for files in shipped.values() for p in files}
    gates = {
        result_name(g): g
        for g in verdict["gates"]
        if g["decision"] != "not_run" and (not g["artifact"] or g["artifact"] in shipped)
    }
    policy = hashlib.sha256(canonical_json(verdict["policy"])).hexdigest()
    sources = _declared(read, listed)
    problems: list[Problem] = []
    built: set[str] = set()
    tested: set[str] = set()
    for path in sorted(p for p in listed if p.startswith(ATTESTATIONS_FOLDER)):
        try:
            statement = json.loads(read(path) or b"")
            kind, predicate = statement["predicateType"], statement["predicate"]
            if statement["_type"] != _STATEMENT_TYPE or not statement["subject"]:
                said = "is no in-toto Statement v1 with a subject"
            elif problem := _check_subjects(statement["subject"], listed):
                said = problem
            elif kind == _BUILT:
                subjects = {str(s["name"]) for s in statement["subject"]}
                built |= subjects
                said = _check_built(predicate, subjects, [set(files) for files in shipped.values()], sources)
            elif kind == _TESTED:
                name, said = _check_tested(predicate, gates, policy)
                gate = gates.get(name, {})
                if not said and name in tested:
                    said = f"is the second about {name}"
                elif not said and {str(s["name"]) for s in statement["subject"]} != set(
                    shipped.get(str(gate.get("artifact", "")), everything)
                ):
                    said = f"is not of the files that {name} judged"
                tested.add(name)
            else:
                said = f"is of the kind {str(kind)[:80]!r}, which no release writes"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            said = "is no in-toto statement"
        if said:
            problems.append(Problem(path, f"{path} {said}", "bundle-attestation"))
    problems += [
        Problem(p, f"{p} has no attestation of how it was made", "bundle-attestation")
        for p in sorted(everything - built)
    ]
    for name in sorted(gates.keys() - tested):
        text = f"{ATTESTATIONS_FOLDER} holds no test result of the gate {name}"
        problems.append(Problem(ATTESTATIONS_FOLDER, text, "bundle-attestation"))
    return problems


def shipped_files(
    read: Callable[[str], bytes | None], listed: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Digest of each artifact in the bundle -> paths of its files; an index that names none is under ``""``."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(p for p in listed if p.startswith(ARTIFACTS_FOLDER)):
        folder = "/".join(path.split("/")[:2])
        digest = _digest_of(read, f"{folder}/artifact.json")
        found[digest] = (*found.get(digest, ()), path)
    return found


def _digest_of(read: Callable[[str], bytes | None], path: str) -> str:
    try:
        return str(json.loads(read(path) or b"")["digest"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _declared(read: Callable[[str], bytes | None], listed: Mapping[str, str]) -> set[str]:
    """What ``provenance.json`` declares, as a build names it among what it took in; what is damaged is said elsewhere."""
    if PROVENANCE_FILE not in listed:
        return set()
    try:
        declared = json.loads(read(PROVENANCE_FILE) or b"")["declared"]
        return {f"{role}: {portable(s['name'])}" for role in ("teacher", "data") for s in declared[role]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _check_subjects(subjects: Any, listed: Mapping[str, str]) -> str:
    for subject in subjects:
        name, digest = str(subject["name"]), str(subject["digest"]["sha256"])
        if name not in listed:
            return f"is of {name}, which is not in the bundle"
        if listed[name] != digest:
            return f"is of another {name}: its subject has another SHA-256 than the file"
    return ""


def _check_built(
    predicate: Mapping[str, Any], subjects: set[str], artifacts: list[set[str]], sources: set[str]
) -> str:
    """SLSA provenance is of one artifact, whole, and names what the student learned from."""
    if subjects not in artifacts:
        return "is not of the files of one artifact"
    taken = {str(portable(d.get("name"))) for d in predicate["buildDefinition"]["resolvedDependencies"]}
    if missing := sorted(sources - taken):
        return f"does not name what provenance.json declares: {missing[0]}"
    return ""


def _check_tested(
    predicate: Mapping[str, Any], gates: Mapping[str, Mapping[str, Any]], policy: str
) -> tuple[str, str]:
    """A test result is of one gate, under the verdict's policy; the name of its gate, and what is wrong."""
    result = predicate["result"]
    names = {key: list(map(str, predicate.get(key) or ())) for key in _LISTS.values()}
    every = [name for found in names.values() for name in found]
    if len(every) != 1:
        return "", f"is of {len(every)} gates, expected one"
    name = every[0]
    if names.get(_LISTS.get(result, "")) != every:
        return name, f"contradicts itself: its result is {str(result)[:20]!r}"
    if [str(c["digest"]["sha256"]) for c in predicate["configuration"]] != [policy]:
        return name, "is of another policy than the verdict's"
    gate = gates.get(name)
    if gate is None:
        own = name.split(" ")[0] == _PROVENANCE and result != "FAILED"
        return name, "" if own else f"is of {name}, which the verdict does not hold"
    waivable = {"WARNED"} if gate["gate"] == _PROVENANCE else set()
    if result not in ({"PASSED"} | waivable if gate["decision"] == "pass" else {"FAILED"}):
        return name, f"says {result!r} of the gate {name}, the verdict {gate['decision']!r}"
    return name, ""
