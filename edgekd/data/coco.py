"""``coco:annotations.json:images``: pictures with boxes, as COCO's object detection files describe them.

Source of the format: https://cocodataset.org/#format-data (Lin et al. 2014, Microsoft COCO).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import DataError, UsageError
from edgekd.files import digest_of, sha256_file
from edgekd.lazy import require
from edgekd.lfs_pointer import refuse_pointer_file

_FORM = "expected COCO's object detection form: images, annotations, categories"
#: Pixels; beyond it nothing is a coordinate (and NaN is not below it).
_LARGEST = 1e9


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


@dataclass(frozen=True)
class CocoSource:
    """Pictures with boxes.

    Inputs of an example: ``image`` uint8 (height, width, 3) RGB; ``category_ids`` int64 (categories,), the data's own
    ids in increasing order, which need not be contiguous. The label is JSON text, ``{"width", "height",
    "annotations": [{"category_id", "bbox": [x, y, width, height], "iscrowd"}]}``, boxes in pixels as the file gives
    them. The id is the picture's.

    Args:
        path: the annotations file.
        folder: where the pictures' ``file_name`` starts.
    """

    path: Path
    folder: Path

    @cached_property
    def document(self) -> Mapping[str, Any]:
        try:
            value = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as e:
            raise DataError(f"cannot read {self.path} as JSON ({e})", _FORM) from e
        for key in ("images", "annotations", "categories"):
            if not isinstance(value, dict) or not isinstance(value.get(key), list):
                raise DataError(f"{self.path} has no list '{key}'", _FORM)
            if not all(isinstance(item, dict) for item in value[key]):
                raise DataError(f"{self.path}: '{key}' does not hold objects", _FORM)
        return value  # type: ignore[no-any-return]

    @cached_property
    def category_ids(self) -> Array:
        ids = self._ids("categories")
        if not ids:
            raise DataError(f"{self.path} names no category", _FORM)
        return np.asarray(sorted(ids), np.int64)

    def _ids(self, key: str) -> set[int]:
        ids = [item.get("id") for item in self.document[key]]
        for row, i in enumerate(ids):
            if not _is_id(i):
                had = f"holds the id {i!r}" if "id" in self.document[key][row] else "has no id"
                raise DataError(f"{self.path}: '{key}', entry {row + 1}, {had}", "ids are whole numbers")
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DataError(f"{self.path}: '{key}' has the id {twice} twice", "ids must be unique")
        return set(ids)

    @cached_property
    def boxes(self) -> Mapping[int, list[dict[str, Any]]]:
        """Image id -> its annotations, in the file's order."""
        images, categories = self._ids("images"), {int(c) for c in self.category_ids}
        found: dict[int, list[dict[str, Any]]] = {i: [] for i in images}
        for row, note in enumerate(self.document["annotations"]):
            where = f"{self.path}, annotation {note.get('id', f'in entry {row + 1}')}"
            for key, known in (("image", images), ("category", categories)):
                given = note.get(f"{key}_id")
                if not _is_id(given):
                    raise DataError(f"{where}: {key}_id is {given!r}", "ids are whole numbers")
                if given not in known:
                    raise DataError(f"{where}: no {key} has the id {given!r}", "mend the file")
            box = note.get("bbox")
            if (
                not isinstance(box, list)
                or len(box) != 4
                or not all(type(v) in (int, float) and abs(v) <= _LARGEST for v in box)
                or min(box[2:]) <= 0
            ):
                raise DataError(
                    f"{where}: bbox is {box!r}", "expected [x, y, width, height] in pixels, sizes above 0"
                )
            crowd = note.get("iscrowd", 0)
            if crowd not in (0, 1):
                raise DataError(f"{where}: iscrowd is {crowd!r}", "expected 0 or 1")
            found[note["image_id"]].append(
                {"category_id": note["category_id"], "bbox": box, **({"iscrowd": 1} if crowd else {})}
            )
        return found

    @cached_property
    def rows(self) -> list[tuple[int, Path, Mapping[str, Any]]]:
        self._ids("images")  # all of them are there
        rows = []
        for image in self.document["images"]:
            name = image.get("file_name")
            if not isinstance(name, str):
                raise DataError(f"{self.path}: image {image.get('id')} has no file_name", _FORM)
            rows.append((image["id"], self.folder / name, image))
        return rows

    def __iter__(self) -> Iterator[Example]:
        pillow = require("PIL.Image", extra="data", purpose="decoding images")
        boxes = self.boxes
        for number, file, image in self.rows:
            try:
                with pillow.open(file) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as e:
                refuse_pointer_file(file)
                raise DataError(
                    f"cannot decode {file} ({e})", "give the folder: coco:annotations.json:FOLDER"
                ) from e
            height, width = pixels.shape[:2]
            declared = (image.get("width", width), image.get("height", height))
            if declared != (width, height):
                raise DataError(
                    f"{file} has {width} x {height} pixels, {self.path.name} says {declared[0]} x {declared[1]}",
                    "the boxes belong to another size: give the pictures that were annotated",
                )
            label = {"width": width, "height": height, "annotations": boxes[number]}
            yield Example(
                id=str(number),
                inputs={"image": pixels, "category_ids": self.category_ids},
                label=json.dumps(label, separators=(",", ":")),
                slices={k.removeprefix("slice_"): str(v) for k, v in image.items() if k.startswith("slice_")},
            )

    @property
    def digest(self) -> str:
        return digest_of(["coco", sha256_file(self.path), [sha256_file(file) for _, file, _ in self.rows]])


def open_coco(body: str, base: Path | None) -> CocoSource:
    """Open ``coco:ANNOTATIONS.json[:FOLDER]``; without a folder the pictures lie beside the annotations.

    Raises:
        UsageError: not of that form; DataError: a file or folder that is missing.
    """
    name, _, folder = body.removeprefix("coco:").partition(":")
    if not name:
        raise UsageError(
            f"data {body!r} names no annotations",
            "write coco:annotations.json:images, the folder after a colon",
        )
    path = Path(name) if base is None else base / name
    images = path.parent if not folder else Path(folder) if base is None else base / folder
    if not path.is_file():
        raise DataError(
            f"data {path} does not exist", "check the path (relative paths start at the recipe, else here)"
        )
    refuse_pointer_file(path)
    if not images.is_dir():
        raise DataError(
            f"the pictures' folder {images} does not exist", "check the path after the last colon"
        )
    return CocoSource(path, images)
