"""Bundles that lead out of themselves, are larger than any disk, or tell two stories."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixtures_small_bundle import as_tar, seal, small_bundle
from hostile_case import VERIFY, Case, hostile, sparse

from edgekd.release.manifest import tar_header

CASES: list[Case] = []


def _folder(folder: Path) -> Path:
    return small_bundle(folder / "bundle")


def _tar(
    folder: Path, *extra: tuple[tarfile.TarInfo, bytes], tail: bytes = b"", form: int = tarfile.PAX_FORMAT
) -> Path:
    """A sound bundle's .tar with further members behind its own."""
    whole = as_tar(_folder(folder)).rstrip(b"\0")
    whole += bytes(-len(whole) % tarfile.BLOCKSIZE)
    for info, data in extra:
        whole += info.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % tarfile.BLOCKSIZE)
    path = folder / "bundle.tar"
    path.write_bytes(whole + tail + bytes(10240))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@hostile(CASES, VERIFY, "a member `b/../../x`")
def _tar_dot_dot(folder: Path) -> Path:
    return _tar(folder, (_member("b/../../x"), b""))


@hostile(CASES, VERIFY, "a member `/etc/cron.d/x`")
def _tar_absolute(folder: Path) -> Path:
    return _tar(folder, (_member("/etc/cron.d/x"), b""))


@hostile(CASES, VERIFY, "a symbolic link to /etc/passwd", word="link")
def _tar_symlink(folder: Path) -> Path:
    return _tar(folder, (_member("b/evidence/b.json", tarfile.SYMTYPE, link="/etc/passwd"), b""))


@hostile(CASES, VERIFY, "a hard link to the verdict", word="link")
def _tar_hard_link(folder: Path) -> Path:
    return _tar(folder, (_member("b/evidence/b.json", tarfile.LNKTYPE, link="b/verdict.json"), b""))


@hostile(CASES, VERIFY, "a device", word="plain file")
def _tar_device(folder: Path) -> Path:
    return _tar(folder, (_member("b/zero", tarfile.CHRTYPE), b""))


@hostile(CASES, VERIFY, "a named pipe", word="plain file")
def _tar_pipe(folder: Path) -> Path:
    return _tar(folder, (_member("b/pipe", tarfile.FIFOTYPE), b""))


@hostile(CASES, VERIFY, "a member of 8 EiB by its header")
def _tar_size_8_eib(folder: Path) -> Path:
    return _tar(folder, (_member("b/x", size=(1 << 63) - 1), b""), form=tarfile.GNU_FORMAT)


@hostile(CASES, VERIFY, "a member of negative size")
def _tar_size_negative(folder: Path) -> Path:
    return _tar(folder, (_member("b/x", size=-512), b""), form=tarfile.GNU_FORMAT)


@hostile(CASES, VERIFY, "a pax header that renames the member behind it")
def _tar_pax_path(folder: Path) -> Path:
    info = _member("b/x")
    info.pax_headers = {"path": "../../x", "size": "5"}
    return _tar(folder, (info, b""))


@hostile(CASES, VERIFY, "a pax header of 64 MiB")
def _tar_pax_huge(folder: Path) -> Path:
    info = _member("b/x")
    info.pax_headers = {"comment": "c" * (64 << 20)}
    return _tar(folder, (info, b""))


@hostile(CASES, VERIFY, "a pax record whose length is a lie")
def _tar_pax_length(folder: Path) -> Path:
    record = b"99999999999 path=x\n"
    return _tar(folder, (_member("b/p", tarfile.XHDTYPE, size=len(record)), record), (_member("b/x"), b""))


@hostile(CASES, VERIFY, "a sparse file of GNU's, 1 TiB that take no room")
def _tar_gnu_sparse(folder: Path) -> Path:
    info = _member("b/x")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    return _tar(folder, (info, b"0\n".ljust(512, b"\0")))


@hostile(CASES, VERIFY, "one member twice", word="twice")
def _tar_twice(folder: Path) -> Path:
    return _tar(folder, (_member("b/verdict.json", size=2), b"{}"))


@hostile(CASES, VERIFY, "a second top folder")
def _tar_two_tops(folder: Path) -> Path:
    return _tar(folder, (_member("c/x"), b""))


@hostile(CASES, VERIFY, "a second archive behind the first one's end")
def _tar_after_end(folder: Path) -> Path:
    return _tar(folder, tail=bytes(1024) + tar_header("b/x", 0))


@hostile(CASES, VERIFY, "100,000 members")
def _tar_members(folder: Path) -> Path:
    block = b"".join(tar_header(f"b/{i}", 0) for i in range(100_000))
    return _tar(folder, tail=block)


@hostile(CASES, VERIFY, "1 TiB of zeros behind the end, sparse")
def _tar_zeros(folder: Path) -> Path:
    path = _tar(folder)
    return sparse(path, 1 << 40, path.read_bytes())


@hostile(CASES, VERIFY, "a name that clears the screen, beside one that turns the text round")
def _tar_names(folder: Path) -> Path:
    return _tar(folder, (_member("b/\x1b[2J\x1b]0;x\x07"), b""), (_member("b/\u202egpj.exe"), b""))


@hostile(CASES, VERIFY, "no tar at all: a gzip bomb's head")
def _tar_gzip(folder: Path) -> Path:
    import gzip

    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as made:
        made.write(as_tar(_folder(folder)))
    path = folder / "bundle.tar"
    path.write_bytes(out.getvalue())
    return path


@hostile(CASES, VERIFY, "a named pipe in the archive's place", code=2, names="bundle.tar")
def _bundle_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bundle.tar")
    return folder / "bundle.tar"


@hostile(CASES, VERIFY, "a link to /dev/zero in the archive's place", code=2, names="bundle.tar")
def _bundle_endless(folder: Path) -> Path:
    (folder / "bundle.tar").symlink_to("/dev/zero")
    return folder / "bundle.tar"


def _changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    bundle = _folder(folder)
    seal(bundle, change)
    return bundle


def _with_file(manifest: dict[str, Any], **changes: Any) -> dict[str, Any]:
    first, *rest = manifest["files"]
    return {**manifest, "files": [{**first, **changes}, *rest]}


@hostile(CASES, VERIFY, "a manifest that lists `../../etc/passwd`")
def _manifest_outside(folder: Path) -> Path:
    return _changed(folder, lambda m: _with_file(m, path="../../etc/passwd"))


@hostile(CASES, VERIFY, "a manifest that lists itself")
def _manifest_itself(folder: Path) -> Path:
    return _changed(folder, lambda m: _with_file(m, path="manifest.json"))


@hostile(CASES, VERIFY, "a manifest without a file's hash")
def _manifest_no_hash(folder: Path) -> Path:
    return _changed(
        folder, lambda m: {**m, "files": [{k: v for k, v in f.items() if k != "sha256"} for f in m["files"]]}
    )


@hostile(CASES, VERIFY, "a manifest whose file is `true` bytes long")
def _manifest_true_bytes(folder: Path) -> Path:
    return _changed(folder, lambda m: _with_file(m, size_bytes=True))


@hostile(CASES, VERIFY, "a manifest nested 400 deep")
def _manifest_nested(folder: Path) -> Path:
    def change(manifest: dict[str, Any]) -> dict[str, Any]:
        value: Any = 0
        for _ in range(400):
            value = [value]
        return {**manifest, "name": value}

    return _changed(folder, change)


@hostile(CASES, VERIFY, "a manifest of 3 GiB, sparse")
def _manifest_sparse(folder: Path) -> Path:
    bundle = _folder(folder)
    sparse(bundle / "manifest.json", 3 << 30, b"{")
    return bundle


@hostile(CASES, VERIFY, "a manifest of a newer version", code=2, word="edgekd.manifest/99")
def _manifest_newer(folder: Path) -> Path:
    return _changed(folder, lambda m: {**m, "schema": "edgekd.manifest/99"})


@hostile(CASES, VERIFY, "a verdict that was rejected, under a manifest that says pass")
def _verdict_rejected(folder: Path) -> Path:
    bundle = _folder(folder)
    path = bundle / "verdict.json"
    path.write_text(path.read_text().replace('"decision": "pass"', '"decision": "reject"'))
    seal(bundle)
    return bundle


@hostile(CASES, VERIFY, "a file in the folder that is a symbolic link", word="link")
def _folder_symlink(folder: Path) -> Path:
    bundle = _folder(folder)
    (bundle / "extra").symlink_to("/etc/passwd")
    return bundle


@hostile(CASES, VERIFY, "a folder in the folder that is a link to its parent", word="link")
def _folder_link_ring(folder: Path) -> Path:
    bundle = _folder(folder)
    (bundle / "again").symlink_to(bundle)
    return bundle


@hostile(
    CASES, VERIFY, "a file with a second name outside: it changes after it was verified", word="hard link"
)
def _folder_hard_link(folder: Path) -> Path:
    bundle = _folder(folder)
    os.link(bundle / "evidence/a.json", folder / "other")
    return bundle


@hostile(CASES, VERIFY, "a named pipe in the folder", word="plain file")
def _folder_pipe(folder: Path) -> Path:
    bundle = _folder(folder)
    os.mkfifo(bundle / "pipe")
    return bundle
