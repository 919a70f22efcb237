"""Thumbnails: taken from the data by id, small, and never in the way of a verdict."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_run import make_artifact, make_evaluation

from edgekd.data.example import Array, Example
from edgekd.evidence import Evidence
from edgekd.evidence.run import Hop
from edgekd.evidence.thumbnails import load_thumbnails
from edgekd.pipeline.candidates import Job
from edgekd.pipeline.chain import Shipped
from edgekd.pipeline.collect import Feeds
from edgekd.pipeline.folder import RunFolder
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.pipeline.thumbnails import add_thumbnails, encode_png, make_thumbnails, pixels_of
from edgekd.policy import GatesBlock
from edgekd.recipe import MeasureBlock
from edgekd.stages import StageStore
from edgekd.target import parse_target
from edgekd.tasks import TaskSpec

Image = pytest.importorskip("PIL.Image")

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8, 1)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def decoded(png: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(png)))


def example(**inputs: Array) -> Example:
    return Example(id="0", inputs=inputs)


def test_png_of_at_most_96_pixels_a_side() -> None:
    assert (decoded(encode_png(COLOUR)) == COLOUR).all()  # never enlarged
    assert (decoded(encode_png(GREY)) == GREY[:, :, 0]).all()
    assert decoded(encode_png(np.zeros((400, 200, 3), np.uint8))).shape == (96, 48, 3)
    assert decoded(encode_png(np.zeros((10, 1000, 4), np.uint8))).shape[:2] == (1, 96)
    assert encode_png(COLOUR) == encode_png(COLOUR.copy())


def test_bytes_in_the_data_are_shown_as_they_are() -> None:
    assert pixels_of(example(anything=COLOUR), {"mean": [9], "std": [9], "scale": 255}) is COLOUR
    assert pixels_of(example(**{"teacher.x": GREY, "student.x": COLOUR}), {}) is COLOUR
    assert pixels_of(example(**{"teacher.x": GREY}), {}) is GREY


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_prepared_floats_are_undone(layout: str) -> None:
    keys = {"scale": 255.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "layout": layout}
    floats = (COLOUR.astype(np.float32) / 255 - keys["mean"]) / keys["std"]
    fed = floats.transpose(2, 0, 1) if layout == "NCHW" else floats
    found = pixels_of(example(image=fed.astype(np.float32)), keys)
    assert found is not None
    assert (found == COLOUR).all()


def test_plain_floats_are_fractions_or_bytes() -> None:
    chw = COLOUR.transpose(2, 0, 1).astype(np.float32)
    for fed in (chw, chw / 255):
        assert (pixels_of(example(pixel_values=fed), {}) == COLOUR).all()  # type: ignore[comparison-overlap]


@pytest.mark.parametrize(
    "inputs",
    [
        {"spectrogram": np.zeros((1, 40, 98), np.float32)},
        {"image": np.full((3, 6, 8), -2.0, np.float32)},
        {"image": np.full((3, 6, 8), np.nan, np.float32)},
        {"image": np.zeros((7, 6, 8), np.float32)},
        {"image": np.zeros((6, 8), np.uint8)},
        {"image": np.zeros((0, 8, 3), np.uint8)},
        {"ids": np.zeros((1, 2, 3), np.int64)},
        {},
    ],
)
def test_what_is_no_image_has_none(inputs: dict[str, Array]) -> None:
    assert pixels_of(example(**inputs), {}) is None
    assert pixels_of(example(**inputs), {"mean": "per-channel"}) is None


def npz(path: Path, **arrays: Any) -> TaskSpec:
    np.savez(path, **arrays)
    return TaskSpec(data={"test": str(path)})


def test_only_the_asked_examples_in_the_order_of_the_report(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    task = npz(tmp_path / "d.npz", image=images, label=np.zeros(9, int))
    found = make_thumbnails(task, "test", ["7", "2", "gone"], {})
    assert list(found) == ["7", "2"]
    assert (decoded(found["7"]) == images[7]).all()


class Place:
    """A run folder in the making, with a chain in which examples 1 and 3 flipped."""

    def __init__(self, root: Path, **arrays: Any) -> None:
        self.folder = RunFolder(root / "run")
        artifact = make_artifact(root / "a", b"a", "float32")
        self.task = npz(root / "d.npz", label=np.zeros(5, int), **arrays)
        self.stages: list[str] = []
        job = Job(
            target=ResolvedTarget(target=parse_target("cpu:fake"), runtime_paths={}), policy=GatesBlock(),
            task=self.task, digests={"test": make_evaluation().data}, feeds=Feeds(), measure=MeasureBlock(),
            store=StageStore(root / "cache", report=lambda event, name, result: self.stages.append(event)),
            folder=self.folder, teacher=None,
        )  # fmt: skip
        self.shipped = [Shipped(job=job, label="s", artifact=artifact, test=Evidence())]
        ids = np.array(list("01234"))
        teacher = make_evaluation(n=5, right=1.0, ids=ids, name="teacher")
        wrong = make_evaluation(n=5, scores=np.array([1.0, 0, 1, 0, 1]), ids=ids, name="s", logits=None)
        self.chain = [
            Hop(hop="teacher", label="t", evaluation=self.folder.add_evaluation(teacher)),
            Hop(hop="as_run", label="s", evaluation=self.folder.add_evaluation(wrong)),
        ]

    def add(self, chain: list[Hop] | None = None) -> tuple[str, ...]:
        return add_thumbnails(self.shipped, self.chain if chain is None else chain, {})

    def kept(self) -> dict[str, bytes]:
        return load_thumbnails(self.folder.root, data=make_evaluation().data)


def test_the_flipped_are_kept_with_the_run_and_taken_from_the_store_again(tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 5, 4, 3), dtype=np.uint8)
    place = Place(tmp_path, image=images)
    assert place.add() == ()
    assert list(place.kept()) == ["1", "3"]
    assert (decoded(place.kept()["3"]) == images[3]).all()
    assert not (place.folder.root / "evidence/flips/stage.json").exists()
    (tmp_path / "d.npz").unlink()
    (tmp_path / "again").mkdir()
    again = Place(tmp_path / "again", image=images)
    again.shipped[0].job.store.__dict__["root"] = tmp_path / "cache"
    assert again.add() == ()
    assert again.stages == ["done"]
    assert again.kept() == place.kept()


def test_no_images_no_folder_and_nothing_to_say(tmp_path: Path) -> None:
    place = Place(tmp_path, x=np.zeros((5, 4), np.float32))
    assert place.add() == ()
    assert not (place.folder.root / "evidence/flips").exists()
    assert place.add(chain=[]) == ()
    assert place.add(chain=[place.chain[0], place.chain[0]]) == ()
    assert add_thumbnails([], place.chain, {}) == ()


def test_without_pillow_the_report_says_so_only_where_images_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (note,) = Place(tmp_path / "a", image=np.zeros((5, 5, 4, 3), np.uint8)).add()
    assert note.startswith(
        "Flipped examples are shown without their images: making thumbnails needs the package 'PIL'"
    )
    assert "edgekd[data]" in note
    assert Place(tmp_path / "b", x=np.zeros((5, 4), np.float32)).add() == ()


def test_data_that_cannot_be_read_again_costs_no_verdict(tmp_path: Path) -> None:
    place = Place(tmp_path, image=np.zeros((5, 5, 4, 3), np.uint8))
    (tmp_path / "d.npz").write_bytes(b"gone")
    (note,) = place.add()
    assert note.startswith(f"Flipped examples are shown without their images: {tmp_path / 'd.npz'}: ")
