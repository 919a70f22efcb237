"""Changes to a ``.tflite`` as a FlatBuffer, by the object interface of LiteRT's own schema."""

from __future__ import annotations

from typing import Any

from edgekd.errors import ModelError
from edgekd.lazy import require

_PURPOSE = "quantizing LiteRT models"
IDENTIFIER = b"TFL3"


def _schema() -> Any:
    return require("ai_edge_litert.schema_py_generated", extra="litert", purpose=_PURPOSE)


def unpack(data: bytes) -> Any:
    """The whole file as a ``ModelT``; only for files that the interpreter has opened: nothing is verified here."""
    return _schema().ModelT.InitFromPackedBuf(bytearray(data))


def pack(model: Any) -> bytes:
    """A ``ModelT`` as a file; equal models give equal bytes."""
    flatbuffers = require("flatbuffers", extra="litert", purpose=_PURPOSE)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def with_signature(data: bytes) -> bytes:
    """The file as it is where it has a signature, else with one: the quantizer calibrates through signatures only.

    Inputs and outputs are called as their tensors are, which is how EdgeKD reads such a file.

    Raises:
        ModelError: several signatures, or none and several graphs.
    """
    model = unpack(data)
    signatures = model.signatureDefs or []
    if len(signatures) == 1:
        return data
    if signatures or len(model.subgraphs) != 1:
        raise ModelError(
            f"the file has {len(signatures)} signatures and {len(model.subgraphs)} graphs, one is expected",
            "export one function of the model",
        )
    schema = _schema()
    graph = model.subgraphs[0]
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = b"serving_default", 0
    for attribute, tensors in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        mapped = []
        for index in tensors:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = graph.tensors[index].name, int(index)
            mapped.append(entry)
        setattr(made, attribute, mapped)
    model.signatureDefs = [made]
    return pack(model)


def with_open_sizes(data: bytes, source: bytes) -> bytes:
    """``data`` with the open sizes that ``source`` declares for its outputs: the quantizer's new tensors lack them."""
    model, wanted = unpack(data), unpack(source)
    ours, theirs = model.subgraphs[0], wanted.subgraphs[0]
    changed = False
    for mine, other in zip(ours.outputs, theirs.outputs, strict=True):
        signature = theirs.tensors[other].shapeSignature
        # None or an array: neither is a truth value.
        if signature is not None and len(signature) and ours.tensors[mine].shapeSignature is None:
            ours.tensors[mine].shapeSignature = signature
            changed = True
    return pack(model) if changed else data
