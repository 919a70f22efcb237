"""Zip archives: ``.npz`` files, and the container that torch pickles into. Read by hand, so that nothing is unpacked.

Two readers of one archive may disagree where it contradicts itself (two directories, other names in the local
headers); such archives are refused. Layout: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.inspect.limits import Limits
from edgekd.inspect.numpy_array import MAX_HEADER_BYTES, check_length, read_header
from edgekd.inspect.rules import refuse

_END = struct.Struct("<4sHHHHIIH")
_END64_AT = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
STORED, DEFLATED = 0, 8
#: A comment is at most this long, so that the end record lies within so many bytes of the end.
_COMMENT = 0xFFFF
#: Members and archives below these sizes may be of one value throughout, and are no bomb.
_SMALL_MEMBER, _SMALL_ARCHIVE = 1 << 16, 1 << 20
_MEND = "write it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file in an archive.

    Attributes:
        name: as the archive spells it; method: 0 stored, 8 deflated.
        size_bytes: unpacked; packed_bytes: as it lies there; begin: of the packed data.
    """

    name: str
    method: int
    size_bytes: int
    packed_bytes: int
    begin: int


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """The arrays of an ``.npz``: each an ``.npy`` with as many bytes as its header says."""
    arrays = []
    total = 0
    for member in members(path, data, limits, key=lambda n: n.removesuffix(".npy")):
        what = f"member {member.name!r}"
        header = read_header(path, unpack_start(path, data, member, MAX_HEADER_BYTES + 12), what, limits)
        check_length(path, header, member.size_bytes, what, limits)
        total += header.data_bytes
        arrays.append(
            {"name": member.name.removesuffix(".npy"), "dtype": header.dtype, "shape": list(header.shape)}
        )
    if len(arrays) > limits.tensors:
        raise refuse("tensors", path, f"it has {len(arrays)} arrays, at most {limits.tensors} are read")
    return {"arrays": arrays[: limits.names], "array_bytes": total}


def unpack_start(path: Path, data: memoryview, member: Member, most: int) -> bytes:
    """The first ``most`` bytes of a member, and no more memory than that takes."""
    packed = data[member.begin : member.begin + member.packed_bytes]
    if member.method == STORED:
        return bytes(packed[:most])
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(packed[: most + 1024]), most)
    except zlib.error as e:
        raise refuse("malformed", path, f"member {member.name!r} does not unpack ({e})", _MEND) from e


def members(
    path: Path, data: memoryview, limits: Limits, key: Callable[[str], str] = lambda n: n
) -> list[Member]:
    """The members of an archive, in the order of its directory; each checked, none unpacked.

    Args:
        key: what a reader calls a member: two of one key are duplicates.

    Raises:
        PolicyError: a rule of containers is broken.
    """
    count, begin, end = _directory(path, data)
    if count > limits.zip_members:
        raise refuse(
            "archive-entries", path, f"it has {count} members, at most {limits.zip_members} are read"
        )
    found: list[Member] = []
    spans: list[tuple[int, int, str]] = []
    position = begin
    for _ in range(count):
        member, local, position = _member(path, data, position, begin, end, limits)
        found.append(member)
        spans.append((local, member.begin + member.packed_bytes, member.name))
    if position != end:
        raise refuse(
            "archive-header", path, f"its directory ends at byte {position}, its end record says {end}", _MEND
        )
    _check_names(path, found, key)
    _check_spans(path, spans, begin)
    _check_sizes(path, found, limits)
    return found


def _directory(path: Path, data: memoryview) -> tuple[int, int, int]:
    """How many members, and where the directory of them begins and ends."""
    tail = bytes(data[max(0, len(data) - _END.size - _COMMENT) :])
    # As Python's zipfile looks for it: without a comment at the very end, else the last that can be one.
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
        at = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4) if at >= 0 else -1
    if at < 0:
        raise refuse("truncated", path, "it has no end record, as a zip archive has", "copy it again")
    _, disk, first_disk, here, count, size, begin, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise refuse("trailing-bytes", path, "something follows the end of the archive", _MEND)
    end = len(data) - len(tail) + at
    locator = end - _END64_AT.size
    wide = locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7"
    if wide:
        wanted = (disk, first_disk, here, count, size, begin)
        end, disk, first_disk, here, count, size, begin = _zip64(path, data, locator, wanted)
    if disk or first_disk or here != count:
        raise refuse("archive-header", path, "it is one part of several", "join the parts first")
    if begin + size != end:
        raise refuse(
            "archive-header",
            path,
            f"its directory should lie at {begin} to {begin + size}, and ends at {end}",
            _MEND,
        )
    return count, begin, end


def _zip64(
    path: Path, data: memoryview, locator: int, plain: tuple[int, ...]
) -> tuple[int, int, int, int, int, int, int]:
    """The end record for large archives, which the plain one must not contradict."""
    _, _, at, disks = _END64_AT.unpack_from(data, locator)
    if at + _END64.size > locator or bytes(data[at : at + 4]) != b"PK\6\6" or disks > 1:
        raise refuse("archive-header", path, f"its zip64 record should lie at byte {at}", _MEND)
    _, length, _, _, *wide = _END64.unpack_from(data, at)
    if at + 12 + length != locator:
        raise refuse("archive-header", path, f"its zip64 record has {length} bytes", _MEND)
    for few, many, full in zip(plain, wide, (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2, strict=True):
        if few not in (many, full):
            raise refuse("archive-header", path, f"its two end records say {few} and {many}", _MEND)
    return (at, *wide)


def _extra(path: Path, extra: bytes, values: list[int], what: str) -> list[int]:
    """``values`` with those that are 0xFFFFFFFF taken from the zip64 extra field, in their order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        body = extra[position + 4 : position + 4 + length]
        position += 4 + length
        if kind != 1 or 0xFFFFFFFF not in values:
            continue
        wide = list(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
        if len(wide) < values.count(0xFFFFFFFF):
            raise refuse("archive-header", path, f"{what} lacks its zip64 sizes", _MEND)
        return [wide.pop(0) if v == 0xFFFFFFFF else v for v in values]
    return values


def _member(
    path: Path, data: memoryview, position: int, begin: int, end: int, limits: Limits
) -> tuple[Member, int, int]:
    """One entry of the directory with its local header: the member, where that header is, the next entry."""
    if position + _CENTRAL.size > end or bytes(data[position : position + 4]) != b"PK\1\2":
        raise refuse("archive-header", path, f"its directory has no entry at byte {position}", _MEND)
    fields = _CENTRAL.unpack_from(data, position)
    _, _, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, _, _, outer, local = (
        fields
    )
    after = position + _CENTRAL.size + name_len + extra_len + comment_len
    if after > end:
        raise refuse(
            "archive-header", path, f"an entry of its directory ends at byte {after} of {end}", _MEND
        )
    raw = bytes(data[position + _CENTRAL.size : position + _CENTRAL.size + name_len])
    name = _name(path, raw, bool(flags & 0x800), limits)
    what = f"member {name!r}"
    at = position + _CENTRAL.size + name_len
    size, packed, local = _extra(path, bytes(data[at : at + extra_len]), [size, packed, local], what)
    # Bit 0: encrypted; bit 6: strongly; bit 13: headers masked.
    if flags & 0x2041:
        raise refuse("archive-encrypted", path, f"{what} is encrypted", "decrypt it yourself")
    if method not in (STORED, DEFLATED):
        raise refuse(
            "archive-method",
            path,
            f"{what} has compression {method}, only 0 (stored) and 8 (deflated) are read",
        )
    kind = stat.S_IFMT(outer >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refuse(
            "archive-link", path, f"{what} is a {'link' if kind == stat.S_IFLNK else 'special file'}"
        )
    start = _check_local(path, data, local, begin, raw, (flags, method, crc, packed, size), what)
    if method == STORED and packed != size:
        raise refuse(
            "archive-header", path, f"{what} is stored in {packed} bytes and unpacks to {size}", _MEND
        )
    if start + packed > begin:
        raise refuse(
            "truncated", path, f"{what} ends at byte {start + packed}, the directory begins at {begin}", _MEND
        )
    return Member(name=name, method=method, size_bytes=size, packed_bytes=packed, begin=start), local, after


def _check_local(
    path: Path, data: memoryview, at: int, begin: int, raw: bytes, central: tuple[int, ...], what: str
) -> int:
    """Where a member's data start; its local header must say what the directory says."""
    if at + _LOCAL.size > begin or bytes(data[at : at + 4]) != b"PK\3\4":
        raise refuse("archive-header", path, f"{what} should begin at byte {at}", _MEND)
    _, _, flags, method, _, _, crc, packed, size, name_len, extra_len = _LOCAL.unpack_from(data, at)
    names = at + _LOCAL.size
    start = names + name_len + extra_len
    if bytes(data[names : names + name_len]) != raw:
        raise refuse("archive-header", path, f"{what} has another name in its own header", _MEND)
    size, packed = _extra(path, bytes(data[names + name_len : start]), [size, packed], what)
    wanted_flags, wanted_method, *wanted = central
    # Bit 3: checksum and sizes follow the data, the header may have zeros.
    later = bool(flags & 8)
    same = all(
        have == want or (later and have in (0, 0xFFFFFFFF))
        for have, want in zip((crc, packed, size), wanted, strict=True)
    )
    if (flags ^ wanted_flags) & 0x2049 or method != wanted_method or not same:
        raise refuse("archive-header", path, f"{what} has other sizes or flags in its own header", _MEND)
    return int(start)


def _name(path: Path, raw: bytes, utf8: bool, limits: Limits) -> str:
    if len(raw) > limits.name_bytes:
        raise refuse(
            "name-text", path, f"a member's name has {len(raw)} bytes, at most {limits.name_bytes} are read"
        )
    try:
        name = raw.decode("utf-8" if utf8 else "cp437")
    except UnicodeDecodeError as e:
        raise refuse("name-text", path, f"the name of member {raw[:40]!r} is not UTF-8") from e
    if not name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise refuse(
            "name-text", path, f"the name of member {name[:40]!r} has control characters or is empty"
        )
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name):
        raise refuse("archive-path", path, f"member {name!r} would leave the archive")
    return name


def _check_names(path: Path, found: list[Member], key: Callable[[str], str]) -> None:
    seen: set[str] = set()
    for member in found:
        name = key(member.name)
        if name in seen:
            raise refuse("archive-duplicate", path, f"two members are called {name!r}", _MEND)
        seen.add(name)


def _check_spans(path: Path, spans: list[tuple[int, int, str]], begin: int) -> None:
    """Members lie one after another; nothing lies before the first."""
    before, last = 0, ""
    for at, end, name in sorted(spans):
        if at < before:
            raise refuse("archive-overlap", path, f"members {last!r} and {name!r} overlap")
        if not last and at:
            raise refuse("archive-header", path, f"{at} bytes lie before its first member", _MEND)
        before, last = end, name
    if not spans and begin:
        raise refuse("archive-header", path, f"{begin} bytes lie before its directory", _MEND)


def _check_sizes(path: Path, found: list[Member], limits: Limits) -> None:
    size, packed = sum(m.size_bytes for m in found), sum(m.packed_bytes for m in found)
    if size > limits.zip_bytes:
        raise refuse("archive-size", path, f"it unpacks to {size} bytes, at most {limits.zip_bytes} are read")
    for member in found:
        if member.size_bytes > max(_SMALL_MEMBER, limits.zip_ratio * member.packed_bytes):
            raise refuse(
                "archive-ratio", path,
                f"member {member.name!r} unpacks from {member.packed_bytes} to {member.size_bytes} bytes, at most "
                f"{limits.zip_ratio} times are read", "write it uncompressed (numpy.savez)",
            )  # fmt: skip
    if size > max(_SMALL_ARCHIVE, limits.zip_ratio * packed):
        raise refuse(
            "archive-ratio", path, f"it unpacks from {packed} to {size} bytes", "write it uncompressed"
        )
