"""Weights beside an ONNX file: inside its folder, no links, and within the file that holds them.

Keys of ``external_data``: onnx/onnx.proto, ``TensorProto.external_data``. Other readers check less: onnx 1.23.2's checker
takes lengths and offsets as they come, onnxruntime 1.31.1 opens hard links.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from edgekd.errors import ModelError
from edgekd.inspect.limits import Limits
from edgekd.inspect.names import count_text, fault, printable
from edgekd.inspect.rules import refuse

_KEYS = ("location", "offset", "length", "checksum")
_NUMBER = re.compile(r"[0-9]{1,19}")
_COPY = "copy the model and its data into a folder of their own (`cp -L`)"


class ExternalData:
    """The files beside one model, looked at once each.

    Args:
        path: the model file.
        limits: ``hard_links`` names may lead to one file.

    Attributes:
        sizes: file -> its size in bytes, of all that were asked for.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._sizes: dict[str, int] = {}
        self.sizes: dict[Path, int] = {}

    def check(self, tensor: str, entries: Sequence[tuple[str, str]], needed: int | None) -> int:
        """The bytes of one tensor, whose location, offset and length are ``entries``.

        Args:
            tensor: its name, for the message.
            entries: keys and values as they stand in the file.
            needed: bytes that its shape and type take; None where that is unknown.

        Raises:
            PolicyError: external-data-keys, -location, -link, -hard-link or -range, irregular-file or tensor-data;
            ModelError: the file is missing.
        """
        found = dict(entries)
        strange = [k for k, _ in entries if k not in _KEYS]
        if strange or len(found) != len(entries):
            what = (
                f"the unknown key {strange[0]!r}"
                if strange
                else f"{next(k for k in found if [e[0] for e in entries].count(k) > 1)} twice"
            )
            raise self._refuse("external-data-keys", tensor, f"gives its data {what}")
        size = self._size(tensor, found.get("location", ""))
        offset = self._number(tensor, "offset", found.get("offset", "0"))
        length = self._number(tensor, "length", found["length"]) if "length" in found else None
        end = offset + (length or 0)
        if offset > size or end > size:
            raise self._refuse(
                "external-data-range",
                tensor,
                f"reaches from byte {offset} to {end} of {found['location']!r}, which has {size}",
                "copy its data again",
            )
        has = size - offset if length is None else length
        if needed is not None and (has < needed or (length is not None and has != needed)):
            raise self._refuse(
                "tensor-data",
                tensor,
                f"has {has} bytes of external data, its shape and type take {count_text(needed)}",
            )
        return has

    def _size(self, tensor: str, location: str) -> int:
        known = self._sizes.get(location)
        if known is None:
            if len(self._sizes) >= self._limits.external_files:
                what = f"keeps its data in one file more than {self._limits.external_files}"
                raise self._refuse("external-data-files", tensor, what, "save all weights in one file")
            known = self._sizes[location] = self._look(tensor, location)
        return known

    def _look(self, tensor: str, location: str) -> int:
        pure = PurePosixPath(location)
        where = f"keeps its data at {printable(location)[:200]!r}, outside the model's folder"
        raw = location.encode(errors="surrogatepass")
        # A drive, and the tag by which onnxruntime takes an offset for an address in memory.
        odd = re.match("[A-Za-z]:", location) or "_ORT_MEM_ADDR_" in location or "\\" in location
        if odd or not pure.parts or pure.is_absolute() or ".." in pure.parts or fault(raw, 0, len(raw), 4096):
            raise self._refuse("external-data-location", tensor, where)
        folder = self._path.parent
        try:
            steps = [folder / p for p in (*reversed(pure.parents[:-1]), pure)]
            if any(step.is_symlink() for step in steps):
                raise self._refuse(
                    "external-data-link",
                    tensor,
                    f"keeps its data at {location!r}, a symbolic link, so perhaps outside the model's folder",
                    _COPY,
                )
            file = folder / pure
            if folder.resolve() not in file.resolve().parents:
                raise self._refuse("external-data-location", tensor, where)
            found = file.lstat()
        except (FileNotFoundError, NotADirectoryError) as e:
            raise ModelError(
                f"{self._path} keeps weights in {folder / location}, which is missing",
                "copy it beside the model",
            ) from e
        except (OSError, ValueError) as e:
            raise ModelError(
                f"{self._path} keeps weights in {location!r}, which cannot be read", str(e)
            ) from e
        if not stat.S_ISREG(found.st_mode):
            raise self._refuse(
                "irregular-file", tensor, f"keeps its data at {location!r}, which is no plain file"
            )
        if found.st_nlink > self._limits.hard_links:
            raise self._refuse(
                "external-data-hard-link",
                tensor,
                f"keeps its data at {location!r}, a hard link to a file that has {found.st_nlink} names",
                _COPY,
            )
        self.sizes[file] = found.st_size
        return found.st_size

    def _number(self, tensor: str, key: str, text: str) -> int:
        if _NUMBER.fullmatch(text):
            return int(text)
        rule = "external-data-range" if re.fullmatch("-[0-9]+", text) else "external-data-keys"
        raise self._refuse(rule, tensor, f"gives its data the {key} {printable(text)[:40]!r}")

    def _refuse(self, rule: str, tensor: str, what: str, fix: str = "do not use this file") -> Exception:
        return refuse(rule, self._path, f"tensor '{tensor}' {what}", fix)
