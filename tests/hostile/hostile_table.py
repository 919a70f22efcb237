"""The table of the corpus: ``python tests/hostile/hostile_table.py --page docs/results/hostile.md``."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    sys.path.append(str(place))


def markdown(cases: Sequence[Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    from hostile_run import LONGEST_S, MEMORY_MIB, problems

    met = [c for c in cases if not problems(c, results[c.name])]
    slowest = max(r.get("cpu_s", 0.0) for r in results.values())
    largest = max(r.get("peak_mib", 0.0) for r in results.values())
    lines = [
        "# The hostile corpus: what came of it",
        "",
        f"{len(met)} of {len(cases)} hostile files were met as is due: the exit code, the rule and the file in one line,",
        f"nothing raw on the terminal, less than {LONGEST_S:g} s and {MEMORY_MIB:g} MiB (Python and EdgeKD included). The",
        f"slowest took {slowest:.2f} s of CPU time, the largest peak was {largest:.0f} MiB. Nothing of it is stored: code",
        f"makes every file ([docs/hostile.md](../hostile.md)). Python {platform.python_version()}, {platform.machine()}.",
        "",
        "```bash no-run",
        "python tests/hostile/hostile_table.py --page docs/results/hostile.md",
        "```",
        "",
        "| file | what is hostile about it | door | exit | rule | ms | MiB |",
        "|---|---|---|--:|---|--:|--:|",
    ]
    for c in cases:
        found = results[c.name]
        wrong = problems(c, found)
        rule = _rule(found["stderr"])
        if wrong:
            rule = f"{rule} **{'; '.join(wrong)}**".replace("|", "\\|").replace("\n", " ")
        lines.append(
            f"| {c.name} | {c.trick} | {c.door} | {found['code']} | {rule} | {1e3 * found.get('cpu_s', 0):.0f} | "
            f"{found.get('peak_mib', 0):.0f} |"
        )
    return "\n".join(lines) + "\n"


def _rule(line: str) -> str:
    return line.partition("(rule ")[2].partition(")")[0]


def main() -> int:
    from hostile_case import all_cases
    from hostile_run import problems, run_cases

    parser = argparse.ArgumentParser(description="Run the hostile corpus and print its table.")
    parser.add_argument("--page", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--lines", action="store_true", help="print every refusal")
    args = parser.parse_args()
    cases = [c for c in all_cases() if not args.only or c.name in args.only]
    with tempfile.TemporaryDirectory() as folder:
        results = run_cases(cases, Path(folder))
    text = markdown(cases, results)
    if args.page is not None:
        args.page.write_text(text, encoding="utf-8")
    else:
        print(text)
    wrong = [c for c in cases if problems(c, results[c.name])]
    for c in cases if args.lines else wrong:
        print(
            f"{c.name}: {'; '.join(problems(c, results[c.name])) or 'ok'}\n    {results[c.name]['stderr'].strip()[:300]!r}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
