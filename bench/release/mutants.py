"""Does `verify` catch every change to a bundle, and name the file?

    python bench/release/mutants.py [--each 24] [--seed 0] [--json F] [--markdown F]

A synthetic run is released and signed, then changed in one way after another, as a folder and as a .tar; each mutant is
verified in this process. "Re-hashed" mutants have a manifest that was made again, as an attacker would: those without a
key must be caught by what the documents say, those with a signature and a key by the signature. Exits 1 unless every
mutant is caught with exit code 5 and the file is named.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from bundle_base import make_base
from bundle_changes import DRAWN, FOLDER_ONLY, SINGLE, TAR_ONLY
from fixtures_bundle import pack

from edgekd.errors import PolicyError
from edgekd.release.trust import Trust
from edgekd.release.verify import find_problems, verify


@dataclass
class Row:
    """One kind of change: how many mutants, how many were caught, and how often the file was named."""

    kind: str
    form: str
    mutants: int = 0
    caught: int = 0
    named: int = 0
    missed: list[str] = field(default_factory=list)


def run(folder: Path, each: int, seed: int) -> list[Row]:
    """Make, verify and count every mutant.

    Args:
        each: mutants per kind and form of those that are drawn.
    """
    base = make_base(folder)
    rows: list[Row] = []
    work = folder / "work"
    for form in ("folder", ".tar"):
        kinds = {**DRAWN, **SINGLE, **(FOLDER_ONLY if form == "folder" else {})}
        for kind, change in kinds.items():
            row = Row(kind, form)
            for k in range(max(2, each // 6) if kind in SINGLE else each):
                random_ = random.Random(f"{seed}/{kind}/{form}/{k}")
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                bundle = Path(shutil.copytree(base.bundle, work / "bundle"))
                names, trust = change(base, bundle, random_)
                if form == ".tar" and not (bundle / "manifest.json").is_file():
                    continue  # an archive begins with its manifest, or is none
                _count(row, pack(bundle, "synthetic") if form == ".tar" else bundle, names, trust, k)
            rows.append(row)
    for kind, spoil in TAR_ONLY.items():
        row = Row(kind, ".tar")
        for k in range(2 * each):
            random_ = random.Random(f"{seed}/{kind}/{k}")
            archive = Path(shutil.copyfile(base.bundle.with_name("bundle.tar"), folder / "mutant.tar"))
            _count(row, archive, spoil(archive, random_), base.trust(base.mine), k)
        rows.append(row)
    return rows


def _count(row: Row, mutant: Path, names: set[str], trust: Trust, k: int) -> None:
    row.mutants += 1
    try:
        verify(mutant, trust=trust)
    except PolicyError as e:
        row.caught += 1
        text = e.what.partition("is not as released")[2]
        if any(name in text for name in names):
            row.named += 1
        else:
            row.missed.append(f"{k}: {sorted(names)} not in {text}")
    else:
        row.missed.append(f"{k}: {sorted(names)} verified")


def markdown(rows: list[Row]) -> str:
    """The table."""
    lines = ["| change | form | mutants | caught | file named |", "|---|---|---:|---:|---:|"]
    lines += [f"| {r.kind} | {r.form} | {r.mutants} | {r.caught} | {r.named} |" for r in rows]
    total = [sum(getattr(r, k) for r in rows) for k in ("mutants", "caught", "named")]
    return "\n".join([*lines, f"| **all** | | **{total[0]}** | **{total[1]}** | **{total[2]}** |"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutants of a bundle against `edgekd verify`.")
    parser.add_argument(
        "--each", type=int, default=24, help="mutants per kind and form (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args()
    os.environ["EDGEKD_TRUSTED_KEYS"] = ""
    with tempfile.TemporaryDirectory(prefix="edgekd-mutants-") as folder:
        rows = run(Path(folder), args.each, args.seed)
        sound = [find_problems(Path(folder) / name / form) for name in ("base", "other", "waived", "declared") for form in ("bundle", "bundle.tar")]  # fmt: skip
    table = markdown(rows)
    print(table)
    for row in rows:
        for missed in row.missed:
            print(f"MISSED {row.kind} ({row.form}) {missed}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n", "utf-8")
    if args.markdown:
        args.markdown.write_text(table, "utf-8")
    whole = all(r.mutants == r.caught == r.named for r in rows) and not any(sound)
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
