"""What a model from outside is looked at for before any library opens it (:mod:`edgekd.inspect`).

What lies in EdgeKD's own cache is not looked at again: it was written here, from what was inspected, and every stage
is compared with its recorded SHA-256 before it is used. An ``artifact.json`` elsewhere proves nothing, whoever wrote
the model can write that too.
"""

from __future__ import annotations

from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.engine_trust import NATIVE_FORMATS
from edgekd.inspect import inspect_file, refuse
from edgekd.model import Model
from edgekd.stages import StageStore

#: File endings that an exporter plugin reads.
MODEL_ENDINGS = {
    ".onnx": "onnx",
    ".ort": "ort",
    ".xml": "openvino",
    ".tflite": "litert",
    ".pte": "executorch",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
}
#: Files beside an entry that libraries open as well: weights of Hugging Face folders, graphs of several parts.
_BESIDE = (".safetensors", ".onnx")


def inspect_opened(opened: Artifact | Model, root: Path) -> None:
    """Look into the files of an artifact or model folder that lies outside the cache ``root``.

    Raises:
        PolicyError: a rule is broken; ModelError: a file is missing or damaged.
    """
    if opened.folder.resolve().is_relative_to(root.resolve()):
        return
    if isinstance(opened, Model):
        inspect_file(opened.folder / opened.weights, digest=False)
        return
    names = {f.path for f in opened.files if f.path.lower().endswith(_BESIDE)}
    if opened.format in MODEL_ENDINGS.values() and opened.format not in NATIVE_FORMATS:
        if MODEL_ENDINGS.get(opened.path.suffix.lower()) != opened.format:
            raise refuse(
                "content-mismatch",
                opened.path,
                f"it is recorded as {opened.format}, which its ending does not say",
            )
        names.add(opened.entry)
    for name in sorted(names):
        inspect_file(opened.file_path(name), digest=False)


def safe_weights(path: Path, store: StageStore) -> Path:
    """A weights file that may be opened: inspected safetensors, or what ``--allow-pickle`` converts to them.

    Raises:
        PolicyError: a pickle that nobody allowed, or safetensors that break a rule; ModelError: damaged.
    """
    from edgekd_torch.pickled import ENDINGS, convert_weights

    if path.suffix.lower() in ENDINGS:
        if not store.trust.allow_pickle:
            raise refuse(
                "pickle", path, "it is a pickled file, which can run code when it is opened",
                "save the weights as .safetensors, or give --allow-pickle, which converts them in a child",
            )  # fmt: skip
        return convert_weights(path, store)
    if path.suffix.lower() == ".safetensors" and not path.resolve().is_relative_to(store.root.resolve()):
        inspect_file(path, digest=False)
    return path
