"""``edgekd inspect``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="FILE", type=Path, help="a model or data file, or a folder: every such file in it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: an object, of a folder a list")


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import ModelError
    from edgekd.inspect import inspect_file, inspect_folder
    from edgekd.inspect.formats import ENDINGS
    from edgekd.inspect.words import to_text

    if not args.path.is_dir():
        found = inspect_file(args.path)
        print(json.dumps(found.to_json(), indent=1) if args.json else to_text(found))
        return 0
    inside = inspect_folder(args.path)
    if not inside:
        raise ModelError(
            f"folder {args.path} holds no model or data file", f"known endings: {', '.join(ENDINGS)}"
        )
    if args.json:
        print(json.dumps([f.to_json() for f in inside], indent=1))
    else:
        print("\n\n".join(map(to_text, inside)))
    return 0
