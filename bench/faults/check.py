"""What a killed line left, and what the next one made of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgekd.artifact import load_artifact
from edgekd.cli import main
from edgekd.errors import EdgeKDError
from edgekd.evidence import load_evaluation, load_measurement
from edgekd.evidence.run import load_run
from edgekd.files import sha256_file
from edgekd.stages import is_whole
from faults.line import EPOCHS, Place

_TEMPORARY = re.compile(r"\.(tmp|old|part)$|^edgekd-")
#: Files that hold times, or digests of files that do.
_TIMED = re.compile(
    r"^cache/measure/|/measure-|(^|/)(verdict\.json|report\.|manifest\.json|bom\.|attestations/|MODEL_CARD)|\.tar$|^tmp"
)

Tree = dict[str, str]


def files_of(root: Path) -> Tree:
    """Path -> SHA-256 of every file but locks; links by what they name."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if not relative.startswith("cache/locks/"):
                found[relative] = sha256_file(path)
    return found


def untimed(tree: Tree) -> Tree:
    """Without what holds times."""
    return {path: digest for path, digest in tree.items() if not _TIMED.search(path)}


def whole_stages(place: Place) -> Tree:
    """``kind/digest`` -> SHA-256 of its stage.json, of every stage that is complete."""
    found = {}
    for folder in _stages(place):
        if is_whole(folder):
            found[f"{folder.parent.name}/{folder.name}"] = sha256_file(folder / "stage.json")
    return found


def _stages(place: Place) -> list[Path]:
    kinds = [p for p in place.cache.glob("*") if p.name not in ("work", "locks")]
    return [f for kind in kinds for f in kind.iterdir() if not f.name.startswith(".")]


def temporary_names(place: Place) -> list[str]:
    """Everything that should not be there once a line has ended."""
    left = [p for p in place.root.rglob("*") if _TEMPORARY.search(p.name)]
    left += (place.cache / "work").glob("*")
    left += (place.root / "tmp").glob("*")
    return sorted({p.relative_to(place.root).as_posix() for p in left})


def half_documents(place: Place) -> list[str]:
    """What can be read under its final name and is not whole."""
    bad = [f"half a stage: {f.relative_to(place.root)}" for f in _stages(place) if not is_whole(f)]
    for path in place.root.rglob("*.json"):
        if any(part.startswith(".") for part in path.relative_to(place.root).parts):
            continue
        try:
            json.loads(path.read_bytes())
        except ValueError as e:
            bad.append(f"half a document: {path.relative_to(place.root)} ({e})")
    for name in ("teacher", "student"):
        if (place.root / "models" / name).exists():
            bad += _wrong(place.root / "models" / name, load_artifact)
    if place.run.exists():
        bad += _half_run(place.run)
    for bundle in (place.bundle, place.bundle.with_name("bundle.tar")):
        if bundle.exists():
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                code = main(["verify", str(bundle)])
            if code:
                bad.append(f"{bundle.name} does not verify: {said.getvalue().strip()[-300:]}")
    return bad


def _half_run(folder: Path) -> list[str]:
    bad = [*_wrong(folder, load_run)]
    for artifact in (folder / "artifacts").iterdir():
        bad += _wrong(artifact, load_artifact)
    for path in (folder / "evidence").glob("*.json"):
        load = {"eval": load_evaluation, "measure": load_measurement}.get(path.name.partition("-")[0])
        bad += _wrong(path, load) if load else []
    missing = {"run.json", "verdict.json", "report.md", "report.html", "recipe.json"} - {
        p.name for p in folder.iterdir()
    }
    return bad + [f"{folder.name} lacks {name}" for name in sorted(missing)]


def _wrong(path: Path, load: object) -> list[str]:
    try:
        load(path)  # type: ignore[operator]
    except EdgeKDError as e:
        return [f"half of {path.name}: {e}"]
    return []


def tokens(path: Path) -> set[int]:
    """Which lines measured the times of a measurement document: one, if it is whole."""
    found = load_measurement(path)
    times = np.concatenate([b for r in found.restarts for blocks in r.blocks.values() for b in blocks])
    return {int(found.environment["token"]), *(int(t) for t in np.unique(times % 10))}


def mixed_measurements(place: Place) -> list[str]:
    """Measurements with times of more than one line in them."""
    folders: Iterable[Path] = [*place.cache.glob("measure/*/measurement.json"), *place.run.glob("evidence/measure-*.json")]  # fmt: skip
    return [
        f"{p.relative_to(place.root)} is mixed: {sorted(found)}"
        for p in folders
        if len(found := tokens(p)) != 1
    ]


def built_again(place: Place, whole: Tree, since: int) -> list[str]:
    """Stages that were whole and were built again, and epochs that were done and were done again.

    Args:
        since: lines of the journal that are of the killed line.
    """
    lines = [entry.split()[0] for entry in place.journal.read_text().splitlines()]
    bad = [f"built again: {entry}" for entry in lines[since:] if entry in whole]
    for name in ("teacher", "student"):
        epochs = [entry for entry in lines if entry.startswith(f"epoch/{name}/")]
        if len(epochs) > EPOCHS + 1:
            bad.append(f"{len(epochs)} epochs of {name}, {EPOCHS} and one that was cut off were due")
    return bad
