"""docs/quantization.md says what can be written; the exporters' own tables are asked whether that is so."""

from __future__ import annotations

from pathlib import Path

from edgekd.quantize.config import config_of
from edgekd.quantize.support import Support
from edgekd_executorch import quantizing as executorch
from edgekd_litert import quantizing as litert
from edgekd_onnx import fp8
from edgekd_onnx import quantizing as onnx
from edgekd_openvino import quantizing as openvino

_PAGE = Path(__file__).parents[2] / "docs" / "quantization.md"
_WRITERS: dict[str, list[Support]] = {
    "onnx, ort": [onnx.SUPPORT["cpu"]],
    "onnx": [fp8.SUPPORT],
    "tensorrt": [onnx.SUPPORT["tensorrt"], fp8.SUPPORT],
    "openvino": [openvino.SUPPORT],
    "executorch": [executorch.SUPPORT],
    "litert": [litert.SUPPORT],
}


def _rows() -> set[tuple[str, ...]]:
    """The table under "What can be written"; other sections have tables of their own."""
    section = _PAGE.read_text().partition("## What can be written")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `") and "--" not in line]
    return {tuple(c.strip().strip("`") for c in line.strip("|").split("|")) for line in lines}


def _sorted(text: str) -> str:
    return ", ".join(sorted(text.split(", ")))


def test_the_table_is_what_the_exporters_write() -> None:
    said = set()
    for word, mode, formats, granularities, calibrations in _rows():
        config = config_of(word)
        assert config.mode == mode
        said.add((config.dtype, mode, formats, _sorted(granularities), _sorted(calibrations)))
    written = {
        (
            dtype, mode, formats, ", ".join(sorted(granularities)),
            ", ".join(sorted(support.calibrations)) if mode == "static" else "",
        )
        for formats, supports in _WRITERS.items()
        for support in supports
        for (dtype, mode), granularities in support.granularities.items()
    }  # fmt: skip
    assert said == written
