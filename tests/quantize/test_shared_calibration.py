"""Several quantizations of one file share its calibration, and are what each would be alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.spool import CalibrationSpool
from edgekd_onnx.calibrating import SpoolReader
from edgekd_onnx.exporter import OnnxExporter

pytest.importorskip("onnxruntime.quantization")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("net")
    rng = np.random.default_rng(0)
    weights = {f"w{k}": rng.normal(0, 0.3, (8, 8)).astype(np.float32) for k in range(3)}
    nodes = []
    for k in range(3):
        nodes += [
            helper.make_node("MatMul", ["x" if k == 0 else f"r{k - 1}", f"w{k}"], [f"m{k}"], name=f"mm{k}"),
            helper.make_node("Relu", [f"m{k}"], [f"r{k}"], name=f"relu{k}"),
        ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("r2", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    path = folder / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxExporter().read(path)


def _feeds() -> list[dict[str, Array]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1, 8)).astype(np.float32)} for _ in range(12)]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_a_shared_spool_calibrates_once_and_changes_nothing(
    net: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    configs = [QuantConfig(calibration=method, keep_float=kept) for kept in ((), ("mm1",), ("mm0", "mm2"))]
    alone = []
    for k, config in enumerate(configs):
        (tmp_path / f"alone{k}").mkdir()
        alone.append(OnnxExporter().quantize(net, config, _feeds(), tmp_path / f"alone{k}"))
    reads: list[int] = []
    original = SpoolReader.get_next

    def counted(self: SpoolReader) -> dict[str, Array] | None:
        reads.append(1)
        return original(self)

    monkeypatch.setattr(SpoolReader, "get_next", counted)
    (tmp_path / "spool").mkdir()
    spool = CalibrationSpool(folder=tmp_path / "spool", inputs=net.inputs)
    spool.fill(_feeds(), 12)
    first = 0
    for k, config in enumerate(configs):
        (tmp_path / f"shared{k}").mkdir()
        made = OnnxExporter().quantize(net, config, spool, tmp_path / f"shared{k}")
        assert made.digest == alone[k].digest
        assert made.lineage["calibration"] == alone[k].lineage["calibration"]
        first = len(reads) if k == 0 else first
    assert len(reads) == first > 0
