"""Exports are compared with their source on the task's own data, which is part of a stage's key."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.errors import ModelError
from edgekd.pipeline.artifacts import export_to
from edgekd.pipeline.real_feeds import EXAMPLES, RealFeeds, given, keyed, real_feeds
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from edgekd_torch.modules import Seeded, describe, write_model

    entry = describe("zoo:digits-cnn-student", None)
    return write_model(
        Seeded(0).build(entry), entry, folder=tmp_path_factory.mktemp("net"), name="net",
        factory="zoo:digits-cnn-student", search=None, prepare={}, lineage={},
    )  # fmt: skip


def _task(folder: Path, split: str = "select", rows: int = 40, seed: int = 0) -> TaskSpec:
    rng = np.random.default_rng(seed)
    path = folder / f"{split}-{seed}.npz"
    np.savez(path, image=rng.random((rows, 1, 8, 8), np.float32), label=rng.integers(0, 10, rows))
    return TaskSpec(kind="classification", data={split: str(path)}, base=str(folder))


def test_an_export_is_compared_on_real_examples(model: Any, tmp_path: Path) -> None:
    store = StageStore(tmp_path / "store")
    made = export_to(model, "onnx", real_feeds(_task(tmp_path), "student"), store, "export")
    real = made.lineage["parity"]["real"]
    assert real["examples"] == EXAMPLES
    assert real["agreement"] == {"logits": 1.0} and real["sqnr_db"]["logits"] > 90
    again = export_to(model, "onnx", real_feeds(_task(tmp_path), "student"), store, "export")
    assert again.folder == made.folder
    other = export_to(model, "onnx", real_feeds(_task(tmp_path, seed=1), "student"), store, "export")
    assert other.folder != made.folder and other.digest == made.digest


def test_every_step_of_a_conversion_is_compared(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    made = export_to(
        model, "openvino", real_feeds(_task(tmp_path), "student"), StageStore(tmp_path / "store"), "export"
    )
    assert made.lineage["parity"]["real"]["examples"] == EXAMPLES


def test_an_export_that_is_wrong_on_real_examples_only(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekd_onnx.runtime import OnnxRuntime

    opened = OnnxRuntime.open

    def wrong(self: Any, path: Path, options: Any) -> Any:
        session = opened(self, path, options)
        run = session.run
        # Real images have no negative values, drawn feeds always do.
        session.run = lambda feeds: {k: v * (np.min(feeds["image"]) < 0) for k, v in run(feeds).items()}
        return session

    monkeypatch.setattr(OnnxRuntime, "open", wrong)
    store = StageStore(tmp_path / "store")
    export_to(model, "onnx", {}, store, "export")
    with pytest.raises(ModelError, match=r"output 'logits' has 0\.0 dB .* real examples"):
        export_to(model, "onnx", real_feeds(_task(tmp_path), "student"), store, "export")


def test_batches_fit_the_sizes_of_the_export(model: Any, tmp_path: Path) -> None:
    real = RealFeeds(task=_task(tmp_path, rows=10), role="student")
    source = model.as_artifact()
    assert [len(f["image"]) for f in real.arrays(source, {})] == [1] * 10
    fixed = {"image": ((4, 1, 8, 8),) * 3}
    assert [len(f["image"]) for f in given({"feeds": real, "shapes": fixed}, source)["feeds"]] == [4, 4, 4]
    assert given({"opset": 17}, source) == {"opset": 17}


def test_a_key_holds_the_data_by_digest(tmp_path: Path) -> None:
    first, second = (keyed(real_feeds(_task(tmp_path, seed=s), "student")) for s in (0, 1))
    assert first["feeds"]["data"].startswith("sha256:") and first != second
    assert keyed(real_feeds(_task(tmp_path), "teacher")) != first
    none = TaskSpec(kind="classification", data={}, base=str(tmp_path))
    assert real_feeds(none, "student") == {}


def test_evaluated_splits_come_first(tmp_path: Path) -> None:
    both = {**_task(tmp_path, "calibration").data, **_task(tmp_path, "test").data}
    task = TaskSpec(kind="classification", data=both, base=str(tmp_path))
    assert RealFeeds(task=task, role="teacher").split == "test"
