"""Verdicts of the provenance gate for teachers of every kind, as a page. ``python bench/release/provenance_table.py``

Each row is a whole run folder, judged as ``edgekd gate RUN`` judges it: the exit code is what a shell would see.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from edgekd.evidence.run import Run, load_run
from edgekd.gates import exit_code, judge_run
from edgekd.gates.verdict import Verdict
from edgekd.policy import GatesBlock
from edgekd.provenance.declared import parse_declaration
from edgekd.provenance.storing import store_provenance
from edgekd.provenance.terms import load_terms

PAGE = Path(__file__).parents[2] / "docs" / "results" / "provenance.md"

OWN = {"name": "our rows", "licence": "own"}
CIFAR = {"name": "CIFAR-10", "licence": "none-stated"}
GPT = {"name": "gpt-4o", "access": "api-outputs"}
LLAMA3 = {"name": "Meta-Llama-3-8B", "licence": "llama3", "access": "weights"}


def _mit(**more: Any) -> dict[str, Any]:
    return {"name": "ResNet", "licence": "MIT", "access": "weights", **more}


def _waiver(rule: str, expires: str = "2099-12-31", **more: Any) -> dict[str, Any]:
    return {"rule": rule, "by": "Ada Example", "reason": "research benchmark", "expires": expires, **more}


#: What a row is called -> (provenance block, days between the table and the run).
CASES: dict[str, tuple[dict[str, Any] | None, int]] = {
    "MIT weights": ({"teacher": _mit(), "data": OWN}, 0),
    "own work": ({"teacher": {"name": "ours", "licence": "own"}, "data": OWN}, 0),
    "Llama-3 weights": ({"teacher": LLAMA3, "data": OWN}, 0),
    "Llama-3.1 weights": ({"teacher": {**LLAMA3, "name": "Llama-3.1-8B", "licence": "llama3.1"}, "data": OWN}, 0),
    "Llama-3 weights, declared as MIT": ({"teacher": {**LLAMA3, "licence": "MIT"}, "data": OWN}, 0),
    "MIT weights through a host that forbids it": ({"teacher": _mit(terms="zai-api"), "data": OWN}, 0),
    "API teacher": ({"teacher": {**GPT, "terms": "openai-services"}, "data": OWN}, 0),
    "API teacher, claimed not to compete": (
        {"teacher": {**GPT, "terms": "openai-services"}, "data": OWN, "competing": False}, 0,
    ),
    "API teacher without its terms": ({"teacher": GPT, "data": OWN}, 0),
    "non-commercial weights in a product": ({"teacher": _mit(licence="CC-BY-NC-4.0"), "data": OWN}, 0),
    "non-commercial weights in research": ({"teacher": _mit(licence="CC-BY-NC-4.0"), "data": OWN, "use": "research"}, 0),
    "unclear terms (GPL-3.0)": ({"teacher": _mit(licence="GPL-3.0"), "data": OWN}, 0),
    "unknown teacher": ({"teacher": _mit(licence="somebodys-licence"), "data": OWN}, 0),
    "teacher without a licence": ({"teacher": {"name": "found on a disk", "access": "weights"}, "data": OWN}, 0),
    "nothing declared": (None, 0),
    "data without a licence": ({"teacher": _mit(), "data": CIFAR}, 0),
    "data without a licence, waived": ({"teacher": _mit(), "data": CIFAR, "waivers": [_waiver("data-licence-unknown")]}, 0),
    "data without a licence, waiver expired": (
        {"teacher": _mit(), "data": CIFAR, "waivers": [_waiver("data-licence-unknown", "2026-01-31")]}, 0,
    ),
    "MIT weights, record of 180 days": ({"teacher": _mit(), "data": OWN}, 180),
    "MIT weights, record of 181 days": ({"teacher": _mit(), "data": OWN}, 181),
}  # fmt: skip


def judge_case(block: dict[str, Any] | None, days: int) -> Verdict:
    """Write a run folder that asks nothing but the provenance gate, read it back, and judge it."""
    day = date.fromisoformat(load_terms().captured) + timedelta(days=days)
    policy = GatesBlock.model_validate({"provenance": {}})
    run = Run(
        name="case", policy=policy.model_dump(mode="json", exclude_none=True), artifacts={}, candidates=(), selected={},
        provenance=store_provenance(None if block is None else parse_declaration(block)), collected_at=f"{day}T12:00:00Z",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run.save(Path(folder))
        return judge_run(Path(folder), load_run(Path(folder)), policy)


def page() -> str:
    """The page."""
    rows = []
    for name, (block, days) in CASES.items():
        verdict = judge_case(block, days)
        (gate,) = verdict.gates
        fired = [f["rule"] for f in gate.detail["findings"] if f["decision"] == "reject"]
        told = "; ".join(fired) or "–"
        rows.append(f"| {name} | {gate.decision} | {exit_code(verdict)} | {told} | {_short(gate.reason)} |")
    return "\n".join(
        [
            "# Provenance verdicts",
            "",
            "What the [provenance gate](../provenance.md) says of teachers and data of every kind. Made by",
            "`python bench/release/provenance_table.py` from the [terms table](../../edgekd/provenance/terms.json) of "
            f"{load_terms().captured};",
            "each row is a run folder that was written, read back and judged, and `tests/provenance` makes the page again.",
            "",
            "| declared | decision | exit | rules that refuse | reason |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _short(reason: str) -> str:
    """The reason without the source in brackets and what to do, which would fill the page."""
    before, bracket, after = reason.partition(" [")
    ending = after.partition("] ")[2] if bracket else ""
    return (f"{before} {ending}".strip() if ending else before).split("); ", 1)[0] + (
        ")" if "); " in reason else ""
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write (default: %(default)s)")
    args = parser.parse_args(argv)
    args.out.write_text(page(), encoding="utf-8")
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
