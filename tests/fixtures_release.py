"""A synthetic run with all that a bundle tells of: a Llama teacher, data under CC BY, a recipe, lineage and tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fixtures_run import POLICY, make_run

from edgekd.evidence.run import Run, load_run
from edgekd.gates import judge_run
from edgekd.provenance.declared import parse_declaration, read_texts
from edgekd.provenance.storing import store_provenance
from edgekd.recipe import GatesBlock

LICENCE = "LLAMA 3.1 COMMUNITY LICENSE\nas its makers wrote it: ünicode, two lines.\n"
DECLARED: dict[str, Any] = {
    "teacher": {
        "name": "meta-llama/Llama-3.1-8B", "version": "3.1", "licence": "llama3.1", "access": "weights",
        "source": "https://huggingface.co/meta-llama/Llama-3.1-8B", "licence_file": "LICENSE.txt",
    },
    "data": {"name": "Pictures", "licence": "cc-by-4.0", "source": "https://example.org/d", "attribution": "Ada Example"},
}  # fmt: skip
WAIVED: dict[str, Any] = {
    "teacher": {"name": "House teacher", "licence": "own"},
    "data": {"name": "CIFAR-10", "licence": "none-stated", "source": "https://example.org/c"},
    "waivers": [
        {"rule": "data-licence-unknown", "by": "Ada Example", "reason": "research benchmark", "expires": "2027-12-31"}
    ],
}  # fmt: skip
OWN: dict[str, Any] = {"teacher": {"name": "T", "licence": "own"}, "data": {"name": "D", "licence": "own"}}
#: An absolute path of a machine, as a recipe of somebody may hold it.
HERE = "/home/somebody/projects/pictures"


def stored(block: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A block as a run stores it, its licence text read."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE.txt").write_text(LICENCE, encoding="utf-8")
    return store_provenance(read_texts(parse_declaration(block), folder))


def make_rich_run(folder: Path, block: Mapping[str, Any] = DECLARED, **options: Any) -> Run:
    """Write a run folder with a verdict: recipe, trained student, and an INT8 artifact with its whole lineage."""
    values: dict[str, Any] = {
        "n": 1500, "name": "Llama-pictures", "provenance": stored(block, folder.parent), "policy": {**POLICY, "provenance": {}},
    }  # fmt: skip
    run = make_run(folder, **{**values, **options})
    _, floating, _ = run.artifacts
    lineage = {
        "factory": "zoo:cifar-resnet20", "model": "sha256:" + "5" * 64, "quantized_from": floating, "opset": 18,
        "calibration": {"digest": "sha256:" + "c" * 64, "examples": 256},
        "quantization": {"mode": "static", "dtype": "int8"},
        "tools": {"onnx": "1.21.0", "onnxruntime": "1.31.1", "stage": "1"},
    }  # fmt: skip
    path = folder / "artifacts/student-int8/artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lineage": lineage}))
    recipe = {
        "name": run.name, "teacher": {"model": f"python:{HERE}/nets:teacher", "weights": f"{HERE}/teacher.safetensors"},
        "student": {"model": "zoo:cifar-resnet20"}, "distill": {"method": "logits", "temperature": 4.0},
        "task": {"kind": "classification", "metric": "top1", "data": {"train": f"{HERE}/train.npz#0:100"}},
    }  # fmt: skip
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "models/student").mkdir(parents=True)
    model = {
        "schema": "edgekd.model/1",
        "lineage": {"data": "sha256:" + "7" * 64, "teacher": "sha256:" + "8" * 64},
    }
    (folder / "models/student/model.json").write_text(json.dumps(model))
    judge(folder)
    return run


def judge(folder: Path) -> None:
    """Judge a run under its own policy."""
    run = load_run(folder)
    judge_run(folder, run, GatesBlock.model_validate(dict(run.policy))).save(folder / "verdict.json")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
