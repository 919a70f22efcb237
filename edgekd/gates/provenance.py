"""The provenance gate: do the terms of teacher and data, as they were declared and stored, allow this student?

It reads the run's index alone: the declaration and the records that it rested on when the run was collected. So a run is
judged alike with every later terms table, and without any.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from edgekd.errors import InputError
from edgekd.evidence.run import Run
from edgekd.gates.verdict import PROVENANCE, Decision, ErrorKind, Gate
from edgekd.provenance.declared import Declaration
from edgekd.provenance.rules import RULES, Assessment, Finding, assess, from_run

if TYPE_CHECKING:  # plain attributes are read; pydantic is not needed to judge
    from edgekd.policy import ProvenanceGate


def judge_provenance(run: Run, rule: ProvenanceGate) -> Gate:
    """Judge what a run declares of its teachers and data.

    Args:
        rule: the oldest that a record may be, in days at ``run.collected_at``.

    Returns:
        A gate of the whole run, without figures. Its reason names the record; a reject's exit code is 5.
    """
    try:
        stored = from_run(run.provenance) or (Declaration(), ())
        found = assess(*stored, as_of=collected_on(run), policy=rule, stored_on=stored_on(run))
    except InputError as e:
        return _gate("error", str(e), {}, "input")
    detail: dict[str, Any] = found.to_json()
    detail.pop("decision")
    return _gate("reject" if found.refusals else "pass", _reason(found), detail)


def collected_on(run: Run) -> date:
    """The day on which a run was collected.

    Raises:
        InputError: it does not say.
    """
    try:
        return date.fromisoformat(run.collected_at[:10])
    except ValueError as e:
        raise InputError(
            f"the run does not say on which day it was collected ({run.collected_at[:40]!r}), so no record's age is known",
            "collect it again",
        ) from e


def stored_on(run: Run) -> date | None:
    """The day on which a run's terms records were stored with it; None where they were looked up at release.

    Raises:
        InputError: the run does not say when it was collected.
    """
    return None if run.provenance.get("given_by") == "release" else collected_on(run)


def _gate(decision: Decision, reason: str, detail: dict[str, Any], kind: ErrorKind | None = None) -> Gate:
    return Gate(
        gate=PROVENANCE,
        decision=decision,
        metric="terms",
        against="",
        artifact="",
        target="",
        method="terms table, strictest layer",
        reason=reason,
        error_kind=kind,
        detail=detail,
    )


def _reason(found: Assessment) -> str:
    if refusals := found.refusals:
        first, more = refusals[0], len(refusals) - 1
        others = f"; and {more} more: {_rules(refusals[1:])}" if more else ""
        return f"{first.sentence} (rule {first.rule}{_record(first)}); {RULES[first.rule].fix}{others}"
    answers = [
        f
        for f in found.findings
        if f.rule in ("permitted", "permitted-with-conditions", "not-competing", "own-work")
    ]
    said = [f"{f.subject}: {f.record or 'own work'}{_CLAIMED.get(f.rule, '')}" for f in answers]
    for finding in found.waived:
        by = finding.waived_by
        if by is not None:
            said.append(
                f"{finding.subject or 'all'}: {finding.rule} waived by {by.by} until {by.expires} ({by.reason})"
            )
    asked = len(found.obligations)
    ending = f"; {asked} obligation{'s' if asked != 1 else ''} to meet in the bundle" if asked else ""
    return f"the terms allow it: {'; '.join(dict.fromkeys(said))}{ending}"


_CLAIMED = {"not-competing": ", claimed not to compete", "permitted-with-conditions": ", under conditions"}


def _record(finding: Finding) -> str:
    return f", record {finding.record}" if finding.record else ""


def _rules(findings: tuple[Finding, ...]) -> str:
    return ", ".join(dict.fromkeys(f.rule for f in findings))
