"""A lint report as SARIF 2.1.0, for code scanning (OASIS Standard, "Static Analysis Results Interchange Format")."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from edgekd.report.sarif import SCHEMA
from edgekd_tensorrt.lint.findings import Finding, LintReport
from edgekd_tensorrt.lint.rules import RULES


def render(report: LintReport, uri: str) -> str:
    """One run; a report without findings has an empty list of results, which closes earlier alerts.

    Args:
        uri: the model's path relative to the repository's root, as alerts are to show it.
    """
    ids = list(RULES)
    rules = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.statement},
            "fullDescription": {"text": f"{rule.statement} Source: {rule.source}."},
            "help": {"text": rule.fix},
            "defaultConfiguration": {"level": rule.severity},
        }
        for rule in RULES.values()
    ]
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "EdgeKD TensorRT lint", "rules": rules}},
        "automationDetails": {"id": f"edgekd-tensorrt-lint/{uri}/"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, ids.index(finding.rule), uri) for finding in report.findings],
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _result(finding: Finding, index: int, uri: str) -> dict[str, Any]:
    where = finding.node or finding.tensor or uri
    mark = hashlib.sha256(f"{finding.rule}\0{where}\0{finding.tensor}".encode("utf-8", "replace")).hexdigest()
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "kind": "fail",
        "level": finding.severity,
        "message": {"text": f"{where}: {finding.message}; {finding.fix}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
                "logicalLocations": [{"fullyQualifiedName": where, "kind": "element"}],
            }
        ],
        "partialFingerprints": {"edgekdFinding/v1": mark[:32]},
    }
