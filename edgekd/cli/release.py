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
    parser.add_argument(
        "--provenance",
        metavar="F.yaml",
        type=Path,
        help="declares teacher and data, for a run whose recipe does not",
    )
    parser.add_argument(
        "--key",
        metavar="K",
        type=Path,
        help="a private key (PEM, elliptic curve) to sign the bundle with; needed where a rule is waived; without it the "
        "recipe's release.sign is used; the password of an encrypted one is EDGEKD_KEY_PASSWORD",
    )
    parser.add_argument(
        "--keyless",
        action="store_true",
        help="sign with the identity of this CI job through Sigstore's public service instead: needs network, and "
        "makes the identity public",
    )


def run(args: argparse.Namespace) -> int:
    from edgekd.errors import UsageError
    from edgekd.release import release

    if args.key and args.keyless:
        raise UsageError("--key and --keyless were both given", "a bundle has one signature: drop one")
    made = release(args.folder, args.out, provenance=args.provenance, key=args.key, keyless=args.keyless)
    print(f"released: {made} and {made}.tar; check them with `edgekd verify {made}`")
    return 0
