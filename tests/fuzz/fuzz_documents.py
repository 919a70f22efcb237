"""Recipes, policies and the documents of others: pytest-benchmark, GitHub's events, Hugging Face folders, data files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from fuzz_target import Choices, Reader, Target, as_json, document_or_bytes, edited

from edgekd.recipe import load_policy, load_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
_RECIPES = (
    "edgekd/pipeline/recipes/cnn.yaml",
    "edgekd/pipeline/recipes/onnx.yaml",
    "edgekd/pipeline/recipes/demo.yaml",
    "examples/cifar10/precisions.yaml",
    "examples/sst2/recipe.yaml",
)
_ENVIRON = {"NAME": "value", "NUMBER": "3", "EDGEKD_DATA": "data"}


def _recipes() -> list[bytes]:
    return [(REPOSITORY / name).read_bytes() for name in _RECIPES]


def _whole_recipes() -> list[Any]:
    # As plain YAML: what is filled in is no matter here.
    return [yaml.safe_load(text) for text in _recipes()]


def _choices(count: int) -> list[bytes]:
    """Seeds of a target whose bytes choose edits: no file is like them."""
    return [bytes((7 * i + j * j) % 256 for j in range(24)) for i in range(count)]


def _recipe_text(folder: Path) -> tuple[Sequence[bytes], Reader]:
    path = folder / "recipe.yaml"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load_recipe(path, _ENVIRON)

    return _recipes(), read


def _recipe_blocks(folder: Path) -> tuple[Sequence[bytes], Reader]:
    path, whole = folder / "recipe.yaml", _whole_recipes()

    def read(data: bytes) -> object:
        choices = Choices(data)
        # JSON is YAML but for NaN and infinity, which YAML writes otherwise.
        text = as_json(edited(whole[choices.below(len(whole))], choices))
        path.write_bytes(text.replace(b"NaN", b".nan").replace(b"Infinity", b".inf"))
        return load_recipe(path, _ENVIRON)

    return _choices(40), read


_POLICY = {
    "gates": {
        "accuracy": [{"against": "teacher", "max_drop": 0.01}, {"against": "baseline", "min_ratio": 0.99}],
        "fidelity": {"against": "float32", "max_flips": 0.02},
        "slices": {"names": ["class"], "max_drop": 0.03},
        "latency": {"against": "teacher", "max_ratio": 0.5},
        "latency_absolute": {"percentile": "p99", "max_ms": 33},
        "tail": {"max_ratio": 0.8},
        "regression": {"baseline": "last.onnx", "max_regression": 0.02},
        "size": {"max_mib": 4},
        "placement": {"min_share": 0.9, "on": "cuda"},
    }
}


def _policy(folder: Path) -> tuple[Sequence[bytes], Reader]:
    path = folder / "policy.yaml"

    def read(data: bytes) -> object:
        if data and data[0] & 1:
            text = as_json(edited(_POLICY, Choices(data[1:])))
            path.write_bytes(text.replace(b"NaN", b".nan").replace(b"Infinity", b".inf"))
        else:
            path.write_bytes(data[1:])
        return load_policy(path, _ENVIRON)

    return [b"\0" + yaml.safe_dump(_POLICY).encode(), *(b"\1" + c for c in _choices(20))], read


_BENCHMARKS = {
    "machine_info": {"node": "host"},
    "benchmarks": [
        {
            "name": "test_a", "fullname": "t.py::test_a", "group": None, "extra_info": {"k": 1},
            "stats": {"min": 0.1, "median": 0.2, "mean": 0.2, "stddev": 0.01, "rounds": 5, "iterations": 1,
                      "data": [0.1, 0.2]},
        }
    ],
}  # fmt: skip
_EVENT = {
    "pull_request": {"number": 7, "head": {"sha": "a" * 40, "ref": "b"}, "base": {"ref": "main"}},
    "repository": {"full_name": "o/n"},
    "issue": {"number": 7, "pull_request": {"url": "u"}},
}


def _json_files(
    documents: Sequence[Any], name: str, read_at: Callable[[Path], object]
) -> Callable[[Path], tuple[Sequence[bytes], Reader]]:
    """A target of one JSON file: as it stands, and edits of ``documents``."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Reader]:
        path = folder / name

        def read(data: bytes) -> object:
            pick = data[1] % len(documents) if len(data) > 1 else 0
            path.write_bytes(document_or_bytes(documents[pick], data))
            return read_at(path)

        whole = [b"\0" + as_json(d) for d in documents]
        return [*whole, *(b"\1" + c for c in _choices(20))], read

    return prepare


def _read_benchmarks(path: Path) -> object:
    from edgekd.evidence.pytest_benchmark import read_benchmark_json

    return read_benchmark_json(path)


def _read_event(path: Path) -> object:
    from edgekd.ci.github import commit_of, event_of, pull_request_of

    environ = {"GITHUB_EVENT_PATH": str(path)}
    event = event_of(environ)
    return pull_request_of(event), commit_of(event, environ)


_CONFIG = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 8, "num_labels": 2}
_PREPROCESSOR = {
    "do_resize": True, "size": {"height": 8, "width": 8}, "image_mean": [0.5], "image_std": [0.5], "do_rescale": True,
    "rescale_factor": 0.00392156862745098, "resample": 2, "do_center_crop": False, "crop_size": 8,
}  # fmt: skip
_INDEX = {
    "metadata": {"total_size": 16},
    "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"},
}
_HF_FILES = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
)


def _hugging_face(folder: Path) -> tuple[Sequence[bytes], Reader]:
    from edgekd_onnx import folder_boundary
    from edgekd_onnx.huggingface import is_folder, read_folder

    # Asks optimum, whose libraries are a gigabyte: what EdgeKD reads is what is fuzzed.
    folder_boundary.known_inputs = lambda path, size: ()
    whole = (_CONFIG, _PREPROCESSOR, _INDEX, {"model_max_length": 128})
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(4)
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (folder / name).write_bytes(tensors)

    def read(data: bytes) -> object:
        for name, document in zip(_HF_FILES, whole, strict=True):
            (folder / name).write_bytes(as_json(document))
        kind = data[0] % 5 if data else 0
        if kind == 4:  # the header of a shard
            (folder / "model-1.safetensors").write_bytes(data[1:])
        else:
            (folder / "model-1.safetensors").write_bytes(tensors)
            (folder / _HF_FILES[kind]).write_bytes(document_or_bytes(whole[kind], data[1:]))
        return read_folder(folder) if is_folder(folder) else None

    seeds = [bytes([kind, 1]) + c for kind in range(4) for c in _choices(6)]
    return [*seeds, b"\4" + tensors, *(bytes([k, 0]) + as_json(d) for k, d in enumerate(whole))], read


def _table(folder: Path) -> tuple[Sequence[bytes], Reader]:
    """Rows of .csv, .tsv, .jsonl, and COCO annotations, the first byte choosing which."""
    from edgekd.data.coco import CocoSource
    from edgekd.data.sources import open_source

    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    endings = ("csv", "tsv", "jsonl", "json")
    row = {"x": [1, 2.5], "label": 1, "id": "a", "slice_s": "u"}

    def read(data: bytes) -> object:
        kind = data[0] % 4 if data else 0
        path = folder / f"rows.{endings[kind]}"
        whole: Any = coco if kind == 3 else row
        path.write_bytes(document_or_bytes(whole, data[1:]) if kind >= 2 else data[1:])
        if kind == 3:
            return CocoSource(path, folder).boxes
        return [e.inputs for e in open_source(str(path))]

    seeds = [
        b"\0x,label,id,slice_s\n1.5,0,a,u\n2,1,b,v\n", b'\0x,label\n"[1, 2]",0\n"[3, 4]",1\n',
        b"\1text\tlabel\nhello\t1\nworld\t0\n", b"\2\0" + as_json(row) + b"\n" + as_json(row) + b"\n",
        b"\3\0" + as_json(coco), *(bytes([k, 1]) + c for k in (2, 3) for c in _choices(8)),
    ]  # fmt: skip
    return seeds, read


TARGETS = (
    Target(name="recipe", reads="a recipe's YAML text", prepare=_recipe_text),
    Target(
        name="recipe-blocks", reads="a recipe's keys and values", prepare=_recipe_blocks, longest_bytes=256
    ),
    Target(name="policy", reads="a policy, as text and as keys and values", prepare=_policy),
    Target(
        name="pytest-benchmark",
        reads="JSON of pytest-benchmark",
        prepare=_json_files([_BENCHMARKS], "bench.json", _read_benchmarks),
    ),
    Target(
        name="github-event",
        reads="the event of a GitHub job",
        prepare=_json_files([_EVENT], "event.json", _read_event),
    ),
    Target(
        name="hugging-face", reads="config, index and headers of a Hugging Face folder", prepare=_hugging_face
    ),
    Target(name="tables", reads=".csv, .tsv, .jsonl rows and COCO annotations", prepare=_table),
)
