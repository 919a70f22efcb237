"""Provenance at release: what was declared of teacher and data, judged as of the day on which the run was collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from edgekd.errors import PolicyError, RecipeError, UsageError
from edgekd.evidence.run import Run
from edgekd.files import write_json
from edgekd.gates.provenance import collected_on
from edgekd.policy import ProvenanceGate
from edgekd.provenance.declared import Declaration, parse_declaration, read_texts
from edgekd.provenance.rules import RULES, Assessment, assess, from_run, resolve
from edgekd.provenance.terms import load_terms
from edgekd.release.paths import portable
from edgekd.strict_yaml import read_yaml

PROVENANCE_SCHEMA = "edgekd.provenance/1"
PROVENANCE_FILE = "provenance.json"

#: The shortest file that says all: work made in-house.
SHORTEST = "{teacher: {name: NAME, licence: own}, data: {name: NAME, licence: own}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Provenance that a bundle states.

    Attributes:
        declaration, assessment: what was declared, and what the rules found of it.
        records: terms records that they rest on, as plain JSON.
        terms: ``{"captured", "sha256"}`` of the table that the records are from.
        given_by: ``run`` where the recipe declared it, ``release`` where a file did at release.
        as_of: the day that ages and expiries are counted to: the run's ``collected_at``.
    """

    declaration: Declaration
    assessment: Assessment
    records: tuple[Mapping[str, Any], ...]
    terms: Mapping[str, Any]
    given_by: Literal["run", "release"]
    as_of: date
    max_age_days: int

    def to_json(self, met_in: Mapping[str, list[str]]) -> dict[str, Any]:
        """``provenance.json``.

        Args:
            met_in: obligation id -> paths in the bundle that meet it.
        """
        return {
            "schema": PROVENANCE_SCHEMA,
            "declared": portable(self.declaration.to_json()),
            "records": [dict(r) for r in self.records],
            "terms": dict(self.terms),
            "given_by": self.given_by,
            "as_of": self.as_of.isoformat(),
            "max_age_days": self.max_age_days,
            "decision": self.assessment.decision,
            "findings": [f.to_json() for f in self.assessment.findings],
            "waivers": [w.to_json() for w in self.declaration.waivers],
            "obligations": [{**o.to_json(), "met_in": met_in[o.id]} for o in self.assessment.obligations],
        }

    def save(self, folder: Path, met_in: Mapping[str, list[str]]) -> None:
        write_json(folder / PROVENANCE_FILE, self.to_json(met_in))


def settle(run_folder: Path, run: Run, policy: Mapping[str, Any], file: Path | None) -> Settled:
    """What is declared, judged as of the run's day.

    Args:
        policy: of the verdict; its ``provenance.max_age_days`` counts where it has one.
        file: ``--provenance``, for a run that declares nothing; its records are resolved now, from this EdgeKD's table.

    Raises:
        PolicyError: nobody declared anything, a finding needs a human, or a text that the file names is not there.
        RecipeError: a file that is no declaration; UsageError: a file for a run that has one already.
        InputError: a stored declaration, record or day that is damaged.
    """
    gate = policy.get("provenance")
    asked = ProvenanceGate.model_validate(gate) if isinstance(gate, Mapping) else ProvenanceGate()
    stored = from_run(run.provenance)
    if stored is not None and file is not None:
        raise UsageError(
            f"{run_folder} declares its provenance already, and --provenance {file} would replace what was judged",
            "leave out --provenance, or change the recipe and run again",
        )
    if stored is not None:
        declaration, records = stored
        terms = run.provenance.get("terms")
        given: Literal["run", "release"] = "run"
    elif file is not None:
        declaration = _read(file)
        table = load_terms()
        records, given = tuple(resolve(declaration, table)), "release"
        terms = {"captured": table.captured, "sha256": table.sha256}
    else:
        raise PolicyError(
            f"{run_folder}: nobody declared whose knowledge is in the student (rule provenance-undeclared)",
            f"declare it in the recipe's `provenance:`, or release with --provenance F.yaml, which holds at least {SHORTEST}",
            rule="provenance-undeclared",
        )
    day = collected_on(run)
    assessment = assess(declaration, records, as_of=day, policy=asked)
    for finding in assessment.refusals:
        record = f", record {finding.record}" if finding.record else ""
        raise PolicyError(
            f"{run_folder}: {finding.sentence} (rule {finding.rule}{record})",
            RULES[finding.rule].todo,
            rule=finding.rule,
        )
    return Settled(
        declaration=declaration, assessment=assessment, records=records, terms=terms if isinstance(terms, Mapping) else {},
        given_by=given, as_of=day, max_age_days=asked.max_age_days,
    )  # fmt: skip


def _read(file: Path) -> Declaration:
    import os

    block, _ = read_yaml(file, os.environ)
    if set(block) == {"provenance"} and isinstance(block["provenance"], dict):
        block = block["provenance"]
    declaration = parse_declaration(block, str(file))
    try:
        return read_texts(declaration, file.parent)
    except RecipeError as e:
        raise PolicyError(f"{e.what} (rule text-missing)", e.fix, rule="text-missing") from e
