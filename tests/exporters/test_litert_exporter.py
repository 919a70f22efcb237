from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

import fixtures_tflite

from edgekd.errors import InputError, ModelError, UsageError
from edgekd.model import Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec, draw_feeds, parse_shapes
from edgekd.target import SessionOptions
from edgekd.testing import check_exporter, check_runtime
from edgekd_litert import environment
from edgekd_litert import exporter as module
from edgekd_litert.exporter import LiteRtExporter, fixed_inputs
from edgekd_litert.reading import ChildSession
from edgekd_litert.runtime import LiteRtRuntime

_FACTORY = """
import torch
from torch import nn

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {
            "ids": ("int64", ("batch", "length")), "unused": ("float32", ("batch", 2)),
            "attention": ("int64", ("batch", "length")),
        }
        self.embed = nn.Embedding(8, 12)
        self.mix = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    def forward(self, ids, unused, attention):
        mixed = self.mix(self.embed(ids), src_key_padding_mask=attention == 0)
        return {"z": mixed.mean(1), "count": attention.sum(1), "a": ids > 0}

class Decomposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4, 4))}
        self.linear = nn.Linear(4, 4)
    def forward(self, x):
        return torch.linalg.svd(self.linear(x))[1]

class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.linear = nn.Linear(4, 3)
    def forward(self, x):
        return self.linear(x)

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.edgekd_inputs = {"x": ("float32", ("batch", 4))}
        self.norm = nn.BatchNorm1d(4)
    def train(self, mode=True):
        super().train(mode)
        self.norm.training = True
        return self
    def forward(self, x):
        return self.norm(x)
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factories")
    (folder / "litert_factories.py").write_text(_FACTORY)
    return folder


def _model(factories: Path, folder: Path, name: str) -> Model:
    from edgekd_torch.modules import Seeded, describe, write_model

    factory = f"python:litert_factories:{name}"
    entry = describe(factory, factories)
    folder.mkdir(exist_ok=True)
    return write_model(
        Seeded(0).build(entry), entry, folder=folder, name=name, factory=factory, search=factories, prepare={},
        lineage={},
    )  # fmt: skip


def _out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_it_keeps_the_rules_of_exporters(converter: None, digits_model: Model, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "r").mkdir()
    artifact = check_exporter(LiteRtExporter(), digits_model, tmp_path / "e", quantize=QuantConfig())
    assert [str(s) for s in artifact.inputs] == ["image: float32[1,1,8,8]"]
    assert artifact.lineage["fixed_sizes"] == {"image": [1, 1, 8, 8]}
    assert artifact.lineage["parity"]["kernels"] == "xnnpack"
    assert artifact.lineage["parity"]["max_abs_error"] < 1e-5
    assert artifact.lineage["tools"]["litert-torch"].startswith(environment.SERIES)
    check_runtime(LiteRtRuntime(), artifact.path, tmp_path / "r")


def test_several_inputs_and_outputs_keep_names_types_and_order(
    converter: None, factories: Path, tmp_path: Path
) -> None:
    model = _model(factories, tmp_path / "m", "Tokens")
    shapes = parse_shapes(["ids=2x5"])
    rng = np.random.default_rng(0)
    real = {
        "ids": rng.integers(0, 8, (5, 5)),
        "unused": np.zeros((5, 2), np.float32),
        "attention": np.ones((5, 5), np.int64),
    }
    artifact = LiteRtExporter().export(model, _out(tmp_path), {"shapes": shapes, "feeds": [real]})
    assert [str(s) for s in artifact.inputs] == [
        "ids: int64[2,5]", "unused: float32[2,2]", "attention: int64[2,5]",
    ]  # fmt: skip
    assert [str(s) for s in artifact.outputs] == ["z: float32[2,12]", "count: int64[2]", "a: bool[2,5]"]
    parity = artifact.lineage["parity"]
    assert (parity["feeds"], parity["batches"]) == (3, [2])
    assert parity["real"]["examples"] == 6  # five, in three calls of two
    session = LiteRtRuntime().open(artifact.path, SessionOptions())
    assert session.inputs == artifact.inputs
    kept = session.placement.detail["kept"]
    assert kept and session.placement.detail["delegated"] == session.placement.detail["operators"] - sum(
        kept.values()
    )


def test_an_operator_that_litert_lacks_is_named(converter: None, factories: Path, tmp_path: Path) -> None:
    out = _out(tmp_path)
    with pytest.raises(
        ModelError, match=r"cannot convert Decomposed \(Lowering not found: aten\._linalg_svd"
    ) as e:
        LiteRtExporter().export(_model(factories, tmp_path / "m", "Decomposed"), out, {})
    assert "\n" not in str(e.value) and "Traceback" not in str(e.value)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"no-such": 1}, "no option 'no-such'; it knows shapes"),
        ({"opset": 18}, "no option 'opset'"),
        ({"dtype": "float16"}, "writes float32, not float16"),
        ({"shapes": parse_shapes(["image=1x1x8x8:2x1x8x8:4x1x8x8"])}, "fixed sizes.*--shape image=2x1x8x8"),
        ({"shapes": parse_shapes(["image=1x1x9x8"])}, "asks for 1x1x9x8"),
    ],
)
def test_options_are_refused_before_anything_starts(
    options: dict[str, Any], says: str, digits_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_convert", lambda *a: pytest.fail("it converted"))
    with pytest.raises(UsageError, match=says):
        LiteRtExporter().export(digits_model, _out(tmp_path), options)


def test_training_mode_is_refused_before_the_converter_starts(
    factories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_convert", lambda *a: pytest.fail("it converted"))
    with pytest.raises(ModelError, match=r"norm.*is in training mode"):
        LiteRtExporter().export(_model(factories, tmp_path / "m", "Stubborn"), _out(tmp_path), {})


@pytest.mark.parametrize(
    ("open_batch", "says"),
    [
        (True, r"exported with inputs x: float32\[batch,4\], expected x: float32\[1,4\]"),
        (False, r"output 'logits' differs by .* between torch .* and litert .*do not use it"),
    ],
    ids=["boundary", "answers"],
)
def test_a_file_that_is_not_the_module_is_refused(
    open_batch: bool, says: str, factories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A converter that writes other weights than the module's, or other sizes."""

    def wrong(model: Model, sized: Any, path: Path, packages: Any, threads: int) -> dict[str, str]:
        fixtures_tflite.dense(path, open_batch=open_batch)
        return {}

    monkeypatch.setattr(module, "_convert", wrong)
    monkeypatch.setattr(environment, "converter_packages", lambda: ())
    out = _out(tmp_path)
    with pytest.raises(ModelError, match=says):
        LiteRtExporter().export(_model(factories, tmp_path / "m", "Dense"), out, {})
    assert list(out.iterdir()) == []


_INPUTS = (
    TensorSpec(name="ids", dtype="int64", shape=("batch", "length")),
    TensorSpec(name="mask", dtype="int64", shape=("batch", "length")),
)


def test_sizes_are_fixed_once_for_every_input() -> None:
    made = fixed_inputs(_INPUTS, parse_shapes(["ids=2x5"]))
    assert [s.shape for s in made] == [(2, 5), (2, 5)]
    image = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8))
    assert fixed_inputs([image], {})[0].shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match="unknown dimension 'length'; say how large: --shape ids"):
        fixed_inputs(_INPUTS, {})
    with pytest.raises(UsageError, match="give 'length' as 5 and as 6"):
        fixed_inputs(_INPUTS, parse_shapes(["ids=2x5", "mask=2x6"]))


def test_reading_files_from_outside(tmp_path: Path) -> None:
    path = fixtures_tflite.dense(tmp_path / "dense.tflite", named=False)
    artifact = LiteRtExporter().read(path)
    assert [str(s) for s in (*artifact.inputs, *artifact.outputs)] == [
        "tensor/x: float32[batch,4]", "tensor/y: float32[batch,3]",
    ]  # fmt: skip
    assert (artifact.format, artifact.dtype, artifact.entry) == ("litert", "float32", "dense.tflite")
    with pytest.raises(ModelError, match="has no output 'z'; it has tensor/y"):
        LiteRtExporter().read(path, ["z"])


def test_a_damaged_file_ends_in_one_line(tmp_path: Path) -> None:
    path = fixtures_tflite.dense(tmp_path / "dense.tflite")
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    # Enough to meet refusals of several kinds, with a child for each.
    for trial in range(4):
        broken = bytearray(data)
        for position in rng.integers(8, len(data), 12):
            broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(broken))
        try:
            LiteRtExporter().read(path)
        except InputError as e:
            assert "\n" not in str(e), trial


def test_a_child_that_is_killed_by_a_file_is_named(tmp_path: Path) -> None:
    session = ChildSession(fixtures_tflite.dense(tmp_path / "dense.tflite"))
    feeds = draw_feeds(session.inputs, seed=0, shapes={})
    assert session.run(feeds)["logits"].shape == (1, 3)
    os.kill(session._child.pid, 9)
    with pytest.raises(Exception, match=r"opening .*dense\.tflite"):
        session.run(feeds)
    session.close()
