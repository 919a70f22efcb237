"""SARIF 2.1.0: what policy refused, for code scanning.

Only findings about rules belong there: a file that file safety refused, a licence that provenance refused. An accuracy
or a latency that was rejected is a test result (JUnit), not an alert that somebody dismisses. A run without findings has
an empty list of results, which closes the alerts of the run before.

Format: OASIS Standard, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from edgekd.errors import UsageError
from edgekd.gates.verdict import Gate, exit_code
from edgekd.report.tracked import plain
from edgekd.report.view import View

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
#: The recipe's usual name, as ``edgekd init`` writes it: where a finding is shown unless the caller knows better.
RECIPE = "edgekd.yaml"

REFUSED, PROVENANCE = "policy-refusal", "provenance"

_RULES: Sequence[dict[str, Any]] = (
    {
        "id": REFUSED,
        "name": "PolicyRefusal",
        "shortDescription": {"text": "Refused by policy, so that gates were not judged"},
        "fullDescription": {
            "text": "A file-safety rule or another policy refused a model, data or evidence before it was opened. The "
            "gates that needed it were not judged."
        },
        "help": {
            "text": "Replace the file by one from a source that you trust. The message says which rule refused it."
        },
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["policy", "file-safety"]},
    },
    {
        "id": PROVENANCE,
        "name": "Provenance",
        "shortDescription": {"text": "Provenance not accepted"},
        "fullDescription": {
            "text": "The record of where the teacher or the data came from does not satisfy the recipe's provenance gate."
        },
        "help": {
            "text": "Complete the recipe's `provenance` block, or have a person waive the rule with a reason and a date; "
            "`edgekd provenance explain` tells the whole story."
        },
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["policy", "licence"]},
    },
)


def render_sarif(views: Sequence[View], *, recipe: str = RECIPE) -> str:
    """A log with one SARIF run per EdgeKD run.

    Args:
        recipe: the file that findings point at, relative to the repository's root.

    Raises:
        UsageError: a recipe outside the repository.
    """
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(view, _uri(recipe)) for view in views]}
    return json.dumps(log, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _run(view: View, uri: str) -> dict[str, Any]:
    verdict = view.verdict
    code = exit_code(verdict)
    return {
        "tool": {
            "driver": {
                "name": "EdgeKD",
                "version": plain(verdict.edgekd) or "unknown",
                "rules": [dict(rule) for rule in _RULES],
            }
        },
        # GitHub keeps alerts apart by what stands before the last slash.
        "automationDetails": {"id": f"edgekd/{quote(plain(view.run.name), safe='')}/"},
        "invocations": [
            {
                # Findings are no failure of the tool; a broken machine or broken evidence is.
                "executionSuccessful": not any(
                    g.decision == "error" and g.error_kind != "policy" for g in verdict.gates
                ),
                "exitCode": code,
            }
        ],
        "columnKind": "unicodeCodePoints",
        "results": list(_results(view, uri)),
        "properties": {
            "edgekd.decision": verdict.decision,
            "edgekd.collected_at": plain(verdict.collected_at),
        },
    }


def _results(view: View, uri: str) -> Iterator[dict[str, Any]]:
    """One per refusal: gates with the same reason on the same artifact were kept from judging by the same thing."""
    refused: dict[tuple[str, str, str, str], list[Gate]] = {}
    for gate in view.verdict.gates:
        if rule := _rule(gate):
            refused.setdefault((rule, gate.artifact, gate.target, gate.reason), []).append(gate)
    for (rule, artifact, target, reason), gates in refused.items():
        names = list(dict.fromkeys(plain(g.gate) for g in gates))
        text = plain(reason) or "refused without a reason"
        if rule == REFUSED:
            text += f" (not judged because of it: {', '.join(names)})"
        model = view.name_of(artifact) if artifact else ""
        where = plain("/".join(filter(None, (view.run.name, target, model))))
        yield {
            "ruleId": rule,
            "ruleIndex": next(i for i, r in enumerate(_RULES) if r["id"] == rule),
            "kind": "fail",
            "level": _level(gates, optional=target in view.verdict.optional),
            "message": {"text": f"{where}: {text}"},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
                    "logicalLocations": [{"fullyQualifiedName": where, "kind": "resource"}],
                }
            ],
            "partialFingerprints": {"edgekdFinding/v1": _fingerprint(rule, where, reason)},
            "properties": {"gates": names, "decision": gates[0].decision, "artifact": plain(artifact)},
        }


def _rule(gate: Gate) -> str:
    """Which rule a gate is a finding of; empty for gates that passed, did not run or are no matter of policy."""
    if gate.gate == "provenance":
        return PROVENANCE if gate.decision in ("reject", "inconclusive", "error") else ""
    return REFUSED if gate.decision == "error" and gate.error_kind == "policy" else ""


def _level(gates: Sequence[Gate], *, optional: bool) -> str:
    if optional:
        return "note"
    return "warning" if all(g.decision == "inconclusive" for g in gates) else "error"


def _fingerprint(*parts: str) -> str:
    """The same finding in two runs has the same one; digests of artifacts change with every build."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def _uri(recipe: str) -> str:
    path = PurePosixPath(recipe.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(recipe).drive or ".." in path.parts or not path.parts:
        raise UsageError(
            f"SARIF findings point at {recipe!r}, which is not inside the repository",
            "name the recipe relative to the repository's root",
        )
    return quote(path.as_posix(), errors="replace")
