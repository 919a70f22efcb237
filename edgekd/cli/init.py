"""``edgekd init``."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="kind",
        choices=["cnn", "onnx"],
        default="cnn",
        help="cnn: train and distil a small network; onnx: gate two ONNX files that you have (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="F",
        type=Path,
        default=Path("edgekd.yaml"),
        help="where to write (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import UsageError
    from edgekd.files import write_bytes

    if args.out.exists():
        raise UsageError(f"{args.out} is there already", "move it away, or write to another file with -o")
    source = Path(__file__).parents[1] / "pipeline" / "recipes" / f"{args.kind}.yaml"
    write_bytes(args.out, source.read_bytes())
    print(f"{args.out}: edit it, then `edgekd run {args.out}`")
    return 0
