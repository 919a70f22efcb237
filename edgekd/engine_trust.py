"""Which TensorRT plans may be loaded: they are native code (NVIDIA's own words), and no check of their bytes helps.

A plan is trusted where it was built on this host, where the user names its SHA-256, or where it lies in a released
bundle that a trusted key signed. What was built here is remembered in the cache by a keyed checksum (HMAC-SHA-256, RFC
2104) over the plan's SHA-256 and the digest of the stage that made it: source, TensorRT, GPU and flags. The key is this
host's own.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Collection
from pathlib import Path

from edgekd.artifact import Artifact
from edgekd.errors import StorageError
from edgekd.files import canonical_json, sha256_file, storage_error, write_bytes
from edgekd.inspect import refuse

#: Formats whose files are native code, and the endings of those files.
NATIVE_FORMATS = ("tensorrt",)
NATIVE_ENDINGS = (".plan", ".engine")
_KEY_FILE, _KEY_BYTES = "host.key", 32
_FOLDER, _FILE = "engines", "built-here"


def trusted_engine(path: Path, sha256s: Collection[str], root: Path) -> str:
    """Why a plan may be loaded, in a few words; empty where it may not.

    Args:
        path: the plan.
        sha256s: SHA-256 of plans that the user vouches for, 64 hexadecimal digits each.
        root: of the cache, which remembers what was built here.
    """
    found = sha256_file(path)
    if found in sha256s:
        return "its SHA-256 was given"
    if built_here(found, root):
        return "built on this host"
    from edgekd.release.opening import is_trusted

    return "from a bundle signed by a trusted key" if is_trusted(path) else ""


def require_trusted_file(path: Path, sha256s: Collection[str], root: Path) -> None:
    """Refuse a plan that nobody vouches for.

    Raises:
        PolicyError: rule ``engine-trust``.
    """
    if not trusted_engine(path, sha256s, root):
        raise refuse(
            "engine-trust",
            path,
            "a TensorRT plan is native code, and this one was neither built here nor does it come from a trusted bundle",
            f"build it here from the ONNX file (edgekd export M.onnx --format tensorrt), or give --trust-engine {sha256_file(path)}",
        )


def require_trusted(artifact: Artifact, sha256s: Collection[str], root: Path) -> None:
    """Refuse an artifact of native code that nobody vouches for; every other passes.

    Raises:
        PolicyError: rule ``engine-trust``.
    """
    for path in plans_of(artifact):
        require_trusted_file(path, sha256s, root)


def plans_of(artifact: Artifact) -> tuple[Path, ...]:
    """The plans of an artifact, those of its further builds too; none where it is no native code."""
    if artifact.format not in NATIVE_FORMATS:
        return ()
    names = {artifact.entry, *(f.path for f in artifact.files), *artifact.companions()}
    return tuple(
        artifact.folder / n for n in sorted(names) if n == artifact.entry or n.endswith(NATIVE_ENDINGS)
    )


def remember_built(artifact: Artifact, stage: str, root: Path) -> None:
    """Note that a stage of this host built the artifact's plans.

    Args:
        stage: digest of the stage's key, ``sha256:…``.

    Raises:
        StorageError: a write failed.
    """
    for path in plans_of(artifact):
        sha256 = sha256_file(path)
        write_bytes(_note(sha256, root), f"{stage}\n{_mac(sha256, stage, root)}\n".encode())


def is_built_by(artifact: Artifact, stage: str, root: Path) -> bool:
    """Whether all plans of an artifact of the cache are those that this stage built here."""
    return all(built_here(sha256_file(path), root, stage) for path in plans_of(artifact))


def built_here(sha256: str, root: Path, stage: str = "") -> bool:
    """Whether a plan of this SHA-256 was built on this host; with ``stage``, by that one."""
    try:
        noted, mac = _note(sha256, root).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return False
    if stage and noted != stage:
        return False
    return hmac.compare_digest(mac, _mac(sha256, noted, root))


def _note(sha256: str, root: Path) -> Path:
    return root / _FOLDER / sha256 / _FILE


def _mac(sha256: str, stage: str, root: Path) -> str:
    return hmac.new(
        _host_key(root), canonical_json({"plan": sha256, "stage": stage}), hashlib.sha256
    ).hexdigest()


def _host_key(root: Path) -> bytes:
    """This host's key, made once; readable by its owner only.

    Raises:
        StorageError: it cannot be made, or others can read it.
    """
    path = root / _KEY_FILE
    if not path.exists():
        try:
            root.mkdir(parents=True, exist_ok=True)
            _make_key(path)
        except FileExistsError:
            pass  # another process made one a moment ago
        except OSError as e:
            raise storage_error(e, path) from e
    try:
        status = path.stat()
        key = path.read_bytes()
    except OSError as e:
        raise storage_error(e, path) from e
    if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
        raise StorageError(
            f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):o}), so its checksums prove nothing",
            "delete it: it is made again, and engines are built again",
        )
    if len(key) != _KEY_BYTES:
        raise StorageError(f"{path} has {len(key)} bytes, a key {_KEY_BYTES}", "delete it: it is made again")
    return key


def _make_key(path: Path) -> None:
    """Linked into place whole, so that another process never reads half a key."""
    made = path.with_name(f".{_KEY_FILE}.{secrets.token_hex(8)}.tmp")
    fd = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(secrets.token_bytes(_KEY_BYTES))
            f.flush()
            os.fsync(f.fileno())
        os.link(made, path)
    finally:
        made.unlink()
