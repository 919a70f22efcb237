"""What of provenance is stored with a run, so that judging it later needs no table."""

from __future__ import annotations

from typing import Any

from edgekd.provenance.declared import Declaration
from edgekd.provenance.rules import resolve
from edgekd.provenance.terms import load_terms


def store_provenance(declaration: Declaration | None) -> dict[str, Any]:
    """``run.json``'s ``provenance``: the declaration, the records that it rests on, and which table they are from.

    Args:
        declaration: with its texts read; None where nobody declared anything.
    """
    if declaration is None:
        return {}
    table = load_terms()
    return {
        "declared": declaration.to_json(),
        "records": resolve(declaration, table),
        "terms": {"captured": table.captured, "sha256": table.sha256},
    }
