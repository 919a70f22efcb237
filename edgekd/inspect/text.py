"""Data files that are rows: ``.csv``, ``.tsv``, ``.jsonl``, and the frame of a ``.parquet``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import refuse

_PIECE = 1 << 20
#: A footer describes row groups and columns; 64 MiB are hundreds of thousands of them.
_FOOTER_BYTES = 64 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """Lines of a text file, or the footer of a ``.parquet``."""
    if bytes(data[:4]) == b"PAR1":
        return _parquet(path, data)
    ending = path.suffix.lower()
    lines = longest = 0
    record = _Record(path, limits)
    for block in _blocks(path, data, limits):
        _check_bytes(path, block, lines)
        bytes_ = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(bytes_ == ord("\n"))
        lengths = np.diff(ends, prepend=-1, append=len(block)) - 1
        longest = max(longest, int(lengths.max()))
        if ending == ".jsonl":
            _check_nesting(path, block, bytes_, ends, lines, limits)
        elif ending == ".csv":
            record.follow(bytes_, ends, lines)
        lines += len(ends) + int(not block.endswith(b"\n"))
    return {"lines": lines, "longest_line_bytes": longest}


def _blocks(path: Path, data: memoryview, limits: Limits) -> Iterator[bytes]:
    """The text in pieces that end where a line does."""
    carried = b""
    lines = 0
    for at in range(0, len(data), _PIECE):
        piece = carried + bytes(data[at : at + _PIECE])
        end = piece.rfind(b"\n") + 1 if at + _PIECE < len(data) else len(piece)
        if len(piece) - end > limits.text_line_bytes:
            raise refuse(
                "line-length",
                path,
                f"line {lines + 1} has more than {limits.text_line_bytes} bytes",
                "split it",
            )
        carried = piece[end:]
        if end:
            lines += piece.count(b"\n", 0, end)
            yield piece[:end]


def _check_bytes(path: Path, block: bytes, lines: int) -> None:
    at = block.find(b"\0")
    if at >= 0:
        line = lines + block.count(b"\n", 0, at) + 1
        raise refuse("text-bytes", path, f"line {line} holds a NUL byte")
    try:
        block.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as e:
        line = lines + block.count(b"\n", 0, e.start) + 1
        raise refuse("text-bytes", path, f"line {line} is not UTF-8", "save it as UTF-8") from e


class _Record:
    """How long the records of a ``.csv`` are: a quote that never closes makes one of all the lines behind it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self._path, self._limits = path, limits
        self._quotes = self._carried = 0

    def follow(self, block: Any, ends: Any, lines: int) -> None:
        """Look at further whole lines."""
        quotes = np.flatnonzero(block == ord('"'))
        open_ = (self._quotes + np.searchsorted(quotes, ends)) % 2
        closed = ends[open_ == 0]
        lengths = np.diff(closed, prepend=-1 - self._carried, append=len(block) - 1)
        if int(lengths.max()) > self._limits.text_line_bytes:
            raise refuse(
                "line-length",
                self._path,
                f"a quote before line {lines + 1} is not closed within {self._limits.text_line_bytes} bytes",
                "close it, or save the table as .tsv",
            )
        self._carried = int(lengths[-1])
        self._quotes += len(quotes)


def _check_nesting(path: Path, block: bytes, bytes_: Any, ends: Any, lines: int, limits: Limits) -> None:
    """Refuse lines of JSON whose brackets nest too deep; few brackets cannot, and most lines have few."""
    opens = np.flatnonzero((bytes_ == ord("[")) | (bytes_ == ord("{")))
    counts = np.diff(np.searchsorted(opens, ends), prepend=0, append=len(opens))
    if int(counts.max()) <= limits.nesting:
        return
    depths = _depths(block)
    if int(depths.max()) > limits.nesting:
        raise refuse(
            "nesting",
            path,
            f"line {lines + int(depths.argmax()) + 1} nests {int(depths.max())} deep, at most {limits.nesting} are read",
        )


def _depths(block: bytes) -> Any:
    """How deep the brackets of each line of JSON nest, those within strings left out."""
    # A run of backslashes is pairs from its left, so that what stays before a quote escapes it.
    plain = np.frombuffer(block.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    starts = np.concatenate([[0], np.flatnonzero(plain[:-1] == ord("\n")) + 1])
    lengths = np.diff(starts, append=len(plain))
    quotes = np.cumsum(plain == ord('"'), dtype=np.int32)
    # Counted from the start of its line: a quote that is not closed says nothing about the next one.
    before = np.where(starts > 0, quotes[starts - 1], 0)
    outside = (quotes - np.repeat(before, lengths)) % 2 == 0
    steps = ((plain == ord("[")) | (plain == ord("{"))).astype(np.int32)
    steps -= (plain == ord("]")) | (plain == ord("}"))
    depth = np.cumsum(steps * outside, dtype=np.int32)
    floor = np.where(starts > 0, depth[starts - 1], 0)
    return np.maximum.reduceat(depth, starts) - floor


def _parquet(path: Path, data: memoryview) -> Mapping[str, Any]:
    if len(data) < 12 or bytes(data[-4:]) != b"PAR1":
        raise refuse("truncated", path, "it has no PAR1 at its end", "copy it again")
    footer = int.from_bytes(data[-8:-4], "little")
    if not 0 < footer <= min(len(data) - 12, _FOOTER_BYTES):
        raise refuse("header-length", path, f"its footer has {footer} bytes of {len(data)}", "write it again")
    return {"footer_bytes": footer}
