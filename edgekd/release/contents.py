"""What goes into a bundle: the run judged again, its artifacts as they were judged, and the evidence that it names."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.artifact import load_artifact
from edgekd.errors import EvidenceError, ModelError, UsageError
from edgekd.evidence.run import Evidence, Run
from edgekd.files import read_json
from edgekd.gates.judge import judge_run
from edgekd.gates.verdict import VERDICT_FILE, VERDICT_SCHEMA, Verdict
from edgekd.recipe import GatesBlock
from edgekd.release.manifest import MANIFEST_FILE
from edgekd.release.tar import tar_path

RECIPE_FILE = "recipe.json"


def judge_again(folder: Path, run: Run) -> Verdict:
    """The verdict of the stored evidence, which must be the stored verdict.

    Raises:
        EvidenceError: no verdict yet, or one that is not of this evidence.
    """
    path = folder / VERDICT_FILE
    if not path.is_file():
        raise EvidenceError(f"{folder} has no {VERDICT_FILE}", f"judge it first: edgekd gate {folder}")
    stored = read_json(path, VERDICT_SCHEMA)
    try:
        policy = GatesBlock.model_validate(stored.get("policy", run.policy))
    except ValidationError as e:
        raise EvidenceError(
            f"{path} holds no valid policy ({e.errors()[0]['msg']})", "judge the run again"
        ) from e
    verdict = judge_run(folder, run, policy)
    mine = verdict.to_json()
    for key in sorted({*mine, *stored} - {"edgekd"}):
        if mine.get(key) != stored.get(key):
            raise EvidenceError(
                f"{path} does not match the evidence beside it: '{key}' differs when judged again",
                f"judge it again: edgekd gate {folder}",
            )
    return verdict


def check_artifacts(folder: Path, run: Run) -> None:
    """Every artifact of the run must hold what was judged, and nothing else.

    Raises:
        EvidenceError: one that was altered, or a file that does not belong to it.
    """
    for digest, record in run.artifacts.items():
        try:
            artifact = load_artifact(folder / record["folder"])
        except ModelError as e:
            raise EvidenceError(
                f"artifact '{record['name']}' is not what was judged: {e.what}", "make the run again"
            ) from e
        if artifact.digest != digest or artifact.size_bytes != record["size_bytes"]:
            raise EvidenceError(
                f"{artifact.folder} holds {artifact.digest[:19]}…, the run judged {digest[:19]}…",
                "make the run again",
            )
        known = {"artifact.json", *(f.path for f in artifact.files)}
        for path in artifact.folder.rglob("*"):
            name = path.relative_to(artifact.folder).as_posix()
            if path.is_symlink() or (path.is_file() and name not in known):
                raise EvidenceError(
                    f"{path} does not belong to the artifact that was judged",
                    "remove it, or make the run again",
                )


def check_out(out: Path) -> None:
    """Refuse to replace anything but a bundle.

    Raises:
        UsageError: ``out`` or its .tar is something else.
    """
    if (
        out.is_symlink()
        or out.is_file()
        or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_FILE).is_file())
    ):
        raise UsageError(f"{out} holds something that is not a bundle", "choose a new or empty folder")
    archive = tar_path(out)
    if archive.is_dir():
        raise UsageError(f"{archive}, where the archive goes, is a folder", "choose another name")
    if archive.is_symlink() or (archive.exists() and not _begins_as_bundle(archive)):
        raise UsageError(f"{archive}, where the archive goes, is not a bundle's", "choose another name")


def _begins_as_bundle(archive: Path) -> bool:
    """Whether the first file in a .tar is a manifest in the archive's one folder."""
    try:
        with tarfile.open(archive, "r:") as tar:
            first = tar.next()
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return False
    _, _, path = ("" if first is None else first.name).partition("/")
    return path == MANIFEST_FILE


def shipped_records(
    folder: Path, run: Run, verdict: Verdict, recipe: Mapping[str, Any], formats: Sequence[str] | None
) -> list[Mapping[str, Any]]:
    """Records of the artifacts that go in, with their ``digest``: the selected ones, of the asked formats.

    An engine is of one GPU and one TensorRT, so the ONNX file that it was built from goes in too, where the run has it.

    Args:
        recipe: its ``release.formats`` are asked where ``formats`` is None; else all go in.

    Raises:
        UsageError: no selected artifact has an asked format.
    """
    if formats is None:
        block = recipe.get("release")
        formats = block.get("formats") if isinstance(block, dict) else None
    chosen = [{**run.artifacts[d], "digest": d} for d in dict.fromkeys(verdict.selected.values())]
    shipped = [r for r in chosen if formats is None or r["format"] in formats]
    if not shipped:
        have = ", ".join(sorted({str(r["format"]) for r in chosen})) or "none"
        raise UsageError(
            f"no selected artifact has a format to release ({', '.join(formats or ())} asked, {have} selected)",
            "change release.formats, or export that format",
        )
    here = {r["digest"] for r in shipped}
    sources = [_source(folder, r) for r in shipped if r["format"] == "tensorrt"]
    kept = [s for s in dict.fromkeys(sources) if s in run.artifacts and s not in here]
    return [*shipped, *({**run.artifacts[s], "digest": s} for s in kept)]


def _source(folder: Path, record: Mapping[str, Any]) -> str:
    """Digest of what an artifact was made from; empty where it does not say."""
    return str(load_artifact(folder / record["folder"], check=False).lineage.get("source", ""))


def read_recipe(folder: Path) -> dict[str, Any]:
    """The run's recipe as resolved; empty where ``gate`` made the run.

    Raises:
        EvidenceError: a damaged one.
    """
    path = folder / RECIPE_FILE
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise EvidenceError(f"{path} cannot be read ({e})", "make the run again") from e
    return dict(value) if isinstance(value, dict) else {}


def evidence_files(folder: Path, run: Run) -> list[str]:
    """Every evidence document that run.json names, with its rows, relative to the run.

    Raises:
        EvidenceError: one is missing or a link.
    """
    named = {h.evaluation for h in run.chain}
    alone: set[str] = set()  # documents without rows
    for candidate in run.candidates:
        for evidence in (candidate.select, candidate.test):
            if evidence is None:
                continue
            if evidence.accuracy is not None:
                named |= {*evidence.accuracy.references.values(), evidence.accuracy.candidate}
            named |= {e.measurement for e in evidence.timings}
        alone |= {candidate.speedup, candidate.select.placement, (candidate.test or Evidence()).placement} - {
            ""
        }
    files = []
    for path in sorted({*named, *alone}):
        rows = [Path(path).with_suffix(".npz").as_posix()] if path in named else []
        for name in (path, *rows):
            source = folder / name
            if source.is_symlink() or not source.is_file():
                raise EvidenceError(
                    f"{source}, which run.json names, is missing or a link", "make the run again"
                )
            files.append(name)
    return files
