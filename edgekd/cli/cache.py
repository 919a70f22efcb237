"""``edgekd cache``."""

from __future__ import annotations

import argparse
import os

from edgekd.cli import options


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=["gc", "path"], help="gc: remove old stages and leftovers; path: where they are"
    )
    parser.add_argument(
        "--older-than-days",
        metavar="N",
        type=options.not_negative,
        default=30.0,
        help="remove stages made before that (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.stages import collect_garbage, default_cache_root

    root = default_cache_root(os.environ)
    if args.action == "path":
        print(root)
        return 0
    use = collect_garbage(root, older_than_days=args.older_than_days)
    print(f"{root}: removed {use.removed} ({use.freed_bytes / 2**20:.1f} MiB), kept {use.stages} stages")
    return 0
