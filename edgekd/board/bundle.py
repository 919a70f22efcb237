"""The runner as one zip: the sources that a board needs, and the entry points that its plugins are found by."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import zipfile
from pathlib import Path

import edgekd
from edgekd.errors import UsageError
from edgekd.plugins import list_plugins

#: Rooms of edgekd that measure nothing, and packages of whole libraries that a board does not have.
_LEFT_OUT = (
    "ci",
    "cli",
    "distill",
    "evaluate",
    "pipeline",
    "release",
    "report",
    "schemas",
    "tasks",
    "testing",
)
_OLDEST = (1980, 1, 1, 0, 0, 0)


def _package(name: str) -> Path:
    """The folder of an installed top-level package, without importing it.

    Raises:
        UsageError: not a package of source files.
    """
    spec = importlib.util.find_spec(name)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders or not Path(folders[0]).is_dir():
        raise UsageError(f"the package '{name}' is not a folder of sources, so a board cannot be sent it")
    return Path(folders[0])


@functools.cache
def runner_zip(runtime: str) -> tuple[bytes, str]:
    """The zip for a runtime plugin, and its sha256 in hex; equal sources give equal bytes.

    Args:
        runtime: the plugin's name.

    Raises:
        UsageError: no such plugin, or one that is not made of source files.
    """
    plugins = list_plugins("edgekd.runtimes")
    module = plugins[runtime].module
    roots = {"edgekd": _package("edgekd"), module.partition(".")[0]: _package(module.partition(".")[0])}
    own = [e for e in list_plugins("edgekd.meters").values() if e.module.partition(".")[0] in roots]
    points = [
        "[edgekd.runtimes]", f"{runtime} = {plugins[runtime].value}", "", "[edgekd.meters]",
        *(f"{e.name} = {e.value}" for e in own), "",
    ]  # fmt: skip
    info = f"edgekd-{edgekd.__version__}.dist-info"
    files: dict[str, bytes] = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: edgekd\nVersion: {edgekd.__version__}\n".encode(),
        f"{info}/entry_points.txt": "\n".join(points).encode(),
    }
    for package, folder in roots.items():
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder).as_posix()
            if package != "edgekd" or name.partition("/")[0] not in _LEFT_OUT:
                files[f"{package}/{name}"] = path.read_bytes()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name])
    return made.getvalue(), hashlib.sha256(made.getvalue()).hexdigest()
