"""Thumbnails of the examples that flipped, taken from the data while it is here."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array, Example
from edgekd.errors import EdgeKDError, StorageError
from edgekd.evaluate.operations import blamed_on_the_task
from edgekd.evidence import Run, load_evaluation
from edgekd.evidence.run import Hop
from edgekd.evidence.thumbnails import FOLDER, save_thumbnails
from edgekd.lazy import require
from edgekd.pipeline.chain import SPLIT, Shipped
from edgekd.prepare import prepare_key
from edgekd.report.chain import link_hops
from edgekd.report.flips import flip_tables
from edgekd.stages import tool_versions
from edgekd.tasks import TaskSpec, build_task

#: Longest side, pixels.
SIDE = 96
_CHANNELS = (1, 3, 4)
#: Names that arrays of floats have where they are images; uint8 (height, width, channels) is one under any name.
_NAMES = ("image", "images", "img", "pixels", "pixel_values")


def add_thumbnails(
    shipped: Sequence[Shipped], chain: Sequence[Hop], selected: Mapping[str, str]
) -> tuple[str, ...]:
    """Keep thumbnails of the examples that the report will show as flipped; none where the data has no images.

    Returns:
        A sentence where there are images but no thumbnails.

    Raises:
        StorageError: a write failed.
    """
    if not shipped or not chain or shipped[0].job.task is None:
        return ()
    job, task = shipped[0].job, shipped[0].job.task
    read = {h.evaluation: load_evaluation(job.folder.root / h.evaluation) for h in chain}
    draft = Run(name="", policy={}, artifacts={}, candidates=(), selected=selected)
    tables = flip_tables(link_hops(tuple(chain), read), draft)
    ids = list(dict.fromkeys(flip.id for table in tables for flip in table.rows))
    if not ids:
        return ()
    prepare = shipped[0].artifact.prepare
    key = {
        "ids": ids,
        "data": job.digests[SPLIT],
        "prepare": prepare_key(prepare),
        "side": SIDE,
        "tools": tool_versions("edgekd", "numpy", "pillow"),
    }

    def build(out: Path, resume: Path) -> None:
        made = make_thumbnails(task, SPLIT, ids, prepare)
        save_thumbnails(out, made, split=SPLIT, data=job.digests[SPLIT])

    try:
        result = job.store.run("thumbnails", "thumbnails of flipped examples", key, build)
    except StorageError:
        raise
    except EdgeKDError as e:  # the verdict does not rest on pictures
        return (f"Flipped examples are shown without their images: {e}.",)
    if list(result.folder.glob("*.png")):
        shutil.copytree(result.folder, job.folder.root / FOLDER, ignore=shutil.ignore_patterns("stage.json"))
    return ()


def make_thumbnails(
    task: TaskSpec, split: str, ids: Sequence[str], prepare: Mapping[str, Any]
) -> dict[str, bytes]:
    """Example id -> PNG, in the order of ``ids``; examples without an image are left out.

    Args:
        prepare: the student's keys, undone for arrays that are not uint8.

    Raises:
        MissingDependencyError: there are images, but no Pillow; DataError: the data cannot be read.
    """
    wanted, found = set(ids), {}
    built = build_task(task)
    with blamed_on_the_task("giving the examples that flipped"):
        for example in built.examples(split):
            if example.id in wanted:
                wanted.discard(example.id)
                pixels = pixels_of(example, prepare)
                if pixels is not None:
                    found[example.id] = encode_png(pixels)
            if not wanted:
                break
    return {id_: found[id_] for id_ in ids if id_ in found}


def pixels_of(example: Example, prepare: Mapping[str, Any]) -> Array | None:
    """The example's image as uint8 (height, width, channels); None where it has none.

    An array of floats, (channels, height, width) or as ``prepare.layout`` says, is one where its input is named like
    an image and its values, once ``mean``, ``std`` and ``scale`` are undone, lie in [0, 255] (without ``scale`` also
    in [0, 1]).
    """
    # What both models see comes first, then what the student sees.
    for name in sorted(example.inputs, key=lambda n: (n.startswith("teacher."), "." in n)):
        array = np.asarray(example.inputs[name])
        if array.ndim != 3 or min(array.shape) < 1:
            continue
        if array.dtype == np.uint8 and array.shape[2] in _CHANNELS:
            return array
        if array.dtype.kind == "f" and name.rpartition(".")[2].lower() in _NAMES:
            undone = _undone(array.astype(np.float64), prepare)
            if undone is not None:
                return undone
    return None


def _undone(array: Array, prepare: Mapping[str, Any]) -> Array | None:
    last = str(prepare.get("layout", "NCHW")) == "NHWC"
    image = array if last else array.transpose(1, 2, 0)
    if image.shape[2] not in _CHANNELS:
        return None
    try:
        image = image * np.asarray(prepare.get("std", 1.0)) + np.asarray(prepare.get("mean", 0.0))
        if "scale" in prepare:
            image = image * float(prepare["scale"])
        elif image.max() <= 1.0 + 1e-6:
            image = image * 255.0
    except (TypeError, ValueError):
        return None  # keys of a task of one's own, which mean something else
    rounded = np.rint(image)
    # NaN fails both comparisons.
    if not (rounded.min() >= 0 and rounded.max() <= 255):
        return None
    return np.asarray(rounded.astype(np.uint8))


def encode_png(pixels: Array) -> bytes:
    """A PNG of at most :data:`SIDE` pixels a side.

    Args:
        pixels: uint8 (height, width, 1, 3 or 4).

    Raises:
        MissingDependencyError: no Pillow.
    """
    module = require("PIL.Image", extra="data", purpose="making thumbnails")
    image = module.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    image.thumbnail((SIDE, SIDE), module.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
