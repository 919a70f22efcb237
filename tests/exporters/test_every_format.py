"""The same suite for every format: exported twice, read back, run beside torch at three sizes and on real digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.model import Model
from edgekd.plugins import load_plugin
from edgekd.stages import StageStore
from edgekd.testing import ConformanceError, check_round_trip

#: Format -> (module that writing it needs, runtime, whether it keeps dynamic sizes).
FORMATS = {
    "onnx": ("onnxruntime", "onnxruntime", True),
    "openvino": ("openvino", "openvino", True),
    "executorch": ("executorch", "executorch", True),
    "litert": ("ai_edge_litert", "litert", False),
}

NETS = '''
import torch


class Mixed(torch.nn.Module):
    """Ids and values of a dynamic length: an embedding, a recurrent layer, a mask."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(20, 8)
        self.mix = torch.nn.Linear(12, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 3)
        self.edgekd_inputs = {
            "ids": ("int64", ("batch", "length")), "values": ("float32", ("batch", "length", 4)),
        }

    def forward(self, ids, values):
        seen = torch.cat([self.table(ids), values], dim=-1)
        return self.head(self.norm(torch.nn.functional.gelu(self.mix(seen))).mean(1))


def mixed():
    return Mixed().eval()
'''


@pytest.fixture(scope="module")
def mixed_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from edgekd.models import materialise

    folder = tmp_path_factory.mktemp("mixed")
    (folder / "every_format_nets.py").write_text(NETS)
    store = StageStore(folder / "cache")
    made, _ = materialise(
        "python:every_format_nets:mixed", name="mixed", prepare={}, weights=None, search=folder, store=store
    )
    return made


def real_digits(batch: int) -> list[Mapping[str, Any]]:
    load = pytest.importorskip("sklearn.datasets").load_digits
    images = load().images.astype(np.float32)[:, None] / 16
    return [{"image": images[k : k + batch]} for k in range(0, 3 * batch, batch)]


def write(format_name: str, request: pytest.FixtureRequest) -> tuple[Any, Any, bool]:
    package, runtime, dynamic = FORMATS[format_name]
    if importlib.util.find_spec(package) is None:  # importing openvino would start its telemetry
        pytest.skip(f"{package} is not installed")
    if format_name == "litert":
        request.getfixturevalue("converter")
    return load_plugin("edgekd.exporters", format_name)(), load_plugin("edgekd.runtimes", runtime)(), dynamic


@pytest.mark.parametrize("format_name", FORMATS)
def test_images_of_three_batches(
    format_name: str, digits_model: Model, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    exporter, runtime, dynamic = write(format_name, request)
    shapes = {"image": ((1, 1, 8, 8), (2, 1, 8, 8), (7, 1, 8, 8))}
    artifact, parity = check_round_trip(
        exporter, runtime, digits_model, tmp_path, shapes=shapes, real=real_digits(2), dynamic=dynamic
    )
    assert parity.feeds == (6 if dynamic else 1)
    assert parity.batches == ((1, 2, 7) if dynamic else (1,))
    assert artifact.prepare == digits_model.prepare


@pytest.mark.parametrize("format_name", FORMATS)
def test_ids_and_values_of_three_lengths(
    format_name: str, mixed_model: Model, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    exporter, runtime, dynamic = write(format_name, request)
    shapes = {"ids": ((1, 2), (2, 8), (4, 31)), "values": ((1, 2, 4), (2, 8, 4), (4, 31, 4))}
    _, parity = check_round_trip(exporter, runtime, mixed_model, tmp_path, shapes=shapes, dynamic=dynamic)
    assert 0 <= parity.max_abs_error < 1e-4


def test_an_export_that_answers_otherwise_is_caught(
    digits_model: Model, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The exporter's own check is not what this suite believes."""
    exporter, runtime, _ = write("onnx", request)

    class Wrong(type(exporter)):  # type: ignore[misc]
        def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Any:
            made = super().export(model, out, options)
            onnx = pytest.importorskip("onnx")
            proto = onnx.load(made.path)
            weight = next(w for w in proto.graph.initializer if len(w.dims) > 1)
            weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.01).astype(np.float32).tobytes()
            onnx.save(proto, made.path)
            return exporter.read(made.path).__class__(
                **{f: getattr(made, f) for f in made.__slots__ if f != "files"},
                files=exporter.read(made.path).files,
            )

    with pytest.raises(ConformanceError, match="parity: onnx: output"):
        check_round_trip(
            Wrong(), runtime, digits_model, tmp_path,
            shapes={"image": ((1, 1, 8, 8), (2, 1, 8, 8), (7, 1, 8, 8))},
        )  # fmt: skip
