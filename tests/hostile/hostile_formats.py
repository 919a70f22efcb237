"""TFLite, ExecuTorch and OpenVINO: offsets that lead out, XML that explodes; and what is no file at all."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from hostile_case import DATA, INSPECT, OPEN, Case, hostile, sparse

CASES: list[Case] = []


def _file(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@hostile(CASES, OPEN, "a root offset beyond the file", names="model.tflite", code=2)
def _tflite_root(folder: Path) -> Path:
    return _file(folder, b"\xff\xff\xff\x7fTFL3" + bytes(64), "model.tflite")


@hostile(CASES, INSPECT, "a table whose vtable lies before the file", names="model.tflite", code=2)
def _tflite_vtable(folder: Path) -> Path:
    return _file(folder, b"\x08\0\0\0TFL3" + struct.pack("<i", 1 << 30) + bytes(64), "model.tflite")


@hostile(CASES, INSPECT, "a vector of 2^31 buffers in 100 bytes", names="model.tflite", code=2)
def _tflite_vector(folder: Path) -> Path:
    # vtable at 8: fields version, operator_codes, subgraphs, description, buffers; the last points to the vector.
    vtable = struct.pack("<HH5H", 14, 24, 4, 0, 8, 0, 12) + b"\0\0"
    table = struct.pack("<iIII", 16, 3, 12, 8) + bytes(8)
    vector = struct.pack("<I", 2**31 - 1) + bytes(32)
    return _file(folder, b"\x18\0\0\0TFL3" + vtable + table + vector, "model.tflite")


@hostile(CASES, INSPECT, "nothing but the magic number", names="model.tflite", code=2)
def _tflite_magic_only(folder: Path) -> Path:
    return _file(folder, b"\x08\0\0\0TFL3", "model.tflite")


@hostile(CASES, INSPECT, "another format under this ending", rule="content-mismatch")
def _tflite_is_zip(folder: Path) -> Path:
    return _file(folder, b"PK\x03\x04" + bytes(64), "model.tflite")


@hostile(CASES, INSPECT, "1 TiB, sparse, behind a sound magic number", rule="file-size")
def _tflite_sparse(folder: Path) -> Path:
    return sparse(folder / "model.tflite", 1 << 40, b"\x1c\0\0\0TFL3")


@hostile(CASES, OPEN, "a program whose segments lie beyond the file", names="model.pte", code=2)
def _pte_segments(folder: Path) -> Path:
    head = b"\x30\0\0\0ET12" + b"eh00" + struct.pack("<IQQ", 24, 1 << 40, 1 << 50)
    return _file(folder, head + bytes(64), "model.pte")


@hostile(CASES, INSPECT, "a root offset beyond the file", names="model.pte", code=2)
def _pte_root(folder: Path) -> Path:
    return _file(folder, b"\xf0\xff\xff\xffET12" + bytes(64), "model.pte")


def _openvino(folder: Path, text: str, weights: bytes | None = bytes(64)) -> Path:
    own = folder / "model"
    own.mkdir(exist_ok=True)
    if weights is not None:
        (own / "model.bin").write_bytes(weights)
    return _file(own, text.encode(), "model.xml")


def _net(offset: str = "0", size: str = "8", name: str = "w") -> str:
    return (
        '<?xml version="1.0"?><net name="n" version="11"><layers>'
        f'<layer id="0" name="{name}" type="Const" version="opset1"><data element_type="f32" shape="2" offset="{offset}" '
        f'size="{size}"/><output><port id="0" precision="FP32"><dim>2</dim></port></output></layer></layers><edges/></net>'
    )


@hostile(CASES, OPEN, "billion laughs", rule="xml-entities")
def _xml_billion_laughs(folder: Path) -> Path:
    lines = ['<!ENTITY a0 "lol">'] + [f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12)]
    return _openvino(
        folder, f'<?xml version="1.0"?><!DOCTYPE net [{"".join(lines)}]><net name="&a11;" version="11"/>'
    )


@hostile(CASES, INSPECT, "an external entity, `file:///etc/passwd`", rule="xml-entities")
def _xml_external(folder: Path) -> Path:
    text = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;" version="11"/>'
    return _openvino(folder, text)


@hostile(CASES, INSPECT, "a parameter entity that fetches a document type", rule="xml-entities")
def _xml_parameter(folder: Path) -> Path:
    text = '<?xml version="1.0"?><!DOCTYPE net [<!ENTITY % x SYSTEM "http://localhost:1/x.dtd"> %x;]><net version="11"/>'
    return _openvino(folder, text)


@hostile(CASES, INSPECT, "the same in UTF-16, where a search for `<!` finds nothing", names="model.xml")
def _xml_utf16(folder: Path) -> Path:
    text = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]><net name="&x;"/>'
    own = folder / "model"
    own.mkdir()
    (own / "model.bin").write_bytes(bytes(64))
    return _file(own, text.encode("utf-16"), "model.xml")


@hostile(CASES, INSPECT, "elements nested 100,000 deep", names="model.xml")
def _xml_deep(folder: Path) -> Path:
    return _openvino(
        folder, '<?xml version="1.0"?><net version="11">' + "<a>" * 100_000 + "</a>" * 100_000 + "</net>"
    )


@hostile(CASES, INSPECT, "a constant beyond the end of the .bin", names="model.xml")
def _xml_beyond_bin(folder: Path) -> Path:
    return _openvino(folder, _net(offset="60", size="1000000"))


@hostile(CASES, INSPECT, "a constant at a negative offset", names="model.xml")
def _xml_negative(folder: Path) -> Path:
    return _openvino(folder, _net(offset="-8"))


@hostile(CASES, INSPECT, "a .bin that is a symbolic link to another folder", names="model")
def _xml_linked_bin(folder: Path) -> Path:
    (folder / "secret.bin").write_bytes(bytes(64))
    path = _openvino(folder, _net(), None)
    (path.parent / "model.bin").symlink_to(folder / "secret.bin")
    return path


@hostile(CASES, INSPECT, "a layer's name with an escape sequence", names="model.xml", code=2)
def _xml_name(folder: Path) -> Path:
    return _openvino(folder, _net(name="&#27;[2J"))


@hostile(CASES, OPEN, "a named pipe that nobody writes to", rule="irregular-file")
def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@hostile(CASES, DATA, "a named pipe as data", names="data.npz")
def _pipe_data(folder: Path) -> Path:
    os.mkfifo(folder / "data.npz")
    return folder / "data.npz"


@hostile(CASES, DATA, "a named pipe as a table", names="data.csv")
def _pipe_table(folder: Path) -> Path:
    os.mkfifo(folder / "data.csv")
    return folder / "data.csv"


@hostile(CASES, OPEN, "a link to /dev/zero, which never ends", rule="irregular-file")
def _endless_device(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to("/dev/zero")
    return folder / "model.onnx"


@hostile(CASES, DATA, "a link to /dev/zero as data", names="rows.jsonl")
def _endless_data(folder: Path) -> Path:
    (folder / "rows.jsonl").symlink_to("/dev/zero")
    return folder / "rows.jsonl"


@hostile(CASES, OPEN, "a folder by the name of a model", code=2, word="model.onnx")
def _folder_as_model(folder: Path) -> Path:
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


@hostile(CASES, OPEN, "links that lead to each other", code=2, word="model.onnx")
def _link_ring(folder: Path) -> Path:
    (folder / "model.onnx").symlink_to(folder / "b.onnx")
    (folder / "b.onnx").symlink_to(folder / "model.onnx")
    return folder / "model.onnx"


@hostile(CASES, OPEN, "a Git LFS pointer in the place of the model", code=2, word="LFS")
def _lfs_pointer(folder: Path) -> Path:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
    return _file(folder, text, "model.onnx")


@hostile(
    CASES,
    OPEN,
    "a Hugging Face folder with a shard outside of it",
    code=5,
    word="../secret.safetensors",
    names="model.safetensors.index.json",
)
def _hugging_face_shard(folder: Path) -> Path:
    own = folder / "hf"
    own.mkdir()
    (own / "config.json").write_text('{"model_type": "bert"}')
    (own / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    return own


@hostile(
    CASES,
    OPEN,
    "a Hugging Face folder that asks for code of its own",
    code=5,
    word="auto_map",
    names="config.json",
)
def _hugging_face_code(folder: Path) -> Path:
    own = folder / "hf"
    own.mkdir()
    (own / "config.json").write_text('{"model_type": "x", "auto_map": {"AutoModel": "modeling.Evil"}}')
    return own


@hostile(
    CASES, OPEN, "a Hugging Face folder of pickled weights", code=5, word="pytorch_model.bin", names="hf"
)
def _hugging_face_pickle(folder: Path) -> Path:
    own = folder / "hf"
    own.mkdir()
    (own / "config.json").write_text('{"model_type": "bert"}')
    (own / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    return own


@hostile(CASES, OPEN, "a Hugging Face config of 400 nested lists", code=2, names="config.json", word="")
def _hugging_face_nested(folder: Path) -> Path:
    own = folder / "hf"
    own.mkdir()
    (own / "config.json").write_text('{"model_type": ' + "[" * 100_000 + "]" * 100_000 + "}")
    return own
