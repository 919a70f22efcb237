"""An IR's XML, looked at before OpenVINO is: size, entities, and weights that are really there. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from edgekd.errors import ModelError, PolicyError
from edgekd.lfs_pointer import refuse_pointer_file

#: A network of a hundred thousand layers takes some 60 MB.
LARGEST_XML = 256 << 20
#: Layers nest by one level of ``<body>`` per loop or branch.
_DEEPEST = 100
_DAMAGED = "the file is damaged or not an OpenVINO IR: export or copy it again"


@dataclass(slots=True)
class Document:
    """What an IR's XML says of itself.

    Attributes:
        version: of the IR; 10 and 11 are readable.
        layers: names of its layers, those in loops and branches too.
        types: their types, e.g. ``Convolution``, counted.
        grouped: names of the convolutions that have groups.
        weight_bytes: element type -> bytes of constants.
        end: first byte behind the last constant in the ``.bin``.
    """

    version: str = ""
    layers: set[str] = field(default_factory=set)
    types: dict[str, int] = field(default_factory=dict)
    grouped: set[str] = field(default_factory=set)
    weight_bytes: dict[str, int] = field(default_factory=dict)
    end: int = 0


def weights_path(path: Path) -> Path:
    """Where an IR keeps its weights: beside it, under the same name."""
    return path.with_suffix(".bin")


def scan(path: Path) -> Document:
    """Read an IR's XML and check its weights' file, without OpenVINO.

    Raises:
        ModelError: missing, damaged, too large, with a document type (entities), or weights that are not all there;
        PolicyError: weights that are a link.
    """
    try:
        if not path.is_file():
            raise ModelError(f"{path} does not exist", "check the path")
        size = path.stat().st_size
        if size == 0:
            raise ModelError(f"{path} is empty", _DAMAGED)
        if size > LARGEST_XML:
            raise ModelError(
                f"{path} has {size} bytes, at most {LARGEST_XML} are read", "do not use this file"
            )
        reader = _Reader(path)
        with path.open("rb") as f:
            reader.parser.ParseFile(f)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e
    except (expat.ExpatError, ValueError) as e:
        refuse_pointer_file(path, ModelError)
        raise ModelError(f"cannot read {path} as XML ({e})", _DAMAGED) from e
    _check_weights(path, reader.found)
    return reader.found


def _check_weights(path: Path, found: Document) -> None:
    weights = weights_path(path)
    if not found.end:
        return
    if weights.is_symlink():
        raise PolicyError(f"{weights} is a symbolic link", "copy the file itself")
    if not weights.is_file():
        raise ModelError(
            f"{path} keeps its weights in {weights}, which is missing", "copy it beside the model"
        )
    if weights.stat().st_nlink > 1:
        raise PolicyError(f"{weights} is a hard link", "copy the file itself")
    size = weights.stat().st_size
    if size < found.end:
        refuse_pointer_file(weights, ModelError)
        raise ModelError(
            f"{weights} has {size} bytes, {path.name} wants {found.end}",
            "it is damaged: export or copy it again",
        )


class _Reader:
    """Fills a :class:`Document` from the events of one parse."""

    def __init__(self, path: Path) -> None:
        self.found = Document()
        self.parser: Any = expat.ParserCreate()
        self._path = path
        self._depth = 0
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        # A document type is what entities are declared in; an IR has none.
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype

    def _refuse_doctype(self, *args: object) -> None:
        raise ModelError(f"{self._path} has a document type declaration", "do not use this file")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ModelError(f"{self._path} nests more than {_DEEPEST} elements", "do not use this file")
        if self._depth == 1 and tag != "net":
            raise ModelError(f"{self._path} begins with <{tag}>, an OpenVINO IR with <net>", _DAMAGED)
        if tag == "net" and not self.found.version:
            self.found.version = attributes.get("version", "")
        elif tag == "layer":
            self.found.layers.add(attributes.get("name", ""))
            kind = attributes.get("type", "")
            self.found.types[kind] = self.found.types.get(kind, 0) + 1
            if kind == "GroupConvolution":
                self.found.grouped.add(attributes.get("name", ""))
        elif tag == "data" and "offset" in attributes and "size" in attributes:
            self._add_weights(attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1

    def _add_weights(self, attributes: dict[str, str]) -> None:
        offset, size = attributes["offset"], attributes["size"]
        if not (offset.isdecimal() and size.isdecimal() and len(offset) < 19 and len(size) < 19):
            raise ModelError(f"{self._path} keeps weights at {offset!r}, {size!r} bytes", _DAMAGED)
        element = attributes.get("element_type", "")
        self.found.weight_bytes[element] = self.found.weight_bytes.get(element, 0) + int(size)
        self.found.end = max(self.found.end, int(offset) + int(size))
