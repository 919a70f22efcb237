"""TFLite, ExecuTorch and OpenVINO files: made here where that is short, else what their libraries write, damaged."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from edgekd.errors import DamagedFileError, ModelError, PolicyError
from edgekd.inspect import inspect_file


def tflite(**changed: int) -> bytes:
    """One graph: tensor 0 -> custom operator -> tensor 1, and one buffer; ``changed`` says what is wrong."""
    flatbuffers = pytest.importorskip("flatbuffers")
    b = flatbuffers.Builder(0)
    told = {"version": 3, "buffer": 0, "tensor": 1, "code": 0, "dim": 4, "offset": 0, "size": 0, **changed}

    def vector(items: list[int]) -> int:
        b.StartVector(4, len(items), 4)
        for item in reversed(items):
            b.PrependUOffsetTRelative(item)
        return int(b.EndVector())

    def numbers(items: list[int]) -> int:
        b.StartVector(4, len(items), 4)
        for item in reversed(items):
            b.PrependInt32(item)
        return int(b.EndVector())

    name = b.CreateString("Detect")
    b.StartObject(4)
    b.PrependUOffsetTRelativeSlot(1, name, 0)
    b.PrependInt32Slot(3, 32, 0)
    codes = vector([b.EndObject()])
    tensors = []
    for text in ("in", "out"):
        label, shape = b.CreateString(text), numbers([1, told["dim"]])
        b.StartObject(4)
        b.PrependUOffsetTRelativeSlot(0, shape, 0)
        b.PrependUint32Slot(2, told["buffer"], 0)
        b.PrependUOffsetTRelativeSlot(3, label, 0)
        tensors.append(b.EndObject())
    inputs, outputs = numbers([0]), numbers([told["tensor"]])
    b.StartObject(3)
    b.PrependUint32Slot(0, told["code"], 0)
    b.PrependUOffsetTRelativeSlot(1, inputs, 0)
    b.PrependUOffsetTRelativeSlot(2, outputs, 0)
    operators = vector([b.EndObject()])
    all_tensors = vector(tensors)
    b.StartObject(4)
    b.PrependUOffsetTRelativeSlot(0, all_tensors, 0)
    b.PrependUOffsetTRelativeSlot(1, inputs, 0)
    b.PrependUOffsetTRelativeSlot(2, outputs, 0)
    b.PrependUOffsetTRelativeSlot(3, operators, 0)
    graphs = vector([b.EndObject()])
    b.StartObject(3)
    b.PrependUint64Slot(1, told["offset"], 0)
    b.PrependUint64Slot(2, told["size"], 0)
    buffers = vector([b.EndObject()])
    b.StartObject(5)
    b.PrependUint32Slot(0, told["version"], 0)
    b.PrependUOffsetTRelativeSlot(1, codes, 0)
    b.PrependUOffsetTRelativeSlot(2, graphs, 0)
    b.PrependUOffsetTRelativeSlot(4, buffers, 0)
    b.Finish(b.EndObject(), b"TFL3")
    return bytes(b.Output())


def _refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises((PolicyError, DamagedFileError), match=r"\(rule [a-z-]+\)") as caught:
        inspect_file(path)
    return caught.value.rule


def test_a_tflite_and_its_custom_operator(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite())
    facts = inspect_file(path).facts
    assert facts == {
        "graphs": 1, "operators": 1, "custom_operators": ["Detect"], "tensors": 2, "constant_bytes": 0,
    }  # fmt: skip
    path.write_bytes(tflite(offset=8, size=8))
    assert inspect_file(path).facts["constant_bytes"] == 8


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"version": 2}, "malformed"),
        ({"buffer": 1}, "malformed"),
        ({"tensor": 2}, "malformed"),
        ({"tensor": -2}, "malformed"),
        ({"code": 1}, "malformed"),
        ({"dim": -7}, "tensor-shape"),
        ({"offset": 8, "size": 1 << 40}, "truncated"),
    ],
)
def test_a_tflite_that_names_what_is_not_there(tmp_path: Path, changed: dict[str, int], rule: str) -> None:
    assert _refused(tmp_path / "m.tflite", tflite(**changed)) == rule


@pytest.mark.parametrize("step", [1, 4])
def test_a_tflite_cut_or_flipped_anywhere(tmp_path: Path, step: int) -> None:
    """Whatever byte is another one, the file is taken or refused: no other exception."""
    data, path = tflite(), tmp_path / "m.tflite"
    refused = 0
    for at in range(0, len(data), step):
        for changed in (data[: at + 1], data[:at] + b"\xff" * step + data[at + step :]):
            path.write_bytes(changed)
            try:
                inspect_file(path, digest=False)
            except (PolicyError, DamagedFileError):
                refused += 1
    assert refused > len(data) / step


def test_pte_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    head = struct.pack("<I4s4sIQQQ", 48, b"ET12", b"eh00", 32, 1 << 40, 1 << 50, 0)
    assert _refused(path, head + bytes(64)) == "truncated"
    path.write_bytes(struct.pack("<I4s4sIQQQ", 48, b"ET12", b"eh00", 32, 100, 60, 0) + bytes(80))
    with pytest.raises(
        (PolicyError, DamagedFileError), match="segments start at byte 60, within the program"
    ):
        inspect_file(path)
    assert _refused(path, b"\xff\xff\xff\x7fET12" + bytes(64)) == "truncated"
    assert _refused(path, b"\x10\0\0\0ET99" + bytes(64)) == "content-mismatch"


NET = '<?xml version="1.0"?><net name="n" version="11"><layers>{}</layers></net>'
CONST = '<layer id="0" name="w" type="Const" version="opset1"><data element_type="f32" offset="{}" size="{}"/></layer>'


def _xml(folder: Path, text: str, weights: int | None = 64) -> Path:
    if weights is not None:
        (folder / "m.bin").write_bytes(bytes(weights))
    (folder / "m.xml").write_text(text)
    return folder / "m.xml"


def test_an_ir(tmp_path: Path) -> None:
    path = _xml(tmp_path, NET.format(CONST.format(0, 64)))
    found = inspect_file(path)
    assert found.facts == {
        "ir_version": "11", "layers": 1, "types": {"Const": 1}, "opsets": ["opset1"], "constant_bytes": 64,
    }  # fmt: skip
    assert dict(found.files) == {tmp_path / "m.bin": 64}
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"m\.bin, which is missing"):
        inspect_file(path)
    assert inspect_file(_xml(tmp_path, NET.format(""), None)).files == {}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (NET.format(CONST.format(0, 65)), "external-data-range"),
        (NET.format(CONST.format(-8, 8)), "external-data-range"),
        (NET.format(CONST.format("9" * 30, 8)), "external-data-range"),
        (NET.format(CONST.format(10**17, 8)), "initializer-bytes"),
        ('<!DOCTYPE net [<!ENTITY a "b">]>' + NET.format(""), "xml-entities"),
        ('<!DOCTYPE net SYSTEM "file:///etc/passwd">' + NET.format(""), "xml-entities"),
        ("<a>" + NET.format("")[21:] + "</a>", "content-mismatch"),
        (NET.format("<b>" * 40 + "</b>" * 40), "nesting"),
        (NET.format("<b>"), "malformed"),
        (NET.format('<b a="' + "x" * (9 << 20) + '"/>'), "malformed"),
    ],
)
def test_irs_that_are_refused(tmp_path: Path, text: str, rule: str) -> None:
    path = _xml(tmp_path, text.replace('<?xml version="1.0"?>', ""))
    with pytest.raises((PolicyError, DamagedFileError)) as caught:
        inspect_file(path)
    assert caught.value.rule == rule


def test_weights_that_are_links(tmp_path: Path) -> None:
    path = _xml(tmp_path, NET.format(CONST.format(0, 8)))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "m.xml").write_text(path.read_text())
    (tmp_path / "own" / "m.bin").symlink_to(tmp_path / "m.bin")
    with pytest.raises((PolicyError, DamagedFileError), match="rule external-data-link"):
        inspect_file(tmp_path / "own" / "m.xml")
    (tmp_path / "own" / "m.bin").unlink()
    os.link(tmp_path / "m.bin", tmp_path / "own" / "m.bin")
    with pytest.raises((PolicyError, DamagedFileError), match="rule external-data-hard-link"):
        inspect_file(tmp_path / "own" / "m.xml")
    # The file that the user names may be a link: model caches are full of them.
    (tmp_path / "m.bin").unlink()
    (tmp_path / "m.bin").write_bytes(bytes(64))
    (tmp_path / "m2.bin").write_bytes(bytes(64))
    (tmp_path / "m2.xml").symlink_to(path)
    assert inspect_file(tmp_path / "m2.xml").facts["layers"] == 1


def test_a_plan_is_native_code_and_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(b"ftrt" + bytes(40))
    found = inspect_file(tmp_path / "m.plan")
    assert found.facts == {"native_code": True, "plan_header": True}
    assert (found.size_bytes, len(found.sha256)) == (44, 64)
