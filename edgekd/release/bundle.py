"""``release``: a passed run becomes a bundle, a folder and a deterministic .tar beside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import edgekd
from edgekd.artifact import load_artifact, record_file
from edgekd.errors import EvidenceError, ModelError, NotReleasableError, UsageError
from edgekd.evidence.run import RUN_FILE, Evidence, Run, load_run
from edgekd.files import building, read_json, storage_error, write_bytes
from edgekd.gates.judge import judge_run
from edgekd.gates.verdict import VERDICT_FILE, VERDICT_SCHEMA, Verdict, exit_code
from edgekd.recipe import GatesBlock
from edgekd.release.manifest import (
    MANIFEST_FILE,
    RECORD,
    make_manifest,
    manifest_bytes,
    padding,
    tar_header,
)
from edgekd.report import render

RECIPE_FILE = "recipe.json"
EVIDENCE_FOLDER = "evidence"


def release(run_folder: Path, out: Path, *, formats: Sequence[str] | None = None) -> Path:
    """Bundle a run that passed.

    The run is judged again first, from its stored evidence and under the policy of its verdict; the bundle holds the
    selected artifacts, the evidence, the verdict and the reports. The same evidence gives the same bytes.

    Args:
        run_folder: holds ``run.json``, ``verdict.json``, artifacts and evidence.
        out: folder to write; ``OUT.tar`` is written beside it. A bundle that is there already is replaced.
        formats: which formats of the selected artifacts go in; None asks the run's recipe, else takes all.

    Returns:
        ``out``.

    Raises:
        NotReleasableError: rejected (exit 1), inconclusive (3) or an error (2, 4 or 5).
        EvidenceError: no verdict yet, a verdict that is not of this evidence, or an altered artifact.
        UsageError: ``out`` holds something else, or no selected artifact has an asked format.
        StorageError: a write failed; what was at ``out`` is intact.
    """
    run = load_run(run_folder)
    verdict = _judged_again(run_folder, run)
    _check_artifacts(run_folder, run)
    if verdict.decision != "pass":
        worst = next((g for g in verdict.gates if g.decision == verdict.decision), None)
        why = f": {worst.gate} on {worst.target}: {worst.reason}" if worst else ""
        raise NotReleasableError(
            f"{run_folder} is not released, its verdict is {verdict.decision}{why}",
            "only a run that passed is released",
            exit_code(verdict),
        )
    _check_out(out)
    shipped = _shipped(run_folder, run, verdict, formats)
    with building(out) as bundle:
        for record in shipped:
            shutil.copytree(run_folder / record["folder"], bundle / "artifacts" / Path(record["folder"]).name)
        for path in _evidence_files(run_folder, run):
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run_folder / path, bundle / path)
        shutil.copyfile(run_folder / RUN_FILE, bundle / RUN_FILE)
        if (run_folder / RECIPE_FILE).is_file():
            shutil.copyfile(run_folder / RECIPE_FILE, bundle / RECIPE_FILE)
        verdict.save(bundle / VERDICT_FILE)
        for kind in ("md", "html"):
            write_bytes(bundle / f"report.{kind}", render(bundle, kind).encode())
        files = sorted(str(p.relative_to(bundle).as_posix()) for p in bundle.rglob("*") if p.is_file())
        manifest = make_manifest(
            run.name, edgekd.__version__, verdict.decision, [record_file(bundle, f).to_json() for f in files]
        )
        write_bytes(bundle / MANIFEST_FILE, manifest_bytes(manifest))
        for entry in (bundle, *bundle.rglob("*")):
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        _write_tar(bundle, _tar_path(out), run.name, [MANIFEST_FILE, *files])
    return out


def _tar_path(out: Path) -> Path:
    whole = out.absolute()
    return whole.with_name(whole.name + ".tar")


def _judged_again(folder: Path, run: Run) -> Verdict:
    """The verdict of the stored evidence, which must be the stored verdict."""
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


def _check_artifacts(folder: Path, run: Run) -> None:
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


def _check_out(out: Path) -> None:
    if (
        out.is_symlink()
        or out.is_file()
        or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST_FILE).is_file())
    ):
        raise UsageError(f"{out} holds something that is not a bundle", "choose a new or empty folder")
    if _tar_path(out).is_dir():
        raise UsageError(f"{_tar_path(out)}, where the archive goes, is a folder", "choose another name")


def _shipped(
    folder: Path, run: Run, verdict: Verdict, formats: Sequence[str] | None
) -> list[Mapping[str, Any]]:
    """Records of the artifacts that go in: the selected ones, of the asked formats."""
    if formats is None and (folder / RECIPE_FILE).is_file():
        recipe = _read_recipe(folder / RECIPE_FILE)
        formats = recipe.get("release", {}).get("formats")
    chosen = [run.artifacts[digest] for digest in dict.fromkeys(verdict.selected.values())]
    shipped = [r for r in chosen if formats is None or r["format"] in formats]
    if not shipped:
        have = ", ".join(sorted({str(r["format"]) for r in chosen})) or "none"
        raise UsageError(
            f"no selected artifact has a format to release ({', '.join(formats or ())} asked, {have} selected)",
            "change release.formats, or export that format",
        )
    return shipped


def _read_recipe(path: Path) -> dict[str, Any]:
    import json

    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise EvidenceError(f"{path} cannot be read ({e})", "make the run again") from e
    return dict(value) if isinstance(value, dict) else {}


def _evidence_files(folder: Path, run: Run) -> list[str]:
    """Every evidence document that run.json names, with its rows."""
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


def _write_tar(bundle: Path, out: Path, name: str, files: Sequence[str]) -> None:
    """One canonical tar: the manifest first, then the files sorted by path, below one folder."""
    top = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "bundle"
    tmp: str | None = None
    try:
        fd, tmp = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
        with os.fdopen(fd, "wb") as sink:
            for path in files:
                size = (bundle / path).stat().st_size
                sink.write(tar_header(f"{top}/{path}", size))
                with (bundle / path).open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
                sink.write(bytes(padding(size)))
            end = sink.tell() + 1024
            sink.write(bytes(1024 + padding(end, RECORD)))
            sink.flush()
            os.fsync(sink.fileno())
        Path(tmp).chmod(0o644)
        Path(tmp).replace(out)
        tmp = None
    except OSError as e:
        raise storage_error(e, out) from e
    finally:
        if tmp is not None:
            with contextlib.suppress(OSError):
                Path(tmp).unlink()
