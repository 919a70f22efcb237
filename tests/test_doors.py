"""Files from outside are inspected before any library opens them, and pickled weights only become safetensors."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact, load_artifact
from edgekd.doors import inspect_opened, safe_weights
from edgekd.errors import DamagedFileError, ModelError, PolicyError
from edgekd.files import sha256_file
from edgekd.model import Model
from edgekd.models import open_reference
from edgekd.stages import StageStore
from edgekd.testing import write_fake
from edgekd.trust import Trust


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "cache")


@pytest.fixture
def trusting(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "cache", trust=Trust(allow_pickle=True))


def test_pickled_weights_are_refused_in_one_line(store: StageStore, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil(f"touch {tmp_path}/ran")))
    with pytest.raises(PolicyError, match=r"w\.pt: .*pickled.*\(rule pickle\); .*--allow-pickle") as caught:
        open_reference("zoo:digits-cnn-student", weights=tmp_path / "w.pt", base=None, store=store)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_malicious_pickle_leaves_no_trace(trusting: StageStore, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for name, content in (
        ("a.pt", Evil(f"touch {tmp_path}/ran")),
        ("b.pth", {"w": Evil(f"touch {tmp_path}/ran")}),
    ):
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
        with pytest.raises(PolicyError, match=r"would import (posix|nt)\.system \(rule pickle\)"):
            safe_weights(tmp_path / name, trusting)
    assert not (tmp_path / "ran").exists()
    assert not (trusting.root / "weights").exists()


def test_torch_refuses_what_the_list_let_through(
    trusting: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second line: the child loads with weights_only."""
    pytest.importorskip("torch")
    monkeypatch.setattr("edgekd_torch.pickled.inspect_file", lambda path, digest: None)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil(f"touch {tmp_path}/ran"), 2))
    with pytest.raises(PolicyError, match="torch refuses to unpickle") as caught:
        safe_weights(tmp_path / "w.pt", trusting)
    assert caught.value.rule == "pickle"
    assert not (tmp_path / "ran").exists()


def test_a_state_dict_is_converted_once(
    trusting: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    made = open_reference("zoo:digits-cnn-student", weights=None, base=None, store=trusting)
    assert isinstance(made, Model)
    state = safetensors.load_file(made.folder / made.weights)
    path = tmp_path / "w.pt"
    torch.save({"state_dict": state, "epoch": 3}, path)
    again = open_reference("zoo:digits-cnn-student", weights=path, base=None, store=trusting)
    assert isinstance(again, Model)
    assert again.as_artifact().digest == made.as_artifact().digest
    converted = safe_weights(path, trusting)
    assert again.lineage["weights"] == sha256_file(converted)
    with safetensors.safe_open(converted, framework="pt") as f:
        assert f.metadata() == {"converted_from_sha256": sha256_file(path)}
    # The next time nothing is unpickled, wherever the file lies.
    monkeypatch.setattr("edgekd_torch.pickled.ChildProcess", None)
    (tmp_path / "other.pth").write_bytes(path.read_bytes())
    assert safe_weights(tmp_path / "other.pth", trusting) == converted


def test_what_is_no_state_dict(trusting: StageStore, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2), "epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="holds epoch beside tensors"):
        safe_weights(tmp_path / "w.pt", trusting)


def test_an_old_torch_converts_nothing(
    trusting: StageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({}))
    monkeypatch.setattr("edgekd_torch.pickled.importlib.metadata.version", lambda name: "2.9.1+cu128")
    with pytest.raises(PolicyError, match=r"torch 2\.9\.1\+cu128 .*CVE-2025-32434, CVE-2026-24747"):
        safe_weights(tmp_path / "w.pt", trusting)


def test_safetensors_weights_are_inspected(store: StageStore, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(PolicyError, match="rule header-length"):
        safe_weights(path, store)


def test_an_artifact_json_proves_nothing_outside_the_cache(store: StageStore, tmp_path: Path) -> None:
    """Whoever writes the model can write its artifact.json too."""
    from dataclasses import replace

    from edgekd.artifact import record_file

    folder = tmp_path / "given"
    folder.mkdir()
    made = write_fake(folder)
    (folder / "model.onnx").write_bytes(b"\xff" * 100)
    hostile = replace(made, format="onnx", entry="model.onnx", files=(record_file(folder, "model.onnx"),))
    hostile.save()
    for name in (folder, folder / "model.onnx"):
        with pytest.raises(DamagedFileError, match=r"model\.onnx: .*rule malformed"):
            open_reference(str(name), weights=None, base=None, store=store)
    (folder / "model.onnx").rename(folder / "model.data")
    replace(hostile, entry="model.data", files=(record_file(folder, "model.data"),)).save()
    with pytest.raises(DamagedFileError, match=r"recorded as onnx.*rule content-mismatch"):
        open_reference(str(folder), weights=None, base=None, store=store)
    inspect_opened(load_artifact(folder), tmp_path)  # as if the cache were there: written by EdgeKD itself


def test_data_is_inspected(tmp_path: Path) -> None:
    from edgekd.data.sources import open_source

    np.savez(tmp_path / "d.npz", x=np.asarray([{}, None], dtype=object))
    with pytest.raises(
        PolicyError, match=r"d\.npz: member 'x\.npy' holds pickled objects \(rule pickled-array\)"
    ):
        open_source("d.npz", tmp_path)


def test_a_named_file_may_be_a_link(store: StageStore, tmp_path: Path) -> None:
    """Model caches on developers' machines are full of links."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 4])],
        [helper.make_tensor_value_info("y", kind, ["batch", 4])],
    )  # fmt: skip
    blob = tmp_path / "blob"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(blob))
    (tmp_path / "soft.onnx").symlink_to(blob)
    os.link(blob, tmp_path / "hard.onnx")
    for name in ("soft.onnx", "hard.onnx"):
        assert isinstance(open_reference(name, weights=None, base=tmp_path, store=store), Artifact)
