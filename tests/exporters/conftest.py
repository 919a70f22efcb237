"""One small real network: as a model.json folder, and exported once."""

from __future__ import annotations

import pytest

from edgekd.artifact import Artifact
from edgekd.model import Model
from edgekd_onnx.exporter import OnnxExporter


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    pytest.importorskip("torch")
    from edgekd_torch.modules import Seeded, describe, write_model

    entry = describe("zoo:digits-cnn-student", None)
    return write_model(
        Seeded(0).build(entry), entry, folder=tmp_path_factory.mktemp("digits-model"), name="digits",
        factory="zoo:digits-cnn-student", search=None, prepare={"scale": 16}, lineage={},
    )  # fmt: skip


@pytest.fixture(scope="session")
def digits_onnx(digits_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return OnnxExporter().export(digits_model, tmp_path_factory.mktemp("digits-onnx"), {})
