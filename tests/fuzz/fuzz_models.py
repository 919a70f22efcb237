"""Model and data files: what the inspector lets through, EdgeKD's own readers must read or refuse."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from fuzz_target import Choices, Reader, Target

from edgekd.data.npz import NpzSource
from edgekd.inspect import inspect_file

_SEEDS = [bytes((19 * i + j * j) % 256 for j in range(24)) for i in range(12)]


def _file(
    name: str, seeds: Callable[[Path], Sequence[bytes]], then: Callable[[Path], object] | None = None
) -> Callable[[Path], tuple[Sequence[bytes], Reader]]:
    """One file through the inspector, and then, where that lets it pass, through ``then``."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Reader]:
        path = folder / name

        def read(data: bytes) -> object:
            # A new file each time: an old one may still be mapped.
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            found = inspect_file(path)
            json.dumps(found.to_json(), allow_nan=False)
            return then(path) if then is not None else found

        return seeds(folder), read

    return prepare


def _onnx(folder: Path) -> list[bytes]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, shape: list[object]) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "branch", [], [value("y", [1])])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    weights = [
        numpy_helper.from_array(np.eye(2, dtype=np.float32), "w"),
        helper.make_tensor("c", TensorProto.BOOL, [], [True]),
    ]
    plain = helper.make_graph(nodes, "g", [value("x", ["N", 2])], [value("y", ["N", 2])], weights)
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    outside = onnx.TensorProto(name="e", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "weights.bin"), ("offset", "0"), ("length", "8")):
        outside.external_data.add(key=key, value=text)
    (folder / "weights.bin").write_bytes(bytes(8))
    other = helper.make_model(
        helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="own")], "g", [value("x", [2])], [value("y", [2])], [outside]),
        functions=[function], opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("own", 1)], ir_version=9,
    )  # fmt: skip
    return [model.SerializeToString(), other.SerializeToString()]


def _safetensors(folder: Path) -> list[bytes]:
    def made(header: object, data: bytes) -> bytes:
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    one = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    two = {
        "__metadata__": {"format": "pt"},
        **one,
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [16, 20]},
    }
    return [made(one, bytes(16)), made(two, bytes(20)), made({}, b"")]


def _npz(folder: Path) -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, x=np.zeros((4, 3), np.float32), label=np.arange(4), id=np.asarray(list("abcd")))
        found.append(out.getvalue())
    out = io.BytesIO()
    np.savez(out, x=np.zeros(7), x_offsets=np.asarray([0, 3, 7]))
    return [*found, out.getvalue()]


def _npz_members(folder: Path) -> tuple[Sequence[bytes], Reader]:
    """A sound archive around a hostile .npy, or of hostile names, sizes and flags."""
    path = folder / "members.npz"
    out = io.BytesIO()
    np.save(out, np.zeros((2, 3), np.float32))
    array = out.getvalue()

    def read(data: bytes) -> object:
        choices = Choices(data)
        names = (
            "x.npy",
            "x.npy",
            "../x.npy",
            "/x.npy",
            "label.npy",
            "x",
            "a\x1b[2J.npy",
            "x.npy/",
            "\u202e.npy",
        )
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[
            choices.below(4)
        ]
        first, second = names[choices.below(len(names))], names[choices.below(len(names))]
        whole, ratio = choices.below(2), choices.below(2)
        path.unlink(missing_ok=True)
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(zipfile.ZipInfo(first), choices.left, method)
            if second != first:
                archive.writestr(zipfile.ZipInfo(second), array if whole else bytes(20_000 * ratio), method)
        inspect_file(path)
        return NpzSource(path).arrays

    return [b"\0\0\0\1\0" + array, b"\1\1\4\1\0" + array, *_SEEDS], read


def _tflite(folder: Path) -> list[bytes]:
    """Models of a few operators where ai-edge-litert is here to write them, else a header."""
    found = [b"\x1c\0\0\0TFL3" + bytes(40)]
    try:
        from fixtures_tflite import dense, two_signatures
    except ImportError:
        return found
    return [*found, *(make(folder / "seed.tflite").read_bytes() for make in (dense, two_signatures))]


def _pte(folder: Path) -> list[bytes]:
    return [b"\x1c\0\0\0ET12" + bytes(40), b"\x1c\0\0\0ET12eh00" + (24).to_bytes(4, "little") + bytes(40)]


def _xml(folder: Path) -> list[bytes]:
    (folder / "model.bin").write_bytes(bytes(64))
    layer = (
        '<layer id="0" name="w" type="Const" version="opset1"><data element_type="f32" shape="2" offset="0" size="8"/>'
        '<output><port id="0" precision="FP32"><dim>2</dim></port></output></layer>'
    )
    text = f'<?xml version="1.0"?><net name="n" version="11"><layers>{layer}</layers><edges/></net>'
    return [text.encode(), b'<?xml version="1.0"?><!DOCTYPE n [<!ENTITY a "b">]><net name="&a;"/>']


def _pickle(folder: Path) -> list[bytes]:
    state = {"w": [1.0, 2.0], "n": {"a": 1}}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(state, 2))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(16))
    return [pickle.dumps(state, p) for p in (2, 4, 5)] + [out.getvalue(), b"cos\nsystem\n(S'true'\ntR."]


def _arrays(path: Path) -> object:
    return NpzSource(path).arrays


TARGETS = (
    Target(name="onnx", reads="the ONNX inspector", prepare=_file("model.onnx", _onnx)),
    Target(
        name="safetensors",
        reads="the safetensors inspector",
        prepare=_file("model.safetensors", _safetensors),
    ),
    Target(
        name="npz",
        reads="the zip and .npz inspector, then the data reader",
        prepare=_file("data.npz", _npz, _arrays),
    ),
    Target(
        name="npz-members",
        reads="sound archives of hostile members, then the data reader",
        prepare=_npz_members,
    ),
    Target(name="tflite", reads="the TFLite inspector", prepare=_file("model.tflite", _tflite)),
    Target(name="executorch", reads="the ExecuTorch inspector", prepare=_file("model.pte", _pte)),
    Target(name="openvino", reads="the OpenVINO .xml inspector", prepare=_file("model.xml", _xml)),
    Target(name="pickle", reads="the pickle inspector (.pt)", prepare=_file("model.pt", _pickle)),
)
