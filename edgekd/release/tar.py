"""The .tar of a bundle: one set of files, one archive, byte for byte."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgekd.files import writing
from edgekd.release.manifest import BLOCK, RECORD, padding, tar_header


def tar_path(out: Path) -> Path:
    """Where the archive of the bundle ``out`` goes: beside it."""
    whole = out.absolute()
    return whole.with_name(whole.name + ".tar")


def top_folder(name: str) -> str:
    """The one folder of a bundle's archive, after the run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "bundle"


def write_tar(bundle: Path, out: Path, name: str, files: Sequence[str]) -> None:
    """Write the archive, whole or not at all.

    Args:
        bundle: the folder; out: the archive; name: of the run, which names the one folder in it.
        files: paths relative to ``bundle``, in the order in which they are written.

    Raises:
        StorageError: a write failed; an archive that was there is intact.
    """
    top = top_folder(name)
    with writing(out) as sink:
        for path in files:
            size = (bundle / path).stat().st_size
            sink.write(tar_header(f"{top}/{path}", size))
            with (bundle / path).open("rb") as source:
                shutil.copyfileobj(source, sink, 1 << 20)
            sink.write(bytes(padding(size)))
        end = sink.tell() + 2 * BLOCK
        sink.write(bytes(2 * BLOCK + padding(end, RECORD)))
