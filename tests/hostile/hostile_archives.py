"""Zip archives (.npz, .pt) that explode, lie or lead elsewhere, and pickles."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from hostile_case import DATA, INSPECT, OPEN, Case, hostile

CASES: list[Case] = []


def _array(rows: int = 4) -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros((rows, 2), np.float32))
    return out.getvalue()


def _zip(
    folder: Path, members: list[tuple[zipfile.ZipInfo | str, bytes]], method: int = zipfile.ZIP_STORED
) -> Path:
    path = folder / "data.npz"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names given twice, which is the point
        for info, data in members:
            archive.writestr(info, data, method)
    return path


@hostile(CASES, DATA, "64 MiB of zeros in 64 KiB: 1,000 to 1", rule="archive-ratio")
def _zip_bomb(folder: Path) -> Path:
    out = io.BytesIO()
    np.save(out, np.zeros((1 << 24,), np.float32))
    return _zip(folder, [("x.npy", out.getvalue())], zipfile.ZIP_DEFLATED)


@hostile(CASES, INSPECT, "the same bomb, in bzip2: 20,000 to 1")
def _zip_bomb_bzip2(folder: Path) -> Path:
    return _zip(folder, [("x.npy", bytes(1 << 26))], zipfile.ZIP_BZIP2)


@hostile(CASES, INSPECT, "a hundred members of one packed stream, overlapping (D. Fifield's bomb)")
def _zip_overlapping(folder: Path) -> Path:
    path = _zip(folder, [("0.npy", _array(2000))], zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack("<I", data[end + 16 : end + 20])[0]
    central = data[start:end]
    entries = b"".join(central[:46] + b"%05d" % i + central[51:] for i in range(100))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 100, 100, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)
    return path


@hostile(
    CASES, INSPECT, "a member whose central directory says 100 bytes and whose stream makes 64 MiB", code=2
)
def _zip_size_lies(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", bytes(1 << 26))], zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    data[22:26] = struct.pack("<I", 100)
    path.write_bytes(bytes(data))
    return path


@hostile(CASES, DATA, "the same lie, read as data", names="data.npz", code=2)
def _zip_size_lies_read(folder: Path) -> Path:
    return _zip_size_lies(folder)


@hostile(
    CASES, INSPECT, "an archive inside an archive inside an archive: 42.zip's way", names="data.npz", code=2
)
def _zip_nested(folder: Path) -> Path:
    inner = bytes(1 << 22)
    for _ in range(3):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(8):
                archive.writestr(f"{i}.zip", inner)
        inner = out.getvalue()
    path = folder / "data.npz"
    path.write_bytes(inner)
    return path


@hostile(CASES, INSPECT, "an archive that holds itself, by its own local header", names="data.npz", code=2)
def _zip_holds_itself(folder: Path) -> Path:
    """One stored member whose data is the archive from its first byte on, as quines unpack to."""
    name = b"r.npz"
    size = 30 + len(name) + 46 + len(name) + 22
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, size, size, len(name), 0) + name
    central = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, size, size, len(name), 0, 0, 0, 0, 0, 0
    ) + name  # fmt: skip
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path = folder / "data.npz"
    path.write_bytes(local + central + tail)
    return path


@hostile(CASES, INSPECT, "a member `../../x.npy`", rule="archive-path")
def _zip_dot_dot(folder: Path) -> Path:
    return _zip(folder, [("../../x.npy", _array())])


@hostile(CASES, DATA, "a member `../../x.npy`, read as data", rule="archive-path")
def _zip_dot_dot_read(folder: Path) -> Path:
    return _zip_dot_dot(folder)


@hostile(CASES, INSPECT, "a member at `/etc/x.npy`", rule="archive-path")
def _zip_absolute(folder: Path) -> Path:
    return _zip(folder, [("/etc/x.npy", _array())])


@hostile(CASES, INSPECT, "a member at `C:\\x.npy`", rule="archive-path")
def _zip_drive(folder: Path) -> Path:
    info = zipfile.ZipInfo("x")
    info.filename = "C:\\x.npy"
    return _zip(folder, [(info, _array())])


@hostile(CASES, INSPECT, "a member that is a symbolic link", rule="archive-link")
def _zip_link(folder: Path) -> Path:
    info = zipfile.ZipInfo("x.npy")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return _zip(folder, [(info, b"/etc/passwd")])


@hostile(CASES, DATA, "two members of one name", rule="archive-duplicate")
def _zip_twice(folder: Path) -> Path:
    return _zip(folder, [("x.npy", _array()), ("x.npy", _array(8))])


@hostile(CASES, INSPECT, "an encrypted member", rule="archive-encrypted")
def _zip_encrypted(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", _array())])
    data = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + at] |= 1
    path.write_bytes(bytes(data))
    return path


@hostile(CASES, INSPECT, "zip64 sizes of 2^63 bytes", names="data.npz", code=2)
def _zip64_huge(folder: Path) -> Path:
    name = b"x.npy"
    extra = struct.pack("<HHQQ", 1, 16, 1 << 63, 1 << 63)
    local = struct.pack(
        "<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra)
    )
    local += name + extra + b"x"
    central = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 45, 45, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra), 0, 0, 0, 0, 0
    ) + name + extra  # fmt: skip
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path = folder / "data.npz"
    path.write_bytes(local + central + tail)
    return path


@hostile(CASES, INSPECT, "50,000 members", rule="archive-entries")
def _zip_50_000(folder: Path) -> Path:
    return _zip(folder, [(f"{i}.npy", b"") for i in range(50_000)])


@hostile(CASES, INSPECT, "a directory that is not where the archive says", names="data.npz")
def _zip_directory_lost(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", _array())])
    data = bytearray(path.read_bytes())
    data[-6:-2] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(bytes(data))
    return path


@hostile(CASES, INSPECT, "a local header that names another file than the directory", names="data.npz")
def _zip_two_stories(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", _array())])
    path.write_bytes(path.read_bytes().replace(b"x.npy", b"y.npy", 1))
    return path


@hostile(CASES, INSPECT, "a program before the archive, which zip readers skip", rule="content-mismatch")
def _zip_after_program(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", _array())])
    path.write_bytes(b"#!/bin/sh\nexit 0\n" + path.read_bytes())
    return path


@hostile(CASES, INSPECT, "a member's name with an escape sequence", names="data.npz")
def _zip_name_escape(folder: Path) -> Path:
    return _zip(folder, [("\x1b[2Jx.npy", _array())])


@hostile(CASES, INSPECT, "a deflate stream that ends in the middle", names="data.npz", code=2)
def _zip_stream_broken(folder: Path) -> Path:
    path = _zip(folder, [("x.npy", _array(2000))], zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[40:60] = zlib.compress(b"")[:1] * 20
    path.write_bytes(bytes(data))
    return path


def _file(folder: Path, data: bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


_SYSTEM = b"cposix\nsystem\n(S'touch pwned'\ntR."
_EVAL = b"\x80\x02cbuiltins\neval\nX\x10\x00\x00\x00__import__('os')\x85R."
#: A pickle that holds a pickle, and `_pickle.loads`.
_NESTED = b"\x80\x04c_pickle\nloads\nC" + bytes([len(_SYSTEM)]) + _SYSTEM + b"\x85R."


@hostile(CASES, OPEN, "a pickle that calls os.system", rule="pickle")
def _pickle_system(folder: Path) -> Path:
    return _file(folder, _SYSTEM, "model.pkl")


@hostile(CASES, OPEN, "a pickle that calls builtins.eval", rule="pickle")
def _pickle_eval(folder: Path) -> Path:
    return _file(folder, _EVAL, "model.pt")


@hostile(CASES, OPEN, "a pickle inside a pickle", rule="pickle")
def _pickle_nested(folder: Path) -> Path:
    return _file(folder, _NESTED, "model.pth")


@hostile(CASES, OPEN, "os.system in the data.pkl of a torch archive", rule="pickle")
def _pickle_in_archive(folder: Path) -> Path:
    path = folder / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _SYSTEM)
        archive.writestr("archive/version", "3\n")
    return path


@hostile(CASES, INSPECT, "a billion MARKs' worth of stack: 8 MB of `(`", names="model.pkl")
def _pickle_marks(folder: Path) -> Path:
    return _file(folder, b"\x80\x02" + b"(" * 8_000_000 + b".", "model.pkl")


@hostile(CASES, INSPECT, "a BINBYTES8 of 2^62 bytes", names="model.pkl", code=2)
def _pickle_length(folder: Path) -> Path:
    return _file(folder, b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", "model.pkl")


@hostile(CASES, OPEN, "a pickle under the name data of a TensorRT plan", rule="engine-trust")
def _plan_untrusted(folder: Path) -> Path:
    return _file(folder, _SYSTEM + bytes(64), "model.engine")
