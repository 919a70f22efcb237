"""What mutants are made of: bundles that are sound, and keys."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from fixtures_bundle import WAIVED, Pair, make_bundle, make_key
from fixtures_release import make_rich_run

from edgekd.release import release
from edgekd.release.trust import Trust, read_public_key


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is mutated: two signed bundles, one with a waiver, one whose run declared its provenance, and the keys."""

    bundle: Path
    other: Path
    waived: Path
    declared: Path
    mine: Pair
    theirs: Pair
    files: tuple[str, ...]

    def trust(self, *pairs: Pair, revoked: bool = False) -> Trust:
        gone = {self.mine.fingerprint: "2026-01-31 lost"} if revoked else {}
        return Trust(keys=tuple(read_public_key(p.public) for p in pairs), revoked=gone)


#: What a change gives: the names of which one must be said, and the trust to verify with.
Change = Callable[[Base, Path, random.Random], "tuple[set[str], Trust]"]


def make_base(folder: Path) -> Base:
    """Release and sign what is mutated."""
    mine, theirs = make_key(folder, "mine"), make_key(folder, "theirs")
    bundle = make_bundle(folder / "base", key=mine.private)
    other = make_bundle(folder / "other", key=mine.private, ratio=0.6)
    waived = make_bundle(folder / "waived", WAIVED, key=mine.private)
    make_rich_run(folder / "declared/run")
    declared = release(folder / "declared/run", folder / "declared/bundle", key=mine.private)
    files = tuple(sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file()))
    return Base(
        bundle=bundle, other=other, waived=waived, declared=declared, mine=mine, theirs=theirs, files=files
    )


def flip(path: Path, random: random.Random) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    at = random.randrange(len(data))
    data[at] ^= 1 << random.randrange(8)
    path.write_bytes(data)
