"""Bundles: the .tar byte by byte, and the documents of a folder with the manifest made to fit them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from fixtures_small_bundle import as_tar, seal, small_bundle
from fuzz_target import Choices, Reader, Target, WronglyAcceptedError, as_json, document_or_bytes, edited

from edgekd.release.verify import verify

_SEEDS = [bytes((17 * i + j * j) % 256 for j in range(24)) for i in range(24)]


def _tar(folder: Path) -> tuple[Sequence[bytes], Reader]:
    whole = as_tar(small_bundle(folder / "bundle"))
    path = folder / "bundle.tar"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        found = verify(path)
        if data != whole:
            raise WronglyAcceptedError(f"a bundle of other bytes was verified: {found}")
        return found

    odd = []
    for name in ("tar-gnu", "tar-pax"):
        made = folder / name
        with tarfile.open(
            made, "w", format=tarfile.GNU_FORMAT if "gnu" in name else tarfile.PAX_FORMAT
        ) as tar:
            info = tarfile.TarInfo("b/" + "n" * 150)
            info.pax_headers = {"comment": "x"}
            tar.addfile(info)
        odd.append(made.read_bytes())
    return [whole, whole[:512], *odd], read


def _documents(folder: Path) -> tuple[Sequence[bytes], Reader]:
    bundle = small_bundle(folder / "bundle")
    verdict = json.loads((bundle / "verdict.json").read_bytes())

    def read(data: bytes) -> object:
        kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
        (bundle / "verdict.json").write_bytes(
            document_or_bytes(verdict, rest) if kind == 0 else as_json(verdict)
        )
        if kind == 2:
            (bundle / "manifest.json").write_bytes(rest)
        else:
            seal(bundle, None if kind == 0 else lambda m: edited(m, Choices(rest)))
        return verify(bundle)

    text = (bundle / "manifest.json").read_bytes()
    return [b"\2" + text, *(b"\0\1" + c for c in _SEEDS), *(b"\1" + c for c in _SEEDS)], read


TARGETS = (
    Target(
        name="bundle-tar",
        reads="a bundle's .tar; any other bytes than were released must be refused",
        prepare=_tar,
        longest_bytes=1 << 15,
    ),
    Target(
        name="bundle", reads="a bundle's manifest and verdict, the manifest made to fit", prepare=_documents
    ),
)
