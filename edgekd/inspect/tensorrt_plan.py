"""``.engine`` and ``.plan``: native code, into which nobody looks. Size and digest are all that is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.inspect.limits import Limits


def inspect(path: Path, data: memoryview, limits: Limits) -> Mapping[str, Any]:
    """That it is native code; whether it may be loaded is for :func:`edgekd.engine_trust.trusted_engine` to say."""
    # `ftrt` begins a plan of TensorRT 8 and later (sampleEngines.cpp); other tools put a header of their own before it.
    return {"native_code": True, "plan_header": bytes(data[:4]) == b"ftrt"}
