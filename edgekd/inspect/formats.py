"""Which format a file is of, and who looks into it.

Each format is one module of this package with a function::

    inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]

``path`` is the file as the user named it, for messages and for what lies beside it; ``data`` is its content, read-only
and mapped (a file of no bytes gives an empty view), so that only what is looked at costs memory: slice it, and copy
no more than small pieces. What comes back are the facts of the file as plain JSON values. Of these, ``files`` is
reserved: a list of ``(path: Path, size_bytes: int)`` of the other files that this one reaches, which becomes
:attr:`edgekd.inspect.Inspection.files`. What breaks a rule raises :func:`edgekd.inspect.rules.refuse`; an ordinary
mistake (a file beside it is missing) raises :class:`edgekd.errors.ModelError`.

Ending and content must agree: the ending says which library would open a file, the content what it would find.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import refuse

Inspector = Callable[[Path, memoryview, Limits], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        name: as the facts and the command line print it.
        endings: lower-case suffixes.
        module: of this package; has ``inspect``.
        signature: bytes that such a file starts with, and at which offset; any of them will do. Empty where the
            format has none, and its inspector decides.
    """

    name: str
    endings: tuple[str, ...]
    module: str
    signature: tuple[tuple[int, bytes], ...] = ()

    def fits(self, data: memoryview) -> bool:
        """Whether the content has the format's signature."""
        return any(data[at : at + len(magic)] == magic for at, magic in self.signature)

    def inspector(self) -> Inspector:
        """The function that looks into such a file."""
        module = importlib.import_module(f"edgekd.inspect.{self.module}")
        return cast(Inspector, module.inspect)


_ZIP = ((0, b"PK\x03\x04"), (0, b"PK\x05\x06"))

FORMATS: tuple[Format, ...] = (
    Format(name="onnx", endings=(".onnx",), module="onnx"),
    Format(name="safetensors", endings=(".safetensors",), module="safetensors"),
    Format(name="ort", endings=(".ort",), module="ort", signature=((4, b"ORTM"),)),
    Format(name="tflite", endings=(".tflite",), module="tflite", signature=((4, b"TFL3"),)),
    Format(name="openvino", endings=(".xml",), module="openvino"),
    Format(name="executorch", endings=(".pte",), module="executorch", signature=((4, b"ET12"), (4, b"ET13"))),
    Format(name="tensorrt", endings=(".engine", ".plan"), module="tensorrt_plan"),
    Format(name="npz", endings=(".npz",), module="archive", signature=_ZIP),
    Format(name="npy", endings=(".npy",), module="numpy_array", signature=((0, b"\x93NUMPY"),)),
    # A torch file is a zip of a pickle, or a bare pickle: its inspector tells.
    Format(name="pickle", endings=(".pt", ".pth", ".ckpt", ".pkl", ".bin"), module="pickles"),
    Format(name="parquet", endings=(".parquet",), module="text", signature=((0, b"PAR1"),)),
    Format(name="csv", endings=(".csv", ".tsv"), module="text"),
    Format(name="jsonl", endings=(".jsonl",), module="text"),
)

ENDINGS: Mapping[str, Format] = {ending: f for f in FORMATS for ending in f.endings}
#: What no format of ours starts with, by what it is.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x80\x02}", "a pickle"),
    (b"\x80\x03}", "a pickle"),
    (b"\x80\x04\x95", "a pickle"),
    (b"\x80\x05\x95", "a pickle"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
)


def pick(path: Path, data: memoryview) -> Format:
    """The format of a file, by its ending and its content.

    Raises:
        PolicyError: an unknown ending, or content of another format.
    """
    known = ENDINGS.get(path.suffix.lower())
    by_content = next((f for f in FORMATS if f.fits(data)), None)
    if known is None:
        if by_content is None:
            raise refuse(
                "unknown-format",
                path,
                f"neither its ending {path.suffix!r} nor its content is known",
                f"known endings: {', '.join(ENDINGS)}",
            )
        return by_content
    if known.signature and not known.fits(data):
        raise refuse("content-mismatch", path, f"it is not the {known.name} file that its ending says")
    if not known.signature and known.name != "pickle":
        foreign = by_content.name if by_content else _foreign(data)
        if foreign:
            raise refuse(
                "content-mismatch", path, f"its ending says {known.name}, but its content is {foreign}"
            )
    return known


def _foreign(data: memoryview) -> str:
    return next((name for magic, name in _FOREIGN if data[: len(magic)] == magic), "")
