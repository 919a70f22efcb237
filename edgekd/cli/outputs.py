"""Where verbs write: folders of their own kind may be replaced, anything else is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.files import building, write_bytes, write_json

#: Endings that name a single model file; whatever else ``-o`` says is an artifact folder.
_FILES = (".onnx", ".ort", ".tflite", ".pte", ".plan", ".engine")


def check_new_folder(out: Path, marker: str) -> None:
    """Refuse an output folder that holds something else than what this verb writes.

    Raises:
        UsageError: a file, or a folder without ``marker``.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / marker).is_file()):
        raise UsageError(f"{out} holds something else", "choose a new or empty folder")


def check_artifact_out(out: Path) -> None:
    """``-o`` of export and quantize: a single model file, or an artifact folder.

    Raises:
        UsageError: a folder that holds something else.
    """
    if out.suffix == ".xml":
        raise UsageError(f"-o {out.name}: an IR has two files", f"name a folder: -o {out.with_suffix('')}")
    if out.suffix not in _FILES:
        check_new_folder(out, "artifact.json")


def write_artifact(artifact: Artifact, out: Path) -> None:
    """Put an artifact at ``-o``: the model file alone where a file was named, else the folder with artifact.json.

    Raises:
        UsageError: a model of several files cannot become one file, or another ending than the model's; StorageError:
        the write failed.
    """
    if out.suffix in _FILES:
        if out.suffix != artifact.path.suffix and {out.suffix, artifact.path.suffix} != {".plan", ".engine"}:
            raise UsageError(
                f"-o {out.name} is no {artifact.format} file",
                f"name it {out.with_suffix(artifact.path.suffix).name}",
            )
        if len(artifact.files) != 1:
            raise UsageError(
                f"the model has {len(artifact.files)} files", f"name a folder: -o {out.with_suffix('')}"
            )
        write_bytes(out, artifact.path.read_bytes())
        return
    with building(out) as root:
        artifact.copy_to(root, companions=True)


def write_lint(report: Any, out: Path, model: str) -> None:
    """A lint's report as JSON, or as SARIF where the file is called so.

    Raises:
        UsageError: another ending; StorageError: the write failed.
    """
    if out.suffix not in (".json", ".sarif"):
        raise UsageError(f"-o {out.name}: --lint writes a report", "name it lint.json or lint.sarif")
    write_json(out, report.to_sarif(model) if out.suffix == ".sarif" else report.to_json())
