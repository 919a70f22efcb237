"""Real networks and usual blocks as ExecuTorch programs: parity, accuracy, placement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.model import MODEL_FILE, Model
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec
from edgekd.target import SessionOptions
from edgekd_executorch.exporter import ExecuTorchExporter
from edgekd_executorch.runtime import ExecuTorchRuntime

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")

_BLOCK = """
import torch
from torch import nn

class Block(nn.Module):
    '''Inverted residual with linear bottleneck (Sandler et al. 2018, figure 3b), a strided one, and a head.'''
    edgekd_inputs = {"image": ("float32", ("batch", 3, 16, 16))}
    def __init__(self):
        super().__init__()
        def unit(a, b, k, stride=1, groups=1, act=True):
            layers = [nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(b)]
            return nn.Sequential(*layers, *([nn.ReLU6()] if act else []))
        self.stem = unit(3, 8, 3, 2)
        self.residual = nn.Sequential(unit(8, 48, 1), unit(48, 48, 3, groups=48), unit(48, 8, 1, act=False))
        self.strided = nn.Sequential(unit(8, 48, 1), unit(48, 48, 3, 2, groups=48), unit(48, 16, 1, act=False))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)
    def forward(self, image):
        x = self.stem(image)
        x = self.strided(x + self.residual(x))
        return self.head(torch.flatten(self.pool(x), 1))

def make():
    return Block()
"""


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from edgekd_torch.modules import Seeded, describe, write_model

    folder = tmp_path_factory.mktemp("block")
    (folder / "mobile_block.py").write_text(_BLOCK)
    (folder / "model").mkdir()
    entry = describe("python:mobile_block:make", folder)
    return write_model(
        Seeded(0).build(entry), entry, folder=folder / "model", name="block", factory="python:mobile_block:make",
        search=folder, prepare={}, lineage={},
    )  # fmt: skip


def kinds(made: Artifact, feeds: dict[str, np.ndarray]) -> dict[str, set[tuple[str, str]]]:
    """Operator -> where it ran and in what."""
    found: dict[str, set[tuple[str, str]]] = {}
    for op in ExecuTorchRuntime().place(made.path, SessionOptions(), feeds):
        found.setdefault(op.op_type, set()).add((op.place, op.dtype))
    return found


def test_a_mobile_block(block: Model, tmp_path: Path) -> None:
    made = ExecuTorchExporter().export(block, tmp_path, {"max_batch": 4})
    assert made.lineage["parity"]["max_abs_error"] < 1e-5
    table = made.lineage["placement"]
    assert table["delegated"] == table["operators"]
    feeds = {"image": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    assert kinds(made, feeds)["Convolution"] == {("XnnpackBackend", "float32")}


@pytest.mark.slow
def test_a_mobile_block_in_int8(block: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"image": rng.normal(size=(64, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    made = ExecuTorchExporter().quantize_model(block, QuantConfig(), feeds, tmp_path, {})
    assert made.lineage["sqnr_db"]["logits"] > 20
    assert kinds(made, {"image": feeds[0]["image"][:1]})["Convolution"] == {("XnnpackBackend", "int8")}


def accuracy(session: object, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    made = [session.run({"image": images[i : i + 50]})["logits"] for i in range(0, len(images), 50)]  # type: ignore[attr-defined]
    logits = np.concatenate(made)
    return float(np.mean(logits.argmax(1) == labels)), logits


@pytest.mark.data
@pytest.mark.slow
def test_the_published_resnet32(data_root: Path, tmp_path: Path) -> None:
    """ResNet-32 with its published weights on 300 CIFAR-10 test images: float32 answers as torch, INT8 nearly so."""
    from edgekd_torch.modules import describe, load_weights, write_model
    from edgekd_torch.runtime import TorchRuntime

    folder = data_root / "vision"
    with np.load(folder / "cifar10_testA_jpegq75.npz") as data:
        images, labels = data["images"][:556], data["labels"][:300]
    entry = describe("zoo:cifar-resnet32", None)
    net = entry.build()
    load_weights(net, folder / "resnet32_cifar10.safetensors")
    for name in ("model", "float32", "int8"):
        (tmp_path / name).mkdir()
    model = write_model(
        net, entry, folder=tmp_path / "model", name="resnet32", factory="zoo:cifar-resnet32", search=None, prepare={},
        lineage={},
    )  # fmt: skip
    prepare = entry.prepare
    x = (images / prepare["scale"] - np.array(prepare["mean"])) / np.array(prepare["std"])
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32)
    exporter = ExecuTorchExporter()
    plain = exporter.export(model, tmp_path / "float32", {})
    calibration = ({"image": x[i : i + 64]} for i in range(300, 556, 64))
    int8 = exporter.quantize_model(model, QuantConfig(), calibration, tmp_path / "int8", {})
    options = SessionOptions()
    wanted, reference = accuracy(TorchRuntime().open(model.folder / MODEL_FILE, options), x[:300], labels)
    found, logits = accuracy(ExecuTorchRuntime().open(plain.path, options), x[:300], labels)
    small, rounded = accuracy(ExecuTorchRuntime().open(int8.path, options), x[:300], labels)
    assert wanted == found > 0.8 and np.array_equal(reference.argmax(1), logits.argmax(1))
    assert small > wanted - 0.03 and np.mean(rounded.argmax(1) == reference.argmax(1)) > 0.95
    assert int8.size_bytes < 0.4 * plain.size_bytes
    assert plain.inputs == (TensorSpec(name="image", dtype="float32", shape=("batch", 3, 32, 32)),)
