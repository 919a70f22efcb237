"""``edgekd report RUN…``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="run folders")
    parser.add_argument(
        "--format", choices=["text", "md", "html", "junit"], default="text", help="default: %(default)s"
    )
    parser.add_argument("-o", "--out", metavar="F", type=Path, help="a file (default: stdout); one run only")


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import UsageError
    from edgekd.files import write_bytes
    from edgekd.report import render

    if args.out and len(args.folders) > 1:
        raise UsageError("--out takes one run", "report the runs one by one")
    for folder in args.folders:
        text = render(
            folder, args.format, colour=args.format == "text" and not args.out and options.colours()
        )
        if args.out:
            write_bytes(args.out, text.encode())
        else:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0
