"""A teacher's logits on disk: asked once per example and view, resumable, full or the greatest few of each row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.distill.augment import view_of
from edgekd.distill.config import TrainConfig
from edgekd.distill.features import answer_of
from edgekd.documents import parse_json
from edgekd.errors import EdgeKDError, EvidenceError, ModelError
from edgekd.files import storage_error, write_bytes
from edgekd.inspect import inspect_file
from edgekd.lazy import require

_INDEX = "teacher_logits.json"
#: More than any teacher has; of the greatest few, all the others are filled in.
_MOST_CLASSES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLogits:
    """Stored logits.

    Attributes:
        folder: holds one ``view<k>.npy`` per view, and with ``top_k`` one ``view<k>.classes.npy``.
        views, n, classes: how many views, examples and classes.
        top_k: 0: all ``classes`` logits of a row, float16 (n, classes); else the greatest k, float16 (n, k + 1), whose
            last column is the log-sum-exp of all others (so that probabilities are exact for those k), and int32
            (n, k) of which classes they are.
        image: (height, width) of the teacher's images, empty where it has none; None of logits that were kept before
            this was written down.
    """

    folder: Path
    views: int
    n: int
    classes: int
    top_k: int = 0
    image: tuple[int, ...] | None = None

    def rows(self, view: int, rows: Array) -> Array:
        """float32 (len(rows), classes) logits; of top-k, the rest shares its mass equally.

        Raises:
            EvidenceError: a file is missing or of another size.
        """
        kept = self._open(f"view{view}.npy", (self.n, (self.top_k + 1) if self.top_k else self.classes))
        found = np.asarray(kept[rows], dtype=np.float32)
        if not self.top_k:
            return found
        classes = np.asarray(self._open(f"view{view}.classes.npy", (self.n, self.top_k))[rows])
        if classes.dtype.kind not in "iu" or ((classes < 0) | (classes >= self.classes)).any():
            raise EvidenceError(
                f"{self.folder / f'view{view}.classes.npy'} names classes that the teacher has not",
                "run with --fresh",
            )
        spread = found[:, -1:] - math.log(self.classes - self.top_k)
        logits = np.repeat(spread, self.classes, axis=1)
        np.put_along_axis(logits, classes.astype(np.int64), found[:, :-1], axis=1)
        return logits

    def _open(self, name: str, shape: tuple[int, ...]) -> Array:
        path = self.folder / name
        try:
            inspect_file(path, digest=False)
            found: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, EdgeKDError) as e:
            raise EvidenceError(
                f"the teacher's logits {path} cannot be read ({e})", "run with --fresh"
            ) from e
        if found.shape != shape or found.dtype.kind not in "fiu":
            raise EvidenceError(
                f"{path} has shape {found.shape} of {found.dtype}, expected numbers {shape}",
                "run with --fresh",
            )
        return found


def load_teacher_logits(folder: Path) -> TeacherLogits:
    """Open what :func:`collect_teacher_logits` left.

    Raises:
        EvidenceError: it is not there, or damaged.
    """
    try:
        index = parse_json((folder / _INDEX).read_bytes())
        image = tuple(map(int, index["image"])) if "image" in index else None
        numbers = {k: int(index[k]) for k in ("views", "n", "classes", "top_k")}
        if not 0 <= numbers["top_k"] < numbers["classes"] <= _MOST_CLASSES or min(numbers.values()) < 0:
            raise ValueError(f"{numbers} cannot be")
        return TeacherLogits(folder=folder, image=image, **numbers)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise EvidenceError(
            f"the teacher's logits in {folder} cannot be read ({e})", "run with --fresh"
        ) from e


#: Called with (rows done, rows in all), over all views.
CollectProgress = Callable[[int, int], None]


def collect_teacher_logits(
    teacher: Any,
    inputs: Mapping[str, Array],
    config: TrainConfig,
    *,
    out: Path,
    resume: Path,
    progress: CollectProgress | None = None,
) -> TeacherLogits:
    """Ask ``teacher`` once for every example in every view and leave its logits in ``out``.

    A killed collection continues after the last whole view; what was asked before is in ``resume``.

    Args:
        teacher: a frozen module, called with the inputs in order; answers float (batch, classes).
        inputs: input name -> (n, ...) array, prepared for the teacher.
        config: ``views`` (at least 1), ``augment``, ``seed``, ``batch``, ``precision``, ``top_k``.

    Raises:
        ModelError: logits that are not finite, or not (batch, classes).
    """
    torch = require("torch", extra="torch", purpose="asking the teacher")
    teacher.eval().to(memory_format=torch.channels_last)
    tensors = [torch.from_numpy(np.ascontiguousarray(v)) for v in inputs.values()]
    n = len(tensors[0])
    images = next((t for t in tensors if t.ndim == 4), None)
    classes = 0
    for view in range(config.views):
        path = resume / f"view{view}.npy"
        if path.is_file():
            classes = max(classes, int(json.loads((resume / f"view{view}.json").read_text())["classes"]))
            continue
        draw = view_of(view, n, config) if config.augment and images is not None else None
        parts: list[Array] = []
        for start in range(0, n, config.batch):
            rows = slice(start, start + config.batch)
            batch = [t[rows] for t in tensors]
            if draw is not None and images is not None:
                size = (int(images.shape[2]), int(images.shape[3]))
                batch = [draw.of(rows).apply(t, size) if t.ndim == 4 else t for t in batch]
            with (
                torch.inference_mode(),
                torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"),
            ):
                answer = answer_of(teacher(*batch)).float()
            if answer.ndim != 2 or not torch.isfinite(answer).all():
                raise ModelError(
                    f"the teacher answers with shape {tuple(answer.shape)}, or with NaN or infinity, in view {view}",
                    "its logits must be finite (batch, classes)",
                )
            parts.append(answer.numpy())
            if progress is not None:
                progress(view * n + min(start + config.batch, n), config.views * n)
        logits = np.concatenate(parts)
        classes = logits.shape[1]
        _keep(logits, config.top_k, resume, view)
    index = {
        "views": config.views, "n": n, "classes": classes, "top_k": config.top_k,
        "image": [] if images is None else [int(v) for v in images.shape[2:]],
    }  # fmt: skip
    return _finish(resume, out, index)


def _keep(logits: Array, top_k: int, folder: Path, view: int) -> None:
    """Write one view, its marker last: whatever has a marker is whole."""
    n, classes = logits.shape
    if top_k >= classes:
        raise ModelError(f"top_k is {top_k}, the teacher has {classes} classes", "ask fewer, or 0 for all")
    kept = logits
    try:
        if top_k:
            order = np.argpartition(-logits, top_k - 1, axis=1)[:, :top_k]
            top = np.take_along_axis(logits, order, axis=1)
            rest = logits.copy()
            np.put_along_axis(rest, order, -np.inf, axis=1)
            peak = rest.max(axis=1, keepdims=True)
            tail = peak + np.log(np.exp(rest - peak).sum(axis=1, keepdims=True))
            kept = np.concatenate([top, tail], axis=1)
            np.save(folder / f"view{view}.classes.npy", order.astype(np.int32))
        write_bytes(folder / f"view{view}.json", json.dumps({"classes": classes, "n": n}).encode())
        part = folder / f"view{view}.part.npy"
        np.save(part, kept.astype(np.float16))
        part.replace(folder / f"view{view}.npy")
    except OSError as e:
        raise storage_error(e, folder) from e


def _finish(resume: Path, out: Path, index: Mapping[str, Any]) -> TeacherLogits:
    try:
        for path in sorted(resume.glob("view*.npy")):
            path.rename(out / path.name)
    except OSError as e:
        raise storage_error(e, out) from e
    write_bytes(out / _INDEX, json.dumps(index, sort_keys=True).encode())
    return load_teacher_logits(out)
