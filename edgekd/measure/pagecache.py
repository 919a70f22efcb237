"""Files out of the page cache, and proof of it: what makes a load time a cold one."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """Pages of some files that are in the page cache.

    Attributes:
        pages: of the files. ``resident``: of these, in memory; None where the system does not tell.
        reason: why that is not known, or why nothing was dropped; empty otherwise.
    """

    pages: int
    resident: int | None
    reason: str = ""

    @property
    def cold(self) -> bool:
        """Whether it is known that no page is in memory."""
        return self.resident == 0


def residency(paths: Sequence[Path]) -> Residency:
    """Count resident pages with mincore(2).

    Since Linux 5.2 mincore tells the truth only to those who own or may write a file, and calls every page resident
    to others: a cold file may then be taken for a warm one, never the other way about.
    """
    pages = resident = 0
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        mincore = libc.mincore
    except (OSError, AttributeError, TypeError):
        return Residency(pages=0, resident=None, reason="this system has no mincore(2)")
    for path in paths:
        try:
            with path.open("rb") as f:
                size = os.fstat(f.fileno()).st_size
                if not size:
                    continue
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    view = np.frombuffer(mapped, np.uint8)  # only for its address: nothing is touched
                    count = -(-size // mmap.PAGESIZE)
                    vector = (ctypes.c_ubyte * count)()
                    failed = mincore(ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), vector)
                    del view
                if failed:
                    why = os.strerror(ctypes.get_errno())
                    return Residency(pages=pages, resident=None, reason=f"mincore failed ({why})")
                pages += count
                resident += sum(v & 1 for v in vector)
        except OSError as e:
            return Residency(pages=pages, resident=None, reason=f"{path.name}: {e.strerror or e}")
    return Residency(pages=pages, resident=resident)


def drop_from_cache(paths: Sequence[Path]) -> Residency:
    """Ask the kernel to forget these files' pages (posix_fadvise(2), DONTNEED), and see whether it did.

    Dirty pages are written first; pages that another process maps, and those of file systems that live in memory
    (tmpfs), stay. Nothing else on the machine is touched.
    """
    if not hasattr(os, "posix_fadvise"):
        return Residency(pages=0, resident=None, reason="this system has no posix_fadvise(2)")
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError as e:
            return Residency(pages=0, resident=None, reason=f"{path.name}: {e.strerror}")
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as e:
            return Residency(pages=0, resident=None, reason=f"{path.name}: {e.strerror}")
        finally:
            os.close(fd)
    return residency(paths)


def read_into_cache(paths: Sequence[Path]) -> Residency:
    """Read files once, so that the next to read them finds them in memory.

    Raises:
        OSError: one cannot be read.
    """
    for path in paths:
        with path.open("rb", buffering=0) as f:
            while f.read(1 << 20):
                pass
    return residency(paths)
