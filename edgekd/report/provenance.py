"""Provenance as a report shows it: what the rules found, who waived what, and what a bundle was asked to carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from edgekd.errors import EvidenceError
from edgekd.evidence.run import Run
from edgekd.files import read_json
from edgekd.provenance.declared import Waiver, parse_declaration
from edgekd.provenance.obligations import Obligation
from edgekd.provenance.rules import Finding, assess, from_run

_FILE, _SCHEMA = "provenance.json", "edgekd.provenance/1"
#: Days, where no gate asks otherwise (TRUST, section 3).
_MAX_AGE_DAYS = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    max_age_days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceView:
    """What was declared, and the rules' answer as of the day of the evidence.

    Attributes:
        declared: the block as plain JSON.
        met_in: obligation id -> paths in the bundle; empty for a run that was not released.
        at_release: declared by whoever released the run, not by its recipe.
    """

    declared: Mapping[str, Any]
    findings: tuple[Finding, ...]
    waivers: tuple[Waiver, ...]
    obligations: tuple[Obligation, ...]
    met_in: Mapping[str, tuple[str, ...]]
    at_release: bool


def load_provenance(folder: Path, run: Run, policy: Mapping[str, Any]) -> ProvenanceView | None:
    """Read a bundle's ``provenance.json``, else what the run stored; None where nobody declared anything.

    Args:
        policy: of the verdict; its ``provenance.max_age_days`` counts.

    Raises:
        InputError: a stored declaration, record or day that is damaged.
    """
    document: Mapping[str, Any] = {}
    if (folder / _FILE).is_file():
        document = read_json(folder / _FILE, _SCHEMA)
        records = document.get("records")
        if not isinstance(records, list) or not isinstance(document.get("declared"), dict):
            raise EvidenceError(f"{folder / _FILE} is not whole", "release the run again")
        declaration = parse_declaration(document["declared"], _FILE)
    else:
        stored = from_run(run.provenance)
        if stored is None:
            return None
        declaration, records = stored[0], list(stored[1])
    gate = policy.get("provenance")
    limit = gate.get("max_age_days", _MAX_AGE_DAYS) if isinstance(gate, Mapping) else _MAX_AGE_DAYS
    try:
        day = date.fromisoformat(run.collected_at[:10])
    except ValueError as e:
        raise EvidenceError(
            f"the run was collected at {run.collected_at!r}, which is no day", "make the run again"
        ) from e
    at_release = (document or run.provenance).get("given_by") == "release"
    found = assess(
        declaration,
        records,
        as_of=day,
        policy=_Policy(max_age_days=int(limit)),
        stored_on=None if at_release else day,
    )
    entries = document.get("obligations", ())
    return ProvenanceView(
        declared=declaration.to_json(),
        findings=found.findings,
        waivers=declaration.waivers,
        obligations=found.obligations,
        met_in={
            str(o["id"]): tuple(map(str, o.get("met_in", ())))
            for o in entries
            if isinstance(o, Mapping) and "id" in o
        },
        at_release=at_release,
    )


#: Said where it was.
AT_RELEASE = "Declared when the run was released, not by its recipe."
FINDING_HEADER = ("rule", "finding", "about", "what was found")


def finding_row(finding: Finding) -> tuple[str, str, str, str]:
    """A finding in words."""
    word = "waived" if finding.waived_by else "needs a human" if finding.decision == "reject" else "noted"
    return (finding.rule, word, finding.subject or "all", finding.sentence)


def waiver_sentence(waiver: Waiver) -> str:
    """Who took which rule upon themselves, why, and until when."""
    about = f" for {waiver.subject}" if waiver.subject else ""
    return f"{waiver.by} waived {waiver.rule}{about} until {waiver.expires.isoformat()}: {waiver.reason}"


def obligation_sentence(view: ProvenanceView, obligation: Obligation) -> str:
    """What is asked, for whom, and where the bundle meets it."""
    places = view.met_in.get(obligation.id, ())
    where = f"; met in {', '.join(places)}" if places else ""
    return f"{obligation.subject}: {obligation.sentence} (record {obligation.record}){where}"
