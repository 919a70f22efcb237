"""``edgekd report RUN…``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgekd.cli import options

#: As :data:`edgekd.report.FORMATS`, which is not imported for ``--help``.
FORMATS = (
    "text", "md", "html",
    "junit", "sarif", "bmf", "openmetrics", "github-action-benchmark", "pytest-benchmark",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="run folders")
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: %(default)s")
    parser.add_argument(
        "--recipe",
        metavar="F",
        default="edgekd.yaml",
        help="sarif: the file that findings point at, relative to the repository (default: %(default)s)",
    )
    parser.add_argument("-o", "--out", metavar="F", type=Path, help="a file (default: stdout)")


def run(args: argparse.Namespace) -> int:
    from edgekd.files import write_bytes
    from edgekd.report import render_runs

    colour = args.format == "text" and not args.out and options.colours()
    text = render_runs(args.folders, args.format, colour=colour, recipe=args.recipe)
    if args.out:
        write_bytes(args.out, text.encode())
    else:
        sys.stdout.write(text)
    return 0
