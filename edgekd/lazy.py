"""The one door through which vendor packages come in, at the point of use."""

from __future__ import annotations

import importlib
from typing import Any

from edgekd.errors import MissingDependencyError


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import and return ``module``, or say which extra brings it.

    Args:
        module: dotted module name, e.g. ``"onnxruntime"``.
        extra: the EdgeKD extra that installs it.
        purpose: what it is needed for, as a gerund phrase: ``"running ONNX models"``.

    Raises:
        MissingDependencyError: the package (or one that it needs) is not installed or does not load.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as e:  # OSError: a shared library that does not load
        raise MissingDependencyError(
            f"{purpose} needs the package '{module.partition('.')[0]}', which did not import ({e})",
            f"pip install 'edgekd[{extra}]'",
        ) from e
