"""Writing ONNX files: what is put on disk is whole, deterministic, and says nothing of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgekd.files import storage_error, write_bytes
from edgekd.lazy import require
from edgekd_onnx.origin import keep_module

ENTRY = "model.onnx"
EXTERNAL = "model.onnx.data"

#: Weights move to a file of their own above this: protobuf cannot hold 2 GiB (protobuf.dev, "Total size").
EXTERNAL_BYTES = 1_900_000_000


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's warnings, logs and prints off the terminal while the block runs."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line, shortened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def strip_provenance(proto: Any) -> None:
    """Remove doc strings and metadata in place: torch writes source paths and stack traces of this machine there.

    Of a node's metadata the torch module's path stays.
    """
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    for function in proto.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        _strip_nodes(function.node)
    _strip_graph(proto.graph)


def _strip_graph(graph: Any) -> None:
    for item in (graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[Any]) -> None:
    for node in nodes:
        node.ClearField("doc_string")
        keep_module(node)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _strip_graph(graph)


def weight_bytes(proto: Any) -> int:
    """Bytes of the weights that a model holds itself, wherever they are in it; protobuf's own count ends at 2 GiB."""
    return sum(_graph_bytes(proto.graph))


def _graph_bytes(graph: Any) -> Iterator[int]:
    yield from (_tensor_bytes(t) for t in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield _tensor_bytes(attribute.t)
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graph_bytes(inner)


def _tensor_bytes(tensor: Any) -> int:
    if tensor.raw_data:
        return len(tensor.raw_data)
    return 8 * sum(
        len(v) for v in (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data)
    )


def write_proto(proto: Any, out: Path, *, large: bool) -> tuple[str, ...]:
    """Write a model into ``out`` and return the names of its files, entry first.

    Args:
        large: move the weights to a file of their own; done unasked where they are above :data:`EXTERNAL_BYTES`.

    Raises:
        StorageError: a write failed.
    """
    if not large and weight_bytes(proto) <= EXTERNAL_BYTES:
        write_bytes(out / ENTRY, proto.SerializeToString(deterministic=True))
        return (ENTRY,)
    onnx = require("onnx", extra="ort", purpose="writing ONNX files")
    (out / EXTERNAL).unlink(missing_ok=True)  # onnx appends to a file that is there
    try:
        onnx.save_model(
            proto,
            str(out / ENTRY),
            save_as_external_data=True,
            location=EXTERNAL,
            size_threshold=1024,
        )
    except OSError as e:
        raise storage_error(e, out / ENTRY) from e
    return (ENTRY, EXTERNAL)
