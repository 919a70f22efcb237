"""Whether a folder lives in memory, where nothing can be dropped from the page cache."""

from __future__ import annotations

from pathlib import Path

import pytest


def skip_in_memory(path: Path) -> None:
    """Skip, saying so, where ``path`` is on a file system in memory (/proc/mounts, proc(5))."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    of = [m for m in mounts if path.resolve().is_relative_to(m[1])]
    kind = max(of, key=lambda m: len(m[1]))[2]
    if kind in ("tmpfs", "ramfs"):
        pytest.skip(f"{path.parent} is on {kind}: its files never leave memory")
