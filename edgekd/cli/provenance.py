"""``edgekd provenance explain RECIPE``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["explain"], help="explain: the whole licence story in plain words")
    parser.add_argument(
        "path",
        metavar="RECIPE",
        type=Path,
        help="a recipe, a file that holds a provenance block, or a run folder",
    )
    parser.add_argument(
        "--as-of",
        metavar="DATE",
        help="count ages and expiries to this day (default: today; for a run folder the day of its evidence)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print declaration, records, findings and obligations as JSON"
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import EXIT_PASS, EXIT_POLICY
    from edgekd.provenance.explain import explain
    from edgekd.provenance.rules import assess

    name, declaration, records, policy, day = _story(args.path)
    as_of = _day(args.as_of) if args.as_of else day
    found = assess(declaration, records, as_of=as_of, policy=policy)
    if args.json:
        value = {
            "name": name, "as_of": as_of.isoformat(), "max_age_days": policy.max_age_days, "declared": declaration.to_json(),
            "records": [dict(r) for r in records], **found.to_json(),
        }  # fmt: skip
        print(json.dumps(value, indent=1, ensure_ascii=False))
    else:
        print(explain(name, declaration, records, found, as_of, policy.max_age_days))
    return EXIT_POLICY if found.refusals else EXIT_PASS


def _story(path: Path) -> tuple[str, Declaration, Sequence[Mapping[str, Any]], ProvenanceGate, date]:
    """Name, declaration, records, what the gate asks, and the day, of a recipe, a file of its own or a run folder."""
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration
    from edgekd.provenance.rules import resolve
    from edgekd.provenance.terms import load_terms
    from edgekd.recipe import load_recipe
    from edgekd.recipe_provenance import load_provenance
    from edgekd.strict_yaml import read_yaml

    if path.is_dir():
        return _of_run(path)
    policy = ProvenanceGate()
    if "edgekd" in read_yaml(path, os.environ)[0]:
        recipe = load_recipe(path, os.environ)
        name, policy = recipe.name, recipe.gates.provenance or policy
        block = recipe.provenance
        declaration = Declaration() if block is None else block.declaration(path.parent)
    else:
        name, declaration = path.name, load_provenance(path, os.environ)
    return name, declaration, resolve(declaration, load_terms()), policy, date.today()


def _of_run(folder: Path) -> tuple[str, Declaration, Sequence[Mapping[str, Any]], ProvenanceGate, date]:
    from edgekd.evidence.run import load_run
    from edgekd.gates.provenance import collected_on
    from edgekd.policy import ProvenanceGate
    from edgekd.provenance.declared import Declaration
    from edgekd.provenance.rules import from_run
    from edgekd.recipe import stored_policy

    run = load_run(folder)
    declaration, records = from_run(run.provenance) or (Declaration(), ())
    return (
        run.name,
        declaration,
        records,
        stored_policy(folder, run).provenance or ProvenanceGate(),
        collected_on(run),
    )


def _day(text: str) -> date:
    from edgekd.errors import UsageError

    try:
        return date.fromisoformat(text)
    except ValueError as e:
        raise UsageError(f"--as-of {text!r} is no date", "write a day as 2027-12-31") from e
