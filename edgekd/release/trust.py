"""Whose signatures count: public keys, a folder of them, and the list of revoked ones. Standard library only.

A key's fingerprint is the SHA-256 of its public half as PEM, as OpenSSF model-signing writes it into a signature:
``openssl pkey -in key.pem -pubout | sha256sum``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.errors import UsageError

#: A folder of trusted public keys (*.pem, *.pub); the empty string trusts none.
TRUSTED_VARIABLE = "EDGEKD_TRUSTED_KEYS"
#: A file of revoked fingerprints.
REVOKED_VARIABLE = "EDGEKD_REVOKED_KEYS"

#: No key file is larger.
_MAX_KEY_BYTES = 64 << 10
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+?)-----END \1-----")
#: DER of the algorithm id-ecPublicKey (RFC 5480, 1.2.840.10045.2.1), which stands at the start of such a key.
_EC_ALGORITHM = bytes.fromhex("06072a8648ce3d0201")
#: DER of the curves that model-signing signs on (RFC 5480, section 2.1.1.1; secp256k1 of SEC 2, to name it).
_CURVES = {
    bytes.fromhex("06082a8648ce3d030107"): "secp256r1",
    bytes.fromhex("06052b81040022"): "secp384r1",
    bytes.fromhex("06052b81040023"): "secp521r1",
    bytes.fromhex("06052b8104000a"): "secp256k1",
}
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")

HOW_TO_NAME = "name the signer's public key, on P-256, P-384 or P-521"
HOW_TO_MAKE = (
    "make a pair: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem && "
    "openssl pkey -in key.pem -pubout -out key.pub"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One trusted key: its file, its PEM in plain form and its fingerprint (64 hex digits)."""

    path: Path
    pem: bytes
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a signature is checked against.

    Attributes:
        keys: one of them must have signed; empty: a signature is told of and not checked.
        revoked: fingerprint -> date and reason as the list states them, maybe empty.
    """

    keys: tuple[PublicKey, ...] = ()
    revoked: Mapping[str, str] = field(default_factory=dict)


def read_public_key(path: Path) -> PublicKey:
    """Read an EC public key in PEM form.

    Raises:
        UsageError: missing, unreadable, no PEM, a private key, or a key of another kind.
    """
    try:
        with path.open("rb") as source:
            text = source.read(_MAX_KEY_BYTES)
    except OSError as e:
        raise UsageError(
            f"key {path} cannot be read: {e.strerror or e}", "name the public key (.pem) of who released it"
        ) from e
    found = _PEM.search(text)
    if found is None:
        raise UsageError(f"{path} holds no key in PEM form", "name a file that begins -----BEGIN PUBLIC KEY")
    kind = found[1].decode()
    if kind.endswith("PRIVATE KEY"):
        raise UsageError(
            f"{path} is a private key, a public one is checked with",
            f"openssl pkey -in {path} -pubout -out {path.with_suffix('.pub')}",
        )
    try:
        der = base64.b64decode(b"".join(found[2].split()), validate=True)
    except binascii.Error as e:
        raise UsageError(f"{path} is damaged: its PEM does not decode ({e})", "get the key again") from e
    if kind != "PUBLIC KEY" or _EC_ALGORITHM not in der[:32]:
        what = "a public key of another kind" if kind == "PUBLIC KEY" else f"a {kind}"
        raise UsageError(f"{path} is {what}, bundles are signed with elliptic-curve keys", HOW_TO_NAME)
    curve = next(
        (name for oid, name in _CURVES.items() if _EC_ALGORITHM + oid in der[:32]), "that is unknown"
    )
    if curve not in CURVES:
        raise UsageError(f"{path} is a key on the curve {curve}, bundles are signed on others", HOW_TO_NAME)
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()
    return PublicKey(path=path, pem=pem, fingerprint=hashlib.sha256(pem).hexdigest())


def read_revoked(path: Path) -> dict[str, str]:
    """Read a list of revoked keys: a fingerprint a line, then what you like, a date and a reason say; ``#`` comments.

    Raises:
        UsageError: missing, unreadable, or a line without a fingerprint.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"revoked keys {path} cannot be read: {getattr(e, 'strerror', None) or e}",
            "name a text file of fingerprints, or an empty one",
        ) from e
    revoked: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(None, 1)
        if not words:
            continue
        first, rest = words[0], words[1] if len(words) > 1 else ""
        match = _FINGERPRINT.match(first.lower())
        if match is None:
            raise UsageError(
                f"{path}, line {number}: {first[:80]!r} is no fingerprint",
                "64 hex digits: openssl pkey -pubin -in key.pub -pubout | sha256sum",
            )
        revoked[match[1]] = " ".join(rest.split())
    return revoked


def trusted_folder(environ: Mapping[str, str]) -> Path | None:
    """``EDGEKD_TRUSTED_KEYS``, else ``XDG_CONFIG_HOME/edgekd/trusted``, else ``~/.config/edgekd/trusted``; None for ''.

    Raises:
        UsageError: the variable names no folder.
    """
    named = environ.get(TRUSTED_VARIABLE)
    if named is not None:
        if named and not Path(named).is_dir():
            raise UsageError(
                f"{TRUSTED_VARIABLE} names {named}, which is no folder",
                "put public keys (*.pem, *.pub) there",
            )
        return Path(named) if named else None
    base = environ.get("XDG_CONFIG_HOME")
    try:
        folder = (Path(base) if base else Path.home() / ".config") / "edgekd" / "trusted"
    except RuntimeError:  # no home folder
        return None
    return folder if folder.is_dir() else None


def read_trust(
    environ: Mapping[str, str], *, keys: Sequence[Path] = (), revoked: Path | None = None
) -> Trust:
    """The trust of a command: the keys it names, else those of the trusted folder; its list of revoked keys likewise.

    Args:
        environ: ``os.environ``.
        keys: named public keys; they replace the folder.
        revoked: a list of revoked keys; that of ``EDGEKD_REVOKED_KEYS`` counts as well.

    Raises:
        UsageError: a key or list that is missing or none, or a folder without any: it would ask nothing.
    """
    paths = list(keys)
    if not paths and (folder := trusted_folder(environ)) is not None:
        inside = sorted(folder.iterdir())
        paths = [p for p in inside if p.suffix.lower() in (".pem", ".pub")]
        if not paths and (inside or environ.get(TRUSTED_VARIABLE)):
            raise UsageError(
                f"{folder}, the folder of trusted keys, holds no public key (*.pem, *.pub)",
                f"put the keys there that you trust, or trust none: {TRUSTED_VARIABLE}=",
            )
    lists = [p for p in (environ.get(REVOKED_VARIABLE), revoked) if p]
    gone: dict[str, str] = {}
    for path in lists:
        gone.update(read_revoked(Path(path)))
    return Trust(keys=tuple(read_public_key(p) for p in paths), revoked=gone)
