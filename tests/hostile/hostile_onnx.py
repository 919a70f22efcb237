"""ONNX: external data that leads elsewhere, graphs that explode, protobuf that lies."""

from __future__ import annotations

import os
from pathlib import Path

import hostile_protobuf as pb
from hostile_case import INSPECT, OPEN, Case, hostile, sparse

CASES: list[Case] = []
_SAFE = bytes(8)


def _external(folder: Path, dims: list[int] | None = None, **pairs: str) -> Path:
    """A model whose weights lie in another file."""
    own = folder / "model"
    own.mkdir(exist_ok=True)
    path = own / "model.onnx"
    path.write_bytes(pb.model(pb.identity(pb.tensor("w", dims or [2], pb.outside(**pairs)))))
    return path


def _secret(folder: Path) -> Path:
    """A file outside of the model's folder, with bytes enough to be taken for weights."""
    path = folder / "secret.bin"
    path.write_bytes(b"password")
    (folder / "model").mkdir(exist_ok=True)
    return path


@hostile(CASES, INSPECT, "external data at `../secret.bin`", rule="external-data-location")
def _external_dot_dot(folder: Path) -> Path:
    _secret(folder)
    return _external(folder, location="../secret.bin", offset="0", length="8")


@hostile(CASES, OPEN, "external data at `../secret.bin`, opened as a model", rule="external-data-location")
def _external_dot_dot_opened(folder: Path) -> Path:
    return _external_dot_dot(folder)


@hostile(CASES, INSPECT, "external data at `a/../../secret.bin`", rule="external-data-location")
def _external_inner_dot_dot(folder: Path) -> Path:
    _secret(folder)
    (folder / "model/a").mkdir()
    return _external(folder, location="a/../../secret.bin", offset="0", length="8")


@hostile(CASES, INSPECT, "external data at an absolute path", rule="external-data-location")
def _external_absolute(folder: Path) -> Path:
    return _external(folder, location=str(_secret(folder)), offset="0", length="8")


@hostile(CASES, INSPECT, "external data at a Windows path, `..\\secret.bin`", rule="external-data-location")
def _external_backslash(folder: Path) -> Path:
    return _external(folder, location="..\\secret.bin", offset="0", length="8")


@hostile(CASES, INSPECT, "external data is a symbolic link to a file outside", rule="external-data-link")
def _external_symlink(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "model/w.bin").symlink_to(_secret(folder))
    return _external(folder, location="w.bin", offset="0", length="8")


@hostile(CASES, INSPECT, "external data behind a folder that is a symbolic link", rule="external-data-link")
def _external_linked_folder(folder: Path) -> Path:
    _secret(folder)
    (folder / "model/d").symlink_to(folder)
    return _external(folder, location="d/secret.bin", offset="0", length="8")


@hostile(
    CASES, INSPECT, "external data is a hard link to a file outside (onnxruntime takes it)",
    rule="external-data-hard-link",
)  # fmt: skip
def _external_hard_link(folder: Path) -> Path:
    _secret(folder)
    os.link(folder / "secret.bin", folder / "model/w.bin")
    return _external(folder, location="w.bin", offset="0", length="8")


@hostile(CASES, OPEN, "the same hard link, opened as a model", rule="external-data-hard-link")
def _external_hard_link_opened(folder: Path) -> Path:
    return _external_hard_link(folder)


def _weights(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model/w.bin").write_bytes(_SAFE)


@hostile(CASES, INSPECT, "external data 1 TiB long (onnx.checker takes it)", rule="external-data-range")
def _external_length_1_tib(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, location="w.bin", offset="0", length=str(1 << 40))


@hostile(CASES, INSPECT, "external data of shape 2^38 (onnx.checker takes it)", word="w")
def _external_shape_2_38(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, [1 << 38], location="w.bin")


@hostile(CASES, INSPECT, "external data at offset -8 (onnx.checker takes it)", rule="external-data-range")
def _external_negative_offset(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, location="w.bin", offset="-8", length="8")


@hostile(CASES, INSPECT, "external data from the file's end on", rule="external-data-range")
def _external_offset_at_end(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, location="w.bin", offset="8", length="8")


@hostile(CASES, INSPECT, "offset plus length above 2^64", rule="external-data-keys")
def _external_sum_overflows(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, location="w.bin", offset=str(2**64 - 4), length="8")


@hostile(CASES, INSPECT, "an offset of a million digits", rule="external-data-keys")
def _external_offset_digits(folder: Path) -> Path:
    _weights(folder)
    return _external(folder, location="w.bin", offset="9" * 1_000_000, length="8")


@hostile(
    CASES,
    INSPECT,
    "a second `location`, which some readers take instead of the first",
    rule="external-data-keys",
)
def _external_two_locations(folder: Path) -> Path:
    _weights(folder)
    path = folder / "model/model.onnx"
    twice = pb.entry("location", "w.bin") + pb.outside(location="../secret.bin")
    path.write_bytes(pb.model(pb.identity(pb.tensor("w", [2], twice))))
    return path


@hostile(CASES, INSPECT, "external data is a named pipe", word="w.bin")
def _external_pipe(folder: Path) -> Path:
    (folder / "model").mkdir()
    os.mkfifo(folder / "model/w.bin")
    return _external(folder, location="w.bin", offset="0", length="8")


@hostile(
    CASES,
    INSPECT,
    "external data in a file of 1 TiB, sparse, that the tensor claims whole",
    rule="initializer-bytes",
)
def _external_sparse_1_tib(folder: Path) -> Path:
    (folder / "model").mkdir()
    sparse(folder / "model/w.bin", 1 << 40)
    return _external(folder, [1 << 38], location="w.bin", offset="0", length=str(1 << 40))


@hostile(
    CASES, INSPECT, "external data of a tensor inside an attribute of a node", rule="external-data-location"
)
def _external_in_attribute(folder: Path) -> Path:
    _secret(folder)
    path = folder / "model/model.onnx"
    held = pb.tensor("w", [2], pb.outside(location="../secret.bin"), field=5)
    constant = pb.node("Constant", [], ["w"], pb.message(5, pb.message(1, "value"), held, pb.number(20, 4)))
    path.write_bytes(pb.model(constant, pb.identity()))
    return path


@hostile(CASES, INSPECT, "external data of a sparse initializer's values", rule="external-data-location")
def _external_in_sparse(folder: Path) -> Path:
    _secret(folder)
    path = folder / "model/model.onnx"
    values = pb.tensor("w", [2], pb.outside(location="../secret.bin"), field=1)
    path.write_bytes(pb.model(pb.identity(pb.message(15, values, pb.number(3, 2)))))
    return path


def _one(folder: Path, data: bytes, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@hostile(CASES, INSPECT, "200,000 nodes in 3 MB", rule="nodes")
def _nodes_200_000(folder: Path) -> Path:
    return _one(folder, pb.model(pb.node("Neg", ["x"], ["y"]) * 200_000, pb.identity()))


@hostile(CASES, INSPECT, "200,000 initializers", rule="tensors")
def _tensors_200_000(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [0], pb.raw(b"")) * 200_000)))


@hostile(CASES, INSPECT, "one node of 500,000 attributes")
def _attributes_500_000(folder: Path) -> Path:
    attribute = pb.message(5, pb.message(1, "a"), pb.number(3, 1), pb.number(20, 2))
    return _one(folder, pb.model(pb.node("Neg", ["x"], ["y"], attribute * 500_000), pb.identity()))


def _branch(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        held = pb.message(5, pb.message(1, "then_branch"), pb.message(6, inner), pb.number(20, 5))
        inner = pb.node("If", ["c"], ["y"], held)
    return inner


@hostile(CASES, INSPECT, "graphs nested 500 deep", rule="nesting")
def _graphs_nested_500(folder: Path) -> Path:
    return _one(folder, pb.model(_branch(500), pb.identity()))


@hostile(CASES, INSPECT, "graphs nested 20,000 deep", rule="nesting")
def _graphs_nested_20_000(folder: Path) -> Path:
    return _one(folder, pb.model(_branch(20_000), pb.identity()))


def _function(name: str, *called: str) -> bytes:
    body = b"".join(
        pb.message(7, pb.message(1, "a"), pb.message(2, "b"), pb.message(4, c), pb.message(7, "own"))
        for c in called
    )
    imports = pb.message(9, pb.message(1, "own"), pb.number(2, 1))
    return pb.message(
        25, pb.message(1, name), pb.message(4, "a"), pb.message(5, "b"), body, imports, pb.message(10, "own")
    )


_OWN = pb.opset() + pb.opset("own", 1)


def _calling(name: str) -> bytes:
    return pb.node(name, ["x"], ["y"], domain="own") + pb.value(11, "x") + pb.value(12, "y")


@hostile(CASES, INSPECT, "a function that calls itself", rule="function-recursion")
def _function_calls_itself(folder: Path) -> Path:
    return _one(folder, pb.model(_calling("F"), opsets=_OWN, rest=_function("F", "F")))


@hostile(CASES, INSPECT, "two functions that call each other", rule="function-recursion")
def _functions_in_a_ring(folder: Path) -> Path:
    return _one(folder, pb.model(_calling("F"), opsets=_OWN, rest=_function("F", "G") + _function("G", "F")))


@hostile(CASES, INSPECT, "30 functions, each calling the next twice: 2^30 calls to write out", rule="nodes")
def _functions_double(folder: Path) -> Path:
    rest = b"".join(_function(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(30)) + _function("F30")
    return _one(folder, pb.model(_calling("F0"), opsets=_OWN, rest=rest))


@hostile(CASES, INSPECT, "one function defined twice", rule="function-duplicate")
def _function_twice(folder: Path) -> Path:
    return _one(folder, pb.model(_calling("F"), opsets=_OWN, rest=_function("F") + _function("F")))


@hostile(CASES, INSPECT, "an operator of a domain that a library outside would bring", rule="opset-domain")
def _custom_operator(folder: Path) -> Path:
    graph = pb.node("Run", ["x"], ["y"], domain="com.evil") + pb.value(11, "x") + pb.value(12, "y")
    return _one(folder, pb.model(graph, opsets=pb.opset() + pb.opset("com.evil", 1)))


@hostile(CASES, INSPECT, "opset version 2^62", rule="opset-version")
def _opset_2_62(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(), opsets=pb.opset("", 1 << 62)))


@hostile(CASES, INSPECT, "no opset at all", rule="malformed")
def _opset_missing(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(), opsets=b""))


@hostile(CASES, INSPECT, "a tensor of shape [2^62, 2^62] over 8 bytes")
def _shape_overflows(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [1 << 62, 1 << 62], pb.raw(_SAFE)))))


@hostile(CASES, INSPECT, "a tensor of shape [-1]", rule="tensor-shape")
def _shape_negative(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [-1], pb.raw(_SAFE)))))


@hostile(CASES, INSPECT, "a tensor of 100,000 dimensions", rule="tensor-shape")
def _shape_100_000_dimensions(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [1] * 100_000, pb.raw(bytes(4))))))


@hostile(CASES, INSPECT, "8 bytes of data for a shape of 4", rule="tensor-data")
def _data_too_short(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [2, 2], pb.raw(_SAFE)))))


@hostile(CASES, INSPECT, "element type 999", rule="tensor-type")
def _type_999(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [2], pb.raw(_SAFE), kind=999))))


@hostile(CASES, INSPECT, "a field whose length is 2^62", word="model.onnx", code=2)
def _length_2_62(folder: Path) -> Path:
    return _one(folder, pb.number(1, 9) + pb.varint(7 << 3 | 2) + pb.varint(1 << 62) + b"x")


@hostile(CASES, INSPECT, "a field that ends inside its length", rule="truncated")
def _truncated(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [2], pb.raw(_SAFE))))[:-9])


@hostile(CASES, INSPECT, "a varint of 11 bytes", rule="malformed")
def _varint_too_long(folder: Path) -> Path:
    return _one(folder, b"\x08" + b"\xff" * 11 + b"\x01")


@hostile(CASES, INSPECT, "groups, the wire type that protobuf gave up", rule="malformed")
def _groups(folder: Path) -> Path:
    return _one(folder, b"\x3b" * 100_000)


@hostile(CASES, INSPECT, "field number 0", rule="malformed")
def _field_zero(folder: Path) -> Path:
    return _one(folder, b"\x00\x01" * 1000)


@hostile(CASES, INSPECT, "5 million empty fields", rule="fields")
def _fields_5_million(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity()) + b"\x72\x00" * 5_000_000)


@hostile(CASES, INSPECT, "3 GiB, sparse: more than protobuf reads", word="model.onnx")
def _sparse_3_gib(folder: Path) -> Path:
    return sparse(folder / "model.onnx", 3 << 30, pb.model(pb.identity()))


@hostile(CASES, INSPECT, "1 TiB, sparse", rule="file-size")
def _sparse_1_tib(folder: Path) -> Path:
    return sparse(folder / "model.onnx", 1 << 40, pb.model(pb.identity()))


@hostile(CASES, INSPECT, "a second graph, which protobuf merges into the first", code=2)
def _two_graphs(folder: Path) -> Path:
    second = pb.message(7, pb.tensor("w", [2], pb.outside(location="../secret.bin")))
    return _one(folder, pb.model(pb.identity(pb.tensor("w", [2], pb.raw(_SAFE))), rest=second))


@hostile(CASES, INSPECT, "a node's name that clears the screen", rule="name-text")
def _name_clears_screen(folder: Path) -> Path:
    return _one(
        folder,
        pb.model(pb.node("Neg", ["x"], ["y"], pb.message(3, "\x1b[2J\x1b]0;owned\x07")), pb.identity()),
    )


@hostile(CASES, INSPECT, "a tensor's name of 1 MiB", rule="name-text")
def _name_1_mib(folder: Path) -> Path:
    return _one(folder, pb.model(pb.identity(pb.tensor("n" * (1 << 20), [2], pb.raw(_SAFE)))))


@hostile(CASES, INSPECT, "a name that is no UTF-8", rule="name-text")
def _name_no_utf8(folder: Path) -> Path:
    return _one(folder, pb.model(pb.node("Neg", ["x"], ["y"], pb.message(3, b"\xff\xfe\xc0")), pb.identity()))


@hostile(CASES, OPEN, "a pickle under the name model.onnx", rule="content-mismatch")
def _pickle_as_onnx(folder: Path) -> Path:
    return _one(
        folder,
        b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    )


@hostile(CASES, OPEN, "an ELF program under the name model.onnx", rule="content-mismatch")
def _program_as_onnx(folder: Path) -> Path:
    return _one(folder, b"\x7fELF\x02\x01\x01" + bytes(64))


@hostile(CASES, OPEN, "an empty file", code=2, word="empty")
def _empty(folder: Path) -> Path:
    return _one(folder, b"")
