"""Hugging Face folders: what is read, what is refused, and what each architecture becomes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact, load_artifact
from edgekd.errors import ModelError, PolicyError, UsageError
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd.target import SessionOptions
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.huggingface import is_folder
from edgekd_onnx.runtime import OnnxRuntime

pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx is not installed")
transformers = pytest.importorskip("transformers")

_TEXT = {"vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TEXT |= {"hidden_size": 32, "max_position_embeddings": 64, "initializer_range": 0.3}
_WHISPER = {
    "vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 30,
    "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "suppress_tokens": None, "begin_suppress_tokens": None, "init_std": 0.3, "num_mel_bins": 16,
}  # fmt: skip
#: Architecture -> transformers' class and configuration: 2 layers, 32 wide, weights that give answers of some size.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", _TEXT),
    "distilbert": (
        "DistilBertForTokenClassification",
        {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64,
         "initializer_range": 0.3},
    ),
    "vit": (
        "ViTForImageClassification",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 16,
         "patch_size": 8, "initializer_range": 0.3},
    ),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    "whisper": ("WhisperForConditionalGeneration", _WHISPER),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 128, "n_group": 8, "topk_group": 4,
         "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
         "v_head_dim": 8, "qk_nope_head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.5},
    ),
    "mixtral": ("MixtralForCausalLM", {**_TEXT, "num_key_value_heads": 4, "num_local_experts": 4}),
}  # fmt: skip


def _write(name: str, folder: Path) -> Path:
    import torch

    cls_name, values = _NETWORKS[name]
    cls = getattr(transformers, cls_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls(cls.config_class(**values)).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = _write(name, tmp_path_factory.mktemp("huggingface") / name)
        return made[name]

    return folder


def _open(path: Path, tmp_path: Path) -> Artifact:
    opened = open_reference(str(path), weights=None, base=None, store=StageStore(tmp_path / "cache"))
    assert isinstance(opened, Artifact)
    return opened


def _out(tmp_path: Path, name: str = "out") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


# --- reading


def test_a_folder_is_an_artifact(folders: Any, tmp_path: Path) -> None:
    read = _open(folders("bert"), tmp_path)
    assert (read.format, read.entry, read.dtype) == ("huggingface", "config.json", "float32")
    assert [f.path for f in read.files] == ["config.json", "model.safetensors"]
    assert [str(s) for s in read.inputs] == [
        f"{n}: int64[batch_size,sequence_length]" for n in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert read.outputs == ()
    assert _open(folders("bert"), tmp_path).digest == read.digest


def test_tokenizer_and_preprocessor_are_carried(folders: Any, tmp_path: Path) -> None:
    text, images = tmp_path / "text", tmp_path / "images"
    shutil.copytree(folders("bert"), text)
    (text / "tokenizer.json").write_text("{}")
    (text / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    read = _open(text, tmp_path)
    assert read.prepare == {"tokenizer": str((text / "tokenizer.json").resolve()), "max_length": 64}
    assert "tokenizer.json" in [f.path for f in read.files]
    made = OnnxExporter().convert(read, _out(tmp_path), {})
    made.save()
    assert load_artifact(tmp_path / "out").prepare["tokenizer"] == str(
        (tmp_path / "out/tokenizer.json").resolve()
    )
    shutil.copytree(folders("resnet"), images)
    document = {
        "do_resize": True, "size": {"height": 32, "width": 40}, "resample": 2, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2],
    }  # fmt: skip
    (images / "preprocessor_config.json").write_text(json.dumps(document))
    read = _open(images, tmp_path)
    assert read.prepare == {"size": [32, 40], "scale": 255.0, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    assert str(read.inputs[0]) == "pixel_values: float32[batch_size,3,32,40]"
    # A crop out of the middle is not what the tasks do: its size is the model's, but no resizing is promised.
    (images / "preprocessor_config.json").write_text(
        json.dumps({**document, "size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32})
    )
    read = _open(images, tmp_path)
    assert "size" not in read.prepare
    assert str(read.inputs[0]) == "pixel_values: float32[batch_size,3,32,32]"


def _spoil(folder: Path, what: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    if what == "remote code":
        config["auto_map"] = {"AutoModel": "modeling.Evil"}
    elif what == "remote tokenizer":
        (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "x.Y"}}')
    elif what == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "no weights":
        weights.unlink()
    elif what == "shard outside":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    elif what == "shard missing":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}')
    elif what == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    elif what == "quantized":
        config["quantization_config"] = {"bits": 4}
    elif what == "junk weights":
        weights.write_bytes(struct.pack("<Q", 20) + b"junk" * 20)
    elif what == "junk tokenizer config":
        (folder / "tokenizer_config.json").write_text("[")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("remote code", PolicyError, "code of its own"),
        ("remote tokenizer", PolicyError, "tokenizer_config.json asks for code"),
        ("pickled", PolicyError, "only as pytorch_model.bin"),
        ("shard outside", PolicyError, r"names the file '../other.safetensors'"),
        ("shard missing", ModelError, "one.safetensors is missing"),
        ("no weights", ModelError, "has no model.safetensors"),
        ("adapter", ModelError, "an adapter, not a whole model"),
        ("quantized", ModelError, "is quantized already"),
        ("junk weights", PolicyError, "rule header-json"),
        ("junk tokenizer config", ModelError, "is not JSON"),
    ],
)
def test_folders_that_are_refused(
    folders: Any, tmp_path: Path, what: str, error: type[Exception], words: str
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders("resnet"), folder)
    _spoil(folder, what)
    with pytest.raises(error, match=words) as caught:
        _open(folder, tmp_path)
    assert "\n" not in str(caught.value)


def test_pickled_weights_beside_safetensors_are_left_alone(folders: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders("resnet"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pytorch_model.bin" not in [f.path for f in _open(folder, tmp_path).files]


def test_other_folders_are_none_of_it(tmp_path: Path) -> None:
    assert not is_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"colour": "red"}')
    assert not is_folder(tmp_path)
    with pytest.raises(ModelError, match="nor a Hugging Face"):
        _open(tmp_path, tmp_path)


# --- converting


@pytest.mark.parametrize(
    ("name", "options", "inputs", "outputs"),
    [
        ("bert", {}, ["batch_size,sequence_length"] * 3, ["logits: float32[batch_size,2]"]),
        ("distilbert", {}, ["batch_size,sequence_length"] * 2, ["logits: float32[batch_size,sequence_length,2]"]),
        ("vit", {}, ["batch_size,3,16,16"], ["logits: float32[batch_size,2]"]),
        (
            "resnet", {"shapes": {"pixel_values": ((1, 3, 16, 16), (2, 3, 24, 32), (3, 3, 32, 48))}},
            ["batch_size,3,height,width"], ["logits: float32[batch_size,2]"],
        ),
        ("whisper", {"part": "encoder"}, ["batch_size,16,60"], ["last_hidden_state: float32[batch_size,30,32]"]),
        (
            "whisper", {"part": "decoder"},
            ["batch_size,decoder_sequence_length", "batch_size,encoder_sequence_length,32"],
            ["logits: float32[batch_size,decoder_sequence_length,60]"],
        ),
    ],
    ids=["bert", "distilbert", "vit", "resnet", "whisper-encoder", "whisper-decoder"],
)  # fmt: skip
def test_optimum_exports(
    folders: Any, tmp_path: Path, name: str, options: dict[str, Any], inputs: list[str], outputs: list[str]
) -> None:
    read = _open(folders(name), tmp_path)
    made = OnnxExporter().convert(read, _out(tmp_path), options)
    if name in ("bert", "vit"):
        assert OnnxExporter().convert(read, _out(tmp_path, "again"), options).digest == made.digest
    assert sorted(str(s).partition("[")[2].rstrip("]") for s in made.inputs) == sorted(inputs)
    assert [str(s) for s in made.outputs] == outputs
    assert made.lineage["exporter"] == "optimum"
    assert made.lineage["source"] == read.digest
    parity = made.lineage["parity"]
    # Three batches, and three lengths or sizes where there are any.
    sizes = any(isinstance(d, str) for s in made.inputs for d in s.shape[1:])
    assert (len(parity["batches"]), parity["feeds"]) == (3, 6 if sizes else 3)
    assert 0 < parity["max_abs_error"] < 1e-4
    assert OnnxExporter().read(made.path).digest == made.digest
    for place in (str(tmp_path), str(folders(name))):
        assert place.encode() not in made.path.read_bytes()


def test_torch_exports_what_is_asked_of_it_and_says_so(folders: Any, tmp_path: Path) -> None:
    read = _open(folders("vit"), tmp_path)
    made = OnnxExporter().convert(read, _out(tmp_path), {"exporter": "dynamo"})
    assert made.lineage["exporter"] == "torch.onnx dynamo"
    assert [str(s) for s in made.outputs] == ["logits: float32[batch_size,2]"]
    assert made.output == {"name": "logits", "kind": "logits"}


def test_an_architecture_that_neither_can_is_one_line(folders: Any, tmp_path: Path) -> None:
    read = _open(folders("mixtral"), tmp_path)
    assert read.inputs == ()  # optimum does not know it
    for options, words in (
        ({"exporter": "optimum"}, "optimum cannot export the architecture 'mixtral'"),
        ({}, "torch cannot export .*data-dependent"),
    ):
        out = _out(tmp_path, f"out{len(words)}")
        with pytest.raises(ModelError, match=words) as caught:
            OnnxExporter().convert(read, out, options)
        assert "\n" not in str(caught.value)
        assert list(out.iterdir()) == []


def test_an_export_that_answers_otherwise_is_refused(folders: Any, tmp_path: Path) -> None:
    """optimum's trace keeps only those experts that its example tokens happened to reach."""
    read = _open(folders("deepseek_v3"), tmp_path)
    out = _out(tmp_path)
    with pytest.raises(ModelError, match=r"'logits' differs by .* exported by optimum") as caught:
        OnnxExporter().convert(read, out, {})
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_weights_that_would_be_random_are_refused(folders: Any, tmp_path: Path) -> None:
    read = _open(folders("bert"), tmp_path)
    with pytest.raises(ModelError, match=r"has no weights for .* they would be random"):
        OnnxExporter().convert(read, tmp_path, {"task": "fill-mask"})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("whisper", {}, "is an encoder and a decoder, a file holds one; name one: --option part=encoder"),
        ("whisper", {"part": "middle"}, "part 'middle' is not known"),
        ("resnet", {"part": "encoder"}, "is not an encoder-decoder"),
        ("resnet", {"task": "text-generation"}, "task"),
        ("resnet", {"exporter": "guess"}, "exporter 'guess' is not known"),
        ("resnet", {"opset": 17}, "choose 18 to 23"),
        ("resnet", {"colour": "red"}, "no option 'colour'; it knows .*task, part, exporter"),
    ],
)
def test_options(folders: Any, tmp_path: Path, name: str, options: dict[str, Any], words: str) -> None:
    read = _open(folders(name), tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        OnnxExporter().convert(read, tmp_path, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [19, 23])
def test_opsets_that_the_tracer_does_not_write_are_converted(
    folders: Any, tmp_path: Path, opset: int
) -> None:
    made = OnnxExporter().convert(_open(folders("distilbert"), tmp_path), _out(tmp_path), {"opset": opset})
    assert made.lineage["opset"] == opset
    assert made.lineage.get("opset_converted_from") == (20 if opset > 20 else None)


def test_float16_and_optimised_in_one_go(folders: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxslim")
    made = OnnxExporter().convert(
        _open(folders("vit"), tmp_path), _out(tmp_path), {"dtype": "float16", "optimize": "onnxslim"}
    )
    assert made.dtype == "float16"
    assert made.lineage["optimize"]["nodes_after"] < made.lineage["optimize"]["nodes_before"]
    session = OnnxRuntime().open(made.path, SessionOptions())
    assert session.run({"pixel_values": np.ones((4, 3, 16, 16), np.float32)})["logits"].shape == (4, 2)


def test_nothing_is_fetched(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    OnnxExporter().convert(_open(folders("resnet"), tmp_path), _out(tmp_path), {})
    assert os.environ["HF_HUB_OFFLINE"] == "1"
