"""From a model reference to a :class:`Model` or an :class:`Artifact`.

References: ``zoo:NAME``, ``python:package.module:factory``, a file that an exporter plugin reads (``.onnx``, ``.xml``,
``.tflite``, ...), a ``.safetensors`` file with ``model.json`` beside it, or a folder that holds ``artifact.json`` or
``model.json`` (a stage's folder does), or a released bundle, folder or .tar, which is verified first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import ARTIFACT_FILE, Artifact, load_artifact
from edgekd.doors import MODEL_ENDINGS, inspect_opened, safe_weights
from edgekd.engine_trust import NATIVE_ENDINGS, require_trusted, require_trusted_file
from edgekd.errors import EvidenceError, ModelError, UsageError
from edgekd.files import sha256_file
from edgekd.inspect import inspect_file, refuse
from edgekd.model import MODEL_FILE, Model, load_model
from edgekd.plugins import load_plugin
from edgekd.prepare import TOKENIZER_FILE, locate_files, prepare_key
from edgekd.stages import StageStore, tool_versions
from edgekd.tuned import read_beside

#: Endings that are models, and are not opened: unpickling can run code.
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_SUPPORTED = (
    f"known: {', '.join(MODEL_ENDINGS)}, .safetensors with model.json beside it, artifact, model and Hugging Face folders, "
    "released bundles (folder or .tar), "
    "zoo:NAME and python:module:factory"
)


def materialise(
    factory: str,
    *,
    name: str,
    prepare: Mapping[str, Any],
    weights: Path | None,
    search: Path | None,
    store: StageStore,
) -> tuple[Model, bool]:
    """The untrained model of a factory as a ``model.json`` folder in the store; and whether it was there already.

    Args:
        factory: ``zoo:NAME`` or ``python:module:function``.
        prepare: how examples become feeds; empty takes the zoo's own.
        weights: safetensors to load; None draws them from seed 0.
        search: where ``python:`` modules are looked for first.

    Raises:
        UsageError: no such factory; ModelError: weights that do not exist or do not fit.
    """
    from edgekd_torch.modules import Seeded, describe, factory_digest, load_weights, write_model

    if weights is not None and not weights.is_file():
        raise ModelError(
            f"weights {weights} do not exist",
            "check the path (relative paths start at the recipe, else here)",
        )
    weights = None if weights is None else safe_weights(weights, store)
    key = {
        "factory": factory_digest(factory, search),
        "prepare": prepare_key(prepare),
        "weights": sha256_file(weights) if weights else None,
        "training": None,
        "teacher": None,
        "data": None,
        "tools": tool_versions("torch"),
    }
    lineage = {k: key[k] for k in ("factory", "weights", "teacher", "data")}

    def build(out: Path, resume: Path) -> None:
        entry = describe(factory, search)
        module = Seeded(0).build(entry)
        if weights is not None:
            load_weights(module, weights)
        write_model(
            module, entry, folder=out, name=name, factory=factory, search=search, prepare=prepare,
            lineage=lineage,
        )  # fmt: skip

    result = store.run("materialise", name, key, build)
    return load_model(result.folder), result.cached


def open_reference(
    ref: str,
    *,
    weights: Path | None,
    base: Path | None,
    store: StageStore,
    formats: Sequence[str] = (),
    target: str = "",
) -> Artifact | Model:
    """Open a model by reference.

    Args:
        ref: see the module's docstring.
        weights: safetensors for a ``zoo:`` or ``python:`` reference; None draws them from seed 0.
        base: the folder that relative paths and ``python:`` modules start from; None for the current one.
        store: where torch modules are materialised, and bundles unpacked.
        formats, target: which of a bundle's artifacts to take: of a format that is opened, selected for that target.

    Raises:
        UsageError: a reference of no known form; ModelError: missing, damaged, or of a format that this version
        does not read; PolicyError: a file that reaches outside its folder, or a bundle that is not as released.
    """
    scheme = ref.partition(":")[0]
    if scheme in ("zoo", "python"):
        if weights is not None and base is not None:
            weights = base / weights
        model, _ = materialise(
            ref, name=ref.rpartition(":")[2], prepare={}, weights=weights, search=base, store=store
        )
        return model
    path = Path(ref) if base is None else base / ref
    if not path.exists():
        if ":" in ref:
            raise UsageError(f"model {ref!r} has the unknown scheme '{scheme}'", _SUPPORTED)
        raise ModelError(
            f"model {path} does not exist", "check the path (relative paths start at the recipe, else here)"
        )
    if weights is not None:
        raise UsageError(
            f"model {path} has its own weights, but {weights} were given too",
            "give weights to zoo: and python: models only",
        )
    from edgekd.release.opening import artifact_of, is_bundle, open_bundle

    if is_bundle(path):
        opened: Artifact | Model = artifact_of(
            open_bundle(path, cache=store.root), formats=formats, target=target
        )
    else:
        opened = _open_folder(path) if path.is_dir() else _open_file(path, store)
    inspect_opened(opened, store.root)
    if isinstance(opened, Artifact):
        require_trusted(opened, store.trust.engines, store.root)
    return opened


def _open_folder(path: Path) -> Artifact | Model:
    if (path / ARTIFACT_FILE).is_file():
        return load_artifact(path)
    if (path / MODEL_FILE).is_file():
        return load_model(path)
    from edgekd_onnx.huggingface import is_folder, read_folder

    if is_folder(path):
        return read_folder(path)
    raise ModelError(
        f"folder {path} holds neither {ARTIFACT_FILE} nor {MODEL_FILE}, nor a Hugging Face config.json",
        _SUPPORTED,
    )


def _open_file(path: Path, store: StageStore) -> Artifact | Model:
    if path.name == ARTIFACT_FILE:
        return load_artifact(path.parent)
    if path.name == MODEL_FILE:
        return load_model(path.parent)
    ending = path.suffix.lower()
    if ending in MODEL_ENDINGS:
        recorded = _recorded(path)
        if recorded is not None:
            return recorded
        if ending in NATIVE_ENDINGS:
            require_trusted_file(path, store.trust.engines, store.root)
        else:
            inspect_file(path, digest=False)
        read: Artifact = load_plugin("edgekd.exporters", MODEL_ENDINGS[ending])().read(path)
        return replace(_with_tokenizer_beside(read), tuned=read_beside(read))
    if ending == ".safetensors":
        if not (path.parent / MODEL_FILE).is_file():
            raise ModelError(
                f"{path} has no {MODEL_FILE} beside it, so nothing says which network it belongs to",
                "name the network: zoo:NAME or python:module:factory, with these weights",
            )
        model = load_model(path.parent)
        if model.weights != path.name:
            raise ModelError(
                f"{path.parent / MODEL_FILE} belongs to {model.weights}, not to {path.name}",
                f"give {path.parent / model.weights}",
            )
        return model
    if ending in _PICKLED:
        raise refuse(
            "pickle", path, "it is a pickled file, which can run code when it is opened",
            "save the weights as .safetensors and name the network: zoo:NAME or python:module:factory --weights W",
        )  # fmt: skip
    raise UsageError(f"model {path} has the unknown ending {ending!r}", _SUPPORTED)


def _with_tokenizer_beside(read: Artifact) -> Artifact:
    """A model of token ids takes the ``tokenizer.json`` beside it, where export tools leave it."""
    beside = read.folder / TOKENIZER_FILE
    if not beside.is_file() or not any(s.dtype in ("int64", "int32") for s in read.inputs):
        return read
    return read.with_prepare(locate_files({"tokenizer": TOKENIZER_FILE}, read.folder))


def _recorded(path: Path) -> Artifact | None:
    """The artifact that an ``artifact.json`` beside the file describes: it knows how to prepare examples.

    An ``artifact.json`` of something else says nothing about this file.
    """
    if not (path.parent / ARTIFACT_FILE).is_file():
        return None
    try:
        artifact = load_artifact(path.parent, check=False)
    except EvidenceError:
        return None
    return load_artifact(path.parent) if artifact.entry == path.name else None
