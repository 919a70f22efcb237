"""``edgekd provenance explain RECIPE``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.evidence.run import Run
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["explain"], help="explain: the whole licence story in plain words")
    parser.add_argument(
        "path",
        metavar="RECIPE",
        type=Path,
        help="a recipe, a file that holds a provenance block, a run folder, or a released bundle",
    )
    parser.add_argument(
        "--as-of",
        metavar="DATE",
        help="count ages and expiries to this day (default: today; for a run or a bundle the day of its evidence)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print declaration, records, findings and obligations as JSON"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Story:
    """What is explained.

    Attributes:
        policy: what the gate asks; day: that ages and expiries are counted to.
        stored_on: the day on which the records were stored with a run; None where they were looked up later.
    """

    name: str
    declaration: Declaration
    records: Sequence[Mapping[str, Any]]
    policy: ProvenanceGate
    day: date
    stored_on: date | None = None


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import EXIT_PASS, EXIT_POLICY
    from edgekd.provenance.explain import explain
    from edgekd.provenance.rules import assess

    as_of = _day(args.as_of) if args.as_of else None
    story = _story(args.path)
    as_of, age = as_of or story.day, story.policy.max_age_days
    found = assess(
        story.declaration, story.records, as_of=as_of, policy=story.policy, stored_on=story.stored_on
    )
    if args.json:
        value = {
            "name": story.name, "as_of": as_of.isoformat(), "max_age_days": age,
            "declared": story.declaration.to_json(), "records": [dict(r) for r in story.records], **found.to_json(),
        }  # fmt: skip
        print(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        print(explain(story.name, story.declaration, story.records, found, as_of, age))
    return EXIT_POLICY if found.refusals else EXIT_PASS


def _story(path: Path) -> _Story:
    """That of a bundle, a run folder, a recipe, or a file of its own."""
    from edgekd.evidence.run import load_run
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration
    from edgekd.provenance.rules import resolve
    from edgekd.provenance.terms import load_terms
    from edgekd.recipe import load_recipe
    from edgekd.recipe_provenance import load_provenance
    from edgekd.release.opening import is_bundle, open_bundle, run_of
    from edgekd.strict_yaml import read_yaml

    if is_bundle(path):
        bundle = open_bundle(path)
        return _of_run(bundle.folder, run_of(bundle))
    if path.is_dir():
        return _of_run(path, load_run(path))
    policy = ProvenanceGate()
    if path.exists() and "edgekd" not in read_yaml(path, os.environ)[0]:
        name, declaration = path.name, load_provenance(path, os.environ)
    else:
        recipe = load_recipe(path, os.environ)
        name, policy = recipe.name, recipe.gates.provenance or policy
        block = recipe.provenance
        declaration = Declaration() if block is None else block.declaration(path.parent)
    return _Story(
        name=name, declaration=declaration, records=resolve(declaration, load_terms()), policy=policy, day=date.today()
    )  # fmt: skip


def _of_run(folder: Path, run: Run) -> _Story:
    from edgekd.gates.provenance import collected_on, stored_on
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration
    from edgekd.provenance.rules import from_run
    from edgekd.recipe import stored_policy

    declaration, records = from_run(run.provenance) or (Declaration(), ())
    return _Story(
        name=run.name,
        declaration=declaration,
        records=records,
        policy=stored_policy(folder, run).provenance or ProvenanceGate(),
        day=collected_on(run),
        stored_on=stored_on(run),
    )


def _day(text: str) -> date:
    from edgekd.provenance.block import Place, read_day

    return read_day(text, Place("", "--as-of"))
