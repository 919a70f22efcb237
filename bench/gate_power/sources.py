"""Which of EdgeKD's files measure and judge, and their digest: other bytes are another study."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import edgekd
import edgekd_onnx

#: Where a comparison begins: the race, the child's side, the judges that stop it and that answer, the runtime.
ROOTS = (
    "edgekd.measure.run", "edgekd.measure.interleave", "edgekd.measure.operations", "edgekd.child.__main__",
    "edgekd.gates.latency", "edgekd.gates.timing", "edgekd_onnx.runtime",
)  # fmt: skip


def _packages() -> dict[str, Path]:
    return {"edgekd": Path(edgekd.__file__).parent, "edgekd_onnx": Path(edgekd_onnx.__file__).parent}


def _file_of(module: str, packages: Mapping[str, Path]) -> Path | None:
    top, *rest = module.split(".")
    if top not in packages:
        return None
    place = packages[top].joinpath(*rest)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _imports(source: str, packages: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for a in node.names:
                inner = f"{node.module}.{a.name}"
                yield inner if _file_of(inner, packages) else node.module


def source_files(packages: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Module -> file of everything that :data:`ROOTS` import, at whatever place, within EdgeKD."""
    packages = packages or _packages()
    found: dict[str, Path] = {}
    waiting = list(ROOTS)
    while waiting:
        module = waiting.pop()
        file = _file_of(module, packages)
        if file is None or module in found:
            continue
        found[module] = file
        waiting += _imports(file.read_text(encoding="utf-8"), packages)
    return dict(sorted(found.items()))


def source_digest() -> str:
    """SHA-256 over names and bytes of :func:`source_files`."""
    digest = hashlib.sha256()
    for module, file in source_files().items():
        digest.update(f"{module}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
