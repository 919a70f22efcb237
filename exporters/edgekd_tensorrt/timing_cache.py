"""Timing caches: kept per TensorRT version, GPU and driver, or pinned by the user.

A cache holds properties of the device it was timed on, and TensorRT refuses to combine those of two versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import ModelError
from edgekd.files import canonical_json, sha256_file, write_bytes
from edgekd_tensorrt.cuda import Device
from edgekd_tensorrt.library import Version
from edgekd_tensorrt.options import BuildOptions

_FOLDER = "tensorrt-timing"
_FILE = "timing.cache"


def cache_key(version: Version, device: Device) -> str:
    """Digest of what a timing cache is valid for."""
    told = {
        "tensorrt": str(version), "sm": device.sm, "gpu": device.name, "cuda_driver": device.cuda_driver,
        "driver": device.driver, "mig": device.mig,
    }  # fmt: skip
    return hashlib.sha256(canonical_json(told)).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingCache:
    """Where a build takes its timings from, and where they go.

    Attributes:
        source: ``kept``, ``pinned`` or ``off``; before: the bytes that a build starts from.
        path: of the file behind them; None without one.
    """

    source: str
    path: Path | None
    before: bytes

    @property
    def sha256(self) -> str:
        """Of the bytes that a build starts from; empty for none."""
        return hashlib.sha256(self.before).hexdigest() if self.before else ""

    def keep(self, after: bytes) -> None:
        """Store what a build learned; a pinned cache is never written."""
        if self.source == "kept" and self.path is not None and after != self.before:
            write_bytes(self.path, after)


def find_cache(options: BuildOptions, root: Path, version: Version, device: Device) -> TimingCache:
    """The cache that ``options`` ask for.

    Args:
        root: of EdgeKD's own cache.

    Raises:
        ModelError: a pinned file whose SHA-256 is another than stated.
    """
    if options.timing_cache == "off":
        return TimingCache(source="off", path=None, before=b"")
    if options.timing_cache:
        path = Path(options.timing_cache)
        found = sha256_file(path)
        if options.timing_cache_sha256 and found != options.timing_cache_sha256:
            raise ModelError(
                f"the timing cache {path} has SHA-256 {found[:12]}…, {options.timing_cache_sha256[:12]}… was asked for",
                "give the file that was pinned, or its new SHA-256",
            )
        return TimingCache(source="pinned", path=path, before=path.read_bytes())
    path = root / _FOLDER / cache_key(version, device) / _FILE
    return TimingCache(source="kept", path=path, before=path.read_bytes() if path.is_file() else b"")
