"""What a lint finds: findings and their report."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCHEMA = "edgekd.lint/1"

#: From the worst to the mildest: the build fails or numbers differ; slower or fragile; good to know.
SEVERITIES = ("error", "warning", "note")

#: Findings of one rule with one severity that the text shows one by one.
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where a graph breaks a rule.

    Attributes:
        rule: e.g. ``TRT010``; a key of :data:`edgekd_tensorrt.lint.rules.RULES`.
        severity: ``error``, ``warning`` or ``note``.
        node: the node's name, its first output where it has none; empty for what concerns the whole model.
        op_type: of the node; empty without one.
        tensor: the tensor that it is about; may be empty.
        message: what is there, and what was expected.
        fix: what to do.
        source: where the rule comes from.
    """

    rule: str
    severity: str
    node: str
    op_type: str
    tensor: str
    message: str
    fix: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """The findings of one model, errors first, then in the order of its nodes.

    Attributes:
        path: the file; sha256: of its bytes, hexadecimal.
        opset: of the default domain; 0 where it declares none.
        tensorrt: the version that was asked for, e.g. ``"11"`` or ``"10.16"``.
        target_sm: compute capability times ten (90 for 9.0); None where none was named.
    """

    findings: tuple[Finding, ...]
    path: Path
    sha256: str
    opset: int
    tensorrt: str
    target_sm: int | None

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    def count(self, severity: str) -> int:
        return sum(f.severity == severity for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Schema ``edgekd.lint/1``: the file's name without its folder, so that machines do not show."""
        return {
            "schema": SCHEMA,
            "file": self.path.name,
            "sha256": self.sha256,
            "opset": self.opset,
            "tensorrt": self.tensorrt,
            "target_sm": self.target_sm,
            "counts": {s: self.count(s) for s in SEVERITIES},
            "findings": [asdict(f) for f in self.findings],
        }

    def to_text(self) -> str:
        """For people: a finding takes two lines; many of one rule are counted after the first few."""
        target = f", SM {self.target_sm}" if self.target_sm is not None else ""
        lines = [f"{self.path.name}: opset {self.opset}, TensorRT {self.tensorrt}{target}"]
        seen: Counter[tuple[str, str]] = Counter()
        total = Counter((f.rule, f.severity) for f in self.findings)
        for finding in self.findings:
            key = (finding.rule, finding.severity)
            seen[key] += 1
            if seen[key] <= _SHOWN:
                lines += _lines(finding)
            elif seen[key] == _SHOWN + 1:
                lines.append(f"  {finding.severity} {finding.rule}: {total[key] - _SHOWN} more like these")
        counts = [f"{n} {s}{'' if n == 1 else 's'}" for s in SEVERITIES if (n := self.count(s))]
        lines.append(", ".join(counts) if counts else "no findings")
        return "".join(f"{line}\n" for line in lines)

    def to_sarif(self, uri: str) -> str:
        """SARIF 2.1.0 for code scanning; see :func:`edgekd_tensorrt.lint.sarif.render`."""
        from edgekd_tensorrt.lint.sarif import render

        return render(self, uri)


def _lines(finding: Finding) -> list[str]:
    where = f"{finding.node} ({finding.op_type}): " if finding.op_type else ""
    return [
        f"  {finding.severity} {finding.rule} {where}{finding.message}",
        f"    fix: {finding.fix} [{finding.source}]",
    ]


def to_json_text(report: LintReport) -> str:
    """``report.to_json()`` as a file holds it."""
    return json.dumps(report.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
