"""ONNX files from elsewhere, as they are: they run, convert and quantize unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.quantize.config import QuantConfig
from edgekd.spec import draw_feeds
from edgekd.target import SessionOptions
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.ort_format import OrtFormatExporter
from edgekd_onnx.runtime import OnnxRuntime

pytestmark = pytest.mark.data

_FILES = ("onnx/yunet_n_320_320.onnx", "vision/mlperftiny_pretrainedResnet.onnx")


def _file(data_root: Path, name: str) -> Path:
    path = data_root / name
    if not path.is_file():
        pytest.skip(f"no {name} in {data_root}")
    return path


def test_yunet_answers_as_its_golden_file(data_root: Path) -> None:
    path = _file(data_root, "onnx/yunet_n_320_320.onnx")
    with np.load(_file(data_root, "onnx/yunet_n_320_320_golden.npz")) as golden:
        arrays = dict(golden)
    session = OnnxRuntime().open(path, SessionOptions())
    assert len(session.outputs) == 12
    (spec,) = session.inputs
    images = arrays["images_uint8_nhwc_bgr"].transpose(0, 3, 1, 2).astype(np.float32)
    size = len(images) if spec.dynamic_batch else 1
    made = [session.run({spec.name: images[i : i + size]}) for i in range(0, len(images), size)]
    for name in made[0]:
        found = np.concatenate([m[name] for m in made])
        np.testing.assert_allclose(found, arrays[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", _FILES)
def test_converts_and_quantizes_unchanged(data_root: Path, tmp_path: Path, name: str) -> None:
    read = OnnxExporter().read(_file(data_root, name))
    feeds = draw_feeds(read.inputs, seed=0, shapes={})
    folders = {n: tmp_path / n for n in ("slim", "half", "ort", "int8")}
    for folder in folders.values():
        folder.mkdir()
    basic = OnnxExporter().convert(read, folders["slim"], {"optimize": "ort-basic", "opset": 20})
    half = OnnxExporter().convert(read, folders["half"], {"dtype": "float16", "atol": 0.05, "rtol": 0.05})
    ort = OrtFormatExporter().convert(read, folders["ort"], {})
    int8 = OnnxExporter().quantize(read, QuantConfig(examples=1), [feeds], folders["int8"])
    wanted = [s.name for s in read.outputs]
    for made in (basic, half, ort, int8):
        assert [s.name for s in made.outputs] == wanted
        assert set(OnnxRuntime().open(made.path, SessionOptions()).run(feeds)) == set(wanted)
    assert half.size_bytes < 0.7 * read.size_bytes
