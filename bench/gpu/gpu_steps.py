"""Steps of the suite, each kept in a file of its own, and used again only under the conditions that it was made in."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekd
from edgekd.files import digest_of, read_json, write_json

HERE = Path(__file__).resolve().parent
SCHEMA = "edgekd.gpu-step/1"

#: What a step's figures come from; pages and tests are written anew anyway.
_EXPORTERS = ("edgekd_torch", "edgekd_onnx", "edgekd_tensorrt")
_PAGES = ("gpu_page.py", "run.py")


def sources_digest() -> str:
    """SHA-256 over the Python files that measure: this folder, ``edgekd``, and the three exporters."""
    exporters = HERE.parents[1] / "exporters"
    folders = (HERE, Path(edgekd.__file__).parent, *(exporters / name for name in _EXPORTERS))
    made = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if path.parent == HERE and path.name in _PAGES:
                continue
            made.update(path.relative_to(folder).as_posix().encode() + b"\0")
            made.update(hashlib.sha256(path.read_bytes()).digest())
    return made.hexdigest()


def device_conditions(device: Mapping[str, Any]) -> dict[str, Any]:
    """What of a device decides its figures: not which one of several alike it is, nor its state just now."""
    return {k: v for k, v in device.items() if k not in ("uuid", "clock_event_reasons_before")}


class StepStore:
    """A folder of finished steps.

    Args:
        common: conditions of every step: device and driver, versions, sources.
        uuid: of the device, kept with each step: a page may hold several of one kind.
    """

    def __init__(self, folder: Path, common: Mapping[str, Any], uuid: str | None = None) -> None:
        self.folder = folder
        self._common = dict(common)
        self._uuid = uuid

    @property
    def digest(self) -> str:
        """Of the conditions of every step."""
        return digest_of(self._common)

    def _conditions(self, own: Mapping[str, Any]) -> dict[str, Any]:
        # As JSON reads it back: tuples are lists.
        return dict(json.loads(json.dumps({**self._common, **own})))

    def read(self, name: str, own: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """A kept step, and why it does not count where it is there but was made under other conditions.

        Args:
            own: conditions of this step besides the common ones.

        Raises:
            EvidenceError: the file is damaged.
        """
        path = self.folder / f"{name}.json"
        if not path.is_file():
            return None, ""
        kept, wanted = read_json(path, SCHEMA), self._conditions(own)
        if kept["digest"] == digest_of(wanted):
            return kept, ""
        had = kept["conditions"]
        other = sorted(k for k in {*had, *wanted} if had.get(k) != wanted.get(k))
        return None, f"the one kept has other {', '.join(other)}"

    def write(self, name: str, own: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a step; what :meth:`read` gives for it."""
        conditions = self._conditions(own)
        path = self.folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            path,
            {
                "schema": SCHEMA,
                "digest": digest_of(conditions),
                "conditions": conditions,
                "collected_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "uuid": self._uuid,
                **found,
            },
        )
        return read_json(path, SCHEMA)
