"""A model that was built twice, as a builder that chooses by timing does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fixtures_models import classifier

from edgekd.artifact import Artifact
from edgekd.files import sha256_file
from edgekd_onnx.exporter import OnnxExporter


def built_twice(folder: Path, layers: int) -> Artifact:
    """A model whose second build is another file, as a builder that chooses by timing may make one."""
    folder.mkdir()
    first = classifier(folder / "model.onnx", layers=1)
    (folder / "builds/2").mkdir(parents=True)
    second = classifier(folder / "builds/2/model.onnx", layers=layers)
    files = [
        {"path": str(p.relative_to(folder)), "sha256": sha256_file(p), "size_bytes": p.stat().st_size}
        for p in (first, second)
    ]
    made = OnnxExporter().read(first)
    made = replace(made, lineage={**made.lineage, "builds": {"files": files}})
    made.save()
    return made
