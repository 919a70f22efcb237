"""The Model noun: a torch module on disk, as safetensors weights plus a ``model.json`` that can rebuild it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.documents import is_file_name
from edgekd.errors import EvidenceError, ModelError
from edgekd.files import read_json, write_json
from edgekd.prepare import bring_files, locate_inside, relative_prepare
from edgekd.spec import TensorSpec

MODEL_SCHEMA = "edgekd.model/1"
MODEL_FILE = "model.json"
WEIGHTS_FILE = "student.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A teacher or student as a torch module.

    Attributes:
        folder: holds ``model.json`` and the weights.
        factory: ``zoo:NAME`` or ``python:module:function``, which builds the module without weights.
        factory_source: folder put on the import path for a ``python:`` factory; may be empty.
        weights: file name of the safetensors weights.
        quantization: file name of the ranges that it was trained with (:mod:`edgekd.quantize.trained`); empty without.
        parameters: number of trainable values.
        inputs, outputs, prepare, output, lineage: as in :class:`edgekd.artifact.Artifact`.
    """

    folder: Path
    name: str
    factory: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    weights: str = WEIGHTS_FILE
    quantization: str = ""
    factory_source: str = ""
    prepare: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": MODEL_SCHEMA,
            "name": self.name,
            "factory": self.factory,
            "factory_source": self.factory_source,
            "weights": self.weights,
            "weights_sha256": record_file(self.folder, self.weights).sha256,
            **self._trained_json(),
            "parameters": self.parameters,
            "inputs": [s.to_json() for s in self.inputs],
            "outputs": [s.to_json() for s in self.outputs],
            "prepare": relative_prepare(self.prepare, self.folder),
            "output": dict(self.output),
            "lineage": dict(self.lineage),
        }

    def _trained_json(self) -> dict[str, str]:
        if not self.quantization:
            return {}
        sha256 = record_file(self.folder, self.quantization).sha256
        return {"quantization": self.quantization, "quantization_sha256": sha256}

    def save(self) -> None:
        """Write ``model.json``, and copy the files of ``prepare`` there; the weights must be there already."""
        bring_files(self.prepare, self.folder)
        write_json(self.folder / MODEL_FILE, self.to_json())

    def as_artifact(self) -> Artifact:
        """The same files seen by a runtime of format ``torch``.

        Only the weights (and a tokenizer, and trained ranges) carry the size: ``model.json`` is our own bookkeeping.
        """
        files = [self.weights, *([self.quantization] if self.quantization else [])]
        artifact = Artifact(
            folder=self.folder,
            entry=MODEL_FILE,
            format="torch",
            dtype="float32",
            files=tuple(record_file(self.folder, f) for f in sorted(files)),
            inputs=self.inputs,
            outputs=self.outputs,
            output=self.output,
            lineage={"factory": self.factory, **self.lineage},
        )
        return artifact.with_prepare(self.prepare)


def load_model(folder: Path) -> Model:
    """Read a model folder back.

    Raises:
        EvidenceError: no valid ``model.json``; ModelError: the weights are missing or altered.
    """
    value = read_json(folder / MODEL_FILE, MODEL_SCHEMA)
    try:
        model = Model(
            folder=folder,
            name=str(value["name"]),
            factory=str(value["factory"]),
            factory_source=str(value.get("factory_source", "")),
            weights=str(value["weights"]),
            quantization=str(value.get("quantization", "")),
            parameters=int(value["parameters"]),
            inputs=tuple(TensorSpec.from_json(s) for s in value["inputs"]),
            outputs=tuple(TensorSpec.from_json(s) for s in value["outputs"]),
            prepare=locate_inside(value.get("prepare", {}), folder, MODEL_FILE),
            output=value.get("output", {}),
            lineage=value.get("lineage", {}),
        )
        wanted = {model.weights: str(value["weights_sha256"])}
        if model.quantization:
            wanted[model.quantization] = str(value["quantization_sha256"])
    except (KeyError, TypeError, ValueError) as e:
        raise EvidenceError(f"{folder / MODEL_FILE} is incomplete ({e!r})", "write the model again") from e
    for name, sha256 in wanted.items():
        _check_file(folder, name, sha256)
    return model


def _check_file(folder: Path, name: str, wanted: str) -> None:
    if Path(name).name != name or not is_file_name(name):
        raise ModelError(f"{folder / MODEL_FILE} names weights outside its folder: {name!r}", "do not use it")
    if not (folder / name).is_file():
        raise ModelError(f"{folder / name} is missing", "train or export the model again")
    if (found := record_file(folder, name).sha256) != wanted:
        raise ModelError(
            f"{folder / name} was altered: sha256 {found[:12]}…, recorded {wanted[:12]}…",
            "train or export the model again",
        )
