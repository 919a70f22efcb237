"""``edgekd doctor``."""

from __future__ import annotations

import argparse
import json

_MARKS = {"ok": "✓", "missing": "✗", "broken": "!", "not applicable": "·"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--need",
        metavar="X",
        action="append",
        default=[],
        help="end with exit 4 unless X is ok: a name from the list, or a target such as cpu:onnxruntime",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import EXIT_INFRASTRUCTURE, UsageError
    from edgekd.pipeline.doctor import examine, examine_target

    findings = examine()
    known = {f.name: f for f in findings}
    for need in args.need:
        if need in known:
            continue
        if ":" not in need:
            raise UsageError(
                f"doctor knows no '{need}'", f"known: {', '.join(known)}, or a target such as cpu:onnxruntime"
            )
        known[need] = examine_target(need)
        findings.append(known[need])
    if args.json:
        print(json.dumps([f.to_json() for f in findings], indent=1))
    else:
        width = max(len(f.name) for f in findings)
        for finding in findings:
            fix = f"\n  {'':<{width + 2}}fix: {finding.fix}" if finding.fix else ""
            print(f"{_MARKS[finding.state]} {finding.name:<{width}}  {finding.evidence}{fix}")
    lacking = [n for n in args.need if known[n].state != "ok"]
    return EXIT_INFRASTRUCTURE if lacking else 0
