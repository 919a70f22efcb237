"""``edgekd verify BUNDLE``."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle folder or .tar")


def run(args: argparse.Namespace) -> int:
    from edgekd.release.verify import verify

    found = verify(args.bundle)
    print(f"{args.bundle}: {found.files} files, all as released ({found.name}, decision {found.decision})")
    return 0
