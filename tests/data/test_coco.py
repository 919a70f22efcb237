"""COCO annotations with their pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.data import open_source
from edgekd.errors import DataError, EdgeKDError, UsageError

image_module = pytest.importorskip("PIL.Image")


def document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 42, "file_name": "b.png", "width": 8, "height": 6, "slice_light": "night"},
            {"id": 7, "file_name": "deep/a.png", "width": 5, "height": 5, "slice_light": "day"},
        ],
        "annotations": [
            {"id": 1, "image_id": 42, "category_id": 90, "bbox": [1, 2, 3, 2.5], "iscrowd": 0, "area": 7.5},
            {"id": 2, "image_id": 42, "category_id": 3, "bbox": [-2, 0, 40, 4], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "car"}],
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    image_module.new("RGB", (8, 6), (255, 0, 10)).save(tmp_path / "images" / "b.png")
    image_module.new("L", (5, 5), 9).save(tmp_path / "images" / "deep" / "a.png")
    write(tmp_path, document())
    return tmp_path


def write(place: Path, value: Any) -> None:
    (place / "annotations.json").write_text(value if isinstance(value, str) else json.dumps(value))


def test_rows_in_the_files_order(place: Path) -> None:
    first, empty = open_source("coco:annotations.json:images", place)
    assert (first.id, empty.id) == ("42", "7")
    image = first.inputs["image"]
    assert (image.dtype, image.shape) == (np.uint8, (6, 8, 3))
    assert image[0, 0].tolist() == [255, 0, 10]
    assert empty.inputs["image"].shape == (5, 5, 3), "grey becomes three equal channels"
    assert first.inputs["category_ids"].tolist() == [3, 90]
    assert first.slices == {"light": "night"}
    assert json.loads(first.label) == {
        "width": 8,
        "height": 6,
        "annotations": [
            {"category_id": 90, "bbox": [1, 2, 3, 2.5]},
            {"category_id": 3, "bbox": [-2, 0, 40, 4], "iscrowd": 1},
        ],
    }
    assert json.loads(empty.label)["annotations"] == [], "a picture without objects is an example"


def test_pictures_lie_beside_the_annotations_where_no_folder_is_named(place: Path) -> None:
    (place / "annotations.json").rename(place / "images" / "all.json")
    assert len(list(open_source("coco:images/all.json", place))) == 2
    assert [e.id for e in open_source(f"coco:{place}/images/all.json#1:2")] == ["7"]


def test_the_digest_follows_boxes_and_pixels(place: Path) -> None:
    digest = open_source("coco:annotations.json:images", place).digest
    assert open_source("coco:annotations.json:images", place).digest == digest
    image_module.new("RGB", (8, 6), (255, 0, 11)).save(place / "images" / "b.png")
    changed = open_source("coco:annotations.json:images", place).digest
    value = document()
    value["annotations"][0]["bbox"][0] = 2
    write(place, value)
    assert len({digest, changed, open_source("coco:annotations.json:images", place).digest}) == 3


def change(path: str, to: Any) -> dict[str, Any]:
    value = document()
    *parts, last = path.split(".")
    at: Any = value
    for part in parts:
        at = at[int(part) if part.isdigit() else part]
    if to is None:
        del at[last]
    else:
        at[last] = to
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "as JSON"),
        ("[]", "no list 'images'"),
        (change("categories", None), "no list 'categories'"),
        (change("categories", []), "names no category"),
        (change("images", [3]), "'images' does not hold objects"),
        (change("images.1.id", 42), "'images' has the id 42 twice"),
        (change("images.1.id", "7"), "json: 'images', entry 2, holds the id '7'; ids are whole numbers"),
        (change("images.1.id", None), "json: 'images', entry 2, has no id; ids are whole numbers"),
        (change("categories.0.id", 2**70), "'categories', entry 1, holds the id"),
        (change("categories.0.id", [1]), r"'categories', entry 1, holds the id \[1\]"),
        ("[" * 100_000, "as JSON"),
        (change("images.1.file_name", None), "image 7 has no file_name"),
        (change("images.0.width", 80), "has 8 x 6 pixels, annotations.json says 80 x 6"),
        (change("images.0.file_name", "gone.png"), "gone.png"),
        (change("annotations.0.image_id", 8), "annotation 1: no image has the id 8"),
        (
            change("annotations.0.image_id", [1]),
            r"json, annotation 1: image_id is \[1\]; ids are whole numbers",
        ),
        (change("annotations.1.category_id", {}), r"json, annotation 2: category_id is \{\}; ids are whole"),
        (change("annotations.1.category_id", None), "annotation 2: category_id is None"),
        (change("annotations.0.bbox", [1, 10**400, 1, 3]), "annotation 1: bbox is"),
        (change("annotations.1.category_id", 4), "annotation 2: no category has the id 4"),
        (change("annotations.0.bbox", [1, 2, 3]), r"bbox is \[1, 2, 3\]; expected \[x, y, width, height\]"),
        (change("annotations.0.bbox", [1, 2, 0, 3]), "sizes above 0"),
        (change("annotations.0.bbox", [1, float("nan"), 1, 3]), "bbox is"),
        (change("annotations.0.iscrowd", 2), "iscrowd is 2"),
    ],
)
def test_a_broken_file_is_one_line(place: Path, value: Any, message: str) -> None:
    write(place, value)
    with pytest.raises(DataError, match=message) as caught:
        list(open_source("coco:annotations.json:images", place))
    assert "\n" not in str(caught.value)


def test_the_digest_of_a_file_without_ids_is_the_same_line(place: Path) -> None:
    write(place, change("images.1.id", None))
    with pytest.raises(DataError, match="'images', entry 2, has no id"):
        _ = open_source("coco:annotations.json:images", place).digest


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("coco:", "names no annotations"),
        ("coco:none.json", "none.json does not exist"),
        ("coco:annotations.json:pictures", "folder .*pictures does not exist"),
        ("coco:annotations.json:images#big", "neither rows nor a split"),
    ],
)
def test_a_wrong_reference_is_one_line(place: Path, reference: str, message: str) -> None:
    with pytest.raises(EdgeKDError, match=message) as caught:
        open_source(reference, place)
    assert isinstance(caught.value, (DataError, UsageError))


def test_a_file_that_is_no_picture(place: Path) -> None:
    (place / "images" / "b.png").write_text("no")
    with pytest.raises(DataError, match=r"cannot decode .*b\.png"):
        next(iter(open_source("coco:annotations.json:images", place)))
