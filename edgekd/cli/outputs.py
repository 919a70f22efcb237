"""Where verbs write: folders of their own kind may be replaced, anything else is left alone."""

from __future__ import annotations

from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.files import building, write_bytes


def check_new_folder(out: Path, marker: str) -> None:
    """Refuse an output folder that holds something else than what this verb writes.

    Raises:
        UsageError: a file, or a folder without ``marker``.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / marker).is_file()):
        raise UsageError(f"{out} holds something else", "choose a new or empty folder")


def check_artifact_out(out: Path) -> None:
    """``-o`` of export and quantize: a single ``.onnx`` file, or an artifact folder.

    Raises:
        UsageError: a folder that holds something else.
    """
    if out.suffix != ".onnx":
        check_new_folder(out, "artifact.json")


def write_artifact(artifact: Artifact, out: Path) -> None:
    """Put an artifact at ``-o``: the model file alone where a file was named, else the folder with artifact.json.

    Raises:
        UsageError: a model of several files cannot become one file; StorageError: the write failed.
    """
    if out.suffix == ".onnx":
        if len(artifact.files) != 1:
            raise UsageError(
                f"the model has {len(artifact.files)} files", f"name a folder: -o {out.with_suffix('')}"
            )
        write_bytes(out, artifact.path.read_bytes())
        return
    with building(out) as root:
        artifact.copy_to(root)
