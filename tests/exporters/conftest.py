"""One small real network: as a model.json folder, and exported once."""

from __future__ import annotations

import os

import pytest

from edgekd.artifact import Artifact
from edgekd.errors import MissingDependencyError
from edgekd.model import Model
from edgekd.stages import StageStore, default_cache_root
from edgekd_litert import environment
from edgekd_onnx.exporter import OnnxExporter

#: Of whoever runs the tests; the session itself gets a cache of its own.
_CACHE = default_cache_root(os.environ)


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


@pytest.fixture(scope="session")
def converter() -> None:
    """litert-torch: where EDGEKD_LITERT_PYTHON says, or in the user's cache (`python -m edgekd_litert.environment`)."""
    if os.environ.get(environment.PYTHON_VARIABLE):
        return
    key = environment.environment_key()
    made = StageStore(_CACHE).folder("environments", key)
    ours = StageStore(default_cache_root(os.environ)).folder("environments", key)
    if made.is_dir() and not ours.exists():
        ours.parent.mkdir(parents=True, exist_ok=True)
        ours.symlink_to(made, target_is_directory=True)
    try:
        environment.converter_packages(make=False)
    except MissingDependencyError as e:
        pytest.skip(f"no litert-torch: {e}")
