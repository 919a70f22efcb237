"""Local Hugging Face folders as artifacts: read, never run, never fetched.

A folder is ``config.json`` with ``model.safetensors`` (or its shards), as ``save_pretrained`` writes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.documents import is_file_name, parse_json, read_plain_file
from edgekd.errors import ModelError, PolicyError
from edgekd.inspect import inspect_file
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd.prepare import TOKENIZER_FILE, locate_files

CONFIG_FILE = "config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_PREPROCESSOR = "preprocessor_config.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
#: What belongs to the model beside config and weights.
_BESIDE = (
    "added_tokens.json", "generation_config.json", "merges.txt", _PREPROCESSOR, "special_tokens_map.json",
    "spiece.model", "sentencepiece.bpe.model", _TOKENIZER_CONFIG, "vocab.json", "vocab.txt",
)  # fmt: skip
#: safetensors' names of element types, in ONNX spelling.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
#: A header above this is not one (safetensors, ``MAX_HEADER_SIZE``).
_HEADER_BYTES = 100_000_000
#: ``PIL.Image.Resampling.BILINEAR``, what the image tasks resize with.
_BILINEAR = 2


def is_folder(path: Path) -> bool:
    """Whether ``path`` looks like a Hugging Face folder: it has a ``config.json`` that names a model type."""
    config = path / CONFIG_FILE
    if not config.is_file():
        return False
    try:
        value = parse_json(read_plain_file(config, ModelError))
    except (OSError, ValueError):
        return True  # there is one, and what is wrong with it is said when it is read
    return isinstance(value, dict) and ("model_type" in value or "architectures" in value)


def read_folder(path: Path) -> Artifact:
    """A Hugging Face folder as an artifact of format ``huggingface``; nothing is written, no code of it is run.

    ``inputs`` are those that optimum knows for its architecture, with the sizes of the folder's own configuration;
    empty where optimum is not installed or does not know it. ``outputs`` are empty: they are found by running it.

    Raises:
        PolicyError: pickled weights only, code of its own (``auto_map``), or a shard outside the folder;
        ModelError: weights or configuration missing or damaged, or quantized already.
    """
    config = read_document(path / CONFIG_FILE)
    names_of = config.get("architectures") or []
    if not isinstance(names_of, list) or not all(isinstance(n, str) for n in names_of):
        raise ModelError(
            f"{path / CONFIG_FILE} gives {str(names_of)[:60]!r} as its architectures, expected names",
            "the file is damaged: copy it again",
        )
    for name in (CONFIG_FILE, _TOKENIZER_CONFIG, _PREPROCESSOR):
        if (path / name).is_file() and "auto_map" in read_document(path / name):
            raise PolicyError(
                f"{path / name} asks for code of its own (auto_map), which is not run",
                "use an architecture that transformers has itself",
            )
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"{path} holds an adapter, not a whole model", "merge it (merge_and_unload) and save the result"
        )
    if "quantization_config" in config:
        raise ModelError(f"{path} is quantized already", "give the model in float32, float16 or bfloat16")
    weights = _weights(path)
    names = sorted({CONFIG_FILE, *weights, *(n for n in _BESIDE if (path / n).is_file())})
    try:
        prepare, size = _prepare(path)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as e:
        raise ModelError(
            f"{path / _PREPROCESSOR} is not a whole preprocessor ({e})", "the file is damaged: copy it again"
        ) from e
    from edgekd_onnx.folder_boundary import known_inputs

    read = Artifact(
        folder=path,
        entry=CONFIG_FILE,
        format="huggingface",
        dtype=_dtype(path, weights),
        files=tuple(record_file(path, n) for n in names),
        inputs=known_inputs(path, size),
        outputs=(),
        lineage={
            "source": path.name,
            "architecture": next(iter(names_of), ""),
            "model_type": str(config.get("model_type", "")),
            "image_size": size,
        },
    )
    return read.with_prepare(locate_files(prepare, path))


def read_document(path: Path) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        ModelError: missing, unreadable, or something else.
    """
    try:
        value = parse_json(read_plain_file(path, ModelError))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the folder") from e
    except ValueError as e:
        refuse_pointer_file(path, ModelError)
        raise ModelError(f"{path} is not JSON ({e})", "the file is damaged: copy it again") from e
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object", "the file is damaged: copy it again")
    return value


def _weights(path: Path) -> list[str]:
    if (path / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if not (path / _INDEX).is_file():
        pickled = [n for n in _PICKLED if (path / n).is_file()]
        if pickled:
            raise PolicyError(
                f"{path} has its weights only as {pickled[0]}, which can run code when it is loaded",
                f"save it as {_WEIGHTS}: save_pretrained(..., safe_serialization=True)",
            )
        raise ModelError(f"{path} has no {_WEIGHTS}", "copy it beside config.json")
    shards = read_document(path / _INDEX).get("weight_map")
    if not isinstance(shards, Mapping) or not shards:
        raise ModelError(f"{path / _INDEX} names no weights", "the file is damaged: copy it again")
    found = sorted({str(s) for s in shards.values()})
    for shard in found:
        outside = PurePosixPath(shard).name != shard or not is_file_name(shard)
        if outside or not shard.endswith(".safetensors"):
            raise PolicyError(f"{path / _INDEX} names the file {shard!r}", "do not use this folder")
        if not (path / shard).is_file():
            raise ModelError(f"{path / shard} is missing", "copy it beside config.json")
    return [_INDEX, *found]


def _dtype(path: Path, weights: list[str]) -> str:
    """The float type of most parameters, from the headers alone."""
    sizes: Counter[str] = Counter()
    for name in weights:
        if not name.endswith(".safetensors"):
            continue
        for tensor in _header(path / name).values():
            if isinstance(tensor, Mapping) and tensor.get("dtype") in _DTYPES:
                low, high = tensor["data_offsets"]
                sizes[_DTYPES[tensor["dtype"]]] += int(high) - int(low)
    return sizes.most_common(1)[0][0] if sizes else "float32"


def _header(path: Path) -> Mapping[str, Any]:
    """A safetensors header: 8 bytes of length (little-endian), then JSON (safetensors, "Format")."""
    inspect_file(path, digest=False)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            value = json.loads(file.read(min(length, _HEADER_BYTES)))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the folder") from e
    except ValueError as e:
        raise ModelError(
            f"cannot read {path} as safetensors ({e})", "the file is damaged: copy it again"
        ) from e
    if not isinstance(value, dict):
        raise ModelError(f"{path} has no safetensors header", "the file is damaged: copy it again")
    return value


def _prepare(path: Path) -> tuple[dict[str, Any], list[int] | None]:
    """How examples become feeds, as far as the built-in tasks do the same, and the image's (height, width)."""
    prepare: dict[str, Any] = {}
    if (path / TOKENIZER_FILE).is_file():
        prepare["tokenizer"] = TOKENIZER_FILE
        length = read_document(path / _TOKENIZER_CONFIG).get("model_max_length") if (
            path / _TOKENIZER_CONFIG
        ).is_file() else None  # fmt: skip
        # Where a tokenizer has no limit, transformers writes 10^30.
        if isinstance(length, int) and 0 < length < 10**6:
            prepare["max_length"] = length
    if not (path / _PREPROCESSOR).is_file():
        return prepare, None
    document = read_document(path / _PREPROCESSOR)
    crop = _size(document.get("crop_size")) if document.get("do_center_crop") else None
    size = crop or _size(document.get("size"))
    if "image_mean" not in document:
        return prepare, size
    if document.get("do_rescale", True):
        # Written as 0.00392156862745098.
        prepare["scale"] = round(1 / float(document.get("rescale_factor", 1 / 255)), 6)
    if document.get("do_normalize", True):
        prepare["mean"] = [float(v) for v in document["image_mean"]]
        prepare["std"] = [float(v) for v in document.get("image_std") or [1.0]]
    # A centre crop is something that the tasks do not do: such pictures have to come in the model's size.
    plain = size and crop is None and document.get("resample", _BILINEAR) == _BILINEAR
    if plain and document.get("do_resize", True):
        prepare["size"] = size
    return prepare, size


def _size(value: object) -> list[int] | None:
    if isinstance(value, int):
        return [value, value]
    if not isinstance(value, Mapping):
        return None
    if "shortest_edge" in value:
        return [int(value["shortest_edge"])] * 2
    if "height" in value and "width" in value:
        return [int(value["height"]), int(value["width"])]
    return None
