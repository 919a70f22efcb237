"""``edgekd release RUN -o BUNDLE``."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder that passed")
    parser.add_argument(
        "-o",
        "--out",
        metavar="BUNDLE",
        type=Path,
        required=True,
        help="folder to write; BUNDLE.tar goes beside it",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.release import release

    made = release(args.folder, args.out)
    print(f"released: {made} and {made}.tar; check them with `edgekd verify {made}`")
    return 0
