"""OpenVINO IR: an ``.xml`` whose constants lie in the ``.bin`` beside it, by offset and size."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

from edgekd.errors import ModelError
from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import refuse
from edgekd.lfs_pointer import refuse_pointer_file

#: Parsed at once; and no tag is longer than two of these.
_PIECE = 1 << 20
_LONGEST = 4 << 20
#: Elements per layer: itself, data, ports and their dimensions, edges.
_ELEMENTS = 1_000_000


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Layers of an IR, its constants within the ``.bin``, and no entities."""
    if len(data) > limits.xml_bytes:
        raise refuse("file-size", path, f"it has {len(data)} bytes, at most {limits.xml_bytes} are read")
    _check_tags(path, data)
    reader = _Reader(path, limits)
    try:
        for at in range(0, len(data), _PIECE):
            reader.parser.Parse(bytes(data[at : at + _PIECE]), False)
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, ValueError) as e:
        raise refuse("malformed", path, f"it is not XML ({e})", "export or copy it again") from e
    weights = path.with_suffix(".bin")
    files = _check_weights(path, weights, reader.end, limits)
    return {
        "ir_version": reader.version,
        "layers": sum(reader.types.values()),
        "types": dict(sorted(reader.types.items())[: limits.names]),
        "opsets": sorted(reader.opsets)[: limits.names],
        "constant_bytes": reader.constant_bytes,
        "files": files,
    }


def _check_tags(path: Path, data: memoryview) -> None:
    """A tag of many megabytes keeps older expats busy for minutes (CVE-2023-52425)."""
    for at in range(0, len(data) - _LONGEST, _LONGEST):
        if b">" not in bytes(data[at : at + _LONGEST]):
            raise refuse("malformed", path, f"a tag or text is longer than {_LONGEST} bytes")


def _check_weights(path: Path, weights: Path, end: int, limits: Limits) -> list[tuple[Path, int]]:
    try:
        status = os.lstat(weights)
    except OSError as e:
        if not end:
            return []
        raise ModelError(
            f"{path} keeps its weights in {weights}, which is missing", "copy it beside the model"
        ) from e
    if stat.S_ISLNK(status.st_mode):
        raise refuse("external-data-link", path, f"{weights.name} is a symbolic link", "copy the file itself")
    if not stat.S_ISREG(status.st_mode):
        raise refuse("irregular-file", path, f"{weights.name} is no plain file", "copy the file itself")
    if status.st_nlink > limits.hard_links:
        raise refuse(
            "external-data-hard-link", path, f"{weights.name} is a hard link", "copy the file itself"
        )
    if status.st_size > limits.file_bytes:
        raise refuse(
            "file-size",
            path,
            f"{weights.name} has {status.st_size} bytes, at most {limits.file_bytes} are read",
        )
    if status.st_size < end:
        refuse_pointer_file(weights, ModelError)
        raise refuse(
            "external-data-range", path, f"{weights.name} has {status.st_size} bytes, its constants end at {end}",
            "it is damaged: export or copy it again",
        )  # fmt: skip
    return [(weights, status.st_size)]


class _Reader:
    """Gathers what an IR says from the events of one parse."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.version = ""
        self.types: dict[str, int] = {}
        self.opsets: set[str] = set()
        self.constant_bytes = self.end = 0
        self._path, self._limits = path, limits
        self._depth = self._elements = 0
        self.parser: Any = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        # Entities are declared in a document type; an IR has none.
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.EntityDeclHandler = self._doctype

    def _doctype(self, *args: object) -> None:
        raise refuse("xml-entities", self._path, "it has a document type declaration")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > self._limits.nesting:
            raise refuse("nesting", self._path, f"elements nest more than {self._limits.nesting} deep")
        if self._elements > _ELEMENTS:
            raise refuse("nodes", self._path, f"it has more than {_ELEMENTS} elements")
        if self._depth == 1:
            if tag != "net":
                raise refuse(
                    "content-mismatch", self._path, f"it begins with <{tag[:40]}>, an OpenVINO IR with <net>"
                )
            self.version = attributes.get("version", "")[:40]
        elif tag == "layer":
            self._layer(attributes)
        elif tag == "data" and "offset" in attributes and "size" in attributes:
            self._constant(attributes["offset"], attributes["size"])

    def _layer(self, attributes: Mapping[str, str]) -> None:
        for key in ("name", "type", "version"):
            if len(attributes.get(key, "")) > self._limits.name_bytes:
                raise refuse(
                    "name-text", self._path, f"a layer's {key} is longer than {self._limits.name_bytes}"
                )
        kind = attributes.get("type", "")
        self.types[kind] = self.types.get(kind, 0) + 1
        self.opsets.add(attributes.get("version", ""))
        if sum((len(self.types), len(self.opsets))) > self._limits.nodes:
            raise refuse("nodes", self._path, f"it has more than {self._limits.nodes} types of layers")

    def _constant(self, offset: str, size: str) -> None:
        if not all(n.isascii() and n.isdecimal() and len(n) < 19 for n in (offset, size)):
            raise refuse(
                "external-data-range", self._path, f"a constant lies at {offset[:20]!r}, {size[:20]!r} bytes"
            )
        self.constant_bytes += int(size)
        self.end = max(self.end, int(offset) + int(size))
        if self.end > self._limits.initializer_bytes:
            raise refuse("initializer-bytes", self._path, f"its constants end at byte {self.end}")

    def _end(self, tag: str) -> None:
        self._depth -= 1
