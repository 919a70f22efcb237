"""``edgekd verify BUNDLE``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.release.verify import Verified


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a bundle folder or .tar")
    parser.add_argument(
        "--key",
        metavar="PUB",
        type=Path,
        action="append",
        default=[],
        help="public key, one of which must have signed; may be repeated (default: the *.pem and *.pub of EDGEKD_TRUSTED_KEYS, "
        "else of ~/.config/edgekd/trusted)",
    )
    parser.add_argument(
        "--revoked",
        metavar="F",
        type=Path,
        help="fingerprints of revoked keys, one a line with date and reason; added to EDGEKD_REVOKED_KEYS",
    )
    parser.add_argument(
        "--as-of",
        metavar="DATE",
        type=_day,
        help="judge terms records and waivers by this day, YYYY-MM-DD, instead of the day of the evidence",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as JSON on stdout")


def _day(text: str) -> date:
    try:
        # Python 3.11 reads other forms too, 3.10 does not.
        if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:
            raise ValueError(text)
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2027-12-31") from None


def run(args: argparse.Namespace) -> int:
    from edgekd.release.trust import read_trust
    from edgekd.release.verify import verify

    trust = read_trust(os.environ, keys=args.key, revoked=args.revoked)
    found = verify(args.bundle, trust=trust, as_of=args.as_of)
    for warning in found.warnings:
        print(f"edgekd: warning: {warning}", file=sys.stderr)
    if args.json:
        import json

        print(json.dumps(found.to_json(), indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    print(f"{args.bundle}: {found.files} files, all as released ({found.name}, decision {found.decision})")
    print(f"{args.bundle}: {_signer(found)}")
    return 0


def _signer(found: Verified) -> str:
    signed = found.signature
    if signed is None:
        return "not signed: nothing says who made it"
    if signed.key is not None:
        return f"signed by {signed.key.path} ({signed.fingerprint})"
    if signed.keyless:
        return "signed keyless, not checked: `model_signing verify sigstore` does, with network"
    return f"says it is signed by the key {signed.fingerprint}; not checked, no --key was given"
