from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import DataError, InputError, ModelError, TargetUnavailableError, UsageError
from edgekd.model import Model
from edgekd.spec import TensorSpec
from edgekd.target import SessionOptions
from edgekd.testing import check_runtime
from edgekd_torch import runtime as module
from edgekd_torch.runtime import TorchRuntime, named_outputs, refuse_training

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_conforms(digits_model: Model, tmp_path: Path) -> None:
    check_runtime(TorchRuntime(), digits_model.folder / "model.json", tmp_path, threads=2)


def test_agrees_with_the_module(digits_model: Model) -> None:
    from edgekd_torch.modules import load_module

    session = TorchRuntime().open(digits_model.folder / "model.json", SessionOptions())
    assert session.placement.runtime == f"torch {torch.__version__}"
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        wanted = load_module(digits_model)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(session.run({"image": x})["logits"], wanted)


def test_inputs_are_bound_once(digits_model: Model) -> None:
    session = TorchRuntime().open(digits_model.folder / "model.json", SessionOptions())
    x = np.ones((1, 1, 8, 8), np.float32)
    wanted = session.run({"image": x})["logits"]
    bound = session.bind({"image": x})
    x[:] = 100
    bound()
    np.testing.assert_array_equal(bound.outputs()["logits"], wanted)


def test_refusals(digits_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = digits_model.folder / "model.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TargetUnavailableError, match="no CUDA device"):
        TorchRuntime().open(path, SessionOptions(device="cuda"))
    with pytest.raises(UsageError, match="graph_level"):
        TorchRuntime().open(path, SessionOptions(settings={"graph_level": "all"}))
    with pytest.raises(UsageError, match="threads"):
        TorchRuntime().open(path, SessionOptions(threads=0))
    with pytest.raises(ModelError, match=r"not a model\.json"):
        TorchRuntime().open(digits_model.folder / digits_model.weights, SessionOptions())
    folder = tmp_path / "altered"
    shutil.copytree(digits_model.folder, folder)
    weights = folder / digits_model.weights
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(InputError, match="altered"):
        TorchRuntime().open(folder / "model.json", SessionOptions())


def test_a_module_in_training_mode_is_refused(digits_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekd_torch import modules

    real = modules.load_module

    def half_training(model: Model) -> Any:
        made = real(model)
        made.features[1].train()
        return made

    monkeypatch.setattr(modules, "load_module", half_training)
    with pytest.raises(ModelError, match=r"features\.1 \(BatchNorm2d\) is in training mode"):
        TorchRuntime().open(digits_model.folder / "model.json", SessionOptions())
    with pytest.raises(ModelError, match="the module"):
        refuse_training(torch.nn.Linear(1, 1), "m")


def test_a_module_that_fails_is_one_line(digits_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = TorchRuntime().open(digits_model.folder / "model.json", SessionOptions())
    loose = replace(session.inputs[0], shape=("batch", 1, "h", "w"))
    session.inputs = (loose,)
    feeds = {"image": np.zeros((1, 1, 12, 12), np.float32)}
    for call in (lambda: session.run(feeds), session.bind(feeds)):
        with pytest.raises((ModelError, DataError), match="failed while running") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_outputs_by_name_or_position() -> None:
    specs = [TensorSpec(name=n, dtype="float32", shape=(1,)) for n in ("a", "b")]
    assert named_outputs([1, 2], specs, "m") == {"a": 1, "b": 2}
    assert list(named_outputs({"b": 2, "a": 1, "c": 3}, specs, "m")) == ["a", "b"]
    with pytest.raises(ModelError, match="returned 1 tensors"):
        module.named_outputs(5, specs, "m")
    with pytest.raises(ModelError, match="did not return 'b'"):
        module.named_outputs({"a": 1}, specs, "m")
