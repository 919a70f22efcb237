"""Folders of images by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.data.images import ImageFolder
from edgekd.errors import DataError

image_module = pytest.importorskip("PIL.Image")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def save(
    path: Path, colour: tuple[int, ...] | int, mode: str = "RGB", size: tuple[int, int] = (5, 3)
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "dog" / "b.png", BLUE)
    save(tmp_path / "cat" / "z.png", RED)
    save(tmp_path / "cat" / "a.BMP", 7, mode="L")
    return tmp_path


def test_rows_are_sorted_and_classes_numbered(folder: Path) -> None:
    rows = list(ImageFolder(folder))
    assert [(r.id, r.label) for r in rows] == [("cat/a.BMP", 0), ("cat/z.png", 0), ("dog/b.png", 1)]
    image = rows[1].inputs["image"]
    assert (image.shape, image.dtype) == ((3, 5, 3), np.uint8), "height, width, channels"
    assert (image == RED).all()
    assert (rows[0].inputs["image"] == 7).all(), "grey becomes three equal channels"


def test_transparency_is_dropped(tmp_path: Path) -> None:
    save(tmp_path / "c" / "x.png", (1, 2, 3, 128), mode="RGBA")
    (row,) = ImageFolder(tmp_path)
    assert (row.inputs["image"] == (1, 2, 3)).all()


def test_hidden_folders_and_other_files_do_not_count(folder: Path) -> None:
    before = ImageFolder(folder).digest
    save(folder / ".ipynb_checkpoints" / "b.png", RED)
    save(folder / "cat" / "._z.png", RED)
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "readme.md").write_text("no class")
    assert [r.label for r in ImageFolder(folder)] == [0, 0, 1]
    assert ImageFolder(folder).digest == before


def test_an_empty_class_keeps_its_number(folder: Path) -> None:
    (folder / "cow").mkdir()
    assert [r.label for r in ImageFolder(folder)] == [0, 0, 2]


def test_digest_follows_content_names_and_labels(folder: Path) -> None:
    digests = [ImageFolder(folder).digest]
    save(folder / "dog" / "b.png", RED)
    digests.append(ImageFolder(folder).digest)
    (folder / "dog" / "b.png").rename(folder / "dog" / "c.png")
    digests.append(ImageFolder(folder).digest)
    (folder / "dog").rename(folder / "ant")
    digests.append(ImageFolder(folder).digest)
    assert len(set(digests)) == 4


def test_no_images(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="holds no images; expected folder/<class>/<image file>"):
        list(ImageFolder(tmp_path))


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_damaged_images_are_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cat" / "x.png"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    image_module.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot decode .*x\.png"):
        list(ImageFolder(tmp_path))


def test_a_decompression_bomb_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "cat" / "x.png", RED, size=(50, 50))
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"cannot decode .*x\.png .*bomb"):
        list(ImageFolder(tmp_path))
