"""A runtime for the doctor; in a file of its own, so that a child imports it alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgekd.errors import TargetUnavailableError
from edgekd.target import SessionOptions
from edgekd_onnx.runtime import OnnxRuntime


class ListedRuntime(OnnxRuntime):
    """A build with CUDA on a machine without: it lists the provider, and only a session tells."""

    def unavailable(self, device: str, provider: str) -> str:
        return ""

    def open(self, path: Path, options: SessionOptions) -> Any:
        if options.device == "cuda" and options.provider == "crash":
            os.abort()
        if options.device == "cuda" and not options.provider:
            raise TargetUnavailableError("libcudnn.so.9: cannot open shared object file", "install cuDNN")
        return super().open(path, SessionOptions())
