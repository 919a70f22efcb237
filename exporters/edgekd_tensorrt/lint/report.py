"""What ``edgekd export MODEL --format tensorrt --lint`` calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import UsageError
from edgekd.spec import parse_shapes
from edgekd_tensorrt.lint.checking import lint_file
from edgekd_tensorrt.lint.findings import LintReport

#: Options of the lint -> what they are; those of ``--option NAME=VALUE`` arrive as text.
OPTIONS: Mapping[str, str] = {
    "sm": "compute capability of the GPU times ten, e.g. 89; rules about the GPU need it",
    "tensorrt": "10 or 11, or one release such as 10.16 (default 11)",
    "plugins": "operators that a plugin library brings, separated by commas",
    "dtype": "precision that the engine is to have: float32, float16 or bfloat16",
    "shapes": "smallest, best and largest shape of inputs that vary",
}


def run_lint(path: Path, options: Mapping[str, Any]) -> tuple[LintReport, str]:
    """Lint a file with options as the command line gives them.

    Args:
        options: see :data:`OPTIONS`; ``shapes`` as :func:`edgekd.spec.parse_shapes` gives it, or its text.

    Returns:
        The report, and its text. It was found wanting where ``report.errors`` is not empty.

    Raises:
        UsageError: an option that is not known, or has no value that it could have.
        ModelError: the file is missing or is no ONNX.
    """
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"the TensorRT lint has no option '{name}'", f"it knows {', '.join(OPTIONS)}")
    sm, plugins, shapes = options.get("sm"), options.get("plugins") or (), options.get("shapes") or {}
    if isinstance(sm, str):
        if not sm.isdecimal():
            raise UsageError(
                f"sm {sm!r} is not a whole number", "give the compute capability times ten: sm=89"
            )
        sm = int(sm)
    dtype = options.get("dtype")
    if dtype not in (None, "float32", "float16", "bfloat16"):
        raise UsageError(f"dtype {dtype!r} is not known to the lint", "give float32, float16 or bfloat16")
    report = lint_file(
        path,
        target_sm=sm,
        tensorrt=str(options.get("tensorrt") or "11"),
        shapes=parse_shapes([shapes]) if isinstance(shapes, str) else shapes,
        plugins=[p.strip() for p in plugins.split(",") if p.strip()] if isinstance(plugins, str) else plugins,
        dtype=dtype,
    )
    return report, report.to_text()
