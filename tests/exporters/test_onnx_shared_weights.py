"""Constants that several nodes read: a Linear used twice, an embedding tied to the last product."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.quantize.config import QuantConfig, config_of
from edgekd_onnx import quantizing
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.runtime import OnnxRuntime

_VALUE = helper.make_tensor_value_info
_RNG = np.random.default_rng(4)
_X: list[dict[str, Array]] = [{"x": _RNG.normal(size=(4, 16)).astype(np.float32)} for _ in range(4)]
_IDS: list[dict[str, Array]] = [{"ids": _RNG.integers(0, 50, (4, 6))} for _ in range(4)]


def _save(path: Path, nodes: list[Any], inputs: list[Any], shapes: dict[str, tuple[int, ...]]) -> Artifact:
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in shapes.items()
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, [_VALUE("y", TensorProto.FLOAT, ["n", shapes["w"][0]])], constants
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return OnnxExporter().read(path)


def _twice(path: Path, second: str) -> Artifact:
    """A Linear, and its weights once more: as the same Linear, or not transposed."""
    again = helper.make_node(second, ["r", "w"], ["y"], name="again", **({"transB": 1} if second == "Gemm" else {}))  # fmt: skip
    return _save(
        path,
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="linear", transB=1), helper.make_node("Relu", ["h"], ["r"]), again],
        [_VALUE("x", TensorProto.FLOAT, ["n", 16])],
        {"w": (16, 16), "b": (16,)},
    )  # fmt: skip


def _tied(path: Path) -> Artifact:
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["e"], name="embedding"),
        helper.make_node("ReduceMean", ["e"], ["m"], axes=[1], keepdims=0, name="mean"),
        helper.make_node("Gemm", ["m", "p"], ["q"], name="project"),
        helper.make_node("Gemm", ["q", "w"], ["y"], name="head", transB=1),
    ]
    return _save(path, nodes, [_VALUE("ids", TensorProto.INT64, ["n", 6])], {"w": (50, 16), "p": (16, 16)})


def _quantize(source: Artifact, out: Path, config: QuantConfig, feeds: list[dict[str, Array]]) -> Artifact:
    out.mkdir()
    return OnnxExporter().quantize(source, config, iter(feeds), out)


@pytest.mark.parametrize("word", ["int8", "int8-dynamic", "int8-weights", "int4"])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "tied"])
def test_a_shared_constant_keeps_its_value_for_every_reader(kind: str, word: str, tmp_path: Path) -> None:
    source = _tied(tmp_path / "m.onnx") if kind == "tied" else _twice(tmp_path / "m.onnx", kind)
    config = replace(config_of(word), examples=16)
    made = _quantize(source, tmp_path / "q", config, _IDS if kind == "tied" else _X)
    # Broken, it has 0 dB or does not run; 4 bits of random weights have about 20.
    assert made.lineage["sqnr_db"]["y"] > (14 if word == "int4" else 30)


def test_a_linear_used_twice_is_stored_once(tmp_path: Path) -> None:
    made = _quantize(_twice(tmp_path / "m.onnx", "Gemm"), tmp_path / "q", config_of("int8-dynamic"), _X)
    whole = [t for t in onnx.load(str(made.path)).graph.initializer if tuple(t.dims) == (16, 16)]
    assert len(whole) == 1


def test_an_error_names_the_float_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, real = _tied(tmp_path / "m.onnx"), OnnxRuntime.open

    def opened(self: OnnxRuntime, path: Path, options: Any) -> Any:
        if path != source.path:
            raise ModelError(f"onnxruntime cannot open {path} (scale)", "export it again")
        return real(self, path, options)

    monkeypatch.setattr(quantizing, "check_against", lambda before, after, *_, **__: after())
    monkeypatch.setattr(OnnxRuntime, "open", opened)
    with pytest.raises(ModelError, match=r"cannot open what .*m\.onnx is quantized to") as caught:
        _quantize(source, tmp_path / "q", QuantConfig(), _IDS)
    assert str(tmp_path / "q") not in str(caught.value)
