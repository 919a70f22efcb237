"""Thumbnails of flipped examples, kept with a run: the data may be elsewhere, or gone, when the report is read.

``evidence/flips/thumbnails.json`` lists them by example id with the SHA-256 of each PNG beside it. They stay with the
run: a bundle does not carry them, for whoever may have the model need not be one who may have pictures of its data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edgekd.errors import EvidenceError
from edgekd.files import read_json, write_bytes, write_json

THUMBNAILS_SCHEMA = "edgekd.thumbnails/1"
FOLDER = "evidence/flips"
INDEX = f"{FOLDER}/thumbnails.json"

#: A PNG of 96 x 96 RGBA pixels that does not compress is 37 KiB; no honest one is larger.
_MOST_BYTES = 256 << 10
_PNG = b"\x89PNG\r\n\x1a\n"


def save_thumbnails(folder: Path, images: Mapping[str, bytes], *, split: str, data: str) -> None:
    """Write PNGs and their index into ``folder``, which holds nothing else.

    Args:
        images: example id -> PNG, in the order of the report.
        split, data: which rows they are of, by name and by digest.
    """
    records = []
    for number, (id_, png) in enumerate(images.items(), start=1):
        name = f"{number:03}.png"
        write_bytes(folder / name, png)
        records.append({"id": id_, "file": name, "sha256": hashlib.sha256(png).hexdigest()})
    write_json(
        folder / Path(INDEX).name,
        {"schema": THUMBNAILS_SCHEMA, "split": split, "data": data, "images": records},
    )


def load_thumbnails(run: Path, *, data: str) -> dict[str, bytes]:
    """Example id -> PNG; empty where the run has none.

    Args:
        run: a run folder.
        data: digest of the rows that they have to be of.

    Raises:
        EvidenceError: the index or an image is missing, damaged, altered, or of other data.
    """
    if not (run / INDEX).is_file():
        return {}
    found = read_json(run / INDEX, THUMBNAILS_SCHEMA).get("data")
    if found != data:
        raise EvidenceError(f"{run / INDEX} is of other data than the evaluations", "make the run again")
    images = {}
    for id_, name, digest in _records(run):
        path = run / FOLDER / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise EvidenceError(f"{path} is missing, or not a thumbnail", "make the run again")
        png = path.read_bytes()
        if hashlib.sha256(png).hexdigest() != digest or not png.startswith(_PNG):
            raise EvidenceError(f"{path} was altered since it was written", "make the run again")
        images[id_] = png
    return images


def _records(run: Path) -> list[tuple[str, str, str]]:
    value = read_json(run / INDEX, THUMBNAILS_SCHEMA)
    try:
        records = [(str(r["id"]), str(r["file"]), str(r["sha256"])) for r in value["images"]]
    except (KeyError, TypeError) as e:
        raise EvidenceError(f"{run / INDEX} is not a whole index ({e!r})", "make the run again") from e
    for _, name, _ in records:
        if Path(name).name != name or "\\" in name or not name.endswith(".png"):
            raise EvidenceError(f"{run / INDEX} names {name!r}, outside its folder", "do not use it")
    return records
