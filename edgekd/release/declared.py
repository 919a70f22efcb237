"""Provenance at release: what was declared of teacher and data, judged as of the day on which the run was collected."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from edgekd.errors import EvidenceError, PolicyError, RecipeError, UsageError
from edgekd.evidence.run import Run
from edgekd.files import write_json
from edgekd.gates.provenance import collected_on
from edgekd.policy import ProvenanceGate
from edgekd.provenance.declared import Declaration, Subject, parse_declaration
from edgekd.provenance.rules import RULES, Assessment, assess, from_run, resolve
from edgekd.provenance.terms import load_terms
from edgekd.recipe_provenance import ProvenanceBlock, load_provenance
from edgekd.release.paths import portable

PROVENANCE_SCHEMA = "edgekd.provenance/1"
PROVENANCE_FILE = "provenance.json"

#: The shortest file that says all: work made in-house.
SHORTEST = "{teacher: {name: NAME, licence: own}, data: {name: NAME, licence: own}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Provenance that a bundle states.

    Attributes:
        declaration, assessment: what was declared, without paths of the machine, and what the rules found of it.
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
            "declared": self.declaration.to_json(),
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


def settle(
    run_folder: Path, run: Run, policy: Mapping[str, Any], file: Path | None, recipe: Mapping[str, Any]
) -> Settled:
    """What is declared, judged as of the run's day.

    Args:
        policy: of the verdict; its ``provenance.max_age_days`` counts where it has one.
        recipe: ``recipe.json``; what it declares is what the run must have stored.
        file: ``--provenance``, for a run that declares nothing; its records are resolved now, from this EdgeKD's table.

    Raises:
        PolicyError: nobody declared anything, a finding needs a human, or stored records are not the terms table's.
        RecipeError: a file that is no declaration, or a text that it names cannot be read.
        UsageError: no such file, or one for a run that declares its provenance already.
        InputError: a stored declaration, record or day that is damaged, or not what the recipe declares.
    """
    gate = policy.get("provenance")
    asked = ProvenanceGate.model_validate(gate) if isinstance(gate, Mapping) else ProvenanceGate()
    stored = from_run(run.provenance)
    _check_recipe(run_folder, recipe, None if stored is None else stored[0])
    if stored is not None and file is not None:
        raise UsageError(
            f"{run_folder} declares its provenance already, and --provenance {file} would replace what was judged",
            "leave out --provenance, or change the recipe and run again",
        )
    if stored is not None:
        declaration, records = stored
        terms = run.provenance.get("terms")
        _check_records(run_folder, declaration, records, terms)
        given: Literal["run", "release"] = "run"
    elif file is not None:
        declaration = _read(run_folder, file)
        table = load_terms()
        records, given = tuple(resolve(declaration, table)), "release"
        terms = {"captured": table.captured, "sha256": table.sha256}
    else:
        raise PolicyError(
            f"{run_folder}: nobody declared whose knowledge is in the student (rule provenance-undeclared)",
            f"declare it in the recipe's `provenance:`, or release with --provenance F.yaml, which holds at least {SHORTEST}",
            rule="provenance-undeclared",
        )
    # Made portable before it is judged: whatever the bundle tells is told of one declaration.
    declaration = parse_declaration(portable(declaration.to_json()), str(run_folder))
    records = tuple(portable(dict(r)) for r in records)
    day = collected_on(run)
    assessment = assess(
        declaration, records, as_of=day, policy=asked, stored_on=day if given == "run" else None
    )
    for finding in assessment.refusals:
        record = f", record {finding.record}" if finding.record else ""
        raise PolicyError(
            f"{run_folder}: {finding.sentence} (rule {finding.rule}{record})",
            RULES[finding.rule].fix,
            rule=finding.rule,
        )
    return Settled(
        declaration=declaration, assessment=assessment, records=records, terms=terms if isinstance(terms, Mapping) else {},
        given_by=given, as_of=day, max_age_days=asked.max_age_days,
    )  # fmt: skip


def _read(run_folder: Path, file: Path) -> Declaration:
    if not file.is_file():
        raise UsageError(
            f"{run_folder}: --provenance {file} is not there",
            f"write it; the least that it holds is {SHORTEST}",
        )
    return load_provenance(file, os.environ)


def _check_recipe(run_folder: Path, recipe: Mapping[str, Any], stored: Declaration | None) -> None:
    """What the recipe declares is what the run stored, its texts apart: they are read when the run is made."""
    block = recipe.get("provenance")
    if block is None:
        return
    try:
        plain = ProvenanceBlock.model_validate(block).model_dump(mode="json", exclude_defaults=True)
        declared = parse_declaration(plain, "recipe.json")
    except (ValidationError, RecipeError) as e:
        raise EvidenceError(
            f"{run_folder}/recipe.json declares no valid provenance", "make the run again"
        ) from e
    if stored is None or _without_texts(declared) != _without_texts(stored):
        what = "none" if stored is None else "another"
        raise EvidenceError(
            f"{run_folder}/recipe.json declares a provenance, and run.json stores {what}",
            "make the run again",
        )


def _without_texts(declaration: Declaration) -> Declaration:
    def bare(subjects: Sequence[Subject]) -> tuple[Subject, ...]:
        return tuple(replace(s, texts=(), derived_from=bare(s.derived_from)) for s in subjects)

    return replace(declaration, teachers=bare(declaration.teachers), data=bare(declaration.data))


def _check_records(
    run_folder: Path, declaration: Declaration, records: Sequence[Mapping[str, Any]], terms: object
) -> None:
    """Stored records are those of the table that they name.

    Those of another table are not at hand: none may be missing that this table finds, and where both hold a record as of
    one day, both must say the same of training.

    Raises:
        PolicyError: they are not.
    """
    table = load_terms()
    found = {str(r["id"]): r for r in resolve(declaration, table)}
    there = {str(r.get("id")): dict(r) for r in records}
    same_table = isinstance(terms, Mapping) and terms.get("sha256") == table.sha256
    for name in sorted({*found, *there} if same_table else found):
        mine, said = found.get(name), there.get(name)
        if said is None:
            what = f"lacks the terms record {name}, which this declaration rests on"
        elif mine is None:
            what = f"stores the terms record {name}, which this declaration does not rest on"
        elif mine == said or not (same_table or _contradicts(mine, said)):
            continue
        else:
            what = f"stores another terms record {name} than the terms table that it names"
        raise PolicyError(
            f"{run_folder}: run.json {what} (rule records-altered)", "make the run again, with this EdgeKD",
            rule="records-altered",
        )  # fmt: skip


def _contradicts(mine: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    keys = ("train", "commercial", "evidence")
    return mine["captured"] == said.get("captured") and any(mine[k] != said.get(k) for k in keys)
